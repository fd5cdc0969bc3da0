"""What it costs to check a model's weights against their hashes where they are read.

`eval` and `calibrate` of a Llama of 206 M weights as a model artifact, whose hashes are known, and as a copy without its
manifest, whose are not; in turn.

    python -m tests.benchmarks.checking [--rounds 3] [--dtype float32] [--folder DIR]
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.peers import Bench, langprune
from tests.benchmarks.speed_peers.setting import Setting, make

COMMANDS = ("calibrate", "eval")


def measure(bench: Bench, rounds: int, dtype: str) -> None:
    """Make both models, and run both commands on each, every time in a new workspace."""
    model, windows = make(bench.setting, bench.folder)
    workspace = bench.folder / "workspace"
    langprune(bench, workspace, "mask", "--model", str(model), "--method", "magnitude", "--pattern", "2:4")
    artifact = Path(langprune(bench, workspace, "apply", "--out", str(bench.folder / "checked"))["path"]).resolve()
    unchecked = bench.folder / "unchecked"
    shutil.copytree(artifact, unchecked, ignore=shutil.ignore_patterns("manifest.json"))
    for number in range(rounds):
        for command in COMMANDS:
            for folder in (artifact, unchecked)[:: 1 if number % 2 else -1]:
                words = (command, "--model", str(folder), "--data", str(windows), "--dtype", dtype)
                begun = time.perf_counter()  # of the whole process: opening a model belongs to it
                bench.run(sys.executable, "-m", "langprune_cli", *words, "-w", bench.folder / "out")
                bench.add(f"{command} {folder.name}", time.perf_counter() - begun)
                shutil.rmtree(bench.folder / "out")
    for command in COMMANDS:
        checked, without = (median(bench.seconds[f"{command} {name}"]) for name in ("checked", "unchecked"))
        sys.stdout.write(
            f"{command}: {checked:.2f} s with hashes, {without:.2f} s without: {checked / without - 1:+.1%}\n"
        )


def main() -> None:
    """Read the command line, measure, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--folder", type=Path, help="for models and results; a temporary one if left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Bench(Setting(), asked.folder or Path(temporary), Path(temporary)), asked.rounds, asked.dtype)


if __name__ == "__main__":
    main()
