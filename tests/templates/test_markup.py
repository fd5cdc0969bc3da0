"""Markup: what comes from names and texts stays text, without what a terminal or a browser would take for commands."""

import pytest

from langprune_cli.stages.report.svg import Cell, Grid, heat_map
from langprune_cli.templates.markup import clean, element
from tests.support.reporting import parsed


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("калина", "калина"), ("a\x1b[1;31mb\x1b[0m", "ab"), ("a\x1b]0;title\x07b", "ab"), ("a\x00\x7f\x9bb", "ab"),
        ("a\u202eb\u2066c\u200e", "abc"), ("a\r\n\tb\u2028c", "a b c"),
        ("a\ud800b\ufffe", "ab"), ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)  # fmt: skip
def test_control_characters_leave(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert parsed(element("p", text, title=text)).text == (cleaned or None)


def test_long_and_wide_labels_stay_inside() -> None:
    names = ["a" * 100, "漢字" * 30, "é" * 20]
    grid = Grid("t", "d", [(name, "") for name in names], ["x"], [[Cell("k0")]] * 3)
    figure = parsed(heat_map(grid))
    labels = [each for each in figure.iter() if each.get("class") == "label"]
    assert [each[0].text for each in labels[:2]] == names[:2]  # the whole name is in the title
    assert all(len("".join(each.itertext())) - len(name) <= 44 for each, name in zip(labels[:2], names, strict=False))
