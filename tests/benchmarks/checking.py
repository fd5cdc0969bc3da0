"""What it costs to check a model's weights against their hashes where they are read.

`eval` and `calibrate` of a Llama of 206 M weights as a model artifact: as they are, and in a process that finds no hash on
record; in turn. (`eval` runs the dense model as well, which has no hashes.)

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
_NO_RECORD = """
from langprune_cli.store.written import Written
Written.__init__ = lambda self, folder: self.__dict__.update(_folder=folder, _remedy="", _parts={})
from langprune_cli.__main__ import main
raise SystemExit(main())
"""
WAYS = {"with": ("-m", "langprune_cli"), "without": ("-c", _NO_RECORD)}


def measure(bench: Bench, rounds: int, dtype: str) -> None:
    """Make both models, and run both commands on each, every time in a new workspace."""
    model, windows = make(bench.setting, bench.folder)
    workspace = bench.folder / "workspace"
    langprune(bench, workspace, "mask", "--model", str(model), "--method", "magnitude", "--pattern", "2:4")
    artifact = Path(langprune(bench, workspace, "apply", "--out", str(bench.folder / "checked"))["path"]).resolve()
    for number in range(rounds):
        for command in COMMANDS:
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                words = (command, "--model", str(artifact), "--data", str(windows), "--dtype", dtype)
                begun = time.perf_counter()  # of the whole process: opening a model belongs to it
                bench.run(sys.executable, *WAYS[way], *words, "-w", bench.folder / "out")
                bench.add(f"{command} {way}", time.perf_counter() - begun)
                shutil.rmtree(bench.folder / "out")
    for command in COMMANDS:
        checked, without = (median(bench.seconds[f"{command} {way}"]) for way in WAYS)
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
