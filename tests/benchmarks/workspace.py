"""What commands read in a workspace of 2,000 artifacts: files opened and their bytes, JSON documents, sha256. Nothing is timed.

python -m tests.benchmarks.workspace [--artifacts N] [--before TREE]

--before: a checkout of another commit, which is measured in the same workspace, first.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.results import HEADINGS, ROOT, save
from tests.support.crowding import crowd

SHARES = {"stats": 0.05, "scores": 0.05, "masks": 0.2, "models": 0.2, "evals": 0.5}
NAMES = {"stats": "uk", "scores": "uk-wanda", "masks": "uk-wanda-0.5", "models": "uk-wanda-0.5", "evals": "old"}
TEXT = ("--lang", "uk")
EVAL = ("--max-windows", "2", "--seqlen", "64")
CALIBRATE = ("calibrate", *TEXT, "--nsamples", "4", "--seqlen", "64")
MASK = ("--mask", "uk-wanda-0.5")
COMMANDS: dict[str, tuple[str, ...]] = {  # in this order: each finds what those before it left
    "ls, first": ("ls",),
    "ls": ("ls",),
    "ls --sort size": ("ls", "--sort", "size"),
    "show NAME": ("show", "models/uk-wanda-0.5"),
    "show NAME, of one kind alone": ("show", "uk-wanda"),
    "calibrate, first": CALIBRATE,
    "calibrate, already there": CALIBRATE,
    "mask, first": ("mask", "--stats", "uk"),
    "mask, already there": ("mask", "--stats", "uk"),
    "apply, first": ("apply", *MASK),
    "apply, already there": ("apply", *MASK),
    "eval, first": ("eval", *MASK, *TEXT, *EVAL, "--name", "old"),
    "eval, already there": ("eval", *MASK, *TEXT, *EVAL, "--name", "old"),
    "eval, new": ("eval", *MASK, "--lang", "en", *EVAL),
    "eval, new, with rows known": ("eval", *MASK, *TEXT, "--lang", "en", *EVAL),
    "combine masks": ("combine", "masks", "copy-0001", "copy-0002", "--how", "and"),
    "compare": ("compare", "copy-0001", "copy-0002", "--kind", "masks"),
    "report": ("report", "--eval", "old", "--out", "report.html", "--force"),
    "export": ("export", "--model", "uk-wanda-0.5", "--out", "exported"),
    "verify NAME": ("verify", "masks/uk-wanda-0.5"),
    "rm NAME": ("rm", "uk-wanda"),
    "doctor": ("doctor",),
    "completion": (),
}
COLUMNS = (("files", "files"), ("bytes", "bytes"), ("JSON", "documents"), ("sha256", "hashes"))


def run(tree: Path, folder: Path, *words: str, complete: bool = False) -> dict[str, int]:
    """Run one command of the langprune of a checkout in a process of its own; return what it counted."""
    counts = folder / "counts.json"
    given = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)]), "LANGPRUNE_WORKSPACE": str(folder / "ws")
    }  # fmt: skip
    if complete:
        given |= {
            "_LANGPRUNE_COMPLETE": "complete_bash",
            "COMP_WORDS": "langprune show masks/copy-00",
            "COMP_CWORD": "2",
        }
    command = [sys.executable, str(ROOT / "tests/support/counting.py"), str(folder / "ws"), str(counts), *words]
    done = subprocess.run(command, cwd=folder, env=given, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    found = json.loads(counts.read_bytes())
    files = found["manifests"] + found["results"] + found["others"]
    return {"files": files} | {name: count for name, count in found.items() if isinstance(count, int)}


def made(folder: Path, artifacts: int) -> None:
    """Make the workspace, of the built-in model."""
    for words in (
        CALIBRATE, ("score", "--stats", "uk"), ("mask", "--stats", "uk"), ("apply", *MASK),
        ("eval", *MASK, *TEXT, *EVAL, "--name", "old"),
    ):  # fmt: skip
        run(ROOT, folder, *words)
    crowd(folder / "ws", NAMES, {kind: round(artifacts * share) - 1 for kind, share in SHARES.items()})


def measured(tree: Path, made_in: Path) -> dict[str, dict[str, int]]:
    """Run all commands in a copy of the workspace."""
    found = {}
    with tempfile.TemporaryDirectory(dir=made_in) as folder:
        shutil.copytree(made_in / "ws", Path(folder) / "ws", copy_function=_copy)
        for name, words in COMMANDS.items():
            found[name] = run(tree, Path(folder), *words, complete=name == "completion")
            sys.stderr.write(f"{name}: {found[name]}\n")
    return found


def _copy(source: str, target: str) -> None:
    """Link what is never changed in place; the time of a manifest is."""
    (shutil.copy2 if source.endswith("manifest.json") else os.link)(source, target)


def section(artifacts: int, found: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return the Markdown."""
    counts = ", ".join(f"{round(artifacts * share):,} {kind}" for kind, share in SHARES.items())
    lines = [
        HEADINGS["workspace"],
        "",
        f"{artifacts:,} artifacts ({counts}) of the built-in model; each command is a process of its own, after those above it.",
        "Counted, not timed: files of the workspace that are opened, and their bytes; JSON documents that are parsed and sha256",
        'that are begun, those of the model and the text too. "First" is the first command that looks for a key of its kind:',
        "it reads every manifest of that kind once and writes the index; its result is there already. The first `ls`",
        "reads every manifest and every result of an evaluation, and writes what it shows of them.",
        "",
        "Made by `python -m tests.benchmarks.workspace --before TREE`, where TREE is a checkout of the commit before.",
        "",
        "| command | " + " | ".join(f"{title}, {tree}" for title, _ in COLUMNS for tree in found) + " |",
        "|---" * (1 + len(COLUMNS) * len(found)) + "|",
    ]
    for name in COMMANDS:
        figures = (f"{each[name][field]:,}" for _, field in COLUMNS for each in found.values())
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=int, default=2000)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made(Path(name), options.artifacts)
        trees = ({"before": options.before.resolve()} if options.before else {}) | {"now": ROOT}
        found = {label: measured(tree, Path(name)) for label, tree in trees.items()}
    save("workspace", {"artifacts": options.artifacts, **found}, section(options.artifacts, found))


if __name__ == "__main__":
    main()
