"""What artifacts were made from, found in the workspace: statistics, scores, masks and models, each before what came of it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.records import ModelRecord, TextRecord, TunedRecord
from langprune_cli.store.artifact import WEIGHTS, Artifact, open_artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.manifest import Manifest
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import model_artifact


class PrunedModels:
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


def sources_behind(
    workspace: Workspace, shown: Sequence[Artifact], pruned: PrunedModels, *, with_pruned: bool = False
) -> tuple[Artifact, ...]:
    """Return artifacts and all that they were made from, as far as it is there, what something was made from before it.

    with_pruned: also the models that statistics and masks were made on the way to.
    """
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
            for each in _pruned_with(artifact, workspace) if with_pruned else ():
                add(each)

    for each in shown:
        add(each)
    return tuple(found.values())


def _pruned_with(artifact: Artifact, workspace: Workspace) -> Iterator[Artifact]:
    """Yield the masks and models that came of statistics of pruned blocks, and the model that came of such a mask."""
    manifest, key = artifact.manifest, artifact.key
    if manifest.params.get("propagation") == "pruned":
        for kind in ("masks", "models"):
            yield from list(workspace.having(kind, lambda outline: outline.inputs.get("stats") == key))[:1]
    gathered = workspace.by_key("stats", manifest.stats) if manifest.kind == "masks" and manifest.stats else None
    if gathered and gathered.manifest.params.get("propagation") == "pruned":
        yield from list(workspace.having("models", lambda outline: outline.inputs.get("mask") == key))[:1]


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
