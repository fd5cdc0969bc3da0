"""Renders the templates of this folder. Every value in them is escaped, for HTML or for Markdown, unless it is Markup."""

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from langprune_cli.templates import markdown
from langprune_cli.templates.markup import clean, indented


def render(template: str, **values: object) -> str:
    """Return a template filled in: *.html.j2 or *.md.j2."""
    made = _environment(_cleaned if ".html" in template else markdown.inside)
    return made.get_template(template).render(values).rstrip() + "\n"


@cache
def _environment(shown: Callable[[object], str]) -> Environment:
    """Return templates in which each value passes through `shown`; what is not Markup then is escaped for HTML."""
    made = Environment(
        loader=PackageLoader("langprune_cli"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (markdown.plain, markdown.code, markdown.fenced, markdown.row, markdown.quoted)
    made.filters |= {each.__name__: each for each in filters} | {"indented": lambda line: escape(indented(line))}
    return made


def _cleaned(value: object) -> str:
    return value if isinstance(value, Markup) else clean(str(value))
