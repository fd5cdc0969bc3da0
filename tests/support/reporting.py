"""What tests of reports share: a workspace that has something to report, and the page, parsed strictly."""

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.artifact_making import sign
from tests.support.command import SEQLEN, did

PRUNED = "uk-wanda-2x4"
NAMESPACES = {"h": "http://www.w3.org/1999/xhtml", "s": "http://www.w3.org/2000/svg"}


@pytest.fixture
def reported(workspace: Path, pico_text: Path) -> Path:
    """Return a workspace whose newest evaluation has two masks, and a third mask."""
    langs = [word for tag in ("uk", "en") for word in ("--lang", tag, "--data", pico_text / f"{tag}.jsonl")]
    did("mask", "-w", workspace, "--stats", "en", "--pattern", "2:4")
    did(
        "eval",
        "-w",
        workspace,
        "--mask",
        PRUNED,
        "--mask",
        "en-wanda-2x4",
        *langs,
        "--seqlen",
        SEQLEN,
        "--max-windows",
        "4",
    )
    return workspace


EVALUATION = "en-wanda-2x4-uk-en"


def parsed(text: str) -> ET.Element:
    """Return markup as XML, which it has to be."""
    return ET.fromstring(text)  # noqa: S314 - written by the test


def page(workspace: Path, *words: object) -> ET.Element:
    """Write the report over one that is there, and return it."""
    did("report", "-w", workspace, "--out", "report.html", "--force", *words)
    return parsed(Path("report.html").read_text(encoding="utf-8"))


def table(root: ET.Element, title: str) -> list[list[str]]:
    """Return the rows of the table with that caption, the head first."""
    for each in root.iterfind(".//h:table", NAMESPACES):
        if "".join(each.find("h:caption", NAMESPACES).itertext()) == title:  # type: ignore[union-attr] # all have one
            rows = each.iterfind(".//h:tr", NAMESPACES)
            return [["".join(cell.itertext()) for cell in row] for row in rows]
    raise AssertionError(f"no table is called {title}")


def replace_part(folder: Path, part: str, text: str) -> None:
    """Put another part in the place of one, and its hash on record."""
    (folder / part).write_text(text, encoding="utf-8")
    path = folder / "manifest.json"
    record = json.loads(path.read_bytes())
    data = (folder / part).read_bytes()
    record["parts"][part] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    sign(path, record)


def escaped(text: str) -> str:
    """Return text as the report's Markdown has it."""
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", text)
