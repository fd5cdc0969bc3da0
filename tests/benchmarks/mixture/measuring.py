"""What whole experts cost a mixture of two languages, beside channels of the same bytes: nats lost on held-out text of both.

Each way prunes the model of `tests.benchmarks.mixture.training` with `langprune prune`, for each text and for half of both. A
share of channels removes the weights that the same share of experts does, but for the router's rows. Writes docs/experts.json,
and the tables of docs/experts.md.

    python -m tests.benchmarks.mixture.measuring --model DIR --text uk=calib.safetensors,test.safetensors --text en=...,...
"""

import argparse
import json
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.quality import Text, run

ROOT = Path(__file__).parents[3]
SHARES = (0.25, 0.5)
# Channels are rounded to 8, so that they are exactly the share; least squares on the channels' inputs follows by default.
WAYS: dict[str, tuple[str, ...]] = {
    "experts, reap": ("--pattern", "experts:{}", "--method", "reap"),
    "experts, frequency": ("--pattern", "experts:{}", "--method", "frequency"),
    "channels": ("--pattern", "channels:{}", "--round-to", "8"),
}
BEGIN, END = "<!-- mixture -->", "<!-- /mixture -->"


def both(texts: list[Text], folder: Path) -> str:
    """Write a file of as many windows as a text has, with the same number of each text, and return its path."""
    parts = [load_file(text.calibration)["windows"] for text in texts]
    path = folder / "both.safetensors"
    save_file({"windows": torch.cat([part[: len(part) // len(texts)] for part in parts])}, path)
    return str(path)


def routed_apart(workspace: str, model: str, texts: list[Text]) -> list[dict[str, Any]]:
    """Return of each block the experts' shares of each text's tokens."""
    for text in texts:
        run("calibrate", "-w", workspace, "--model", model, "--data", text.calibration, "--name", text.language)
    found: list[dict[str, Any]] = run("compare", "-w", workspace, *(text.language for text in texts))["experts"]
    return found


def evaluated(workspace: str, names: list[str], texts: list[Text]) -> dict[str, dict[str, Any]]:
    """Return model -> text -> nats lost per token, with the ends of their 95% interval, and the dense model's ppl."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    models = [word for name in names for word in ("--model", name)]
    for text in texts:
        rows = run("eval", "-w", workspace, *models, "--data", text.held_out)["rows"]
        for row in rows[1:]:
            lost = [row[key] for key in ("change_nats", "change_low", "change_high")]
            found[row["model"]][text.language] = {"dense": rows[0]["ppl"], "ppl": row["ppl"], "nats": lost}
    return found


def table(cells: list[dict[str, Any]], share: float, languages: list[str]) -> list[str]:
    """Return the Markdown of one share: ways by calibration text and evaluated language."""
    of_share = [cell for cell in cells if cell["share"] == share]
    columns = [(on, language) for on in dict.fromkeys(cell["on"] for cell in of_share) for language in languages]
    found = {(cell["way"], cell["on"]): cell for cell in of_share}
    heads = [f"{language}, pruned on {on}" for on, language in columns]
    lines = [f"| {share:.0%} | MB | {' | '.join(heads)} |", f"|---|---|{'---|' * len(columns)}"]
    for way in dict.fromkeys(cell["way"] for cell in of_share):
        size = next(cell["bytes"] for cell in of_share if cell["way"] == way)
        figures = []
        for on, language in columns:
            nats, low, high = found[way, on]["lost"][language]["nats"]
            figures.append(f"{1000 * nats:.0f} ± {1000 * (high - low) / 2:.0f}")
        lines.append(f"| {way} | {size / 1e6:.2f} | {' | '.join(figures)} |")
    return [*lines, ""]


def tables(results: dict[str, Any]) -> str:
    """Return what stands between the marks of docs/experts.md."""
    languages = list(results["routed"][0]["shares"])
    lines = [
        f"| block | routed apart | {' | '.join(f'experts of {each}' for each in languages)} |",
        "|---|---|---|---|",
    ]
    for block in results["routed"]:
        shares = [", ".join(f"{share:.0%}" for share in block["shares"][each]) for each in languages]
        lines.append(f"| {block['block']} | {block['apart']:.0%} | {' | '.join(shares)} |")
    lines.append("")
    for share in dict.fromkeys(cell["share"] for cell in results["cells"]):
        lines += table(results["cells"], share, languages)
    return "\n".join(lines)


def main() -> None:
    """Measure what the file of results does not have yet, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", type=Text.read, required=True)
    parser.add_argument("--way", action="append", choices=WAYS, help="may be given several times; all if left out")
    parser.add_argument("--share", action="append", type=float, help="of what leaves, as way; 0.25 and 0.5 if left out")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "experts.json")
    parser.add_argument("--workspace", help="kept afterwards; a temporary one if left out")
    asked = parser.parse_args()
    results: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {"cells": []}
    done = {(cell["share"], cell["way"]) for cell in results["cells"]}
    with tempfile.TemporaryDirectory() as temporary:
        workspace = asked.workspace or temporary
        results["routed"] = results.get("routed") or routed_apart(workspace, asked.model, asked.text)
        sources = {text.language: text.calibration for text in asked.text}
        sources["both"] = both(asked.text, Path(temporary))
        for share, way in product(asked.share or SHARES, asked.way or WAYS):
            if (share, way) in done:
                continue
            cells = {}
            for on, data in sources.items():
                options = [word.format(share) for word in WAYS[way]]
                made = run("prune", "-w", workspace, "--model", asked.model, "--data", data, *options)
                size = sum(file.stat().st_size for file in Path(made["path"]).glob("*.safetensors"))
                cells[made["name"]] = {"share": share, "way": way, "on": on, "bytes": size}
            for name, lost in evaluated(workspace, list(cells), asked.text).items():
                results["cells"].append({**cells[name], "lost": lost})
                sys.stderr.write(f"{json.dumps(results['cells'][-1])}\n")
            asked.results.write_text(json.dumps(results, indent=1) + "\n")
    page = asked.results.with_suffix(".md")
    if page.exists() and BEGIN in (text := page.read_text(encoding="utf-8")):
        before, _, rest = text.partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{tables(results)}{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.stdout.write(tables(results))


if __name__ == "__main__":
    main()
