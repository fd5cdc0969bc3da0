"""The tables of a report, with every figure as text, for HTML and Markdown alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from langprune_cli.stages.combine.compare import Comparison, Pair
from langprune_cli.stages.evaluate.rows import TASK_COLUMNS, SizeRow, task_lines
from langprune_cli.stages.export.public import public_name
from langprune_cli.stages.report.report import (
    Figure,
    Matrix,
    Reconstruction,
    Report,
    ReportedModel,
    error_of,
    sparsity_of,
)
from langprune_cli.stages.solving.updating import PrunedLinear
from langprune_cli.store.artifact import Artifact

# Figures of a comparison by kind of artifact: figure -> heading. The heat map shows the first.
COMPARED_BY = {
    "masks": {
        "removed_overlap": "removed by both / either",
        "removed_overlap_by_chance": "the same by chance",
        "kept_overlap": "kept by both / either",
        "kept_overlap_by_chance": "the same by chance",
        "sparsity": "sparsity",
        "other_sparsity": "of the other",
    },
    "scores": {"spearman": "Spearman", "top_half_overlap": "upper halves: both / either"},
    "stats": {"log_ratio": "mean |log ratio|", "cosine": "cosine of norms", "apart": "columns 2x apart"},
}
_NO_SHARES = {"spearman", "log_ratio", "cosine"}


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> list[bool]:
        """Return for each column whether all its cells are figures."""
        return [
            bool(self.rows)
            and all(row[place][:1] in "+-0123456789" and len(row[place]) < 30 for row in self.rows if row[place])
            for place in range(len(self.columns))
        ]


def matrix_table(matrix: Matrix) -> Table:
    """Return models and masks by texts: ppl, its change with an interval and the mark of the best, bpb."""
    headings = [f"{text['text']}: {what}" for text in matrix.texts for what in ("ppl", "change", "bpb")]
    rows = [
        (subject.name, how(subject), *(cell for figure in figures for cell in _cells(figure)))
        for subject, figures in zip(matrix.subjects, matrix.figures, strict=True)
    ]
    return Table(f"Perplexity and bits per byte: {matrix.evaluation.name}", ("model", "pruned", *headings), tuple(rows))


def _cells(figure: Figure | None) -> tuple[str, str, str]:
    return (ppl(figure), f"{change(figure)} {figure.mark}".strip(), bits(figure)) if figure else ("", "", "")


def ppl(figure: Figure) -> str:
    """Return a formatted perplexity."""
    return "inf" if figure.ppl is None else f"{figure.ppl:.3f}"


def bits(figure: Figure) -> str:
    """Return formatted bits per byte, "" if unknown."""
    return "" if figure.bpb is None else f"{figure.bpb:.4f}"


def change(figure: Figure) -> str:
    """Return a change of ppl with its interval: "+13.8% (13.4 to 14.2)", and "noise" if the interval includes 0."""
    if figure.change is None:
        return ""
    interval = (
        "" if figure.low is None or figure.high is None else f" ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
    )
    whole = f"{figure.change:+.1%}".replace("-0.0%", "+0.0%")
    return f"{whole}{interval}" + (", noise" if figure.significant is False else "")


def how(subject: ReportedModel) -> str:
    """Return a few words on how a model was pruned."""
    if subject.dense:
        return "dense"
    if subject.of is None:
        return ""
    params = (
        subject.of.manifest.params if subject.of.manifest.kind == "masks" else subject.of.manifest.about.get("mask", {})
    )
    share = (
        f" {params['sparsity']:.0%}"
        if params.get("pattern") == "unstructured" and params.get("sparsity") is not None
        else ""
    )
    words = [f"{params.get('method', '')} {params.get('pattern', '')}{share}".strip()]
    words += [", ".join(sorted(subject.languages))] if subject.languages else []
    return ", ".join(filter(None, words))


def tasks_table(matrix: Matrix) -> Table:
    """Return the results of lm-evaluation-harness for all models."""
    return Table(f"Benchmark tasks: {matrix.evaluation.name}", TASK_COLUMNS, tuple(task_lines(matrix.tasks)))


def has_marks(matrix: Matrix) -> bool:
    """Return whether a best model is marked."""
    return any(each and each.mark for figures in matrix.figures for each in figures)


def texts_table(matrix: Matrix) -> Table:
    """Return the texts of an evaluation."""
    rows = [
        (
            row["text"], row["language"] or "", public_name(row["source"]), f"{row['windows']:,}", f"{row['seqlen']:,}",
            f"{row['tokens']:,}", row["dtype"], row["fingerprint"],
        )
        for row in matrix.texts
    ]  # fmt: skip
    columns = ("text", "language", "source", "windows", "seqlen", "predicted tokens", "dtype", "fingerprint")
    return Table(f"Texts of {matrix.evaluation.name}", columns, tuple(rows))


def findings(matrix: Matrix) -> list[str]:
    """Return a sentence for each text on the best and the worst pruned model."""
    said = []
    for place, text in enumerate(matrix.texts):
        rows = zip(matrix.subjects, matrix.figures, strict=True)
        known = [(of[place], subject) for subject, of in rows if not subject.dense]
        ranked = sorted(
            [(figure.change, figure, subject) for figure, subject in known if figure and figure.change is not None],
            key=lambda each: each[0],
        )
        if ranked:
            (_, least, best), (_, most, worst) = ranked[0], ranked[-1]
            words = f"On {text['text']}, {'best: ' if ranked[1:] else ''}{best.name}, ppl {change(least)}"
            alike = [subject.name for _, figure, subject in ranked if figure.mark == "="]
            words += f", not distinguishable from {' and '.join(alike)}" if alike else ""
            words += f"; worst: {worst.name}, {change(most)}" if ranked[1:] else ""
            said.append(f"{words}.")
    return said


def blocks_table(found: Reconstruction) -> Table:
    """Return sparsity and error of every kind of linear in every block."""
    kinds = found.kinds
    blocks = sorted({each.block for each in found.linears})
    rows = []
    for block in blocks:
        of_block = [kinds[kind].get(block, []) for kind in kinds]
        cells = [cell for linears in of_block for cell in _sparsity_and_error(linears)]
        rows.append((str(block), _share(sparsity_of([each for linears in of_block for each in linears])), *cells))
    headings = [f"{kind}: {what}" for kind in kinds for what in ("sparsity", "error")]
    return Table(f"Blocks of {found.model.name}", ("block", "sparsity", *headings), tuple(rows))


def _sparsity_and_error(linears: Sequence[PrunedLinear]) -> tuple[str, str]:
    return (_share(sparsity_of(linears)), _share(error_of(linears))) if linears else ("", "")


def kinds_table(found: Reconstruction) -> Table:
    """Return sparsity and error of each kind of linear, over all blocks."""
    rows = []
    for kind, blocks in found.kinds.items():
        linears = [each for of_block in blocks.values() for each in of_block]
        errors = [error for of_block in blocks.values() if (error := error_of(of_block)) is not None]
        most = max(errors, default=None)
        rows.append((kind, f"{len(linears):,}", _share(sparsity_of(linears)), _share(error_of(linears)), _share(most)))
    columns = ("linear", "number", "sparsity", "mean error", "largest error of a block")
    return Table(f"Linears of {found.model.name}", columns, tuple(rows))


def pairs_table(comparison: Comparison) -> Table:
    """Return what each two artifacts have in common as a whole."""
    shown = COMPARED_BY[comparison.kind]
    rows = [
        (f"{pair.one} and {pair.other}", *(compared_figure(name, pair.whole[name]) for name in shown))
        for pair in comparison.pairs
    ]
    return Table(f"Common to {comparison.kind}", ("pair", *shown.values()), tuple(rows))


def cells_table(comparison: Comparison, pair: Pair) -> Table:
    """Return what is drawn of a pair, by block and kind of linear."""
    name = drawn_figure(comparison.kind)
    kinds = list(pair.linears)
    found = {(cell.block, cell.linear): cell.sums.figures()[name] for cell in pair.cells}
    rows = [
        (
            str(block),
            *(compared_figure(name, found.get((block, kind))) for kind in kinds),
            compared_figure(name, figures[name]),
        )
        for block, figures in pair.blocks.items()
    ]
    whole = (
        "all",
        *(compared_figure(name, each[name]) for each in pair.linears.values()),
        compared_figure(name, pair.whole[name]),
    )
    title = f"{COMPARED_BY[comparison.kind][name]}: {pair.one} and {pair.other}"
    return Table(title, ("block", *kinds, "all"), (*rows, whole))


def drawn_figure(kind: str) -> str:
    """Return the figure that the heat map shows."""
    return next(iter(COMPARED_BY[kind]))


def compared_figure(name: str, value: float | None) -> str:
    """Return a formatted figure of a comparison."""
    return ("" if value is None else f"{value:.4f}") if name in _NO_SHARES else _share(value)


def sizes_table(rows: Sequence[SizeRow]) -> Table:
    """Return size and perplexity of smaller models before and after, in the columns of AMD Quark's published tables."""
    lines = [
        (
            row["model"], row["pruned"], f"{row['parameters_before']:,}", f"{row['pruning_rate']:.4%}",
            f"{row['parameters_after']:,}", row["text"],
            *("inf" if each is None else f"{each:.4f}" for each in (row["ppl_before"], row["ppl_after"])),
        )
        for row in rows
    ]  # fmt: skip
    columns = (
        "model",
        "pruned model",
        "size",
        "pruning rate",
        "pruned size",
        "text",
        "ppl before pruning",
        "ppl after pruning",
    )
    return Table("Smaller models", columns, tuple(lines))


def vocabulary_table(report: Report) -> Table:
    """Return the kept tokens' share of each language's text."""
    rows = []
    for mask in report.of_kind("masks"):
        if kept := mask.manifest.about.get("vocabulary"):
            tokens = f"{kept['rows_before']:,}", f"{kept['rows_after']:,}", f"{kept['required']:,}"
            rows += [
                (
                    mask.name, *tokens, each["language"], f"{each['tokens']:,}", f"{each['covered']:.4%}",
                    f"{each['seen']:,}", f"{each['lost']:,}",
                )
                for each in kept["languages"]
            ]  # fmt: skip
    columns = ("mask", "tokens before", "after", "required", "language", "counted", "covered", "different seen", "lost")
    return Table("Vocabularies", columns, tuple(rows))


def experts_table(report: Report) -> Table:
    """Return the experts pruned by magnitude because too few tokens reached them."""
    rows = [
        (mask.name, block, str(len(experts)), ", ".join(map(str, experts)))
        for mask in report.of_kind("masks")
        for block, experts in mask.manifest.about.get("experts_by_magnitude", {}).items()
    ]
    return Table("Experts pruned by magnitude", ("mask", "block", "experts", "which"), tuple(rows))


def artifacts_table(report: Report) -> Table:
    """Return the artifacts behind the report: keys, models, texts and versions."""
    rows = [(f"{each.manifest.kind}/{each.name}", each.key, *_made_with(each)) for each in report.sources]
    return Table(
        "Artifacts", ("artifact", "key", "model", "text and fingerprint", "seed", "made by", "with"), tuple(rows)
    )


def _made_with(artifact: Artifact) -> tuple[str, str, str, str, str]:
    manifest = artifact.manifest
    model = manifest.about.get("model") or {}
    name = public_name(model["name"], model.get("revision")) if model.get("name") else ""
    revision = f" at {model['revision']}" if model.get("revision") else ""
    text = manifest.about.get("text") or {}
    own = manifest.inputs.get("text") or {}
    texts = text.get("texts") or ([own | text] if own | text else [])
    read = "; ".join(
        f"{public_name(each['source'])} {each.get('fingerprint', '')}" for each in texts if each.get("source")
    )
    seeds = ", ".join(dict.fromkeys(str(each["seed"]) for each in texts if each.get("seed") is not None))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.environment.items()))
    return name + revision, read, seeds, manifest.tool, versions


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
