"""docs/benchmarks.json and docs/benchmarks.md: a section for each benchmark, of which each benchmark writes its own."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADINGS = {  # in the order in which they stand
    "peak_memory": "## Peak memory",
    "mixtures": "## Peak memory of mixtures",
    "speed": "## Speed",
    "sizes": "## Sizes, windows, processes",
    "parts": "## Where the time goes",
    "workspace": "## A workspace of 2,000 artifacts",
}


def save(benchmark: str, result: dict[str, object], section: str, docs: Path = ROOT / "docs") -> None:
    """Put `result` and its Markdown `section` in place of this benchmark's old ones; the others' stay as they are.

    The benchmarks take long and one may be run without the other, so neither may throw away what the other measured.
    """
    numbers, text = docs / "benchmarks.json", docs / "benchmarks.md"
    results = json.loads(numbers.read_text()) if numbers.exists() else {}
    results[benchmark] = result
    numbers.write_text(json.dumps({name: results[name] for name in HEADINGS if name in results}, indent=2) + "\n")
    old = text.read_text() if text.exists() else ""
    sections = {part.splitlines()[0]: part for part in re.split(r"(?m)^(?=## )", old)[1:]}
    sections[HEADINGS[benchmark]] = section
    standing = [sections[heading].strip() for heading in HEADINGS.values() if heading in sections]
    text.write_text("\n\n".join(["# Benchmarks", *standing]) + "\n")
