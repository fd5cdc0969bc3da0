"""The figures of a report, each with a legend and a caption: models by texts, errors by block, overlap of artifacts."""

from dataclasses import dataclass, field
from math import exp, log

from markupsafe import Markup

from langprune_cli.stages.combine.compare import Comparison, Pair
from langprune_cli.stages.evaluate.rows import MARKS, Row
from langprune_cli.stages.report.report import Figure, Matrix, Reconstruction, ReportedModel, error_of, sparsity_of
from langprune_cli.stages.report.style import GAIN, LIKENESS, LOSS
from langprune_cli.stages.report.svg import LETTER, Bars, Cell, Grid, bar_chart, heat_map, scale
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

_LEAST_TOP = log(1.05)  # a scale of losses ends at +5% of ppl or higher, so that noise does not look like ruin
_LEAST_RATIO = 0.05  # the same for |log ratio|


@dataclass(frozen=True)
class Framed:
    """A heat map with its legend, from low to high, and its caption."""

    drawing: Markup
    scale: str  # the family of its shades
    low: str
    high: str
    caption: str


@dataclass(frozen=True)
class Charts:
    """Small charts of one quantity on one scale, by kind of linear; or a note instead."""

    quantity: str
    panels: dict[str, Markup | None] = field(default_factory=dict)  # None if nothing is known of a kind
    note: str = ""


def matrix_figure(matrix: Matrix, name: str) -> Framed:
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
    return Framed(heat_map(grid), LOSS, "change of ppl: none", most, " ".join(notes))


def _cell(subject: ReportedModel, figure: Figure, text: Row, language: str | None, top: float) -> Cell:
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


def block_charts(found: Reconstruction, name: str) -> list[Charts]:
    """Return errors, and sparsities if they differ, as small charts, one per kind of linear."""
    kinds = found.kinds
    blocks = sorted({each.block for each in found.linears})
    errors = {kind: [error_of(of.get(block, [])) for block in blocks] for kind, of in kinds.items()}
    shares = {kind: [sparsity_of(of[block]) if block in of else None for block in blocks] for kind, of in kinds.items()}
    rows = []
    for style, quantity, values in (("error", "Relative error", errors), ("sparsity", "Sparsity", shares)):
        known = [each for of_kind in values.values() for each in of_kind if each is not None]
        if not known:
            rows.append(Charts(quantity, note="No errors are known: the update needed no statistics."))
        elif style == "sparsity" and max(known) - min(known) < 5e-5:
            rows.append(Charts(quantity, note=f"Sparsity: {known[0]:.2%} of every linear."))
        else:
            top = 1.0 if style == "sparsity" else max(known)
            charts = [
                _panel(kind, style, blocks, of_kind, top, f"{name}-{style}-{place}")
                for place, (kind, of_kind) in enumerate(values.items())
            ]
            rows.append(Charts(quantity, dict(zip(values, charts, strict=True))))
    return rows


def _panel(
    kind: str, style: str, blocks: list[int], values: list[float | None], top: float, name: str
) -> Markup | None:
    known = [(value, block) for value, block in zip(values, blocks, strict=True) if value is not None]
    if not known:
        return None
    (least, at_least), (most, at_most) = min(known), max(known)
    said = f"From {least:.2%} in block {at_least} to {most:.2%} in block {at_most}. Figures are in the table."
    peak = f"{top:.0%}" if top >= 0.1 else f"{top:.1%}"
    return bar_chart(Bars(f"{style} of {kind}", said, blocks, values, top, ("0", peak), style, name))


def all_pairs(comparison: Comparison, name: str) -> Framed:
    """Return the overlap of each two artifacts over all blocks, as a heat map."""
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
    return _common(comparison, grid, top, "Each with each, all blocks together.")


def _common_cell(
    key: str, top: float, figures: dict[str, float | None] | None, what: str, *, written: bool = False
) -> Cell | None:
    """Return a cell on the scale from chance (0 if unknown) to `top`."""
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
    """Return the end of the scale of a kind of comparison."""
    return max([_LEAST_RATIO, *(each for each in values if each is not None)]) if kind == "stats" else 1.0


def _common(comparison: Comparison, grid: Grid, top: float, caption: str) -> Framed:
    key = drawn_figure(comparison.kind)
    low, high = (
        ("chance", f"{top:.0%}") if comparison.kind == "masks" else (compared_figure(key, each) for each in (0.0, top))
    )
    return Framed(heat_map(grid), LIKENESS, low, high, caption)


def overlap_figure(comparison: Comparison, pair: Pair, name: str) -> Framed:
    """Return the overlap of a pair, by block and kind of linear, as a heat map."""
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
    return _common(comparison, grid, top, f"Columns are blocks. {whole} as a whole.")
