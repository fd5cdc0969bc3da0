"""The recipe behind artifacts: the commands that made them, as the stages of a YAML file that `langprune run` runs."""

import json
import re
from collections.abc import Callable, Sequence

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.report.commands import Commands
from langprune_cli.stages.report.options import Words
from langprune_cli.store.artifact import Artifact

# Words that need no quotes in YAML, except those that some readers take for other values.
_PLAIN = re.compile(r"[\w./][\w./+=@#%^$-]*(?::[\w./+=@#%^$-]+)*")
_NO_TEXTS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
# Characters that YAML forbids even in quotes.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def recipe_of(artifact: Artifact, sources: Sequence[Artifact], shown: Callable[[str], str] = str) -> str:
    """Return the recipe of an artifact. sources: the artifact and all its sources, each after its own sources.

    shown: writes the path of a file or model. Raises LangpruneError for a model that single stages cannot make,
    and for what is made on the way to one.
    """
    if artifact.manifest.kind in {"logits", "divergences"}:
        by = "recover" if artifact.manifest.kind == "logits" else "mask or prune"
        raise LangpruneError(
            f"{artifact.manifest.kind}/{artifact.name} are made by {by} on its way: ask for the recipe of a model that read them"
        )
    made = Commands(sources, shown)
    stages = []
    for each in sources:
        if made.tuned_after_several(each):
            raise LangpruneError(
                f"models/{each.name} was made by one prune of several patterns with --tune, which single stages do not repeat: "
                "run that command again"
            )
        stages += [_stage(words) for words in made.steps(each)]
    lines = [
        f"# How {artifact.manifest.kind}/{artifact.name} was made, key {artifact.key[:16]}: langprune run FILE --workspace FOLDER"
    ]
    lines += [f"# Missing: the artifact whose key begins with {each}" for each in sorted(made.gone)]
    return "\n".join([*lines, "stages:", *stages]) + "\n"


def _stage(words: Words) -> str:
    """Return a command as a stage: its options as keys, one per line."""
    command, *rest = words
    keys: dict[str, list[str]] = {}
    if command == "combine":  # its arguments have no names on the command line
        number = next((place for place, word in enumerate(rest) if word.startswith("--")), len(rest))
        keys = {"kind": rest[:1], "names": rest[1:number]}
        rest = rest[number:]
    for place, word in enumerate(rest):
        if not word.startswith("--"):
            continue
        name, value = word.removeprefix("--"), next(iter(rest[place + 1 :]), "--")
        if value.startswith("--"):
            keys[name.removeprefix("no-")] = ["false" if name.startswith("no-") else "true"]
        else:
            keys.setdefault(name, []).append(_text(value))
    return "\n".join([f"  - {command}:", *(f"      {name}: {_value(values)}" for name, values in keys.items())])


def _value(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def _text(text: str) -> str:
    """Return a text in YAML, quoted and escaped if needed."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08x}", quoted)
