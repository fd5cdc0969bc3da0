"""Collects what a report shows from the artifacts of a workspace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.records import ModelRecord, TextRecord, TunedRecord
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
from langprune_cli.stages.report.report import Figure, Matrix, Reconstruction, Report, Subject
from langprune_cli.stages.structured.keep_masks import of_linears
from langprune_cli.store.artifact import WEIGHTS, Artifact, open_artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.manifest import Manifest
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel, model_artifact

Open = Callable[[Artifact], OpenedModel]  # the model that an artifact was made of


def collect(
    workspace: Workspace,
    evaluations: Sequence[Artifact],
    models: Sequence[Artifact],
    compared: Sequence[Artifact],
    open_model: Open,
    reporter: Reporter,
) -> Report:
    """Collect what a report shows. models, compared: what was named; where nothing was, what the evaluations lead to.

    Raises LangpruneError for artifacts that are damaged, and for named ones that cannot be compared.
    """
    pruned = _PrunedModels(workspace, evaluations, reporter)
    matrices = tuple(_matrix(workspace, each, pruned) for each in evaluations)
    subjects = [subject.of for matrix in matrices for subject in matrix.subjects if subject.of]
    subjects += [each for matrix in matrices for each in matrix.tasks_of]
    masks = [each for each in subjects if each.manifest.kind == "masks"]
    shown = list(models) or [
        *(each for each in subjects if each.manifest.kind == "models"),
        *pruned.with_masks({mask.key for mask in masks}),
    ]
    sources = _sources(workspace, [*shown, *compared, *subjects, *evaluations], pruned)
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
    return Report(matrices, tuple(each for each in reconstructions if each.linears), tuple(comparisons), sources)


class _PrunedModels:
    """The workspace's models by the digest of their checkpoints, by which rows and manifests know them.

    A digest has to be computed from a model's files. So a model is looked for by the name that is on record beside the
    digest, then by the sha256 of its weights, where an evaluation has that, and only what is found so is digested.
    """

    def __init__(self, workspace: Workspace, evaluations: Sequence[Artifact], reporter: Reporter) -> None:
        self._workspace = workspace
        self._reporter = reporter
        self._digests: dict[Path, str | None] = {}
        self._weights: dict[str, str] = {}
        for each in evaluations:
            known = each.manifest.about.get(WEIGHTS)
            self._weights |= known if isinstance(known, dict) else {}

    def get(self, digest: str, *abouts: ModelRecord | None) -> Artifact | None:
        """Return the model with that digest; abouts: the records, one of which may name it."""
        for about in abouts:
            named = model_artifact(self._workspace, about["name"]) if about and about.get("name") else None
            if named and self._digest(named) == digest:
                return named
        weights = self._weights.get(digest)
        alike = self._workspace.newest_first("models", lambda outline: outline.weights == weights) if weights else ()
        return next((each for each in alike if self._digest(each) == digest), None)

    def with_masks(self, keys: set[str]) -> list[Artifact]:
        """Return the models that were made with these masks, by their keys; two of the same bytes are one."""
        found = self._workspace.having("models", lambda outline: outline.inputs.get("mask") in keys)
        return list({digest: each for each in found if (digest := self._digest(each))}.values())

    def _digest(self, model: Artifact) -> str | None:
        """Return a model's digest, None of a damaged one, and note that."""
        if model.folder not in self._digests:
            try:
                self._digests[model.folder] = Checkpoint(model.folder).digest()
            except (LangpruneError, OSError):
                self._reporter.note(f"skipped damaged model {model.name}")
                self._digests[model.folder] = None
        return self._digests[model.folder]


def _matrix(workspace: Workspace, evaluation: Artifact, pruned: _PrunedModels) -> Matrix:
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
        subjects.append(Subject(row["mask"] or model_label(row), of, dense=place == 0))
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


def _sources(workspace: Workspace, shown: Sequence[Artifact], pruned: _PrunedModels) -> tuple[Artifact, ...]:
    """Return artifacts and all that they were made from, as far as it is there, what something was made from before it."""
    found: dict[str, Artifact] = {}
    seen: set[str] = set()

    def add(artifact: Artifact) -> None:
        if artifact.key not in seen:
            seen.add(
                artifact.key
            )  # before its parents: a mask that removes nothing makes the model that it was made for
            inputs, about = artifact.manifest.inputs, artifact.manifest.about
            tuned: TunedRecord = about.get("tuned", {})
            parents = [workspace.by_key(kind, key) for kind, key in _parents(artifact.manifest)]
            parents += [workspace.by_key("stats", key) for key in _trained_on(artifact, workspace)]
            before = [(inputs.get("model"), about.get("model")), (inputs.get("pruned"), tuned.get("model"))]
            models = [pruned.get(digest, named) for digest, named in before if digest is not None]
            for each in [*models, *parents]:
                if each:
                    add(each)
            found[artifact.key] = artifact

    for each in shown:
        add(each)
    return tuple(found.values())


def _trained_on(model: Artifact, workspace: Workspace) -> list[str]:
    """Return the keys of the statistics whose windows a model was tuned on."""
    tuned: TunedRecord = model.manifest.about.get("tuned", {})
    text: TextRecord = tuned.get("text", {})
    source = text.get("source")
    found = []
    folder = Path(source).parent.resolve() if source else None
    for name in workspace.names("stats") if folder else ():
        place = workspace.root / "stats" / name
        if place.resolve() == folder:
            with suppress(LangpruneError):  # damaged or not complete: none that a report could show
                found.append(open_artifact(place, "stats").key)
    return found


def _parents(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield kind and key of what an artifact was made from."""
    inputs = manifest.inputs
    stats = [manifest.stats, *manifest.added, inputs.get("allocation_stats")]
    masks = [*inputs.get("masks", []), inputs.get("mask")]
    yield from (("stats", key) for key in stats if key)
    yield from (("masks", key) for key in masks if key)


def _comparisons(sources: Sequence[Artifact], open_model: Open, reporter: Reporter) -> Iterator[Comparison]:
    """Yield a comparison of the masks, and one of the statistics, of each model that has two or more of them."""
    for kind, comparable in (("masks", _has_weights), ("stats", _has_norms)):
        groups: dict[str, list[Artifact]] = {}
        for each in sources:
            if each.manifest.kind == kind and comparable(each):
                groups.setdefault(each.manifest.inputs["model"], []).append(each)
        for artifacts in groups.values():
            if len(artifacts) > 1:
                try:
                    yield compare_artifacts(artifacts, open_model(artifacts[0]) if kind == "masks" else None, reporter)
                except LangpruneError as error:  # the model may be gone; the rest of the report does not need it
                    reporter.note(f"No comparison of {kind}: {error}")


def _has_weights(mask: Artifact) -> bool:
    return of_linears(mask.manifest)


def _has_norms(stats: Artifact) -> bool:
    return "norms" in stats.manifest.params["collect"]


def _distinct(artifacts: Sequence[Artifact]) -> list[Artifact]:
    return list({each.key: each for each in artifacts}.values())
