"""The training of recovered models in a report: the curve, the same figures as a table, and which step was kept."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import CHROMIUM, browser, views
from tests.support.command import SEQLEN, did, langprune, one_sentence
from tests.support.reporting import NAMESPACES, PRUNED, page, replace_part, table

TRAINED, RUINED = "trained", "ruined"


@pytest.fixture
def recovered(workspace: Path, pico_text: Path) -> Path:
    """Return a workspace whose newest evaluation has two recovered models, of which one only lost by training."""
    text = "--lang", "uk", "--data", pico_text / "uk.jsonl"
    asked = [
        "recover",
        "-w",
        workspace,
        "-m",
        PRUNED,
        *text,
        "--tokens",
        "4k",
        "--batch-tokens",
        "64",
        "--seqlen",
        "16",
    ]
    did(*asked, "--learning-rate", "0.003", "--train", "lora", "--name", TRAINED)
    did(*asked, "--learning-rate", "0.9", "--name", RUINED)
    models = "--model", TRAINED, "--model", RUINED
    did("eval", "-w", workspace, *models, *text, "--seqlen", SEQLEN, "--max-windows", "4")
    return workspace


def looks(workspace: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((workspace / "models" / name / "recovery.json").read_bytes())["looks"]
    return found


def test_the_curve_is_drawn_to_scale(recovered: Path) -> None:
    root = page(recovered)
    figures = root.findall(".//h:section[@id='recovery']//s:svg[@role='img']", NAMESPACES)
    titles = [each.findtext("s:title", "", NAMESPACES) for each in figures]
    assert sorted(titles) == [f"Loss of {name} by tokens" for name in (RUINED, TRAINED)]
    for title, figure in zip(titles, figures, strict=True):
        found = looks(recovered, RUINED if RUINED in title else TRAINED)
        held, taught = (
            [tuple(map(float, pair.split())) for pair in str(path.get("d")).removeprefix("M").split(" L")]
            for path in figure.iterfind("s:path", NAMESPACES)
        )
        assert [len(held), len(taught)] == [len(found), len(found) - 1]
        top = max(max(each["held_out"], each["loss"] or 0) for each in found)
        (left, _), (right, _) = held[0], held[-1]
        base = next(float(line.get("y1", 0)) for line in figure.iterfind("s:line[@class='axis']", NAMESPACES))
        height = base - min(y for _, y in (*held, *taught))
        for (x, y), each in zip(held, found, strict=True):
            assert x == pytest.approx(left + (right - left) * each["tokens"] / found[-1]["tokens"], abs=0.11)
            assert y == pytest.approx(base - height * each["held_out"] / top, abs=0.11)
        for (x, y), before, each in zip(taught, found, found[1:], strict=False):
            middle = (before["tokens"] + each["tokens"]) / 2
            assert x == pytest.approx(left + (right - left) * middle / found[-1]["tokens"], abs=0.11)
            assert y == pytest.approx(base - height * each["loss"] / top, abs=0.11)
        best = min(range(len(found)), key=lambda place: found[place]["held_out"])
        ring = next(each for each in figure.iterfind("s:circle", NAMESPACES) if each.get("class") == "ring")
        assert (float(ring.get("cx", 0)), float(ring.get("cy", 0))) == pytest.approx(held[best], abs=0.1)


def test_the_table_has_the_same_and_the_caption_says_what_was_kept(recovered: Path) -> None:
    root = page(recovered)
    found = looks(recovered, TRAINED)
    best = min(range(len(found)), key=lambda place: found[place]["held_out"])
    assert best
    assert table(root, f"Training of {TRAINED}") == [
        ["tokens", "loss", "on held-out windows", "step"],
        *(
            [f"{each['tokens']:,}", "" if each["loss"] is None else f"{each['loss']:.4f}", f"{each['held_out']:.4f}",
             "kept" if place == best else ""]
            for place, each in enumerate(found)
        ),
    ]  # fmt: skip
    captions = [
        "".join(each.itertext()) for each in root.iterfind(".//h:section[@id='recovery']//h:figcaption", NAMESPACES)
    ]
    assert (
        f"Trained matrices of low rank on {found[-1]['tokens']:,} tokens: on held-out windows {found[0]['held_out']:.4f} before, "
        f"{found[best]['held_out']:.4f} after {found[best]['tokens']:,} tokens, which is the step that was kept."
    ) in captions
    assert any(
        each.startswith("Trained all weights") and each.endswith("before, so nothing was changed.") for each in captions
    )
    assert table(root, f"Training of {RUINED}")[1][3] == "kept"
    written = did("report", "-w", recovered, "--format", "md").out
    assert "wrote" in written
    text = Path("report.md").read_text(encoding="utf-8")
    assert text.count("which is the step that was kept.") == 1
    assert f"| {found[best]['tokens']:,} | {found[best]['loss']:.4f} | {found[best]['held_out']:.4f} | kept |" in text


def test_a_report_without_recovered_models_says_nothing_of_it(workspace: Path) -> None:
    assert page(workspace).find(".//h:section[@id='recovery']", NAMESPACES) is None


def test_ls_and_show_say_what_it_brought(recovered: Path) -> None:
    found = looks(recovered, TRAINED)
    brought = f"{found[0]['held_out']:.4f} -> {min(each['held_out'] for each in found):.4f} nats from the dense model"
    said = f"trained on 4,000 tokens (lora, {brought})"
    assert said in did("show", f"models/{TRAINED}", "-w", recovered).out.splitlines()[0]
    rows = did("ls", "models", "-w", recovered, "--json").json["artifacts"]
    assert [said in each["what"] for each in rows if each["name"] == TRAINED] == [True]


@pytest.mark.parametrize(
    "text",
    ['{"looks": []}', "{}", "[", '{"looks": [{"tokens": 0, "loss": null, "held_out": Infinity}]}',
     '{"looks": [{"tokens": "0", "loss": null, "held_out": 1}]}', '{"looks": [{"tokens": 0, "held_out": 1}]}'],
)  # fmt: skip
def test_looks_that_are_none(text: str, recovered: Path) -> None:
    replace_part(recovered / "models" / TRAINED, "recovery.json", text)
    one_sentence(langprune("report", "-w", recovered), 1, r"recovery\.json holds no looks .*: make the model again")
    assert re.search(r"trained on 4,000 tokens \(lora\)", did("show", f"models/{TRAINED}", "-w", recovered).out)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on this machine")
def test_a_browser_shows_it_in_light_and_dark(recovered: Path, tmp_path: Path) -> None:
    page(recovered)
    with browser(tmp_path / "profile") as tab:
        for _ in views(tab, Path("report.html")):
            drawn = tab.evaluate(
                "[...document.querySelectorAll('#recovery .line.held')].map(e => getComputedStyle(e).stroke)"
            )
            assert drawn
            assert all(each.startswith("rgb(") for each in drawn)
