"""Names in a card and in a report as Markdown are shown as they are: by a Markdown parser, and a YAML parser."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from langprune_cli.stages.export.model_card import model_card
from langprune_cli.store.artifact import Artifact, Manifest
from langprune_cli.templates.markdown import plain
from tests.support.command import did

NAMES = [
    "](http://evil.example) [x](http://evil.example)", "<script>alert(1)</script>", "a | b | c", "x\n\n---\n# owned", "---",
    "- a", "1. a", "2) a", "+ a", "# a", "> a", "``a` b", "![i](x)", "http://evil.example", "www.evil.example",
    "me@evil.example",
    "&lt;b&gt;", "*a* _b_ ~~c~~", "a\u2028- b", "\\", "    code", "[a]: http://evil.example", "my_model-1.5", "a\\|b", "`|`",
    "x\ud800\x85\x7f", ": : {", "no", "\u202egnp.txt", "a: b # c", "$x$",
]  # fmt: skip
ALLOWED = {
    "heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close", "table_open", "table_close", "thead_open",
    "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close",
}  # fmt: skip
INSIDE = {"text", "softbreak", "code_inline", "text_special"}


def tokens_of(markdown: str) -> list[Token]:
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(markdown)


def shown(token: Token) -> str:
    return "".join(" " if each.type == "softbreak" else each.content for each in token.children or [])


def rows_of(tokens: list[Token]) -> list[list[str]]:
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in {"td_open", "th_open"}:
            rows[-1].append(shown(token))
    return rows


def on_one_line(text: str) -> str:
    seen = "".join("" if 0xD7FF < ord(each) < 0xE000 or each in "\x7f\u202e" else each for each in text)
    return " ".join(seen.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_names_as_they_are(name: str) -> None:
    text = {"source": f"hf:{name}", "language": name, "fingerprint": name, "sampling": name, "windows": 1, "seqlen": 2}
    row = {"source": f"hf:{name}", "language": name, "dtype": name, "seqlen": 16, "tokens": 75, "ppl": 2.0, "bpb": 1.0}
    mask = {"method": name, "pattern": "unstructured", "sparsity": 0.5, "group": name, "exclude": name}
    about: dict[str, Any] = {"model": {"name": name, "revision": name}, "text": text | {"source": name}, "mask": mask}
    manifest = Manifest("models", "0", {}, {"update": name}, about, {}, {}, tool=name, complete=True)
    card = model_card(Artifact(Path("m"), manifest), [{"pruned": row, "base": None}], name, inherited={"license": name})
    _, front, body = card.split("---\n", 2)
    said = yaml.safe_load(front)
    clean = on_one_line(name)
    assert said["base_model"] == said["license"] == clean
    assert said["language"] == [clean]
    tokens = tokens_of(body)
    assert {token.type for token in tokens} <= ALLOWED
    assert {each.type for token in tokens for each in token.children or []} <= INSIDE
    assert [shown(token) for before, token in pairwise(tokens) if before.type == "heading_open"] == [
        clean, "Evaluation",
    ]  # fmt: skip
    rows = rows_of(tokens)
    assert all(len(cells) == 2 for cells in rows[:-2])
    assert [len(cells) for cells in rows[-2:]] == [8, 8]
    facts = {cells[0]: cells[1] for cells in rows[:-2]}
    assert facts["method"] == clean
    assert facts["left dense"] == f"linears whose name matches {clean}"
    # GitHub and the hub make links of bare addresses, which this parser would do only with one more package.
    assert "http://" not in body.replace("``", "`").replace(f"`{clean}`", "")


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_at_the_start_of_a_line(name: str) -> None:
    tokens = tokens_of(f"{plain(name)} tail")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(tokens[1]).strip() == f"{on_one_line(name)} tail".strip()


def test_a_report_says_names_as_they_are(workspace: Path) -> None:
    name = "](x) <b> | `"
    did("report", "-w", workspace, "--format", "md", "--out", "report.md", "--title", name)
    tokens = tokens_of(Path("report.md").read_text())
    assert shown(tokens[1]) == name
    assert "html_block" not in {token.type for token in tokens}
