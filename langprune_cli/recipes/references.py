"""Names of artifacts in a recipe, looked for before it runs: earlier stages make them, or the workspace holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.location.location import check_hub_id, local_path
from langprune_cli.recipes.nodes import WrongError
from langprune_cli.requests.compare import COMPARED
from langprune_cli.requests.shared.values import MASK_FILES, several, workspace_folder
from langprune_cli.store.workspace import Workspace

if TYPE_CHECKING:
    from langprune_cli.recipes.reading import Stage, StageList

# Fields that name artifacts, and of which kind; what `model` names differs.
_KINDS = {"stats": "stats", "scores": "scores", "mask": "masks", "evaluation": "evals"}
# What a command takes the newest of where it is left out: (field, kind, the command that makes it).
_NEWEST = {
    "apply": ("mask", "masks", "mask"),
    "export": ("model", "models", "apply"),
    "report": ("evaluation", "evals", "eval"),
}


@dataclass(frozen=True)
class Promise:
    """What a stage will have made."""

    kind: str
    name: str | None  # None: a name that is known once it is made
    of_texts: bool = False  # whether `-uk`, `-en` and the like follow the name

    def may_be(self, kind: str, name: str) -> bool:
        """Return whether it may be the artifact of that kind and name."""
        known = self.name is not None
        of_text = self.of_texts and name.startswith(f"{self.name}-")
        return self.kind == kind and (not known or self.name == name or of_text)


def check(recipe: StageList) -> None:
    """Raise UsageError where a stage names an artifact that neither an earlier stage makes nor the workspace holds.

    A stage without a name makes what cannot be known here: what may be that is looked for when its stage runs.
    """
    workspace = Workspace(workspace_folder(recipe.workspace), dry=True)
    promised: list[Promise] = []
    for stage in recipe.stages:
        try:
            _check_stage(stage, promised, workspace)
        except WrongError as error:
            raise recipe.located(error) from error
        promised += promises(stage)


def promises(stage: Stage) -> Iterator[Promise]:
    """Yield what a stage will have made."""
    request, command = stage.request, stage.command.name
    name: str | None = getattr(request, "name", None)
    if command == "calibrate":
        tags = several(getattr(request, "lang", ()))
        texts = max(len(tags), len(several(getattr(request, "data", ()))))
        mixed = any(":" in each for each in tags)
        yield Promise("stats", name, of_texts=texts > 1 and not mixed)
    elif command == "combine":
        yield Promise(str(getattr(request, "kind", "")), name)
    elif command in {"score", "mask", "eval"}:
        yield Promise({"score": "scores", "mask": "masks", "eval": "evals"}[command], name)
    elif command in {"apply", "prune", "recover"}:
        tuned, patterns = getattr(request, "tune", False), several(getattr(request, "pattern", ()))
        out = getattr(request, "out", None)
        alone = not tuned and len(patterns) < 2
        for kind in ("stats", "masks", "models") if command == "prune" else ("models",):
            yield Promise(kind, name)
            if not alone or (kind == "models" and out):  # what is made on the way has names of its own
                yield Promise(kind, None)


def made_before(stage: Stage, earlier: Iterable[Stage]) -> bool:
    """Return whether earlier stages may make the model that a stage names."""
    named = several(getattr(stage.request, "model", None) or ())
    return any(each.may_be("models", name) for one in earlier for each in promises(one) for name in named)


def _check_stage(stage: Stage, promised: Sequence[Promise], workspace: Workspace) -> None:
    for field, kinds, name in _named(stage):
        if not any(each.may_be(kind, name) for each in promised for kind in kinds):
            _check_held(stage, field, kinds, name, (promised, workspace))
    for name in _models(stage):
        path, is_local = local_path(name, None)
        own = any(each.may_be("models", name) for each in promised)
        if not own and not is_local and not (workspace.root / "models" / path.name).exists():
            try:
                check_hub_id(name, path)
            except LangpruneError as error:
                raise stage.wrong(f"model: {error}", "model") from error
    if stage.command.name in _NEWEST:
        field, kind, maker = _NEWEST[stage.command.name]
        made = any(each.kind == kind for each in promised)
        if not several(getattr(stage.request, field) or ()) and not made and not workspace.names(kind):
            raise stage.wrong(
                f"no stage before makes {kind}, and the workspace {workspace.root} has none: put a stage {maker} before"
            )


def _check_held(
    stage: Stage, field: str, kinds: Sequence[str], name: str, where: tuple[Sequence[Promise], Workspace]
) -> None:
    promised, workspace = where
    for kind in kinds:
        with suppress(LangpruneError):
            workspace.find(kind, name)
            return
    known = {each for kind in kinds for each in workspace.names(kind)}
    known |= {each.name for each in promised if each.kind in kinds and each.name}
    key = next(each.name for each in stage.command.keys.values() if each.field == field)
    what = " or ".join(kinds)
    raise stage.wrong(
        f"{key} {name!r} is no artifact of {what} that a stage before makes or the workspace {workspace.root} holds: "
        f"{near_matches(name, known)}",
        field,
    )


def _named(stage: Stage) -> Iterator[tuple[str, Sequence[str], str]]:
    """Yield the field, the kinds that it may be of, and the name of each artifact that a stage names."""
    request, command = stage.request, stage.command.name
    if command in {"combine", "compare"}:
        kind = getattr(request, "kind", None)
        yield from (("names", (kind,) if kind else COMPARED, each) for each in several(getattr(request, "names", ())))
    if command == "report":
        yield from (("compare", COMPARED, each) for each in getattr(request, "compare", None) or ())
    if command in {"export", "report"}:
        yield from (("model", ("models",), each) for each in several(getattr(request, "model", None) or ()))
    for field, kind in _KINDS.items():
        for each in several(getattr(request, field, None) or ()):
            if not each.endswith(MASK_FILES):
                yield field, (kind,), each


def _models(stage: Stage) -> list[str]:
    """Return the models that a stage names and that need no artifacts."""
    if stage.command.name in {"export", "report"}:
        return []
    return several(getattr(stage.request, "model", None) or ())
