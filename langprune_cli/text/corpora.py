"""Which text stands for a language: a registry of corpora, and how --lang and --data become texts to read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.text.hub import HUB_PREFIX, parse_hub_source
from langprune_cli.text.sources import BUILTIN_PREFIX, local_path, strip_text_suffix
from langprune_cli.types import TextSpec

BUILTIN = ("en", "uk")  # languages of the demo text that is installed with the program


@dataclass(frozen=True)
class Corpus:
    """A public dataset of one language, whose two splits differ: nobody evaluates on calibration text."""

    language: str  # BCP-47 tag
    dataset: str  # owner/name on the Hugging Face Hub
    config: str | None
    calibration_split: str
    evaluation_split: str
    column: str

    def source(self, *, evaluation: bool) -> str:
        """Return the `hf:owner/name[:config]:split#column` of the calibration or the evaluation half."""
        split = self.evaluation_split if evaluation else self.calibration_split
        parts = [self.dataset, *([self.config] if self.config else []), split]
        return f"{HUB_PREFIX}{':'.join(parts)}#{self.column}"


CORPORA: dict[str, Corpus] = {
    corpus.language: corpus
    for corpus in (
        Corpus(
            language="en",
            dataset="allenai/c4",
            config="en",
            calibration_split="train",
            evaluation_split="validation",
            column="text",
        ),
        Corpus(
            language="uk",
            dataset="mshamrai/lang-pruning-uk-uber-text-2",
            config=None,
            calibration_split="train",
            evaluation_split="test",
            column="text",
        ),
    )
}

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")


def check_language_tag(tag: str) -> str:
    """Return `tag` in BCP-47's usual letter case (`pt-br` becomes `pt-BR`, `sr-LATN` becomes `sr-Latn`).

    Only the form is checked (RFC 5646, section 2.1, without its registry): any language may be given with
    --data. Raises UsageError for anything that is not a primary language of 2 or 3 letters with optional
    subtags.
    """
    if not _TAG.fullmatch(tag):
        near = near_matches(tag.lower().replace("_", "-"), CORPORA)
        raise UsageError(
            f"{tag!r} is not a language tag: write 2 or 3 letters, then subtags after hyphens if any, "
            f"such as uk, en or pt-BR ({near})"
        )
    primary, *subtags = tag.split("-")
    cased = [{2: s.upper(), 4: s.title()}.get(len(s), s.lower()) if s.isalpha() else s.lower() for s in subtags]
    return "-".join([primary.lower(), *cased])


def resolve_texts(
    languages: Sequence[str],  # tags, in the order given
    data: Sequence[str],  # sources, in the order given
    *,
    evaluation: bool,
    builtin: bool,
) -> list[TextSpec]:
    """Turn the values of --lang and --data into texts to read; nothing is opened yet.

    Both given: paired by order, each text is named after its language. Languages alone: the built-in text
    where `builtin` (no model was named), else the registered corpus, of which `evaluation` chooses the
    held-out split. Data alone: no language, named after the file. A name used twice gets -2, -3 and so on.

    Raises UsageError if nothing is given, the counts differ, or a tag is malformed; LangpruneError for a
    language without a known corpus.
    """
    tags = [check_language_tag(tag) for tag in languages]
    if not tags and not data:
        raise UsageError("name a language with --lang or a text with --data")
    if tags and data and len(tags) != len(data):
        raise UsageError(
            f"--lang was given {len(tags)} time{'s' * (len(tags) > 1)} and --data {len(data)} "
            f"time{'s' * (len(data) > 1)}: they are paired in order, so give one --data for each --lang"
        )
    if not data:
        specs = [TextSpec(tag, _known_source(tag, evaluation=evaluation, builtin=builtin), tag) for tag in tags]
    elif tags:
        specs = [TextSpec(tag, source, tag) for tag, source in zip(tags, data, strict=True)]
    else:
        specs = [TextSpec(None, source, source_name(source)) for source in data]
    return _with_distinct_names(specs)


def source_name(source: str) -> str:
    """Return a name for a text without a language: the file's stem, or the folder's or dataset's name."""
    if source.startswith(HUB_PREFIX):
        stem = parse_hub_source(source).dataset.rpartition("/")[2]
    elif source.startswith(BUILTIN_PREFIX):
        stem = source.split(":")[1]
    else:
        path, _ = local_path(source)
        stem = strip_text_suffix(path.name if path.name not in {"", ".", ".."} else path.resolve().name)
    # The name becomes a folder of the workspace: letters of any script are fine, separators and blanks are
    # not.
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "text"


def _known_source(tag: str, *, evaluation: bool, builtin: bool) -> str:
    known = BUILTIN if builtin else tuple(CORPORA)
    if tag not in known:
        what = "built-in demo text" if builtin else "corpus"
        raise LangpruneError(
            f"there is no {what} for the language {tag!r} ({near_matches(tag, known)}): "
            f"give text of your own with --lang {tag} --data FILE"
        )
    return f"{BUILTIN_PREFIX}{tag}" if builtin else CORPORA[tag].source(evaluation=evaluation)


def _with_distinct_names(specs: list[TextSpec]) -> list[TextSpec]:
    taken: set[str] = set()
    distinct = []
    for spec in specs:
        name, count = spec.name, 1
        while name in taken:
            count += 1
            name = f"{spec.name}-{count}"
        taken.add(name)
        distinct.append(replace(spec, name=name))
    return distinct
