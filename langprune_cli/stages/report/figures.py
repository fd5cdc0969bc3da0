"""The figures of a report, each with its legend and a caption: models by texts, errors by block, what artifacts share."""

from math import exp, log
from typing import Any

from langprune_cli.stages.combine.compare import Comparison, Pair
from langprune_cli.stages.evaluate.rows import MARKS
from langprune_cli.stages.export.markup import Markup, element, joined
from langprune_cli.stages.report.report import Figure, Matrix, Reconstruction, Subject, error_of, sparsity_of
from langprune_cli.stages.report.style import GAIN, LIKENESS, LOSS
from langprune_cli.stages.report.svg import LETTER, SHADES, Bars, Cell, Grid, bar_chart, heat_map, scale
from langprune_cli.stages.report.tables import (
    bits,
    change,
    compared_figure,
    drawn_figure,
    findings,
    has_marks,
    how,
    ppl,
)

_LEAST_TOP = log(1.05)  # a scale of losses ends at +5% of ppl or higher: noise is not to look like ruin
_LEAST_RATIO = 0.05  # the same of |log ratio|


def matrix_figure(matrix: Matrix, name: str) -> Markup:
    """Return models and masks by texts as a heat map."""
    changes = [each.change for figures in matrix.figures for each in figures if each and each.change is not None]
    top = max([_LEAST_TOP, *(log(1 + each) for each in changes if each > -1)])
    languages = [text["language"] for text in matrix.texts]
    cells = [
        [
            _cell(subject, figure, text, language, top) if figure else None
            for figure, text, language in zip(figures, matrix.texts, languages, strict=True)
        ]
        for subject, figures in zip(matrix.subjects, matrix.figures, strict=True)
    ]
    marked = any(cell and cell.marked for row in cells for cell in row)
    noise = any(cell and cell.hatched for row in cells for cell in row)
    intervals = any(each and each.low is not None for figures in matrix.figures for each in figures)
    grid = Grid(
        f"Perplexity of models by texts, {matrix.evaluation.name}",
        " ".join(findings(matrix)) or "Figures are in the table below.",
        [(subject.name, how(subject) if subject.name != how(subject) else "") for subject in matrix.subjects],
        [str(text["text"]) for text in matrix.texts],
        cells,
        size=(184.0 if intervals else 140.0, 82.0),
        corner="evaluated on",
        name=name,
    )
    most = f"+{100 * (exp(top) - 1):.0f}%"
    legend = _legend(LOSS, "change of ppl: none", most)
    notes = ["In each cell: perplexity, its change against the dense model" + (
        " with its 95% interval in per cent" if intervals else "") + ", bits per byte. Lower is better."]  # fmt: skip
    notes += [MARKS] if has_marks(matrix) else []
    notes += ["An inner frame: pruned on text of this language."] if marked else []
    notes += ["Hatched: noise, the interval holds no change."] if noise else []
    notes += (
        ["Blue: better than the dense model."]
        if any(cell and cell.shade.startswith(GAIN) for row in cells for cell in row)
        else []
    )
    return _framed(heat_map(grid), legend, " ".join(notes))


def _cell(subject: Subject, figure: Figure, text: dict[str, Any], language: str | None, top: float) -> Cell:
    if subject.dense or (figure.change is None and figure.ppl is not None):
        shade = scale(LOSS, 0.0, top)
    elif figure.change is None:
        shade = scale(LOSS, 1.0, 1.0)
    else:
        loss = log(1 + figure.change) if figure.change > -1 else -top
        better = loss < 0 and figure.significant is not False
        shade = scale(GAIN, -loss, top) if better else scale(LOSS, loss, top)
    lines = [
        f"{ppl(figure)} {figure.mark}".strip(),
        change(figure).replace(", noise", " noise"),
        f"bpb {bits(figure)}" if bits(figure) else "",
    ]
    return Cell(
        shade,
        tuple(filter(None, lines)),
        f"{subject.name} on {text['text']}: {', '.join(filter(None, lines))}",
        hatched=figure.significant is False,
        marked=language is not None and language in subject.languages,
    )


def block_charts(found: Reconstruction, name: str) -> Markup:
    """Return errors, and sparsities where they differ, as small charts, one for each kind of linear."""
    kinds = found.kinds
    blocks = sorted({each.block for each in found.linears})
    errors = {kind: [error_of(of.get(block, [])) for block in blocks] for kind, of in kinds.items()}
    shares = {kind: [sparsity_of(of[block]) if block in of else None for block in blocks] for kind, of in kinds.items()}
    rows = []
    for style, figures in (("error", errors), ("sparsity", shares)):
        known = [each for values in figures.values() for each in values if each is not None]
        if not known:
            rows.append(element("p", "No errors are known: the update needed no statistics.", class_="note"))
            continue
        if style == "sparsity" and max(known) - min(known) < 5e-5:
            rows.append(element("p", f"Sparsity: {known[0]:.2%} of every linear.", class_="note"))
            continue
        top = 1.0 if style == "sparsity" else max(known)
        panels = [
            element("div", element("h4", kind), _panel(kind, style, blocks, values, top, f"{name}-{style}-{place}"))
            for place, (kind, values) in enumerate(figures.items())
        ]
        caption = "relative error" if style == "error" else "sparsity"
        rows.append(element("figure", element("div", *panels, class_="panels"), element("figcaption", f"{caption.capitalize()} by block; all panels of this row have one scale.")))  # fmt: skip # noqa: E501
    return joined(*rows)


def _panel(kind: str, style: str, blocks: list[int], values: list[float | None], top: float, name: str) -> Markup:
    known = [(value, block) for value, block in zip(values, blocks, strict=True) if value is not None]
    if not known:
        return element("p", "not known", class_="note")
    (least, at_least), (most, at_most) = min(known), max(known)
    said = f"From {least:.2%} in block {at_least} to {most:.2%} in block {at_most}. Figures are in the table."
    peak = f"{top:.0%}" if top >= 0.1 else f"{top:.1%}"
    return bar_chart(Bars(f"{style} of {kind}", said, blocks, values, top, ("0", peak), style, name))


def all_pairs(comparison: Comparison, name: str) -> Markup:
    """Return what each artifact has in common with each other as a whole, as a heat map."""
    key = drawn_figure(comparison.kind)
    found = {frozenset((pair.one, pair.other)): pair.whole for pair in comparison.pairs}
    names = list(dict.fromkeys(each for pair in comparison.pairs for each in (pair.one, pair.other)))
    top = _top(comparison.kind, [figures[key] for figures in found.values()])
    cells = [
        [
            _common_cell(key, top, found.get(frozenset((one, other))), f"{one} and {other}", written=True)
            for other in names[:-1]
        ]
        for one in names[1:]
    ]
    below = [[cell if column <= row else None for column, cell in enumerate(line)] for row, line in enumerate(cells)]
    longest = max(map(len, names[:-1]))
    grid = Grid(
        f"All {comparison.kind}, each with each", "Figures are in the table above.", [(each, "") for each in names[1:]],
        names[:-1], below, size=(max(84.0, min(250.0, LETTER * longest + 8)), 34.0), name=name,
    )  # fmt: skip
    return _framed(heat_map(grid), _common_legend(comparison, top), "Each with each, all blocks together.")


def _common_cell(
    key: str, top: float, figures: dict[str, float | None] | None, what: str, *, written: bool = False
) -> Cell | None:
    """Return a cell on the scale from what chance gives (0 where that is not known) to `top`."""
    value = figures[key] if figures else None
    if figures is None or value is None:
        return None
    chance = figures.get(f"{key}_by_chance")
    low = chance or 0.0
    beside = f" (by chance {compared_figure(key, chance)})" if chance is not None else ""
    shown = compared_figure(key, value)
    share = (value - low) / (top - low) if top > low else 1.0
    return Cell(scale(LIKENESS, share, 1.0), (shown,) if written else (), f"{what}: {shown}{beside}")


def _top(kind: str, values: list[float | None]) -> float:
    """Return where the scale of a kind of comparison ends."""
    return max([_LEAST_RATIO, *(each for each in values if each is not None)]) if kind == "stats" else 1.0


def _common_legend(comparison: Comparison, top: float) -> Markup:
    key = drawn_figure(comparison.kind)
    low = "chance" if comparison.kind == "masks" else compared_figure(key, 0.0)
    return _legend(LIKENESS, low, f"{top:.0%}" if comparison.kind == "masks" else compared_figure(key, top))


def overlap_figure(comparison: Comparison, pair: Pair, name: str) -> Markup:
    """Return what a pair has in common, by block and kind of linear, as a heat map."""
    key = drawn_figure(comparison.kind)
    found = {(cell.block, cell.linear): cell.sums.figures() for cell in pair.cells}
    top = _top(comparison.kind, [figures[key] for figures in found.values()])
    blocks = list(pair.blocks)
    whole = compared_figure(key, pair.whole[key])
    grid = Grid(
        f"{pair.one} and {pair.other}, by block and kind of linear",
        f"{whole} as a whole. Figures are in the table.",
        [(kind, "") for kind in pair.linears],
        [str(block) for block in blocks],
        [
            [_common_cell(key, top, found.get((block, kind)), f"block {block}, {kind}") for block in blocks]
            for kind in pair.linears
        ],
        name=name,
    )
    caption = f"Columns are blocks. {whole} as a whole."
    return _framed(heat_map(grid), _common_legend(comparison, top), caption)


def _framed(figure: Markup, legend: Markup, caption: str) -> Markup:
    return element("figure", element("div", figure, class_="wide", tabindex=0, role="region", aria_label="figure"), legend, element("figcaption", caption))  # fmt: skip # noqa: E501


def _legend(family: str, low: str, high: str) -> Markup:
    swatches = [
        element("rect", class_=f"fill {family}{shade}", x=18 * shade, y=0, width=18, height=12)
        for shade in range(SHADES)
    ]
    bar = element("svg", *swatches, width=18 * SHADES, height=12, aria_hidden="true")
    return element("div", element("span", low), bar, element("span", high), class_="legend")
