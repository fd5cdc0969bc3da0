# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""Write the demo's calibration and test text, and hand out its training text.

A document is a pure function of its language and seed. The three splits use disjoint ranges of seeds, and `write_text`
refuses to go on if a test document turns up, word for word, in another split.

    python scripts/demo/make_text.py langprune_cli/demo_data
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import stories_en
import stories_uk

GENERATORS: dict[str, Callable[[int], str]] = {"uk": stories_uk.document, "en": stories_en.document}
# Calibration takes 128 windows of 256 tokens, each from another document; a test split has at least 120 windows.
SEEDS = {"calib": range(240), "test": range(100_000, 100_100), "train": range(1_000_000, 2_000_000)}


def documents(language: str, split: str, most: int | None = None) -> list[str]:
    """Return the documents of one split of a language, or only the first ones."""
    return [GENERATORS[language](seed) for seed in SEEDS[split][:most]]


def refuse_shared(test: Iterable[str], *others: Iterable[str]) -> None:
    """Raise if a test document is also a document of another split."""
    held_out = set(test)
    for other in others:
        if shared := held_out.intersection(other):
            raise ValueError(f"{len(shared)} test documents are not held out: {min(shared)[:60]!r} ...")


def write_lines(path: Path, texts: list[str]) -> None:
    """Write documents as gzipped JSON lines, byte for byte the same each time: no name and no time in the header."""
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as out:
        out.write(lines.encode())


def write_text(folder: Path) -> None:
    """Write `<language>.<split>.jsonl.gz` for both languages and the two splits that are shipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in GENERATORS:
        calib, test = documents(language, "calib"), documents(language, "test")
        refuse_shared(test, calib)
        write_lines(folder / f"{language}.calib.jsonl.gz", calib)
        write_lines(folder / f"{language}.test.jsonl.gz", test)
        print(f"{language}: {len(calib)} calibration and {len(test)} test documents")


if __name__ == "__main__":
    write_text(Path(sys.argv[1]))
