"""How time and memory grow: with the model, with the windows, with processes; and what `plan` says beforehand.

1. Llamas of 50 M, 200 M and 1 B random bf16 weights, pruned by langprune, llm-compressor and the published loops in turn.
2. The model of 200M on 8 to 64 windows of 512 tokens: seconds beside a straight line through them.
3. `calibrate` of it by one process and by two, each with one thread and pinned to a core of its own (Linux); and by two that
   know nothing of each other, with half of the windows each: what the machine has to give.
4. The peak memory of `prune` with its default method, beside `plan`'s, on one block of each of three shapes.

    python -m tests.benchmarks.sizes [--parts sizes,windows,processes,plan] [--sizes 200M,1B] [--only PEERS] [--folder DIR]
                                     [--peers-venv DIR]
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.peers import (
    METHODS,
    PEERS,
    STAGES,
    Bench,
    langprune,
    processor,
    prune_in_turn,
    prune_with_langprune,
    pruners,
    three_stages,
)
from tests.benchmarks.results import HEADINGS, ROOT, save
from tests.benchmarks.speed_peers.setting import Setting, make

SIZES = {
    "50M": Setting(blocks=10, hidden=640, ffn=1728, heads=10),
    "200M": Setting(),
    "1B": Setting(blocks=40, hidden=1536, ffn=3584, heads=24, windows=4, seqlen=256),
}
WINDOWS = (8, 16, 32, 64)
# One block each: the peak is that of one block, and solving the widest takes minutes.
PLANNED = {
    "1024 x 2816": Setting(blocks=1, windows=64),
    "1536 x 3584": Setting(blocks=1, hidden=1536, ffn=3584, heads=24, windows=64),
    "2048 x 5632": Setting(blocks=1, hidden=2048, ffn=5632, heads=32, windows=64, seqlen=1024, vocabulary=32000),
}
# What runs langprune on a core of its own: the first word, or for a process of torchrun its number.
PINNED = (
    "import os, sys; core = sys.argv[1] if sys.argv[1].isdigit() else os.environ['LOCAL_RANK']; "
    "os.sched_setaffinity(0, {int(core)}); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--no-python")


@dataclass(frozen=True)
class Asked:
    """What is to be measured, where, and by whom."""

    sizes: list[str]
    peers: list[str]
    folder: Path
    peers_venv: Path


def of_sizes(asked: Asked) -> list[dict[str, Any]]:
    """Prune each size with each peer and method."""
    rows = []
    for size in asked.sizes:
        bench = Bench(SIZES[size], asked.folder / "sizes", asked.peers_venv)
        prune_in_turn(bench, pruners(bench, asked.peers))
        three_stages(bench)
        names = [f"{peer} {method}" for method in METHODS for peer in asked.peers]
        rows += [
            {"size": size, "name": name, "seconds": bench.seconds[name][0], "peak_mb": bench.peaks[name]}
            for name in [*names, STAGES]
        ]
        shutil.rmtree(bench.folder)
    return rows


def of_windows(asked: Asked) -> list[dict[str, Any]]:
    """Prune the model of 200M on more and more windows."""
    rows = []
    for windows in WINDOWS:
        bench = Bench(replace(SIZES["200M"], windows=windows), asked.folder / "windows", Path())
        model, ids = make(bench.setting, bench.folder)
        for method in METHODS:
            seconds, _ = prune_with_langprune(bench, model, ids, method, bench.folder / "out")
            bench.add(f"{windows} windows, {method}", seconds)
            rows.append({"windows": windows, "method": method, "seconds": seconds})
            shutil.rmtree(bench.folder / "out")
        shutil.rmtree(bench.folder)
    return rows


def of_processes(asked: Asked) -> list[dict[str, Any]]:
    """Calibrate with one process, with two, and with two unconnected shards, each with one thread on a core of its own."""
    bench = Bench(replace(SIZES["200M"], threads=1), asked.folder / "processes", Path())
    model, ids = make(bench.setting, bench.folder)
    rows = []
    for collect in ("norms", "hessian"):
        words = ("--model", model, "--data", ids, "--collect", collect)

        def shard(core: int, collect: str = collect, words: tuple[str | Path, ...] = words) -> float:
            return _calibrate(bench, bench.folder / f"{collect}-{core}", core, *words, "--shard", f"{core + 1}/2")

        one = _calibrate(bench, bench.folder / f"{collect}-one", 0, *words)
        bench.add(f"{collect}, one", one)
        two = _calibrate(bench, bench.folder / f"{collect}-two", None, *words)
        bench.add(f"{collect}, two", two)
        with ThreadPoolExecutor(2) as both:
            shards = max(both.map(shard, (0, 1)))
        bench.add(f"{collect}, shards", shards)
        rows.append({"collect": collect, "one": one, "two": two, "shards": shards})
    shutil.rmtree(bench.folder)
    return rows


def _calibrate(bench: Bench, out: Path, core: int | None, *words: str | Path) -> float:
    """Return the seconds of a calibration on one core; None: of two processes, on a core each."""
    pinned = (sys.executable, "-c", PINNED, "rank" if core is None else str(core))
    start = (sys.executable, *TORCHRUN, "--nproc-per-node=2") if core is None else ()
    document = bench.run(*start, *pinned, "-m", "langprune_cli", "calibrate", "--json", "-w", out, *words)
    return float(json.loads(document)["seconds"])


def of_plan(asked: Asked) -> list[dict[str, Any]]:
    """Prune a block of each shape with the default method, and ask `plan` for its peak."""
    rows = []
    for shape, setting in PLANNED.items():
        bench = Bench(setting, asked.folder / "plan", Path())
        model, ids = make(setting, bench.folder)
        out = bench.folder / "out"
        seconds = langprune(bench, out, "prune", "--model", str(model), "--data", str(ids))["seconds"]
        bench.add(shape, seconds)
        words = ("--model", str(model), "--nsamples", str(setting.windows), "--seqlen", str(setting.seqlen))
        command = (sys.executable, "-m", "langprune_cli", "plan", *words, "--json", "-w", out)
        planned = json.loads(bench.run(*command))["peak_ram_bytes"] / 2**20
        rows.append({"shape": shape, "seconds": seconds, "peak_mb": bench.peaks[shape], "planned_mb": planned})
        shutil.rmtree(bench.folder)
    return rows


PARTS: dict[str, Callable[[Asked], list[dict[str, Any]]]] = {
    "sizes": of_sizes,
    "windows": of_windows,
    "processes": of_processes,
    "plan": of_plan,
}


def markdown(result: dict[str, Any]) -> str:
    """Return the section for docs/benchmarks.md, of what has been measured."""
    parts = result["parts"]
    lines = [
        HEADINGS["sizes"],
        "",
        f"On {result['processor']}, 2 threads, one run each, peers in turn, as above.",
        "",
        "Made by `python -m tests.benchmarks.sizes`.",
    ]
    if "sizes" in parts:
        lines += ["", "| weights | windows | peer | method | seconds | times langprune | peak memory, MB |"]
        lines += ["|---|---|---|---|---|---|---|", *_size_lines(parts["sizes"])]
        lines += [
            "",
            "`calibrate`, `mask` and `apply`: with statistics of the dense model, one pass through each block, not two.",
        ]
    if "windows" in parts:
        lines += ["", *_window_lines(parts["windows"])]
    if "processes" in parts:
        lines += [
            "",
            "`calibrate` of the model of 200M, by processes with one thread and one core each. Two that know nothing of each",
            "other (`--shard 1/2` and `2/2`, the slower one's seconds) show what the machine's second core has to give.",
            "",
        ]
        lines += ["| collected | one, seconds | two, seconds | times faster | two shards, seconds | times faster |"]
        lines += ["|" + "---|" * 6]
        for row in parts["processes"]:
            one, two, shards = row["one"], row["two"], row["shards"]
            cells = [
                row["collect"],
                f"{one:.1f}",
                f"{two:.1f}",
                f"{one / two:.2f}",
                f"{shards:.1f}",
                f"{one / shards:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if "plan" in parts:
        lines += ["", "Peak memory of `prune` with its default method, and what `plan` says beforehand:", ""]
        lines += ["| hidden x FFN | measured, MB | planned, MB | off by |", "|---|---|---|---|"]
        for row in parts["plan"]:
            off = row["planned_mb"] / row["peak_mb"] - 1
            lines.append(f"| {row['shape']} | {row['peak_mb']:.0f} | {row['planned_mb']:.0f} | {off:+.0%} |")
    return "\n".join(lines) + "\n"


def _size_lines(rows: list[dict[str, Any]]) -> list[str]:
    known = {(row["size"], row["name"]): row for row in rows}
    lines = []
    for (size, name), row in known.items():
        setting = SIZES[size]
        peer, method = ("langprune", "wanda, `calibrate`, `mask`, `apply`") if name == STAGES else name.split()
        times = row["seconds"] / known[size, f"langprune {method.split(',')[0]}"]["seconds"]
        cells = [size, f"{setting.windows} x {setting.seqlen}", peer, method, f"{row['seconds']:.1f}", f"{times:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mb']:.0f} |")
    return lines


def _window_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["Windows of 512 tokens, the model of 200M: cost grows linearly.", ""]
    lines += [
        "| method | " + " | ".join(map(str, WINDOWS)) + " | line | furthest from it |",
        "|" + "---|" * (len(WINDOWS) + 3),
    ]
    for method in METHODS:
        seconds = [row["seconds"] for row in rows if row["method"] == method]
        slope, base = np.polyfit(WINDOWS, seconds, 1)
        furthest = max(abs(base + slope * n - each) / each for n, each in zip(WINDOWS, seconds, strict=True))
        cells = [f"{each:.1f} s" for each in seconds] + [f"{base:.1f} + {slope:.3f} s a window", f"{furthest:.0%}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure the parts that were asked for; the others stay as they were last measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, with commas between")
    parser.add_argument(
        "--sizes", default=",".join(SIZES), help="which models; the others stay as they were last measured"
    )
    parser.add_argument("--only", default=",".join(PEERS), help="which peers, langprune first")
    parser.add_argument("--folder", type=Path, help="where to put models, 5 GB; a temporary folder if left out")
    parser.add_argument(
        "--peers-venv", type=Path, help="where llm-compressor is or will be installed, 1.5 GB; likewise"
    )
    arguments = parser.parse_args()
    parts, sizes, peers = (each.split(",") for each in (arguments.parts, arguments.sizes, arguments.only))
    for names, known in ((parts, PARTS), (sizes, SIZES), (peers, PEERS)):
        if unknown := set(names) - set(known):
            parser.error(f"no such thing to measure: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    before = json.loads((ROOT / "docs" / "benchmarks.json").read_text()).get("sizes", {}).get("parts", {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        peers_venv = (arguments.peers_venv or Path(temporary) / "peers").absolute()
        measured = {name: PARTS[name](Asked(sizes, peers, folder, peers_venv)) for name in parts}
    if "sizes" in measured:
        measured["sizes"] = [row for row in before.get("sizes", []) if row["size"] not in sizes] + measured["sizes"]
    found = before | measured
    settings = {name: asdict(each) for name, each in SIZES.items()}
    in_order = {name: found[name] for name in PARTS if name in found}
    result = {"processor": processor(), "settings": settings, "parts": in_order}
    section = markdown(result)
    save("sizes", result, section)
    sys.stdout.write(section)


if __name__ == "__main__":
    main()
