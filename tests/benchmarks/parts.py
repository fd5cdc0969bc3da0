"""Where the time of `calibrate` and `prune` goes, and what their products reach of the device's rate.

Makes a Llama of random bf16 weights in the shape of a known size, and calibrates and prunes it in this process, with a clock
around each part. Large shapes are a few blocks only: seconds by block times the blocks of the whole model are an extrapolation,
and are called one. On a GPU 7B and 70B, on a CPU 200M, unless others are named:

    python -m tests.benchmarks.parts [--shapes 7B,70B] [--device cuda] [--folder DIR]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from langprune_cli.__main__ import main as langprune
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.numerics.moments import ColumnMoments
from langprune_cli.stages.plan.cost import measured_rate
from langprune_cli.stages.prune import block_by_block
from langprune_cli.stages.statistics import collecting as statistics
from langprune_cli.streaming.walk import HiddenStates
from tests.benchmarks.peers import processor
from tests.benchmarks.results import HEADINGS, save
from tests.benchmarks.speed_peers.setting import Setting, make

FORWARD, HESSIANS, NORMS, READING, SOLVING, REST = "forward", "Hessians", "norms", "reading", "solving", "rest"
PARTS = (READING, FORWARD, NORMS, HESSIANS, SOLVING, REST)
# What is timed: where it is called from, its name there, and the part that it belongs to.
WATCHED: tuple[tuple[Any, str, str], ...] = (
    (StreamedModel, "_read", READING),
    (HiddenStates, "forward", FORWARD),
    (ColumnMoments, "add", NORMS),
    (statistics, "add_gram", HESSIANS),
    (block_by_block.BlockByBlock, "_solved", SOLVING),
)
# What langprune's own entry sets before torch is loaded, which here it is already.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "THP_MEM_ALLOC_ENABLE": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
COMMANDS = {
    "calibrate": ("calibrate",),
    "wanda": ("prune", "--method", "wanda", "--update", "none"),
    "sparsegpt": ("prune", "--method", "sparsegpt", "--update", "sparsegpt"),
}


@dataclass(frozen=True)
class Shape:
    """What is made, and of how many blocks the model is that it stands for."""

    made: Setting
    whole: int

    def forward_flops(self, *, pruned: bool) -> float:
        """Return the operations of the forward passes: linears, and attention without what its mask drops.

        Nobody needs what the last block puts out, nor in `prune` what a block does before it is pruned: there the last product is
        left out.
        """
        made, tokens = self.made, self.made.windows * self.made.seqlen
        last = 2 * tokens * made.hidden * made.ffn
        whole = 2 * tokens * sum(o * i for o, i in made.linears()) + 2 * tokens * made.seqlen * made.hidden
        return (2 * made.blocks - 1) * whole - made.blocks * last if pruned else made.blocks * whole - last


LONG = Setting(windows=128, seqlen=2048)
SHAPES = {
    "200M": Shape(Setting(), 16),
    "7B": Shape(replace(LONG, blocks=4, hidden=4096, ffn=11008, heads=32), 32),
    "70B": Shape(replace(LONG, blocks=2, hidden=8192, ffn=28672, heads=64, kv_heads=8), 80),
}


@dataclass
class Clock:
    """Seconds by part; what one part does inside of another counts for the inner one alone."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done inside, to the end of what the device was given."""
        self._wait()
        begun = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._wait()
            spent = time.perf_counter() - begun
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every call of what is watched."""
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in WATCHED]
        for owner, name, part in WATCHED:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*args, **options)

        return timed

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(shape: Shape, folder: Path, device: torch.device) -> list[dict[str, Any]]:
    """Run each command on a shape; return its seconds by part, the operations of its forward passes, its peak on a GPU."""
    model, windows = make(shape.made, folder, device)
    rows = []
    for name, words in COMMANDS.items():
        clock, out = Clock(device), folder / "out"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        given = (
            "--model",
            str(model),
            "--data",
            str(windows),
            "-w",
            str(out),
            "--device",
            str(device),
            "--dtype",
            "bfloat16",
        )
        with clock.watching(), clock.part(REST):
            if code := langprune([*words, *given]):
                raise SystemExit(f"langprune {words[0]} ended with {code}")
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        flops = shape.forward_flops(pruned=words[0] == "prune")
        rows.append({"command": name, "seconds": dict(clock.seconds), "flops": flops, "device_gb": peak})
        shutil.rmtree(out)
    shutil.rmtree(folder)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the section for docs/benchmarks.md."""
    headings = ["shape", "blocks", "windows", "command", *PARTS, "all, seconds", "forward's share", "TFLOP/s"]
    headings += ["of the device's", "device memory, GB", "whole model, extrapolated"]
    lines = [
        HEADINGS["parts"],
        "",
        f"On {result['device']}, which makes {result['tflops']:,.3g} TFLOP/s in a large product of bf16 matrices.",
        "Random bf16 weights; forward: without what it is watched for. TFLOP/s are those of the forward passes.",
        "",
        "Made by `python -m tests.benchmarks.parts`.",
        "",
        f"| {' | '.join(headings)} |",
        "|" + "---|" * len(headings),
    ]
    for name, rows in result["shapes"].items():
        shape, made = SHAPES[name], SHAPES[name].made
        for row in rows:
            seconds = {part: row["seconds"].get(part, 0.0) for part in PARTS}
            whole, rate = sum(seconds.values()), row["flops"] / max(seconds[FORWARD], 1e-9) / 1e12
            cells = [name, f"{made.blocks} of {shape.whole}", f"{made.windows} x {made.seqlen}", row["command"]]
            cells += [f"{each:.2f}" for each in (*seconds.values(), whole)]
            cells += [f"{seconds[FORWARD] / whole:.0%}", f"{rate:,.3g}", f"{rate / result['tflops']:.0%}"]
            cells += ["" if row["device_gb"] is None else f"{row['device_gb']:.1f}"]
            cells += ["" if made.blocks == shape.whole else f"{whole * shape.whole / made.blocks:,.0f} s"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the shapes that were asked for, and write what was found to docs/benchmarks.md."""
    if not ENVIRONMENT.keys() <= os.environ.keys():
        words = [sys.executable, "-m", "tests.benchmarks.parts", *sys.argv[1:]]
        sys.exit(subprocess.run(words, env=ENVIRONMENT | os.environ, check=False).returncode)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", help=f"which of {', '.join(SHAPES)}, with commas between")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--folder", type=Path, help="where to put models, 8 GB for 70B's blocks; a temporary one if left out"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    names = (arguments.shapes or ("7B,70B" if device.type == "cuda" else "200M")).split(",")
    if unknown := set(names) - set(SHAPES):
        parser.error(f"no such shape: {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute() / "parts"
        shapes = {name: measure(SHAPES[name], folder, device) for name in names}
    label = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads"
    )
    result = {"device": label, "tflops": measured_rate(torch.bfloat16, device) / 1e12, "shapes": shapes}
    section = markdown(result)
    save("parts", result, section)
    sys.stdout.write(section)


if __name__ == "__main__":
    main()
