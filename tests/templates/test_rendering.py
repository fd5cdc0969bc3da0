"""Templates: every value is escaped for what it stands in, Markup alone stays, and a name that nothing has is an error."""

from collections.abc import Iterator

import pytest
from jinja2 import DictLoader, UndefinedError
from markupsafe import Markup

from langprune_cli.templates import markdown, rendering
from tests.support.reporting import parsed

HOSTILE = "<b>|`*\u202e\x1b[31m&\"'"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put templates of this test in the place of the package's."""
    sources = {
        "own.html.j2": '{% macro cell(of) %}<td title="{{ of }}">{{ of }}</td>{% endmacro %}{{ cell(value) }}',
        "own.md.j2": "{% macro cell(of) %}| {{ of }} |{% endmacro %}\n{{ cell(value) }}",
    }
    rendering._environment.cache_clear()
    monkeypatch.setattr(rendering, "PackageLoader", lambda _package: DictLoader(sources))
    yield
    rendering._environment.cache_clear()


@pytest.mark.usefixtures("own")
def test_values_are_escaped_once_and_markup_stays() -> None:
    cell = parsed(rendering.render("own.html.j2", value=HOSTILE))
    assert (cell.text, cell.get("title"), len(cell)) == ("<b>|`*&\"'",) * 2 + (0,)
    assert rendering.render("own.html.j2", value=Markup("<i/>")) == '<td title="<i/>"><i/></td>\n'
    assert rendering.render("own.md.j2", value=HOSTILE) == "| \\<b\\>\\|\\`\\*\\&\"' |\n"
    assert rendering.render("own.md.j2", value=markdown.code("a|b")) == "| `a\\|b` |\n"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("template", ["own.html.j2", "own.md.j2"])
def test_what_a_template_is_not_given_is_an_error(template: str) -> None:
    with pytest.raises(UndefinedError, match="'value' is undefined"):
        rendering.render(template)
