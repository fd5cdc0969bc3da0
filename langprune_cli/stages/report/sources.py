"""Finds the sources of artifacts in the workspace: statistics, scores, masks and models, each before its results."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.records import ModelRecord, RecoveredRecord, TextRecord, TunedRecord
from langprune_cli.store.artifact import WEIGHTS, Artifact, open_artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.manifest import Manifest, of_pruned_blocks
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.model_choice import model_artifact


class PrunedModels:
    """The workspace's models by the digest of their checkpoints, which rows and manifests refer to.

    Computing a digest reads a model's files. So models are first looked up by the recorded name, then by the recorded sha256
    of the weights, and only those found are digested.
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
        """Return the model with that digest; abouts: records that may name it."""
        for about in abouts:
            named = model_artifact(self._workspace, about["name"]) if about and about.get("name") else None
            if named and self._digest(named) == digest:
                return named
        weights = self._weights.get(digest)
        alike = self._workspace.newest_first("models", lambda outline: outline.weights == weights) if weights else ()
        return next((each for each in alike if self._digest(each) == digest), None)

    def with_masks(self, keys: set[str]) -> list[Artifact]:
        """Return the models made with masks of these keys; models with equal bytes appear once."""
        found = self._workspace.having("models", lambda outline: outline.inputs.get("mask") in keys)
        return list({digest: each for each in found if (digest := self._digest(each))}.values())

    def _digest(self, model: Artifact) -> str | None:
        """Return a model's digest; None, with a note, for a damaged model."""
        if model.folder not in self._digests:
            try:
                self._digests[model.folder] = Checkpoint(model.folder).digest()
            except (LangpruneError, OSError):
                self._reporter.note(f"skipped damaged model {model.name}")
                self._digests[model.folder] = None
        return self._digests[model.folder]


def sources_behind(
    workspace: Workspace, shown: Sequence[Artifact], pruned: PrunedModels, *, with_pruned: bool = False
) -> tuple[Artifact, ...]:
    """Return artifacts and all their sources in the workspace, each after its own sources.

    with_pruned: also the models that `prune` made with statistics and masks among them.
    """
    found: dict[str, Artifact] = {}
    seen: set[str] = set()

    def add(artifact: Artifact) -> None:
        if artifact.key not in seen:
            seen.add(
                artifact.key
            )  # before its parents: a mask that removes nothing gives the same model, which is its own parent
            inputs, about = artifact.manifest.inputs, artifact.manifest.about
            trained: TunedRecord | RecoveredRecord = about.get("recovered") or about.get("tuned", {})
            teacher = about.get("recovered", {}).get("teacher")
            parents = [workspace.by_key(kind, key) for kind, key in _parents(artifact.manifest)]
            parents += [workspace.by_key("stats", key) for key in _trained_on(artifact, workspace)]
            before = [(inputs.get("model"), about.get("model")), (inputs.get("pruned"), trained.get("model"))]
            before += [(inputs.get("teacher"), teacher)]
            models = [pruned.get(digest, named) for digest, named in before if digest is not None]
            for each in [*models, *parents]:
                if each:
                    add(each)
            found[artifact.key] = artifact
            for each in _pruned_with(artifact, workspace) if with_pruned else ():
                add(each)

    for each in shown:
        add(each)
    return tuple(found.values())


def _pruned_with(artifact: Artifact, workspace: Workspace) -> Iterator[Artifact]:
    """Yield the mask and the model made from statistics of pruned blocks, and the model made from such a mask."""
    manifest, key = artifact.manifest, artifact.key
    if of_pruned_blocks(manifest):
        for kind in ("masks", "models"):
            yield from list(workspace.having(kind, lambda outline: outline.inputs.get("stats") == key))[:1]
    gathered = workspace.by_key("stats", manifest.stats) if manifest.kind == "masks" and manifest.stats else None
    if gathered and of_pruned_blocks(gathered.manifest):
        yield from list(workspace.having("models", lambda outline: outline.inputs.get("mask") == key))[:1]


def _trained_on(model: Artifact, workspace: Workspace) -> list[str]:
    """Return the keys of the statistics whose windows tuned a model."""
    tuned: TunedRecord = model.manifest.about.get("tuned", {})
    text: TextRecord = tuned.get("text", {})
    source = text.get("source")
    found = []
    folder = Path(source).parent.resolve() if source else None
    for name in workspace.names("stats") if folder else ():
        place = workspace.root / "stats" / name
        if place.resolve() == folder:
            with suppress(LangpruneError):  # damaged or incomplete
                found.append(open_artifact(place, "stats").key)
    return found


def _parents(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield kind and key of an artifact's direct sources."""
    inputs = manifest.inputs
    stats = [manifest.stats, *manifest.added, inputs.get("allocation_stats")]
    masks = [*inputs.get("masks", []), inputs.get("mask")]
    yield from (("stats", key) for key in stats if key)
    yield from (("masks", key) for key in masks if key)
