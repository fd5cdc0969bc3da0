"""What benchmarks share: langprune, llm-compressor and the published loops, each run in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.results import ROOT
from tests.benchmarks.speed_peers.setting import Setting, make, removed

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "llm_compressor.txt"
PEERS = ("langprune", "llm-compressor", "published")
METHODS = ("wanda", "sparsegpt")
STAGES = "langprune stages"  # calibrate, mask and apply with Wanda
UPDATE = {"wanda": "none", "sparsegpt": "sparsegpt"}
Pruner = Callable[[str, Path], tuple[float, Path]]  # a method and a new folder in; seconds and the pruned model out


@dataclass
class Bench:
    """One run of the benchmark: where things lie, and what was measured so far, by "peer method" or what was timed.

    `seconds` has every round's; `processes` has those of the whole processes, imports and all, to check the former by; `peaks`
    the most resident memory of any of them, in MB.
    """

    setting: Setting
    folder: Path
    peers_venv: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    processes: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    _peak: float = 0.0

    def add(self, name: str, seconds: float) -> None:
        """Note one time with the peak memory of the processes since the last, and show both."""
        self.seconds.setdefault(name, []).append(seconds)
        self.peaks[name] = max(self.peaks.get(name, 0.0), self._peak)
        sys.stderr.write(f"{name}: {seconds:.2f} s, {self._peak:.0f} MB\n")
        self._peak = 0.0

    def run(self, *words: str | Path) -> str:
        """Run one command to its end; return what it put out, or fail with the end of what it said."""
        threads = str(self.setting.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        with tempfile.NamedTemporaryFile("r") as peak:
            measured = (sys.executable, str(HERE / "speed_peers" / "measured.py"), peak.name)
            command = [*measured, *(str(word) for word in words)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            self._peak = max(self._peak, float(peak.read() or 0))
        if done.returncode:
            said = (done.stdout + done.stderr)[-3000:]  # a code above 128: a signal ended it, and it said nothing
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


def prune_in_turn(bench: Bench, peers: dict[str, Pruner]) -> None:
    """Let every peer prune with every method, one after the other; fail where one did not prune what it should."""
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


def three_stages(bench: Bench) -> None:
    """Prune with Wanda by `calibrate`, `mask` and `apply`, each a process of its own; their seconds together count."""
    out = bench.folder / "out"
    data = ("--model", str(bench.folder / "model"), "--data", str(bench.folder / "windows.safetensors"))
    stages = (("calibrate", *data), ("mask", "--method", "wanda"), ("apply", "--update", "none"))
    seconds = [langprune(bench, out, *words)["seconds"] for words in stages]
    removed(bench.folder / "model", next((out / "models").rglob("*.safetensors")).parent)
    bench.add(STAGES, sum(seconds))
    sys.stderr.write(f"  {', '.join(f'{each:.2f}' for each in seconds)} s\n")
    shutil.rmtree(out)


def processor() -> str:
    """Return the processor's name, and whether it has units for bf16 products: on them hangs who is faster."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    units = "with" if "avx512_bf16" in text or "amx_bf16" in text else "without"
    return f"{names[0] if names else 'CPU'} {units} bf16 units"
