"""Tokens per second of `recover` against the matrix products alone, and its memory against what `plan` says.

With the dense model's predictions on disk and with `--online`, one process, in turn. A short and a long training have as many
looks at held-out windows and everything else but steps, so that their difference is that of the steps. The products are those of
all linears and the head: three passes of the student (outputs, gradients of inputs and of weights), and one of the dense model.

    python -m tests.benchmarks.recovery.speed [--steps 16,48] [--dtype bfloat16] [--threads 2] [--rounds 1] [--folder DIR]
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.peers import processor
from tests.benchmarks.recovery.processes import SETTING, STEP_TOKENS, prepared, rates_of, train
from tests.benchmarks.speed_peers.products import timed
from tests.benchmarks.speed_peers.setting import Setting

WAYS = {"predictions on disk": (), "--online": ("--online",)}
TOKENS = 1024  # that go through a model at once
PASSES = {"predictions on disk": 3, "--online": 4}


def products_rate(setting: Setting, dtype: torch.dtype, passes: int) -> float:
    """Return the tokens per second of the products alone: `passes` of three of the student, and one more of the dense model."""
    shapes = [*setting.linears() * setting.blocks, (setting.vocabulary, setting.hidden)]
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    inputs = {width: torch.randn(TOKENS, width, dtype=dtype) for shape in shapes for width in shape}

    def products() -> None:
        for w in weights:
            x, gradient = inputs[w.shape[1]], inputs[w.shape[0]]
            for _ in range(passes - 2):
                x @ w.t()
            gradient @ w
            gradient.t() @ x

    times = 4
    return times * TOKENS / timed(products, times)


def main() -> None:
    """Measure both ways in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="16,48", help="of the short training and the long one, 16 or more")
    parser.add_argument("--dtype", default="bfloat16", help="of the products")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="how often; the medians are shown")
    parser.add_argument("--folder", type=Path, help="where to put the model; a temporary folder if left out")
    arguments = parser.parse_args()
    short, long = map(int, arguments.steps.split(","))
    setting = replace(SETTING, threads=arguments.threads)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        bench, words = prepared(setting, folder, "--train", "all", "--dtype", arguments.dtype)
        for _ in range(arguments.rounds):
            for name, options in WAYS.items():
                for steps in (short, long):
                    train(bench, name, steps, [*words, *options])
        asked = [
            "plan",
            "--model",
            str(folder / "model"),
            "--pattern",
            "2:4",
            "--recover",
            str(long * STEP_TOKENS),
            "--json",
        ]
        plan = json.loads(bench.run(sys.executable, "-m", "langprune_cli", *asked))
        planned = plan["recovery"]["trainings"][0]["peak_ram_bytes"]
        alone = {name: products_rate(setting, getattr(torch, arguments.dtype), PASSES[name]) for name in WAYS}
    rates = rates_of(bench, WAYS, short, long)
    lines = [f"On {processor()}, {arguments.threads} threads, {arguments.dtype}, --train all:", ""]
    lines += ["| way | tokens per second | of the products alone | peak memory, MB |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {rates[name]:.0f} | {rates[name] / alone[name]:.0%} of {alone[name]:.0f} | "
        f"{bench.peaks[f'{name}, {long} steps']:.0f} |"
        for name in WAYS
    ]
    disk, online = (rates[name] for name in WAYS)
    lines += [
        "",
        f"With predictions on disk steps are {disk / online:.2f} times as fast. `plan` says {planned / 2**20:.0f} MB for them.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
