"""What `ls` shows of each artifact, kept in `.shown-<kind>`: manifests and results are not read again."""

from pathlib import Path
from typing import TypedDict

from langprune_cli.cli.display.results import describe, evaluated, languages_of, model_of
from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.index import Form, Index, Listed, listed
from langprune_cli.store.manifest import Manifest
from langprune_cli.version import __version__


class Shown(TypedDict):
    """What `ls` shows of one artifact, beside its name and its date."""

    key: str
    complete: bool
    bytes: int
    model: str | None
    languages: list[str]
    evaluated: list[str]  # models and masks that an evaluation measured
    what: str


def _shown(folder: Path, manifest: Manifest) -> Shown:
    """Return what is shown of an artifact; of an evaluation its result is read."""
    artifact = Artifact(folder, manifest)
    return {
        "key": manifest.key,
        "complete": manifest.complete,
        "bytes": artifact.size(),
        "model": model_of(manifest),
        "languages": languages_of(manifest),
        "evaluated": evaluated(folder, manifest),
        "what": describe(artifact),
    }


def _read(record: Shown) -> Shown:
    """Return what an index holds of an artifact; raises KeyError or TypeError for what is no such record."""
    texts = [record["key"], record["what"], record["model"] or "", *record["languages"], *record["evaluated"]]
    sound = isinstance(record["bytes"], int) and isinstance(record["complete"], bool)
    if not (sound and all(isinstance(each, str) for each in texts) and record.keys() == Shown.__annotations__.keys()):
        raise TypeError("a field is not what ls shows there")
    return record


# Each version has its own words, so an index that another one wrote is made anew.
_FORM = Form(f"ls of {__version__}", _shown, lambda shown: shown, _read)


def shown_in(root: Path, kind: str) -> tuple[list[tuple[Listed, Shown]], list[LangpruneError]]:
    """Return the artifacts of one kind in a workspace, oldest first, and what is wrong with each that cannot be read, by name."""
    index = Index(root / f".shown-{kind}", _FORM, frozen=False)
    there, found, damaged = listed(root, kind), [], {}
    for each in there:
        try:
            found.append((each, index.look(each)[0]))
        except LangpruneError as error:
            damaged[each.folder.name] = error
    index.keep(there)
    return found, [error for _, error in sorted(damaged.items())]
