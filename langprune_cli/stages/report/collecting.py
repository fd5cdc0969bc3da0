"""Collects a report's content from the artifacts of a workspace."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from langprune_cli.errors import LangpruneError
from langprune_cli.records import ModelRecord
from langprune_cli.stages.apply.model_writing import PRUNING_PART, read_pruned
from langprune_cli.stages.combine.compare import Comparison, compare_artifacts
from langprune_cli.stages.evaluate.earlier import read_result
from langprune_cli.stages.evaluate.rows import (
    Row,
    change_of,
    comparable_ppl,
    interval_of,
    marks,
    model_label,
)
from langprune_cli.stages.recover.looks import RECOVERY_PART, read_looks
from langprune_cli.stages.report.report import Figure, Matrix, Reconstruction, Recovered, Report, ReportedModel
from langprune_cli.stages.report.sources import PrunedModels, sources_behind
from langprune_cli.stages.structured.keep_masks import of_linears
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel

Open = Callable[[Artifact], OpenedModel]  # opens the model of an artifact


def collect(
    workspace: Workspace,
    evaluations: Sequence[Artifact],
    models: Sequence[Artifact],
    compared: Sequence[Artifact],
    open_model: Open,
    reporter: Reporter,
) -> Report:
    """Collect a report's content. models, compared: the named artifacts; if empty, those behind the evaluations.

    Raises LangpruneError for damaged artifacts, and for named ones that cannot be compared.
    """
    pruned = PrunedModels(workspace, evaluations, reporter)
    matrices = tuple(_matrix(workspace, each, pruned) for each in evaluations)
    subjects = _subjects(matrices)
    masks = [each for each in subjects if each.manifest.kind == "masks"]
    shown = list(models) or [
        *(each for each in subjects if each.manifest.kind == "models"),
        *pruned.with_masks({mask.key for mask in masks}),
    ]
    sources = sources_behind(workspace, [*shown, *compared, *subjects, *evaluations], pruned)
    reconstructions = tuple(
        Reconstruction(each, tuple(read_pruned(each)))
        for each in _distinct(shown)
        if PRUNING_PART in each.manifest.parts
    )
    if compared:
        opened = open_model(compared[0]) if compared[0].manifest.kind == "masks" else None
        comparisons = [compare_artifacts(compared, opened, reporter)]
    else:
        comparisons = list(_comparisons(sources, open_model, reporter))
    shown_linears = tuple(each for each in reconstructions if each.linears)
    behind = tuple(
        (each, sources_behind(workspace, [each], pruned)) for each in sources if each.manifest.kind == "models"
    )
    recovered = (each for each in sources if RECOVERY_PART in each.manifest.parts)
    recoveries = tuple(Recovered(each, tuple(read_looks(each))) for each in recovered)
    return Report(matrices, shown_linears, tuple(comparisons), sources, behind, recoveries)


def sources_of(workspace: Workspace, artifact: Artifact, reporter: Reporter) -> tuple[Artifact, ...]:
    """Return an artifact and all its sources in the workspace, each after its own sources.

    Statistics and masks made by `prune` come with its model.
    """
    evaluations = [artifact] if artifact.manifest.kind == "evals" else []
    pruned = PrunedModels(workspace, evaluations, reporter)
    subjects = _subjects([_matrix(workspace, each, pruned) for each in evaluations])
    return sources_behind(workspace, [*subjects, artifact], pruned, with_pruned=True)


def _subjects(matrices: Sequence[Matrix]) -> list[Artifact]:
    """Return the evaluated masks and models."""
    subjects = [subject.of for matrix in matrices for subject in matrix.subjects if subject.of]
    return subjects + [each for matrix in matrices for each in matrix.tasks_of]


def _matrix(workspace: Workspace, evaluation: Artifact, pruned: PrunedModels) -> Matrix:
    result = read_result(evaluation)
    texts = [list(rows) for _, rows in groupby(result["rows"], key=lambda row: row["text"])]
    marked = [marks(rows, result.get("compare", [])) for rows in texts]
    labels = [*(row["model"] for row in result["rows"]), *(row["model"] for row in result.get("tasks", []))]
    known: dict[str, ModelRecord] = {each: {"name": each} for each in labels}
    known |= evaluation.manifest.about.get("models", {})
    subjects, figures = [], []
    for place, row in enumerate(texts[0] if texts else []):
        mask = workspace.by_key("masks", row["mask_key"]) if row["mask_key"] else None
        of = mask or (None if row["mask_key"] else pruned.get(row["model_digest"], known.get(row["model"])))
        subjects.append(ReportedModel(row["mask"] or model_label(row), of, dense=place == 0))
        figures.append(
            tuple(
                _figure(rows[place], rows[0], of_text[place]) if place < len(rows) else None
                for rows, of_text in zip(texts, marked, strict=True)
            )
        )
    run_on = evaluation.manifest.inputs.get("tasks", {}).get("models", [])
    return Matrix(
        evaluation,
        tuple(rows[0] for rows in texts),
        tuple(subjects),
        tuple(figures),
        tuple(result.get("tasks", [])),
        tuple(filter(None, (pruned.get(each["model_digest"], *known.values()) for each in run_on))),
    )


def _figure(row: Row, dense: Row, mark: str) -> Figure:
    low, high = (row is not dense and interval_of(row)) or (None, None)
    significant = row.get("significant") if row is not dense else None
    return Figure(comparable_ppl(row), row["bpb"], change_of(row, dense), low, high, significant, mark)


def _comparisons(sources: Sequence[Artifact], open_model: Open, reporter: Reporter) -> Iterator[Comparison]:
    """Yield comparisons of each model's masks and of its statistics, if it has two or more."""
    for kind, comparable in (("masks", _has_weights), ("stats", _has_norms)):
        groups: dict[str, list[Artifact]] = {}
        for each in sources:
            if each.manifest.kind == kind and comparable(each):
                groups.setdefault(each.manifest.inputs["model"], []).append(each)
        for artifacts in groups.values():
            if len(artifacts) > 1:
                try:
                    yield compare_artifacts(artifacts, open_model(artifacts[0]) if kind == "masks" else None, reporter)
                except LangpruneError as error:  # the model may be gone, and the rest of the report does not need it
                    reporter.note(f"No comparison of {kind}: {error}")


def _has_weights(mask: Artifact) -> bool:
    return of_linears(mask.manifest)


def _has_norms(stats: Artifact) -> bool:
    return "norms" in stats.manifest.params["collect"]


def _distinct(artifacts: Sequence[Artifact]) -> list[Artifact]:
    return list({each.key: each for each in artifacts}.values())
