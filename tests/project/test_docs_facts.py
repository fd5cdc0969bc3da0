"""What the documentation says of the product's parts: tables of methods, figures, how to add, where decisions lead."""

import re
from typing import Any

import pytest

from langprune_cli.allocations.allocation import allocations
from langprune_cli.depth_methods.method import depth_methods
from langprune_cli.expert_methods.method import expert_methods
from langprune_cli.methods.method import methods
from langprune_cli.refinements.refinement import refinements
from langprune_cli.unit_methods.method import unit_methods
from langprune_cli.updates.update import updates
from tests.project.test_docs import _CODE, PACKAGE, README, ROOT, _read


def test_figures_of_the_readme_are_those_that_were_measured() -> None:
    """Those of a row of its table of losses stand in one row of a page that the section leads to."""
    section = _read(README).partition("<!-- real-model -->")[2].partition("<!-- /real-model -->")[0]
    pages = [_read(ROOT / target) for target in re.findall(r"\]\((docs/[\w-]+\.md)\)", section)]
    measured = [set(_figures(row)) for page in pages for row in _rows(page)]
    shown = [_figures(row[1:]) for row in _rows(section)[1:]]
    assert len(shown) >= 3
    for figures in shown:
        assert figures
        assert any(row >= set(figures) for row in measured), figures


def _figures(row: list[str]) -> list[str]:
    return re.findall(r"\d[\d,]*\.\d+", " ".join(row))


def _rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, its head first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= set("-:")]


def test_how_to_add_names_what_exists() -> None:
    """The sections are there, and each file or folder that one names is, in the repository or in the package."""
    section = _read(ROOT / "docs" / "architecture.md").partition("\n## How to add\n")[2]
    added = {each.split(" ", 2)[2] for each in re.findall(r"^### (Add .+)$", section, re.MULTILINE)}
    assert added >= {
        "pruning method", "update, a refinement, an allocation", "method for channels and KV groups", "depth method",
        "pattern of single weights", "structured pattern", "family of models", "corpus", "option",
    }  # fmt: skip
    after = re.sub(r"^\| before \|.*$", "", section, flags=re.MULTILINE)
    named = {
        code for code in _CODE.findall(after) if re.fullmatch(r"[\w./]+(/|\.py|\.md)", code) and "NAME" not in code
    }
    assert len(named) > 10
    places = (ROOT, PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir()))
    assert [each for each in sorted(named) if not any((place / each).exists() for place in places)] == []


def test_decisions_lead_to_every_part_of_their_history() -> None:
    headings = re.findall(r"^## (.+)$", _read(ROOT / "docs" / "decisions-appendix.md"), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    linked = re.findall(r"\]\(decisions-appendix\.md#([\w-]+)\)", _read(ROOT / "docs" / "decisions.md"))
    assert slugs == set(linked)


def _table(heading: str) -> dict[str, list[str]]:
    """Return the cells of each row of docs/methods.md below `heading`, by the name in the first."""
    section = _read(ROOT / "docs" / "methods.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|(.+)\|$", section, re.MULTILINE)
    return {name: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for name, rest in rows}


def test_methods_table_agrees_with_the_methods() -> None:
    cells = _table("Methods")
    assert cells.keys() == methods().keys()
    for name, method in methods().items():
        assert cells[name][1:4] == [method.needs, method.group, method.ties]
        assert method.paper in "".join(cells[name]) or name == "wanda-variant"
        assert f"`{name}`" in _read(README)


@pytest.mark.parametrize(
    ("heading", "records"), [("Updates", updates()), ("Refinements", refinements()), ("Allocations", allocations())]
)
def test_tables_agree_with_what_there_is(heading: str, records: dict[str, Any]) -> None:
    cells = _table(heading)
    assert cells.keys() == records.keys()
    for name, record in records.items():
        assert cells[name][1] == record.needs
        assert record.paper in "".join(cells[name]) or name == "uniform"
    for name, update in updates().items():
        every = [*methods().values(), *unit_methods().values()]
        owners = {f"`{method.name}`" for method in every if method.update == update.name}
        assert sorted(re.findall(r"`[\w-]+`", _table("Updates")[name][2])) == sorted(owners)


def test_table_of_unit_methods_agrees_with_them() -> None:
    cells = _table("Channels, KV groups and blocks")
    assert cells.keys() == unit_methods().keys()
    for name, method in unit_methods().items():
        assert cells[name][1:3] == [method.needs, method.update]
        assert method.paper in "".join(cells[name]) or name == "wanda-sp"
        assert f"`{name}`" in _read(README)


def test_table_of_expert_methods_agrees_with_them() -> None:
    cells = _table("Whole experts")
    assert cells.keys() == expert_methods().keys()
    for name, method in expert_methods().items():
        assert method.paper in "".join(cells[name])
        assert f"`{name}`" in _read(README)


def test_table_of_depth_methods_agrees_with_them() -> None:
    cells = _table("Whole blocks")
    assert cells.keys() == depth_methods().keys()
    for name, method in depth_methods().items():
        assert method.paper in "".join(cells[name])
        assert f"`{name}`" in _read(README)
