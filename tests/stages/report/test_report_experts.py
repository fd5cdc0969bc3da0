"""The experts of a mixture in a report: which of them each text uses, as heat maps and as tables."""

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save, save_file

from tests.support.artifact_making import sign
from tests.support.browsing import CHROMIUM, browser, views
from tests.support.command import did
from tests.support.pico import save_pico
from tests.support.reporting import NAMESPACES, page, table

EXPERTS = 8


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Return a workspace with statistics of a mixture on two texts, and an evaluation of a mask made from one of them."""
    save_pico("mixtral", tmp_path / "dense", num_local_experts=EXPERTS)
    drawn = torch.Generator().manual_seed(1)
    halves = {"uk": (48, 97), "en": (3, 48)}  # tokens of different halves of the vocabulary
    here = "-w", tmp_path / "w", "--model", tmp_path / "dense"
    for name, (low, high) in halves.items():
        windows = torch.randint(low, high, (4, 24), generator=drawn, dtype=torch.int32)
        save_file({"windows": windows}, tmp_path / f"{name}.safetensors")
        did("calibrate", *here, "--data", tmp_path / f"{name}.safetensors", "--dtype", "float32", "--name", name)
        did("mask", "-w", tmp_path / "w", "--stats", name, "--pattern", "2:4", "--name", f"{name}-2x4")
    did(
        "eval",
        *here,
        "--mask",
        "uk-2x4",
        "--mask",
        "en-2x4",
        "--data",
        tmp_path / "uk.safetensors",
        "--max-windows",
        "2",
    )
    return tmp_path / "w"


def used(workspace: Path) -> list[dict[str, Any]]:
    """Return what `compare` says of the experts."""
    found: list[dict[str, Any]] = did("compare", "uk", "en", "-w", workspace, "--json").json["experts"]
    return found


def figures(root: ET.Element) -> dict[str, ET.Element]:
    """Return the figures of experts by title."""
    drawn = root.iterfind(".//h:section[@id='common']//s:svg[@role='img']", NAMESPACES)
    named = {each.findtext("s:title", "", NAMESPACES): each for each in drawn}
    return {title: each for title, each in named.items() if title.startswith("Experts")}


def test_heat_maps_show_the_shares_of_each_text(mixture: Path) -> None:
    root, blocks = page(mixture), used(mixture)
    found = figures(root)
    assert list(found) == ["Experts that uk uses, by block", "Experts that en uses, by block"]
    top = max(share for block in blocks for shares in block["shares"].values() for share in shares)
    for (text, other), figure in zip((("uk", "en"), ("en", "uk")), found.values(), strict=True):
        cells = {
            each.findtext("s:title", "", NAMESPACES): each.find("s:rect", NAMESPACES)
            for each in figure.iterfind(".//s:g", NAMESPACES)
        }
        assert len(cells) == EXPERTS * len(blocks)
        for block in blocks:
            for expert, share in enumerate(block["shares"][text]):
                said = f"{share:.1%} of {text}, {block['shares'][other][expert]:.1%} of {other}"
                rect = cells[f"block {block['block']}, expert {expert}: {said}"]
                assert rect is not None
                assert rect.get("class") == f"fill k{round(8 * share / top)}"
        named = {each.get("id"): "".join(each.itertext()) for each in figure if each.tag.endswith(("title", "desc"))}
        assert all(named[each] for each in str(figure.get("aria-labelledby")).split())
        share, block, expert = max(
            (share, block["block"], expert) for block in blocks for expert, share in enumerate(block["shares"][text])
        )
        assert f"{share:.1%} of its tokens, at expert {expert} of block {block}." in "".join(figure.itertext())


def test_tables_have_the_same_figures(mixture: Path) -> None:
    root, blocks = page(mixture), used(mixture)
    for text in ("uk", "en"):
        assert table(root, f"Experts that {text} uses") == [
            ["block", *map(str, range(EXPERTS))],
            *([str(each["block"]), *(f"{share:.2%}" for share in each["shares"][text])] for each in blocks),
        ]
    head, *rows = table(root, "Experts that each text uses")
    assert head == ["block", "routed apart", "most used by uk", "most used by en"]
    for row, block in zip(rows, blocks, strict=True):
        most = max(range(EXPERTS), key=block["shares"]["uk"].__getitem__)
        assert row[:2] == [str(block["block"]), f"{block['apart']:.2%}"]
        assert row[2].startswith(f"{most} ({block['shares']['uk'][most]:.0%})")
    did("report", "-w", mixture, "--format", "md")
    written = Path("report.md").read_text(encoding="utf-8")
    assert "**Experts that each text uses**" in written
    assert f"| {blocks[0]['block']} | {blocks[0]['apart']:.2%} |" in written


def test_named_statistics_are_compared(mixture: Path) -> None:
    assert figures(page(mixture, "--compare", "uk-2x4", "en-2x4")) == {}  # masks
    assert len(figures(page(mixture, "--compare", "uk", "en"))) == 2


def test_statistics_of_earlier_versions_have_no_map(mixture: Path) -> None:
    stats = mixture / "stats" / "en"
    record = json.loads((stats / "manifest.json").read_bytes())
    for part in record["parts"]:
        if part.startswith("block-"):
            data = (stats / part).read_bytes()
            kept = {name: tensor for name, tensor in load(data).items() if not name.startswith("experts/")}
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            data = save(kept, metadata)
            (stats / part).write_bytes(data)
            record["parts"][part] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    sign(stats / "manifest.json", record)
    root = page(mixture)
    assert figures(root) == {}
    assert len(table(root, "Common to stats")) == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on this machine")
def test_a_browser_shows_them_in_light_and_dark(mixture: Path, tmp_path: Path) -> None:
    page(mixture)
    with browser(tmp_path / "profile") as tab:
        assert len(list(views(tab, Path("report.html")))) == 4
