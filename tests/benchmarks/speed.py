"""Speed of pruning: langprune, llm-compressor and the published loops, in turn, on one model, windows and dtype.

Makes a Llama of 16 blocks x 1024 (random bf16 weights, 206 M of them in the blocks) and 32 windows of 512 random tokens.
In every round each peer prunes half of it, with Wanda and with SparseGPT, in a process of its own. What counts is the
time from reading the model to having written the pruned one; imports and virtual environments do not. Peers alternate
within a round, so that a machine that slows down meanwhile slows all of them.

Beside that, in the same rounds: the seconds of `calibrate --collect hessian` against those of its matrix products alone,
and of a second mask with its update from stored Hessians against those of a whole run.

    python -m tests.benchmarks.speed [--rounds N] [--only PEERS] [--tiny] [--folder DIR] [--peers-venv DIR]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.results import HEADINGS, ROOT, save
from tests.benchmarks.speed_peers import products
from tests.benchmarks.speed_peers.setting import Setting, make, removed

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "llm_compressor.txt"
PEERS = ("langprune", "llm-compressor", "published")
METHODS = ("wanda", "sparsegpt")
UPDATE = {"wanda": "none", "sparsegpt": "sparsegpt"}
Pruner = Callable[[str, Path], tuple[float, Path]]  # a method and a new folder in; seconds and the pruned model out


@dataclass
class Bench:
    """One run of the benchmark: where things lie, and what was measured so far, by "peer method" or what was timed.

    `seconds` has every round's; `processes` has those of the whole processes, imports and all, to check the former by.
    """

    setting: Setting
    folder: Path
    peers_venv: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processes: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Note one time, and show it."""
        self.seconds.setdefault(name, []).append(seconds)
        sys.stderr.write(f"{name}: {seconds:.2f} s\n")

    def run(self, *words: str | Path) -> str:
        """Run one command to its end; return what it put out, or fail with the end of what it said."""
        threads = str(self.setting.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stdout + done.stderr)[-3000:]  # a code below zero: a signal ended it, and it said nothing
            raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{said}")
        if "Failed to invert hessian" in done.stdout + done.stderr:  # llm-compressor goes on, with the identity instead
            raise SystemExit(f"{' '.join(map(str, words))} pruned without a Hessian")
        return done.stdout


def langprune(bench: Bench, workspace: Path, *words: str) -> dict[str, Any]:
    """Run one langprune command; return its JSON document."""
    command: tuple[str | Path, ...] = (sys.executable, "-m", "langprune_cli", *words, "--json", "-w", workspace)
    document: dict[str, Any] = json.loads(bench.run(*command))
    if document["cached"]:
        raise SystemExit(f"langprune {words[0]} found its result already there")
    return document


def prune_with_langprune(bench: Bench, model: Path, windows: Path, method: str, out: Path) -> tuple[float, Path]:
    """Prune in a new workspace; return the seconds and the pruned model's folder."""
    words = ["prune", "--model", str(model), "--data", str(windows), "--method", method, "--update", UPDATE[method]]
    words += ["--pattern", "unstructured", "--sparsity", "0.5", "--propagation", "pruned", "--allocation", "uniform"]
    document = langprune(bench, out, *words)
    weights = next((out / "models").rglob("*.safetensors"), None)
    if weights is None:
        raise SystemExit("langprune prune left no model")
    return document["seconds"], weights.parent


def prune_with_script(
    bench: Bench, peer: str, python: Path, script: str, words: tuple[str | Path, ...], out: Path
) -> tuple[float, Path]:
    """Let a script prune, which reports its seconds and versions in a file: libraries print as they like."""
    report = out.with_suffix(".json")
    bench.run(python, HERE / "speed_peers" / script, *words, out, report)
    document = json.loads(report.read_text())
    bench.versions[peer] = document["versions"]
    return document["seconds"], out


def peer_environment(folder: Path) -> Path:
    """Return the interpreter of llm-compressor's virtual environment, which is made unless it is there already."""
    python, done = folder / "llm-compressor" / "bin" / "python", folder / "llm-compressor" / REQUIREMENTS.name
    if not done.exists() or done.read_text() != REQUIREMENTS.read_text():
        sys.stderr.write(f"making {python.parents[1]}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        shutil.copy(REQUIREMENTS, done)  # last: an installation that was interrupted is made anew
    return python


def pruners(bench: Bench, only: list[str]) -> dict[str, Pruner]:
    """Make what all of them prune; return what prunes with each of these peers."""
    model, windows = make(bench.setting, bench.folder)
    bench.versions["langprune"] = {"torch": torch.__version__}
    python = peer_environment(bench.peers_venv) if "llm-compressor" in only else Path()
    every: dict[str, Pruner] = {
        "langprune": lambda method, out: prune_with_langprune(bench, model, windows, method, out),
        "llm-compressor": lambda method, out: prune_with_script(
            bench, "llm-compressor", python, "llm_compressor_run.py", (model, windows, method), out
        ),
        "published": lambda method, out: prune_with_script(
            bench, "published", Path(sys.executable), "published_loops.py", (model, windows, method), out
        ),
    }
    return {peer: every[peer] for peer in only}


def one_round(bench: Bench, peers: dict[str, Pruner]) -> None:
    """Let every peer prune with every method, and measure the stages on their own."""
    out = bench.folder / "out"
    shutil.rmtree(out, ignore_errors=True)  # of a run in this folder that was interrupted
    for method in METHODS:
        for peer, prune in peers.items():
            begun = time.perf_counter()
            seconds, pruned = prune(method, out)
            process = time.perf_counter() - begun
            share = removed(bench.folder / "model", pruned)
            bench.add(name := f"{peer} {method}", seconds)
            bench.processes.setdefault(name, []).append(process)
            sys.stderr.write(f"  {process:.2f} s as a process; sparsity {share:.4f}\n")
            shutil.rmtree(out)
    torch.set_num_threads(bench.setting.threads)
    for name, seconds in products.measure(bench.setting).items():
        bench.add(name, seconds)
    if "langprune" in peers:
        data = ("--model", str(bench.folder / "model"), "--data", str(bench.folder / "windows.safetensors"))
        bench.add("calibrate", langprune(bench, out, "calibrate", *data, "--collect", "hessian")["seconds"])
        again = ("--method", "sparsegpt", "--propagation", "dense", "--pattern", "2:4")
        bench.add("second pattern", langprune(bench, out, "prune", *data, *again)["seconds"])
        mask = langprune(bench, out, "mask", "--method", "sparsegpt", "--pattern", "4:8")
        bench.add("second mask", mask["seconds"])
        bench.add("second update", langprune(bench, out, "apply", "--update", "sparsegpt")["seconds"])
        shutil.rmtree(out)


def processor() -> str:
    """Return the processor's name, and whether it has units for bf16 products: on them hangs who is faster."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    units = "with" if "avx512_bf16" in text or "amx_bf16" in text else "without"
    return f"{names[0] if names else 'CPU'} {units} bf16 units"


def summary(bench: Bench) -> dict[str, Any]:
    """Return every time that was measured, medians over the rounds, and ratios of medians."""
    medians = {name: median(seconds) for name, seconds in bench.seconds.items()}
    rows = []
    for method in METHODS:
        ours = medians.get(f"langprune {method}")
        for peer in PEERS:
            if (name := f"{peer} {method}") in medians:
                ratio = medians[name] / ours if ours else None
                row = {"peer": peer, "method": method, "median_seconds": medians[name], "ratio": ratio}
                rows.append({**row, "seconds": bench.seconds[name], "process_seconds": bench.processes[name]})
    result: dict[str, Any] = {
        **asdict(bench.setting),
        "parameters": bench.setting.parameters(),
        "processor": processor(),
        "versions": bench.versions,
        "rows": rows,
        "products": {name: bench.seconds[name] for name in ("forward", "hessians")},
    }
    if "calibrate" in medians:
        half, whole = (medians["forward"] + share * medians["hessians"] for share in (0.5, 1))
        calibrate = medians["calibrate"]
        result["calibrate"] = {
            "seconds": bench.seconds["calibrate"],
            "median_seconds": calibrate,
            "ratio_to_needed_products": calibrate / half,  # a Hessian is symmetric: one half of it is needed
            "ratio_to_whole_products": calibrate / whole,
        }
        again = medians["second mask"] + medians["second update"]
        result["second"] = {
            "mask_seconds": bench.seconds["second mask"],
            "update_seconds": bench.seconds["second update"],
            "median_seconds": again,
            "one_command_seconds": bench.seconds["second pattern"],
            "one_command_median_seconds": medians["second pattern"],
            "prune_to_stages": medians["langprune sparsegpt"] / again,
            "prune_to_one_command": medians["langprune sparsegpt"] / medians["second pattern"],
        }
    return result


def markdown(result: dict[str, Any]) -> str:
    """Return the section for docs/benchmarks.md."""
    names = {
        "langprune": "langprune",
        "llm-compressor": f"llm-compressor {result['versions'].get('llm-compressor', {}).get('llmcompressor', '')}",
        "published": "published loops",
    }
    model = f"{result['blocks']} blocks x {result['hidden']} (random bf16 weights, {result['parameters'] / 1e6:.0f} M"
    text = f"{result['windows']} windows of {result['seqlen']} tokens, {result['threads']} threads"
    lines = [
        HEADINGS["speed"],
        "",
        f"A Llama of {model} in the blocks), {text}",
        f"({result['processor']}), torch {result['versions']['langprune']['torch']}: half of the weights of every linear go,",
        "unstructured, each block calibrated on what the pruned blocks before it put out.",
        "Seconds from reading the model to having written the pruned one, without imports. Peers run in turn, in processes",
        "of their own. The published loops are a literal account of their authors' code, in bf16, with Hessians in float32.",
        "",
        "Made by `nox -s bench` (`python -m tests.benchmarks.speed`).",
        "",
        "| peer | method | seconds, median | every round | times langprune |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        rounds = ", ".join(f"{seconds:.1f}" for seconds in row["seconds"])
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {names[row['peer']]} | {row['method']} | {row['median_seconds']:.1f} | {rounds} | {ratio} |")
    forward, hessians = (median(result["products"][name]) for name in ("forward", "hessians"))
    lines += [
        "",
        f"The matrix products of a calibration with Hessians take {forward:.1f} s (all linears, bf16) and {hessians:.1f} s",
        f"(Hessians of all input sites, whole; the half that is needed: {hessians / 2:.1f} s) in a bare loop.",
    ]
    if "calibrate" in result:
        calibrate, second = result["calibrate"], result["second"]
        lines += [
            f"`calibrate --collect hessian` takes {calibrate['median_seconds']:.1f} s:",
            f"{calibrate['ratio_to_needed_products']:.2f} times the needed products,",
            f"{calibrate['ratio_to_whole_products']:.2f} times the whole ones.",
            "",
            "A second pattern from the stored Hessians takes",
            f"{second['one_command_median_seconds']:.1f} s with `prune --propagation dense --method sparsegpt --pattern 2:4`",
            f"(`prune --method sparsegpt` takes {second['prune_to_one_command']:.1f} times that),",
            f"{second['median_seconds']:.1f} s with `mask --method sparsegpt --pattern 4:8` and `apply --update sparsegpt`",
            f"({second['prune_to_stages']:.1f} times).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure; write docs/benchmarks.md and the JSON beside it, unless something was left out or made smaller."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PEERS), help="peers, with commas between; docs are not written then")
    parser.add_argument("--tiny", action="store_true", help="2 blocks and 4 windows, to try it; docs are not written")
    parser.add_argument("--folder", type=Path, help="where to put models, 2 GB; a temporary folder if left out")
    parser.add_argument(
        "--peers-venv", type=Path, help="where llm-compressor is or will be installed, 1.5 GB; likewise"
    )
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if unknown := set(only) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        peers_venv = (arguments.peers_venv or Path(temporary) / "peers").absolute()
        bench = Bench(Setting(blocks=2, windows=4) if arguments.tiny else Setting(), folder.absolute(), peers_venv)
        peers = pruners(bench, only)
        for _ in range(arguments.rounds):
            one_round(bench, peers)
    result = summary(bench)
    section = markdown(result)
    if set(only) == set(PEERS) and not arguments.tiny:
        save("speed", result, section)
    sys.stdout.write(section)


if __name__ == "__main__":
    main()
