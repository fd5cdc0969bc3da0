"""How long a command takes that computes nothing: `langprune --help`, and `langprune ls` of 200 artifacts.

python -m tests.benchmarks.startup [--times N]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ARTIFACTS = 200


def langprune(*words: str) -> float:
    """Run a command in a process of its own; return the seconds that it took."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "langprune_cli", *words], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Measure both and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        workspace = ("-w", folder)
        langprune("calibrate", *workspace, "--lang", "uk", "--nsamples", "4")
        langprune("mask", *workspace)
        (mask,) = (Path(folder) / "masks").iterdir()
        for number in range(ARTIFACTS - 2):
            shutil.copytree(mask, mask.with_name(f"{mask.name}-{number}"))
        for words in (["--help"], ["ls", *workspace]):
            seconds = median(langprune(*words) for _ in range(times))
            sys.stdout.write(f"langprune {words[0]}: {seconds:.2f} s, the median of {times}\n")


if __name__ == "__main__":
    main()
