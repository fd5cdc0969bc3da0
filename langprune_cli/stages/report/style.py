"""The style sheet of a report: system fonts, no script, colours for light and dark pages and for colour-blind readers.

Scales differ in lightness, and their hues (orange for loss, blue for likeness) are told apart in all common kinds of colour
blindness (Okabe & Ito, 2008). What stands on a shade is black or white, whichever has more contrast (WCAG 2.2, at least 4.5).
"""

from itertools import pairwise

from langprune_cli.stages.report.svg import SHADES

Colour = tuple[int, int, int]

LOSS, LIKENESS, GAIN = "l", "k", "g"  # families of shades

# Family -> colours along its scale, on a light page and on a dark one: what is little is near the page's own colour.
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

_RULES = """
:root{--sans:system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
:root{--mono:ui-monospace,"Cascadia Mono","DejaVu Sans Mono",monospace}
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 var(--sans)}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:44px;padding-bottom:8px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:20px;margin:0 0 4px}
h3{font-size:16px;margin:26px 0 4px;overflow-wrap:anywhere}
h4{font-size:13px;margin:0 0 2px;font-weight:600}
p{margin:6px 0 12px;max-width:76ch}
.soft,figcaption,.note{color:var(--soft)}
.note,figcaption{font-size:14px}
a{color:var(--link)}
nav{margin:14px 0 0;font-size:14px;display:flex;flex-wrap:wrap;gap:4px 18px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:24px 28px;margin:22px 0}
ul{padding-left:20px;margin:6px 0 14px}
li,td{overflow-wrap:anywhere}
figure{margin:14px 0 6px}
.wide{overflow-x:auto;padding-bottom:4px}
figcaption{margin-top:8px;max-width:84ch}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{border-bottom:1px solid var(--line);padding:5px 14px 5px 0;text-align:left;vertical-align:top;unicode-bidi:isolate}
td:first-child,th:first-child{min-width:14ch;white-space:nowrap}
td.figure:first-child,th.figure:first-child{min-width:5ch}
th{font-weight:600;vertical-align:bottom}
td.figure,th.figure{text-align:right}
td.figure{white-space:nowrap}
td.long{min-width:22ch;font-family:var(--mono);font-size:12px}
caption{text-align:left;color:var(--soft);padding-bottom:4px}
details{margin:10px 0}
summary{cursor:pointer;font-size:14px;color:var(--link);padding:2px 0}
summary:focus-visible,a:focus-visible,.wide:focus-visible{outline:2px solid var(--link);outline-offset:2px}
pre{background:var(--mark);border:1px solid var(--line);border-radius:8px;padding:12px 14px;margin:10px 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
pre,code{font:13px/1.6 var(--mono)}
pre code{display:block;padding-left:2ch;text-indent:-2ch}
svg{display:block;max-width:none;font:13px var(--sans);font-variant-numeric:tabular-nums}
svg.defs{position:absolute}
svg text{fill:var(--text)}
svg .head,svg .label{font-weight:600}
svg .small{font-size:11.5px;fill:var(--soft)}
svg .value{font-size:17px;font-weight:650}
svg .detail{font-size:12px}
svg .axis{stroke:var(--soft);stroke-width:1}
svg .grid{stroke:var(--line);stroke-width:1;stroke-dasharray:2 3}
svg .error{fill:var(--bar)}
svg .sparsity{fill:var(--calm)}
svg .own{fill:none;stroke-width:1.6}
.hatching{stroke:var(--soft);stroke-opacity:.35;stroke-width:1.2;fill:none}
.panels{display:flex;flex-wrap:wrap;gap:18px 28px;align-items:flex-start}
.panels>div{min-width:0;max-width:100%}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:6px 8px;font-size:13px;color:var(--soft);margin:10px 0 0}
.legend svg{flex:none}
.legend .gap{width:14px}
footer{color:var(--soft);font-size:13px;padding-bottom:44px}
@media (max-width:640px){main,header,footer{padding-left:14px;padding-right:14px}section{padding:18px 16px}}
@media print{section{break-inside:avoid;border:0;padding:0}}
"""


def style_sheet() -> str:
    """Return the whole of it."""
    light, dark = (_variables(place) for place in (0, 1))
    shades = "".join(
        f".fill.{family}{number}{{fill:var(--{family}{number})}}"
        f"svg .on.{family}{number}{{fill:var(--{family}{number}-on)}}"
        f"svg .own.{family}{number}{{stroke:var(--{family}{number}-on)}}"
        for family in _SCALES
        for number in range(SHADES)
    )
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{_RULES}{shades}"


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
    """Return black or white, whichever has more contrast with a colour: one of them has 4.58 at the least."""
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
