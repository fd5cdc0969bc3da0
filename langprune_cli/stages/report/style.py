"""The colours of a report, for light and dark pages and for colour-blind readers; templates/report.css has the other styles.

Scales vary in lightness, and their hues (orange for loss, blue for likeness) differ in all common kinds of colour blindness
(Okabe & Ito, 2008). Text on a shade is black or white, whichever has more contrast (WCAG 2.2, at least 4.5).
"""

from itertools import pairwise

from langprune_cli.stages.report.svg import SHADES

Colour = tuple[int, int, int]

LOSS, LIKENESS, GAIN = "l", "k", "g"  # families of shades

# Family -> colours along its scale, on a light and a dark page; small values are near the page's own colour.
_SCALES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    LOSS: (("#fdf1e3", "#f5b06a", "#d9630a", "#7a2c05"), ("#33261a", "#83430f", "#d97a1c", "#ffc98a")),
    LIKENESS: (("#eef4fb", "#9cc4e6", "#3b82bd", "#0b3c6f"), ("#1a2733", "#1f4f7d", "#4a96d6", "#b4dcff")),
    GAIN: (("#eaf3fa", "#b5d6ee"), ("#1b2a38", "#2b5375")),
}
_PAGES = (
    {"page": "#fbfaf8", "card": "#ffffff", "text": "#1b1e22", "soft": "#565d66", "line": "#dedad3", "link": "#0b5394",
     "bar": "#c65a09", "calm": "#5b87ad", "mark": "#f4f1ec"},
    {"page": "#14171b", "card": "#1b1f24", "text": "#e8e6e2", "soft": "#a9afb8", "line": "#363c44", "link": "#8cc4ff",
     "bar": "#e8933f", "calm": "#6ea6d4", "mark": "#242a31"},
)  # fmt: skip


def colours() -> str:
    """Return the style sheet's colours, as variables, and the classes of shades."""
    light, dark = (_variables(place) for place in (0, 1))
    shades = "".join(
        f".fill.{family}{number}{{fill:var(--{family}{number})}}"
        f"svg .on.{family}{number}{{fill:var(--{family}{number}-on)}}"
        f"svg .own.{family}{number}{{stroke:var(--{family}{number}-on)}}"
        for family in _SCALES
        for number in range(SHADES)
    )
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{shades}"


def _variables(page: int) -> str:
    shades = {
        f"{family}{number}": colour
        for family, scales in _SCALES.items()
        for number, colour in enumerate(_shades([_read(each) for each in scales[page]]))
    }
    plain = "".join(f"--{name}:{colour};" for name, colour in _PAGES[page].items())
    return plain + "".join(f"--{name}:{_written(each)};--{name}-on:{_ink(each)};" for name, each in shades.items())


def _shades(anchors: list[Colour]) -> list[Colour]:
    """Return SHADES colours along a line through the anchors."""
    spans = list(pairwise(anchors))
    found = []
    for number in range(SHADES):
        place = number / (SHADES - 1) * len(spans)
        span = min(int(place), len(spans) - 1)
        (r, g, b), (s, h, c) = spans[span]
        share = place - span
        found.append((round(r + share * (s - r)), round(g + share * (h - g)), round(b + share * (c - b))))
    return found


def _ink(colour: Colour) -> str:
    """Return black or white, whichever has more contrast with a colour; the better one always has at least 4.58."""
    light = _luminance(colour) + 0.05
    return "#000000" if light / 0.05 >= 1.05 / light else "#ffffff"


def _luminance(colour: Colour) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    parts = [each / 255 for each in colour]
    r, g, b = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _read(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _written(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
