"""How much results differ between settings of how they are computed, on the built-in model: docs/reliability.md's table.

python -m tests.benchmarks.determinism
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.command import tree
from tests.support.paths import REPOSITORY

TEXT = ["--lang", "uk", "--seqlen", "128", "--dtype", "float32"]
COMMANDS = [
    ["calibrate", *TEXT, "--nsamples", "16", "--collect", "hessian", "--name", "uk", "BATCH"],
    ["mask", "--method", "wanda", "--name", "wanda"],
    ["mask", "--method", "sparsegpt", "--pattern", "2:4", "--name", "sparsegpt"],
    ["eval", "--mask", "wanda", *TEXT, "--max-windows", "16", "--name", "new", "BATCH"],
]
SETTINGS = {  # what is changed -> (threads, options)
    "nothing": (1, ["--batch-tokens", "2048"]),
    "nothing, once more": (1, ["--batch-tokens", "2048"]),
    "2 threads instead of 1": (2, ["--batch-tokens", "2048"]),
    "--batch-tokens 128 instead of 2048": (1, ["--batch-tokens", "128"]),
    "both": (2, ["--batch-tokens", "128"]),
}


def run(folder: Path, threads: int, batch: list[str]) -> None:
    """Run COMMANDS with so many threads of one process each, on a workspace of its own."""
    for command in COMMANDS:
        words = [each for word in command for each in (batch if word == "BATCH" else [word])]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(
            [sys.executable, "-m", "langprune_cli", *words, "--workspace", str(folder)],
            env=environment, check=True, capture_output=True, cwd=folder.parent,
        )  # fmt: skip


def relative(one: Path, other: Path, ending: str) -> float:
    """Return the largest difference of two statistics, as a share of the largest value of the tensor."""
    worst = 0.0
    for path in sorted((one / "stats/uk").glob("block-*")):
        theirs = load_file(other / "stats/uk" / path.name)
        for name, tensor in load_file(path).items():
            if name.endswith(ending):
                worst = max(worst, float((tensor - theirs[name]).abs().max() / tensor.abs().max()))
    return worst


def other_bits(one: Path, other: Path, mask: str) -> float:
    """Return the share of weights that two masks treat differently."""
    differ = weights = 0
    for path in sorted((one / "masks" / mask).glob("block-*")):
        theirs = load_file(other / "masks" / mask / path.name)
        for name, bits in load_file(path).items():
            changed = torch.bitwise_xor(bits, theirs[name])
            differ += sum(int((changed >> bit & 1).sum()) for bit in range(8))
            weights += 8 * bits.numel()
    return differ / weights


def ppl(folder: Path) -> list[float]:
    rows = json.loads((folder / "evals/new/result.json").read_bytes())["rows"]
    return [row["ppl"] for row in rows]


def main() -> None:
    """Print the table."""
    sys.stdout.write("| changed | files that differ | sum_sq | hessian | bits, wanda | bits, sparsegpt 2:4 | ppl |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as place:
        first = Path(place, "nothing")
        for name, (threads, batch) in SETTINGS.items():
            folder = Path(place, name)
            run(folder, threads, batch)
            if folder == first:
                continue
            files, theirs = tree(first), tree(folder)
            differ = sum(files.get(each) != theirs.get(each) for each in files.keys() | theirs)
            sums = f"{relative(first, folder, '/sum_sq'):.1e} | {relative(first, folder, '/hessian'):.1e}"
            bits = f"{other_bits(first, folder, 'wanda'):.4%} | {other_bits(first, folder, 'sparsegpt'):.4%}"
            change = max(abs(a / b - 1) for a, b in zip(ppl(first), ppl(folder), strict=True))
            sys.stdout.write(f"| {name} | {differ} of {len(files)} | {sums} | {bits} | {change:.1e} |\n")


if __name__ == "__main__":
    main()
