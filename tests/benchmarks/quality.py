"""What each method, refinement, update and allocation loses: perplexity on held-out text, and seconds, side by side.

Prunes one model with `langprune prune` (the method's own propagation, default dtype) for every text, pattern and recipe, and
evaluates it on held-out windows of all the languages. Writes a section of docs/quality.md and docs/quality.json; a figure
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
WEIGHTS: dict[str, tuple[str, ...]] = {
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
    "admm, propagation pruned": ("--propagation", "pruned"),
    "sparsegpt, propagation corrected": ("--method", "sparsegpt", "--propagation", "corrected"),
    "admm (the default)": (),
    "admm, tune": ("--tune",),
    "admm, recover 200k": ("--recover", "200k"),
    "admm, tune, recover 200k": ("--tune", "--recover", "200k"),
    "admm, owl": ("--allocation", "owl"),
    "admm, alpha": ("--allocation", "alpha"),
    "admm, search": ("--allocation", "search"),
    "admm, fisher": ("--allocation", "fisher"),
    "admm, fisher, recover 200k": ("--allocation", "fisher", "--recover", "200k"),
}
PARTS = {
    "channels 10%": ("--pattern", "channels:0.1"),
    "channels 30%": ("--pattern", "channels:0.3"),
    "kv-groups 50%": ("--pattern", "kv-groups:0.5"),
}
OF_UNITS: dict[str, tuple[str, ...]] = {
    "osscar": ("--method", "osscar"),
    "osscar, update none": ("--method", "osscar", "--update", "none"),
    "flap": ("--method", "flap"),
    "flap, update least-squares": ("--method", "flap", "--update", "least-squares"),
    "wanda-sp": ("--method", "wanda-sp"),
    "wanda-sp, update least-squares": ("--method", "wanda-sp", "--update", "least-squares"),
    "magnitude of units": ("--method", "magnitude"),
    "magnitude of units, update least-squares": ("--method", "magnitude", "--update", "least-squares"),
}
DEPTHS = {"blocks 12.5%": ("--pattern", "blocks:0.125"), "blocks 25%": ("--pattern", "blocks:0.25")}
OF_DEPTHS: dict[str, tuple[str, ...]] = {"search": ("--method", "search"), "influence": ("--method", "influence")}


@dataclass(frozen=True)
class Table:
    """Recipes that go with patterns, all of them side by side."""

    heading: str
    patterns: dict[str, tuple[str, ...]]
    recipes: dict[str, tuple[str, ...]]
    base: str  # what ratios are to


TABLES = {
    "weights": Table("Nats lost on held-out text: single weights", PATTERNS, WEIGHTS, "sparsegpt"),
    "parts": Table("Nats lost on held-out text: channels and KV groups", PARTS, OF_UNITS, "flap"),
    "depth": Table("Nats lost on held-out text: blocks", DEPTHS, OF_DEPTHS, "influence"),
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


def measure(
    place: tuple[str, ...],  # options of both commands
    model: str,
    texts: list[Text],
    text: Text,
    options: tuple[str, ...],
) -> dict[str, Any]:
    """Return one cell: ppl of the dense and of the pruned model, nats lost on every language, and the seconds of pruning."""
    made = run("prune", *place, "--model", model, "--data", text.calibration, *options)
    nats = {}
    for each in texts:
        rows = run("eval", *place, "--model", made["name"], "--data", each.held_out)["rows"]
        dense, pruned = rows[0]["ppl"], rows[-1]["ppl"]
        nats[each.language] = math.log(pruned / dense)
        if each is text:
            cell = {"dense": dense, "ppl": pruned, "nats": nats[each.language], "seconds": made["seconds"]}
    return cell | {"others": {language: lost for language, lost in nats.items() if language != text.language}}


def section(table: Table, cells: list[dict[str, Any]]) -> str:
    """Return the Markdown of a table's cells: a row for each recipe."""
    found = {(cell["recipe"], cell["language"], cell["pattern"]): cell for cell in cells}
    columns = list(dict.fromkeys((cell["language"], cell["pattern"]) for cell in cells))
    heads = [f"{language} {pattern}" for language, pattern in columns]
    lines = [
        f"## {table.heading}",
        "",
        f"| recipe | {' | '.join(heads)} | to {table.base} | seconds |",
        f"|---|{'---|' * len(columns)}---|---|",
    ]
    for recipe in dict.fromkeys(cell["recipe"] for cell in cells):
        row = [found.get((recipe, *column)) for column in columns]
        pairs = [(cell, found.get((table.base, *column))) for cell, column in zip(row, columns, strict=True)]
        ratios = [cell["nats"] / base["nats"] for cell, base in pairs if cell and base]
        sound = ratios and all(ratio > 0 for ratio in ratios)
        mean = f"{statistics.geometric_mean(ratios):.3f}" if sound else ""
        mean += f" ({len(ratios)} cells)" if mean and len(ratios) < len(columns) else ""
        took = [cell["seconds"] for cell in row if cell and cell["seconds"] is not None]
        seconds = f"{statistics.fmean(took):.1f}" if took else ""
        lines.append(f"| {recipe} | {' | '.join(map(_shown, row))} | {mean} | {seconds} |")
    return "\n".join(lines) + "\n"


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    others = "".join(f"; {language} {1000 * lost:.1f}" for language, lost in cell.get("others", {}).items())
    return f"{1000 * cell['nats']:.1f} ({cell['ppl']:.2f}{others})"


def document(cells: list[dict[str, Any]], about: str) -> str:
    """Return all of docs/quality.md."""
    lines = [
        "# Quality",
        "",
        about,
        "",
        "Made by `python tests/benchmarks/quality.py --model MODEL --text uk=WINDOWS,HELD_OUT --text en=WINDOWS,HELD_OUT`:",
        "`langprune prune` and `eval` with the default dtype, on files of token windows.",
        "",
        "A cell has the lost nats x 1000, log(ppl / dense ppl), and in brackets the ppl; then, where it was measured, the lost",
        "nats on the other language, for which the model was not pruned. The last two columns: the geometric mean of the ratios",
        "of lost nats to those of one recipe, and the seconds that pruning took, as a mean of the cells; none where other work",
        "ran beside.",
    ]
    sections = []
    for table in TABLES.values():
        some = [cell for cell in cells if cell["recipe"] in table.recipes and cell["pattern"] in table.patterns]
        if some:
            sections.append(section(table, sorted(some, key=lambda cell: list(table.recipes).index(cell["recipe"]))))
    return "\n".join(lines) + "\n\n" + "\n".join(sections)


def main() -> None:
    """Measure all cells that the file of results does not have yet, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", type=Text.read, required=True)
    parser.add_argument(
        "--about", help="a sentence on the model and the texts, for the document; the last run's if left out"
    )
    parser.add_argument("--table", choices=TABLES, action="append", help="may be given several times; all if left out")
    parser.add_argument("--recipe", action="append", help="may be given several times; all if left out")
    parser.add_argument("--patterns", help="with commas between; all if left out")
    parser.add_argument("--dtype", default="auto", help="of the products")
    parser.add_argument("--busy", action="store_true", help="other work runs beside: leave the seconds out")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "quality.json")
    chosen = parser.parse_args()
    known = json.loads(chosen.results.read_text()) if chosen.results.exists() else {"about": "", "cells": []}
    cells: list[dict[str, Any]] = known["cells"]
    about = known["about"] if chosen.about is None else chosen.about
    done = {(cell["recipe"], cell["language"], cell["pattern"]) for cell in cells}
    todo = [
        (table, text, pattern, recipe)
        for table in map(TABLES.__getitem__, chosen.table or TABLES)
        for recipe in table.recipes
        for text in chosen.text
        for pattern in table.patterns
        if (recipe, text.language, pattern) not in done
        and recipe in (chosen.recipe or [recipe])
        and pattern in (chosen.patterns.split(",") if chosen.patterns else [pattern])
        and not (
            "--allocation" in table.recipes[recipe] and "--pattern" in table.patterns[pattern]
        )  # 2:4 is 2:4 everywhere
    ]
    with tempfile.TemporaryDirectory() as workspace:
        for table, text, pattern, recipe in todo:
            options = (*table.recipes[recipe], *table.patterns[pattern])
            place = ("-w", workspace, "--dtype", chosen.dtype)
            cell = measure(place, chosen.model, chosen.text, text, options)
            took = None if chosen.busy else cell["seconds"]
            cells.append({"language": text.language, "pattern": pattern, "recipe": recipe, **cell, "seconds": took})
            sys.stderr.write(f"{text.language} {pattern} {recipe}: ppl {cell['ppl']:.3f}, {cell['seconds']:.1f} s\n")
            chosen.results.write_text(json.dumps({"about": about, "cells": cells}, indent=1) + "\n")
    chosen.results.with_suffix(".md").write_text(document(cells, about))


if __name__ == "__main__":
    main()
