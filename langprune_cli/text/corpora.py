"""Resolves --lang, --corpus and --data to the texts to read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.text.hub import HUB_PREFIX, parse_hub_source
from langprune_cli.text.languages import (
    iso_and_script,
    known_as,
    language_name,
    near_languages,
    own_name,
    read_language,
)
from langprune_cli.text.presets import CORPORA, DEFAULT_ORDER, LISTED, Corpus
from langprune_cli.text.sources import BUILTIN_PREFIX, local_path, strip_text_suffix
from langprune_cli.types import TextSpec

BUILTIN = ("en", "uk")  # languages of the built-in demo text
_LANGUAGE_AND_SCRIPT = re.compile(r"[a-z]+-([A-Z][a-z]{3})")


@dataclass(frozen=True)
class LanguageRow:
    """The texts of one language when no corpus is named."""

    tag: str
    name: str  # in English
    own_name: str
    corpus: Corpus
    also: tuple[str, ...]  # other corpora known to have the language

    @property
    def calibration(self) -> str | None:
        """Return the source of text to calibrate on."""
        return source_of(self.corpus, self.tag, evaluation=False)

    @property
    def evaluation(self) -> str | None:
        """Return the source of text to evaluate on."""
        return source_of(self.corpus, self.tag, evaluation=True)


def resolve_texts(
    languages: Sequence[str],  # tags or names, in the order given
    data: Sequence[str],  # sources, in the order given
    *,
    evaluation: bool,
    builtin: bool,
    corpus: str | None = None,
) -> list[TextSpec]:
    """Turn the values of --lang, --data and --corpus into texts to read; nothing is opened yet.

    Languages and data: paired by order, each text is named after its language. Languages alone: the built-in text
    where `builtin` (no model was named) and no corpus is, else the language's corpus, of which `evaluation` chooses the
    held-out text. Data alone: no language, named after the file. A name used twice gets -2, -3 and so on.

    Raises UsageError if nothing is given, the counts differ, a language or corpus is unknown, or a corpus is named
    beside data; LangpruneError for a language of which the corpus has no text.
    """
    tags = [read_language(language) for language in languages]
    if corpus is not None and (data or not tags):
        raise UsageError(f"--corpus {corpus} says where the text of each --lang comes from: give --lang, and no --data")
    if not tags and not data:
        raise UsageError("name a language with --lang or a text with --data")
    if tags and data and len(tags) != len(data):
        raise UsageError(
            f"--lang was given {len(tags)} time{'s' * (len(tags) > 1)} and --data {len(data)} "
            f"time{'s' * (len(data) > 1)}: they are paired in order, so give one --data for each --lang"
        )
    if not data:
        specs = [TextSpec(tag, _known_source(tag, corpus, evaluation=evaluation, builtin=builtin), tag) for tag in tags]
    elif tags:
        specs = [TextSpec(tag, source, tag) for tag, source in zip(tags, data, strict=True)]
    else:
        specs = [TextSpec(None, source, source_name(source)) for source in data]
    return _with_distinct_names(specs)


def source_of(corpus: Corpus, tag: str, *, evaluation: bool) -> str | None:
    """Return the `hf:owner/name[:config]:split#column` of a language; None if the corpus is known not to have it.

    A corpus with unlisted configs is assumed to have every language; the Hub decides.
    """
    split = corpus.evaluation if evaluation else corpus.calibration
    names = known_as(tag)
    listed = next((name for name in names if name in corpus.languages), None)
    if split is None or corpus.without.intersection(names) or (listed is None and corpus.scripts is None):
        return None
    config = corpus.languages[listed] if listed else None
    if corpus.scripts is not None:
        language, script = iso_and_script(tag)
        config = f"{language}_{corpus.scripts.get(script, script)}"
    return f"{HUB_PREFIX}{':'.join([corpus.dataset, *([config] if config else []), split])}#{corpus.column}"


def default_corpus(tag: str) -> Corpus:
    """Return the default corpus of a language: the first that lists it, else the last."""
    *listing, last = (CORPORA[name] for name in DEFAULT_ORDER)
    return next((corpus for corpus in listing if not corpus.languages.keys().isdisjoint(known_as(tag))), last)


def hub_text_note(spec: TextSpec) -> str | None:
    """Return a note on the text that --lang stands for: its origin, contents and licence."""
    corpora = [each for each in CORPORA.values() if spec.source.startswith(f"{HUB_PREFIX}{each.dataset}:")]
    if not corpora or spec.language is None:
        return None
    (corpus,) = corpora
    note = f"Text for {spec.language} ({language_name(spec.language)}): {spec.source} ({corpus.about}; licence {corpus.licence})."
    if not _keeps_apart(corpus, spec.language):
        note += f" The corpus does not keep {spec.language} apart from other text in the language."
    return note


def find_languages(query: str | None) -> list[LanguageRow]:
    """Return the languages that a corpus lists, by tag: all, those of a tag, or those with `query` in their name.

    Raises LangpruneError with the nearest ones if there is none.
    """
    rows = [_row(tag) for tag in sorted(LISTED)]
    if query is None:
        return rows
    names = _tags_of(query)
    found = [row for row in rows if row.tag in names]
    found += [
        row
        for row in rows
        if row not in found
        and (len(query) > 2 or not query.isascii())
        and query.casefold() in f"{row.name}\n{row.own_name}".casefold()
    ]
    if not found and names:
        raise LangpruneError(
            f"no corpus is known to hold text in {language_name(names[0])} ({names[0]}): --lang {names[0]} asks "
            f"{DEFAULT_ORDER[-1]}, which has more languages than are listed, and --data takes text of your own"
        )
    if not found:
        raise LangpruneError(
            f"{query!r} is in no name of a language that is listed: leave it out to see them all{near_languages(query)}"
        )
    return found


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


def _known_source(tag: str, name: str | None, *, evaluation: bool, builtin: bool) -> str:
    own = f"give text of your own with --lang {tag} --data FILE"
    if builtin and name is None:
        if tag not in BUILTIN:
            raise LangpruneError(
                f"there is no built-in demo text for the language {tag!r} ({near_matches(tag, BUILTIN)}): name a model with "
                f"--model, or {own}"
            )
        return f"{BUILTIN_PREFIX}{tag}"
    if name is not None and name not in CORPORA:
        raise UsageError(f"--corpus {name!r} is unknown: {near_matches(name, CORPORA)}")
    corpus = default_corpus(tag) if name is None else CORPORA[name]
    source = source_of(corpus, tag, evaluation=evaluation)
    if source is None and (corpus.evaluation if evaluation else corpus.calibration) is None:
        known = [each.name for each in CORPORA.values() if source_of(each, tag, evaluation=evaluation)]
        raise UsageError(
            f"the corpus {corpus.name} is for {'calibration' if evaluation else 'evaluation'} only: choose another --corpus "
            f"(for {tag}: {', '.join(known)})"
        )
    if source is None:
        raise LangpruneError(
            f"the corpus {corpus.name} has no text in {language_name(tag)} ({tag}): leave out --corpus, or {own}"
        )
    return source


def _keeps_apart(corpus: Corpus, tag: str) -> bool:
    """Return whether a corpus separates the tag's script and region from the rest of the language."""
    if tag in corpus.languages or "-" not in tag:
        return True
    by_script = _LANGUAGE_AND_SCRIPT.fullmatch(tag)
    return bool(by_script and corpus.scripts is not None and by_script[1] not in corpus.scripts)


def _row(tag: str) -> LanguageRow:
    corpus = default_corpus(tag)
    names = known_as(tag)
    also = [
        each.name for each in CORPORA.values() if each is not corpus and not each.languages.keys().isdisjoint(names)
    ]
    return LanguageRow(tag, language_name(tag), own_name(tag), corpus, tuple(also))


def _tags_of(query: str) -> list[str]:
    """Return the tags under which the language named by `query` may be listed; none if it names no language."""
    try:
        return known_as(read_language(query))
    except UsageError:
        return []


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
