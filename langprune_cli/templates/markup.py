"""Markup in which nothing is left unescaped: elements of HTML and SVG, well-formed as XML too."""

import re
import unicodedata

from markupsafe import Markup, escape

_TERMINAL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])"
)  # ECMA-48: CSI, OSC, others
_JOINERS = "\u200c\u200d"  # control characters that Persian, Hindi and others are spelled with


def clean(text: str) -> str:
    """Return text on one line, without terminal escapes, control characters, those of direction, and what is no character."""
    seen = _TERMINAL.sub("", text)
    parts = [" " if each.isspace() else "" if _is_control(each) else each for each in seen]
    return " ".join("".join(parts).split())


def indented(line: str) -> str:
    """Return a line that was cleaned, with the spaces that it begins with."""
    return line[: len(line) - len(line.lstrip(" "))] + clean(line)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} and character not in _JOINERS


def element(name: str, /, *content: str, **attributes: str | float) -> Markup:
    """Return an element. Content that is not Markup is cleaned and escaped, as attributes are.

    `class_` is class, and `aria_label` aria-label: no attribute has an underscore.
    """
    tag = Markup(" ").join([name, *(_attribute(each, value) for each, value in attributes.items())])
    return Markup("<{}>{}</{}>").format(tag, joined(*content), name) if content else Markup("<{}/>").format(tag)


def _attribute(name: str, value: str | float) -> Markup:
    text = f"{value:.6g}" if isinstance(value, float) else clean(str(value))
    return Markup('{}="{}"').format(name.rstrip("_").replace("_", "-"), text)


def joined(*parts: str) -> Markup:
    """Return several parts as one; those that are not Markup are cleaned and escaped."""
    return Markup("").join(each if isinstance(each, Markup) else escape(clean(each)) for each in parts)
