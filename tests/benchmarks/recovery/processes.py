"""Tokens per second of `recover` in two processes and in one, each process with one thread, pinned to a core of its own (Linux).

A short and a long training have as many looks at held-out windows and everything else but steps, so that their difference is
that of the steps. The dense model's predictions are made anew by each, and timed too: they are shared as well.

    python -m tests.benchmarks.recovery.processes [--steps 16,64] [--train all] [--rounds 1] [--folder DIR]
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from langprune_cli.stages.recover.looks import RECOVERY_PART
from tests.benchmarks.peers import Bench, langprune, processor
from tests.benchmarks.sizes import PINNED, TORCHRUN
from tests.benchmarks.speed_peers.setting import Setting, make

SETTING = Setting(blocks=4, hidden=512, ffn=1408, heads=8, threads=1)
STEP_TOKENS = 2048  # the default: four windows
PROCESSES = {"one": 1, "two": 2}


def prepared(setting: Setting, folder: Path, *options: str) -> tuple[Bench, list[str]]:
    """Make a pruned model; return the benchmark, and the words that train the model, but for how long and under which name."""
    bench, out = Bench(setting, folder, Path()), folder / "workspace"
    model, ids = make(setting, folder)
    cut = ("--pattern", "2:4", "--method", "magnitude", "--update", "none", "--name", "cut")
    langprune(bench, out, "prune", "--model", str(model), "--data", str(ids), *cut)
    asked = ["recover", "--model", "cut", "--data", str(ids), "--force", "--json", "--workspace", str(out)]
    # Small steps: else this model of random weights soon gets no better, and training ends.
    return bench, [*asked, "--batch-tokens", str(STEP_TOKENS), "--learning-rate", "1e-5", *options]


def train(bench: Bench, name: str, steps: int, words: list[str], processes: int = 1) -> None:
    """Note the seconds that langprune says a recovery took, without imports; processes with one thread have a core each."""
    core = "0" if processes == 1 else "rank"
    pinned = (sys.executable, "-c", PINNED, core) if bench.setting.threads == 1 else (sys.executable,)
    start = (sys.executable, *TORCHRUN, f"--nproc-per-node={processes}") if processes > 1 else ()
    asked = [*words, "--tokens", str(steps * STEP_TOKENS), "--name", f"{name.strip('-').replace(' ', '-')}-{steps}"]
    (made,) = json.loads(bench.run(*start, *pinned, "-m", "langprune_cli", *asked))["artifacts"]
    if made["cached"]:
        raise SystemExit("langprune recover found its result already there")
    done = json.loads(Path(made["path"], RECOVERY_PART).read_text())["looks"][-1]["tokens"]
    if done != steps * STEP_TOKENS:
        raise SystemExit(f"training ended after {done} of {steps * STEP_TOKENS} tokens: give fewer --steps")
    bench.add(f"{name}, {steps} steps", float(made["seconds"]))


def rates_of(bench: Bench, names: Iterable[str], short: int, long: int) -> dict[str, float]:
    """Return the tokens per second of the steps alone, from the medians."""
    took = {name: statistics.median(each) for name, each in bench.seconds.items()}
    return {
        name: (long - short) * STEP_TOKENS / (took[f"{name}, {long} steps"] - took[f"{name}, {short} steps"])
        for name in names
    }


def main() -> None:
    """Measure both in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="16,64", help="of the short training and the long one, 16 or more")
    parser.add_argument("--train", default="all", help="what is trained: all, lora or norms")
    parser.add_argument("--rounds", type=int, default=1, help="how often; the medians are shown")
    parser.add_argument("--folder", type=Path, help="where to put the model; a temporary folder if left out")
    arguments = parser.parse_args()
    short, long = map(int, arguments.steps.split(","))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        bench, words = prepared(SETTING, folder, "--train", arguments.train)
        for _ in range(arguments.rounds):
            for name, processes in PROCESSES.items():
                for steps in (short, long):
                    train(bench, name, steps, words, processes)
    rates = rates_of(bench, PROCESSES, short, long)
    took = {name: statistics.median(bench.seconds[f"{name}, {long} steps"]) for name in PROCESSES}
    lines = [f"On {processor()}, one thread a process, --train {arguments.train}:", ""]
    lines += ["| processes | tokens per second | seconds of the long one, predictions included |", "|---|---|---|"]
    lines += [f"| {name} | {rates[name]:.0f} | {took[name]:.1f} |" for name in PROCESSES]
    lines += ["", f"Two processes are {rates['two'] / rates['one']:.2f} times as fast."]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
