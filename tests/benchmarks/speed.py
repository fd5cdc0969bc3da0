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
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.peers import (
    METHODS,
    PEERS,
    STAGES,
    Bench,
    Pruner,
    langprune,
    processor,
    prune_in_turn,
    pruners,
    three_stages,
)
from tests.benchmarks.results import HEADINGS, save
from tests.benchmarks.speed_peers import products
from tests.benchmarks.speed_peers.setting import Setting


def one_round(bench: Bench, peers: dict[str, Pruner]) -> None:
    """Let every peer prune with every method, and measure the stages on their own."""
    prune_in_turn(bench, peers)
    out = bench.folder / "out"
    torch.set_num_threads(bench.setting.threads)
    for name, seconds in products.measure(bench.setting).items():
        bench.add(name, seconds)
    if "langprune" in peers:
        three_stages(bench)
        data = ("--model", str(bench.folder / "model"), "--data", str(bench.folder / "windows.safetensors"))
        bench.add("calibrate", langprune(bench, out, "calibrate", *data, "--collect", "hessian")["seconds"])
        again = ("--method", "sparsegpt", "--propagation", "dense", "--pattern", "2:4")
        bench.add("second pattern", langprune(bench, out, "prune", *data, *again)["seconds"])
        mask = langprune(bench, out, "mask", "--method", "sparsegpt", "--pattern", "4:8")
        bench.add("second mask", mask["seconds"])
        bench.add("second update", langprune(bench, out, "apply", "--update", "sparsegpt")["seconds"])
        shutil.rmtree(out)


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
                row["peak_mb"] = bench.peaks[name]
                rows.append({**row, "seconds": bench.seconds[name], "process_seconds": bench.processes[name]})
    result: dict[str, Any] = {
        **asdict(bench.setting),
        "parameters": bench.setting.parameters(),
        "processor": processor(),
        "versions": bench.versions,
        "rows": rows,
        "stages": {"seconds": bench.seconds.get(STAGES), "peak_mb": bench.peaks.get(STAGES)},
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
        "| peer | method | seconds, median | every round | times langprune | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        rounds = ", ".join(f"{seconds:.1f}" for seconds in row["seconds"])
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        cells = [
            names[row["peer"]],
            row["method"],
            f"{row['median_seconds']:.1f}",
            rounds,
            ratio,
            f"{row['peak_mb']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if result["stages"]["seconds"]:
        lines += ["", *_of_stages(result)]
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


def _of_stages(result: dict[str, Any]) -> list[str]:
    """Return what is said of `calibrate`, `mask` and `apply` one after the other, beside the peers' Wanda."""
    seconds = median(result["stages"]["seconds"])
    times = ", ".join(
        f"{row['median_seconds'] / seconds:.2f} times that for {row['peer']}"
        for row in result["rows"]
        if row["method"] == "wanda" and row["peer"] != "langprune"
    )
    return [
        "With statistics of the dense model, `calibrate`, `mask` and `apply`, three processes, take",
        f"{seconds:.1f} s together ({times}), and at most {result['stages']['peak_mb']:.0f} MB.",
    ]


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
