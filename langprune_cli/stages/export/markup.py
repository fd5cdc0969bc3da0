"""Markup in which nothing is left unescaped: elements of HTML and SVG, well-formed as XML too."""

import re
import unicodedata
from html import escape

_TERMINAL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])"
)  # ECMA-48: CSI, OSC, others
_JOINERS = "\u200c\u200d"  # control characters that Persian, Hindi and others are spelled with


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def clean(text: str) -> str:
    """Return text on one line, without terminal escapes, control characters, those of direction, and what is no character."""
    seen = _TERMINAL.sub("", text)
    parts = [" " if each.isspace() else "" if _is_control(each) else each for each in seen]
    return " ".join("".join(parts).split())


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} and character not in _JOINERS


def element(name: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """Return an element. What is no Markup is cleaned and escaped; attributes that are None are left out.

    `class_` is class, and `aria_label` aria-label: no attribute has an underscore.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(clean(_attribute(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(each if isinstance(each, Markup) else escape(clean(each)) for each in content)
    return Markup(f"<{name}{given}>{inside}</{name}>" if content else f"<{name}{given}/>")


def _attribute(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def joined(*parts: str) -> Markup:
    """Return several parts as one; what is no Markup is cleaned and escaped."""
    return Markup("".join(each if isinstance(each, Markup) else escape(clean(each)) for each in parts))
