"""Figures of a report as SVG: heat maps and bars over blocks. The page's style sheet defines the classes of colours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from unicodedata import combining, east_asian_width

from markupsafe import Markup

from langprune_cli.templates.markup import clean, element, joined

SHADES = 9  # of a scale, from nothing to the most
LETTER = 8.8  # the most pixels of a bold letter of 13 px, on average
_SMALL = 7.0  # the same for a letter of 11.5 px
_MOST_LABEL = 44  # letters of a label; its title and the table have the full text


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map."""

    shade: str  # a class: the name of a scale and a number below SHADES
    lines: tuple[str, ...] = ()  # its text, the first line the largest
    title: str = ""
    hatched: bool = False  # noise
    marked: bool = False


@dataclass(frozen=True)
class Grid:
    """A heat map: rows by columns."""

    title: str
    description: str  # for readers who do not see the figure
    rows: Sequence[tuple[str, str]]  # label, and a smaller line below it
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell | None]]
    size: tuple[float, float] = (24.0, 24.0)  # of a cell, pixels
    corner: str = ""  # heading of the columns
    name: str = field(default="map")  # prefix of element ids


def scale(family: str, value: float, top: float) -> str:
    """Return the class of a value between 0 and `top`; values outside get the family's first or last shade."""
    share = min(max(value / top, 0.0), 1.0) if top > 0 else 0.0
    return f"{family}{round(share * (SHADES - 1))}"


def heat_map(grid: Grid) -> Markup:
    """Return the figure."""
    width, height = grid.size
    labels = [
        letters * _letters(_short(text))
        for row in (*grid.rows, ("", grid.corner))
        for text, letters in zip(row, (LETTER, _SMALL), strict=True)
    ]
    left = 16 + max(labels, default=0.0)
    top = 30.0
    right = max(4.0, LETTER * max((_letters(_short(each)) for each in grid.columns), default=0) / 2 - width / 2)
    spread = [left + place * width for place in range(len(grid.columns))]
    body = [_text(grid.corner, left - 10, top - 10, "small", anchor="end")] if grid.corner else []
    every = 1 if width > 60 else max(1, round(36 / width))  # more numbers of blocks would overlap
    for place, (x, label) in enumerate(zip(spread, grid.columns, strict=True)):
        if place % every == 0:
            body.append(_text(label, x + width / 2, top - 10, "head", anchor="middle"))
    for number, ((label, below), cells) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        y = top + number * height
        middle = y + height / 2 + (-3 if below else 4)
        body.append(_text(label, left - 10, middle, "label", anchor="end"))
        if below:
            body.append(_text(below, left - 10, middle + 16, "small", anchor="end"))
        body += [_cell(cell, x, y, grid) for x, cell in zip(spread, cells, strict=True) if cell]
    size = left + len(grid.columns) * width + right, top + len(grid.rows) * height + 4
    return _figure(grid.name, grid.title, grid.description, size, body)


def _cell(cell: Cell, x: float, y: float, grid: Grid) -> Markup:
    width, height = grid.size
    gap = 1.0 if width < 60 else 2.0
    box = {"x": x + gap, "y": y + gap, "width": width - 2 * gap, "height": height - 2 * gap, "rx": min(6.0, width / 8)}
    parts = [element("title", cell.title)] if cell.title else []
    parts.append(element("rect", class_=f"fill {cell.shade}", **box))
    if cell.hatched:
        parts.append(element("rect", class_="hatch", fill="url(#hatch)", **box))
    if cell.marked:
        inner = {
            "x": box["x"] + 3,
            "y": box["y"] + 3,
            "width": box["width"] - 6,
            "height": box["height"] - 6,
            "rx": 4.0,
        }
        parts.append(element("rect", class_=f"own {cell.shade}", **inner))
    line = y + height / 2 - 9 * (len(cell.lines) - 1) + 5
    for place, text in enumerate(cell.lines):
        style = "value" if place == 0 else "detail"
        parts.append(_text(text, x + width / 2, line + 18 * place, f"{style} on {cell.shade}", anchor="middle"))
    return element("g", *parts)


@dataclass(frozen=True)
class Bars:
    """One quantity over blocks."""

    title: str
    description: str
    blocks: Sequence[int]
    values: Sequence[float | None]
    top: float  # the value of a bar of full height
    ticks: tuple[str, str]  # labels at the bottom and the top of the axis
    style: str  # class of the bars
    name: str


def bar_chart(bars: Bars) -> Markup:
    """Return a small chart: a bar for each block with a value, and block numbers below."""
    left, height, above = 46.0, 72.0, 8.0
    step = max(3.0, min(22.0, 190.0 / max(1, len(bars.blocks))))
    width = left + step * len(bars.blocks)
    body = [
        element("line", class_="axis", x1=left - 4, x2=width, y1=above + height, y2=above + height),
        element("line", class_="grid", x1=left - 4, x2=width, y1=above, y2=above),
        _text(bars.ticks[1], left - 8, above + 5, "small", anchor="end"),
        _text(bars.ticks[0], left - 8, above + height + 4, "small", anchor="end"),
    ]
    every = max(1, round(24 / step))
    for place, (block, value) in enumerate(zip(bars.blocks, bars.values, strict=True)):
        x = left + place * step
        if place % every == 0:
            body.append(_text(str(block), x + step / 2, above + height + 16, "small", anchor="middle"))
        if value is not None:
            tall = height * min(1.0, max(0.0, value / bars.top)) if bars.top > 0 else 0.0
            rect = element(
                "rect", class_=bars.style, x=x + step * 0.1, y=above + height - tall, width=step * 0.8, height=tall
            )
            body.append(element("g", element("title", f"block {block}: {value:.2%}"), rect))
    return _figure(bars.name, bars.title, bars.description, (width + 6, above + height + 22), body)


class Point(NamedTuple):
    """A point of a line."""

    across: float
    up: float
    title: str


@dataclass(frozen=True)
class Line:
    """One quantity, as a line through points."""

    label: str
    style: str  # class of the line and its points
    points: Sequence[Point]


@dataclass(frozen=True)
class LineChart:
    """Several quantities over one other, all from 0 up."""

    title: str
    description: str
    lines: Sequence[Line]
    top: tuple[float, float]  # the ends of both axes
    ticks: tuple[str, str]  # their labels
    ringed: Point  # one that is marked
    name: str


def line_chart(chart: LineChart) -> Markup:
    """Return a chart of lines, with a legend above them."""
    left, above, width, height = 58.0, 34.0, 380.0, 150.0

    def place(point: Point) -> tuple[float, float]:
        ends = zip(point[:2], chart.top, strict=True)
        across, up = (min(1.0, max(0.0, value / top)) if top > 0 else 0.0 for value, top in ends)
        return round(left + width * across, 1), round(above + height * (1 - up), 1)

    body = [
        element("line", class_="axis" if share == 0 else "grid", x1=left, x2=left + width, y1=y, y2=y)
        for share in (0.0, 0.5, 1.0)
        for y in [above + height * (1 - share)]
    ]
    body += [
        _text(chart.ticks[1], left - 8, above + 4, "small", anchor="end"),
        _text("0", left - 8, above + height + 4, "small", anchor="end"),
        _text("0", left, above + height + 18, "small", anchor="middle"),
        _text(chart.ticks[0], left + width, above + height + 18, "small", anchor="end"),
    ]
    beside = left
    for line in chart.lines:
        drawn = [place(point) for point in line.points]
        body.append(element("path", class_=f"line {line.style}", d="M" + " L".join(f"{x} {y}" for x, y in drawn)))
        body += [
            element(
                "g", element("title", point.title), element("circle", class_=f"dot {line.style}", cx=x, cy=y, r=2.6)
            )
            for (x, y), point in zip(drawn, line.points, strict=True)
        ]
        body.append(element("line", class_=f"line {line.style}", x1=beside, x2=beside + 26, y1=12, y2=12))
        body.append(_text(line.label, beside + 32, 16, "small", anchor="start"))
        beside += 32 + _SMALL * _letters(line.label) + 22
    for x, y in (place(chart.ringed), (beside + 6, 12.0)):
        body.append(element("circle", class_="ring", cx=x, cy=y, r=6.0))
    body.append(_text("kept", beside + 18, 16, "small", anchor="start"))
    return _figure(chart.name, chart.title, chart.description, (left + width + 10, above + height + 24), body)


def hatching() -> Markup:
    """Return the hatching that marks noise in all figures of a page."""
    lines = element("path", d="M0 8 L8 0 M-2 2 L2 -2 M6 10 L10 6", class_="hatching")
    pattern = element("pattern", lines, id="hatch", width=8, height=8, patternUnits="userSpaceOnUse")
    return element("svg", element("defs", pattern), class_="defs", width=0, height=0, aria_hidden="true")


def _figure(name: str, title: str, description: str, size: tuple[float, float], body: Sequence[Markup]) -> Markup:
    width, height = (round(each, 1) for each in size)
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        joined(*body),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _text(text: str, x: float, y: float, style: str, *, anchor: str) -> Markup:
    short = _short(text)
    inside = joined(element("title", text), short) if short != clean(text) else joined(short)
    return element("text", inside, x=round(x, 1), y=round(y, 1), class_=style, text_anchor=anchor)


def _short(text: str) -> str:
    """Return text that fits beside a figure, without the middle of a long name, which says least."""
    text = clean(text)
    return text if _letters(text) <= _MOST_LABEL else f"{text[: _MOST_LABEL // 2 - 1]}…{text[-_MOST_LABEL // 2 :]}"


def _letters(text: str) -> int:
    """Return the width of text in letters: a Chinese character counts two, an accent none."""
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)
