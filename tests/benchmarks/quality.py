"""What each method, refinement, update and allocation loses: perplexity on held-out text, and seconds, side by side.

Prunes one model with `langprune prune` (propagation pruned, default dtype) for every text, pattern and recipe, and
evaluates it on held-out windows of the same language. Writes a section of docs/quality.md and docs/quality.json; a figure
is nats lost per token, log(ppl / dense ppl), since ratios of these say how much of the damage one recipe avoids.

    python tests/benchmarks/quality.py --model DIR --text uk=calib.safetensors,test.safetensors --text en=...,...
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langprune_cli.__main__ import main as langprune

ROOT = Path(__file__).parents[2]
PATTERNS = {
    "50%": ("--sparsity", "0.5"),
    "60%": ("--sparsity", "0.6"),
    "70%": ("--sparsity", "0.7"),
    "2:4": ("--pattern", "2:4"),
}
BASE = "sparsegpt"  # what ratios are to
RECIPES: dict[str, tuple[str, ...]] = {
    "magnitude": ("--method", "magnitude"),
    "wanda": ("--method", "wanda"),
    "wanda, dsnot": ("--method", "wanda", "--refine", "dsnot"),
    "wanda, sparseswaps": ("--method", "wanda", "--refine", "sparseswaps"),
    "ria": ("--method", "ria"),
    "wanda, update sparsegpt": ("--method", "wanda", "--update", "sparsegpt"),
    "wanda, update pcg": ("--method", "wanda", "--update", "pcg"),
    "wanda, sparseswaps, update pcg": ("--method", "wanda", "--refine", "sparseswaps", "--update", "pcg"),
    "sparsegpt": ("--method", "sparsegpt"),
    "sparsegpt, update pcg": ("--method", "sparsegpt", "--update", "pcg"),
    "sparsegpt, sparseswaps, update pcg": ("--method", "sparsegpt", "--refine", "sparseswaps", "--update", "pcg"),
    "admm (the default)": (),
    "admm, owl": ("--allocation", "owl"),
    "admm, alpha": ("--allocation", "alpha"),
    "admm, search": ("--allocation", "search"),
}


@dataclass(frozen=True)
class Text:
    """One language: what is calibrated on, and what is evaluated."""

    language: str
    calibration: str
    held_out: str

    @classmethod
    def read(cls, word: str) -> "Text":
        """Read `uk=calib.safetensors,test.safetensors`."""
        language, _, files = word.partition("=")
        calibration, _, held_out = files.partition(",")
        return cls(language, calibration, held_out)


def run(*words: str) -> dict[str, Any]:
    """Run one langprune command in this process, and return its JSON document."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as said:
        code = langprune([*words, "--json"])
    if code:
        raise SystemExit(f"langprune {' '.join(words)} failed: {said.getvalue()}")
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


def measure(workspace: str, model: str, text: Text, pattern: str, recipe: str) -> dict[str, Any] | None:
    """Return one cell: ppl of the dense and of the pruned model, and the seconds of pruning; None where it cannot be."""
    options = (*RECIPES[recipe], *PATTERNS[pattern])
    if "--allocation" in options and "--pattern" in options:
        return None  # 2:4 removes the same everywhere
    made = run("prune", "-w", workspace, "--model", model, "--data", text.calibration, *options)
    rows = run("eval", "-w", workspace, "--model", made["name"], "--data", text.held_out)["rows"]
    dense, pruned = rows[0]["ppl"], rows[-1]["ppl"]
    return {
        "language": text.language,
        "pattern": pattern,
        "recipe": recipe,
        "dense": dense,
        "ppl": pruned,
        "nats": math.log(pruned / dense),
        "seconds": made["seconds"],
    }


def section(cells: list[dict[str, Any]], about: str) -> str:
    """Return the Markdown of all cells: a row for each recipe."""
    found = {(cell["recipe"], cell["language"], cell["pattern"]): cell for cell in cells}
    columns = list(dict.fromkeys((cell["language"], cell["pattern"]) for cell in cells))
    heads = [f"{language} {pattern}" for language, pattern in columns]
    lines = [
        "## Nats lost on held-out text",
        "",
        about,
        "",
        "Made by `python tests/benchmarks/quality.py --model MODEL --text uk=WINDOWS,HELD_OUT --text en=WINDOWS,HELD_OUT`:",
        "`langprune prune` and `eval` with the default dtype, on files of token windows.",
        "",
        f"Each figure: log(ppl / dense ppl) x 1000, and the ppl. Last: the geometric mean of the ratios to `{BASE}`, and the",
        "seconds of pruning (mean of the cells).",
        "",
        f"| recipe | {' | '.join(heads)} | to {BASE} | seconds |",
        f"|---|{'---|' * len(columns)}---|---|",
    ]
    for recipe in dict.fromkeys(cell["recipe"] for cell in cells):
        row = [found.get((recipe, *column)) for column in columns]
        shown = ["" if cell is None else f"{1000 * cell['nats']:.1f} ({cell['ppl']:.2f})" for cell in row]
        pairs = [(cell, found.get((BASE, *column))) for cell, column in zip(row, columns, strict=True)]
        ratios = [cell["nats"] / base["nats"] for cell, base in pairs if cell and base]
        sound = ratios and all(ratio > 0 for ratio in ratios)
        mean = f"{statistics.geometric_mean(ratios):.3f}" if sound else ""
        mean += f" ({len(ratios)} cells)" if mean and len(ratios) < len(columns) else ""
        seconds = statistics.fmean(cell["seconds"] for cell in row if cell)
        lines.append(f"| {recipe} | {' | '.join(shown)} | {mean} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cells that the file of results does not have yet, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", type=Text.read, required=True)
    parser.add_argument("--about", default="", help="a sentence on the model and the texts, for the document")
    parser.add_argument(
        "--recipe", action="append", choices=RECIPES, help="may be given several times; all if left out"
    )
    parser.add_argument("--patterns", default=",".join(PATTERNS))
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "quality.json")
    chosen = parser.parse_args()
    cells: list[dict[str, Any]] = json.loads(chosen.results.read_text())["cells"] if chosen.results.exists() else []
    done = {(cell["recipe"], cell["language"], cell["pattern"]) for cell in cells}
    todo = [
        (text, pattern, recipe)
        for recipe in chosen.recipe or RECIPES
        for text in chosen.text
        for pattern in chosen.patterns.split(",")
        if (recipe, text.language, pattern) not in done
    ]
    with tempfile.TemporaryDirectory() as workspace:
        for text, pattern, recipe in todo:
            cell = measure(workspace, chosen.model, text, pattern, recipe)
            if cell:
                cells.append(cell)
                sys.stderr.write(
                    f"{text.language} {pattern} {recipe}: ppl {cell['ppl']:.3f}, {cell['seconds']:.1f} s\n"
                )
                chosen.results.write_text(json.dumps({"about": chosen.about, "cells": cells}, indent=1) + "\n")
    cells.sort(key=lambda cell: list(RECIPES).index(cell["recipe"]))
    chosen.results.with_suffix(".md").write_text("# Quality\n\n" + section(cells, chosen.about))


if __name__ == "__main__":
    main()
