"""Calibration language by evaluation language: what masks made from one language's text, or from a mix, do to each language.

Calibrates on every text with Hessians of the dense model, adds statistics up to mixes (`combine stats`), makes a model of
each with `mask` and `apply`, and evaluates those of one method and pattern with one `eval`. Writes docs/languages-matrix.md
and docs/languages-matrix.json.

    python -m tests.benchmarks.matrix --model DIR --text uk=calib.safetensors,test.safetensors --text en=...,...
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.benchmarks.quality import ROOT, Text, run

METHODS = ("wanda", "sparsegpt")
PATTERNS = {"50%": ("--sparsity", "0.5"), "60%": ("--sparsity", "0.6"), "2:4": ("--pattern", "2:4")}
WITHIN = 0.02  # of the ppl under a language's own calibration a mix is to stay

Row = dict[str, Any]


def calibrate(workspace: str, model: str, texts: list[Text], windows: int) -> tuple[list[str], str]:
    """Return the names of each text's statistics, of its first windows, and of their sum, of `windows` of each."""
    names = []
    for text in texts:
        name = f"{text.language}-{windows}"
        ids = load_file(text.calibration)["windows"][:windows]
        if len(ids) < windows:
            raise SystemExit(f"{text.calibration} has {len(ids)} windows: give --windows {len(ids)} or less")
        file = Path(workspace, f"{name}.safetensors")  # windows that are given are used as they are, all of them
        save_file({"windows": ids.contiguous()}, file)
        given = ("--lang", text.language, "--data", str(file))
        run("calibrate", "-w", workspace, "--model", model, *given, "--collect", "hessian", "--name", name)
        names.append(name)
    mix = "+".join(names)
    run("combine", "stats", "-w", workspace, *names, "--name", mix)
    return names, mix


def measure(workspace: str, texts: list[Text], stats: dict[str, str], method: str, options: tuple[str, ...]) -> Row:
    """Return the rows and pairs of one method and pattern, models named by what they were calibrated on.

    stats: statistics -> that name.
    """
    models = {}
    for number, (name, label) in enumerate(stats.items()):
        mask = run("mask", "-w", workspace, "--stats", name, "--method", method, *options)
        made = run("apply", "-w", workspace, "--mask", mask["name"], "--name", f"{number}-{mask['name']}"[:60])
        models[made["name"]] = label
    named = [word for name in models for word in ("--model", name)]
    held_out = [word for text in texts for word in ("--lang", text.language, "--data", text.held_out)]
    result = run("eval", "-w", workspace, *named, *held_out)
    for row in [*result["rows"], *result["compare"]]:
        row["model"] = models.get(row["model"], "dense")
        if "than_model" in row:
            row["than_model"] = models[row["than_model"]]
    return {"rows": result["rows"], "compare": result["compare"]}


def section(cell: Row) -> list[str]:
    """Return the Markdown of one method and pattern: calibrations by languages."""
    rows: dict[tuple[str, str], Row] = {(row["model"], row["text"]): row for row in cell["rows"]}
    models, texts = (list(dict.fromkeys(key[place] for key in rows)) for place in (0, 1))
    lines = [
        f"### {cell['method']}, {cell['pattern']}",
        "",
        f"| calibrated on | {' | '.join(f'ppl on {text}' for text in texts)} |",
        f"|---|{'---|' * len(texts)}",
    ]
    for model in models:
        shown = [_shown(rows[model, text], _mark(cell, rows, model, text)) for text in texts]
        lines.append(f"| {model} | {' | '.join(shown)} |")
    return [*lines, ""]


def _mark(cell: Row, rows: dict[tuple[str, str], Row], model: str, text: str) -> str:
    """Return "*" for the best of a text, "=" for what its windows do not tell from it."""
    best = min(
        (key[0] for key in rows if key[1] == text and key[0] != "dense"), key=lambda each: rows[each, text]["ppl"]
    )
    if model == best:
        return " *"
    same = any(
        {pair["model"], pair["than_model"]} == {model, best} and not pair["significant"]
        for pair in cell["compare"]
        if pair["text"] == text
    )
    return " =" if same else ""


def _shown(row: Row, mark: str) -> str:
    if row["change_nats"] is None:
        return f"{row['ppl']:.2f}"
    low, high = (math.expm1(row[bound]) for bound in ("change_low", "change_high"))
    return f"{row['ppl']:.2f} ({math.expm1(row['change_nats']):+.1%}: {low:+.1%} to {high:+.1%}){mark}"


def verdicts(cells: list[Row], languages: list[str]) -> list[str]:
    """Return a table: for each cell by how much another language's calibration, and each mix, are above the language's own."""
    others = list(dict.fromkeys(row["model"] for row in cells[0]["rows"] if row["model"] not in {"dense", *languages}))
    lines = [
        f"| method, pattern, evaluated on | the other language | {' | '.join(others)} |",
        f"|---|---|{'---|' * len(others)}",
    ]
    for cell in cells:
        ppl = {(row["model"], row["text"]): row["ppl"] for row in cell["rows"]}
        for language in languages:
            own = ppl[language, language]
            crossed = min(ppl[each, language] for each in languages if each != language)
            above = [crossed / own - 1, *(ppl[mix, language] / own - 1 for mix in others)]
            lines.append(
                f"| {cell['method']}, {cell['pattern']}, {language} | {' | '.join(f'{each:+.1%}' for each in above)} |"
            )
    return [*lines, ""]


def summary(cells: list[Row], languages: list[str]) -> list[str]:
    """Return what was expected and how often it held."""
    places = [(cell, language) for cell in cells for language in languages]
    found = []
    for cell, language in places:
        ppl = {row["model"]: row["ppl"] for row in cell["rows"] if row["text"] == language and row["model"] != "dense"}
        found.append((ppl.pop(language), ppl, language))
    mixes = [name for name in found[0][1] if name not in languages]
    crossed = sum(all(own < ppl[each] for each in ppl if each in languages) for own, ppl, _ in found)
    lowest = sum(own < min(ppl.values()) for own, ppl, _ in found)
    lines = [
        f"- A language's own calibration gives a lower ppl than the other language's in {crossed} of {len(found)} cases, and",
        f"  the lowest of all in {lowest}.",
    ]
    for mix in mixes:
        near = sum(ppl[mix] / own - 1 <= WITHIN for own, ppl, _ in found)
        worst = max(ppl[mix] / own - 1 for own, ppl, _ in found)
        lines.append(
            f"- Calibrated on {mix}, ppl is at most {WITHIN:.0%} above that of the own calibration in {near} of {len(found)} "
            f"cases; {worst:+.1%} at worst."
        )
    return [*lines, ""]


def document(known: Row) -> str:
    """Return all of docs/languages-matrix.md."""
    cells, languages = known["cells"], known["languages"]
    words = " ".join(f"--text {language}=WINDOWS,HELD_OUT" for language in languages)
    lines = [
        "# Languages: calibrated on one, evaluated on another",
        "",
        known["about"],
        "",
        f"Made by `python -m tests.benchmarks.matrix --model MODEL {words}`:",
        "`calibrate --collect hessian`, `combine stats`, `mask`, `apply` and `eval` (propagation dense, default dtype).",
        "",
        "Each figure: ppl, its change against the dense model, and the 95% interval of that change over windows of the",
        "evaluated text. `*` marks the lowest ppl of a column, `=` what the windows do not tell from it. An interval covers",
        "other windows of the same text; it does not cover another draw of calibration windows.",
        "",
        "## What it says",
        "",
        *summary(cells, languages),
        "By how much ppl is above that under the language's own calibration:",
        "",
        *verdicts(cells, languages),
        "## The matrix",
        "",
        *(line for cell in cells for line in section(cell)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run what is not measured yet; give --results a fresh file to measure all again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", required=True, type=Text.read, help="language=windows,held-out")
    parser.add_argument("--windows", type=int, default=128, help="of each text; a second mix has half as many of each")
    parser.add_argument("--about", help="a sentence on the model and the texts, for the head of the document")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "languages-matrix.json")
    chosen = parser.parse_args()
    known = json.loads(chosen.results.read_text()) if chosen.results.exists() else {"about": "", "cells": []}
    languages = [text.language for text in chosen.text]
    known |= {"languages": languages} | ({} if chosen.about is None else {"about": chosen.about})
    done = {(cell["method"], cell["pattern"]) for cell in known["cells"]}
    todo = [(method, pattern) for method in METHODS for pattern in PATTERNS if (method, pattern) not in done]
    with tempfile.TemporaryDirectory() as workspace:
        names: list[str] = []
        stats: dict[str, str] = {}
        for windows in (chosen.windows, chosen.windows // 2) if todo else ():
            alone, mix = calibrate(workspace, chosen.model, chosen.text, windows)
            names = names or alone
            stats[mix] = f"{'+'.join(languages)}, {'+'.join([str(windows)] * len(languages))} windows"
        stats = dict(zip(names, languages, strict=True)) | stats if todo else {}
        for method, pattern in todo:
            cell = measure(workspace, chosen.text, stats, method, PATTERNS[pattern])
            known["cells"].append({"method": method, "pattern": pattern, **cell})
            sys.stderr.write(f"{method} {pattern}\n")
            chosen.results.write_text(json.dumps(known, indent=1) + "\n")
    chosen.results.with_suffix(".md").write_text(document(known))


if __name__ == "__main__":
    main()
