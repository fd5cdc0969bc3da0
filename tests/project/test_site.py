"""The documentation site, built as `nox -s docs` builds it: its links lead somewhere, and it loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from tests.project.test_docs import DOCUMENTS
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed: nox -s docs installs it and runs this"
)
COUNTED = ("h1", "h2", "h3", "table", "tr", "th", "td", "pre", "ul", "ol", "li", "img")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "use": "href"}
PAGES = {"README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


@dataclass
class Read(HTMLParser):
    """What a page holds: elements of its article, anchors, links, and what it loads."""

    counted: Counter[str] = field(default_factory=Counter)
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    article: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.article |= tag == "article"
        if self.article and tag in COUNTED:
            self.counted[tag] += 1
        self.anchors |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given and self.article:
            self.links.append(given["href"])
        if tag in LOADING and LOADING[tag] in given and given.get("rel") != "canonical":
            self.loaded.append(given[LOADING[tag]])

    def handle_endtag(self, tag: str) -> None:
        self.article &= tag != "article"


def read(text: str, *, article: bool = False) -> Read:
    """Return what a page, or a piece of one that is all article, holds."""
    page = Read(article=article)
    page.feed(text)
    return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def place(site: Path, document: Path) -> Path:
    """Return the page of a document."""
    return site / f"{PAGES.get(document.name, document.stem)}.html"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_page_shows_what_a_code_host_shows(site: Path, document: Path) -> None:
    """Markdown's dialects differ in tables, lists and fences: the same headings, rows, items and blocks have to come out."""
    shown = read(place(site, document).read_text(encoding="utf-8")).counted
    host = MarkdownIt("commonmark").enable("table").render(document.read_text(encoding="utf-8"))
    assert shown["h1"] == 1
    assert shown == read(host, article=True).counted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_pages_and_headings_that_exist(site: Path, document: Path) -> None:
    page = place(site, document)
    for target in read(page.read_text(encoding="utf-8")).links:
        if not target.startswith(("https://", "http://")):
            path, _, anchor = unquote(target).partition("#")
            linked = page.parent / path if path else page
            assert linked.is_file(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in read(linked.read_text(encoding="utf-8")).anchors, f"{page.name} links to {target}"


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) >= len(DOCUMENTS)
    assert styles
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [each for each in read(text).loaded if re.match(r"(\w+:)?//", each)] == [], page.name
        assert 'class="mermaid' not in text  # the theme fetches what draws these
    for style in styles:
        assert not re.search(r"""(url\(|@import)\s*['"]?(https?:)?//""", style.read_text(encoding="utf-8")), style.name
