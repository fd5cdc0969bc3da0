"""Chooses the tokens to keep, by how often each occurs in the user's languages."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil
from typing import cast

import numpy as np
from numpy.typing import NDArray

from langprune_cli.defaults import COVERAGE
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.records import VocabularyRecord
from langprune_cli.tokens.counting import TokenCounts
from langprune_cli.tokens.json_values import IdPlace, Json, items
from langprune_cli.tokens.vocabulary import Kind, Vocabulary

ROUND_TO = 64  # rows of embeddings and head are a multiple of this, for matrix kernels


@dataclass(frozen=True)
class VocabularyTarget:
    """How many tokens to keep: those that cover a share of each language's text, or a fixed number."""

    coverage: float | None = COVERAGE  # None: `size` counts
    size: int | None = None
    round_to: int = ROUND_TO
    keep_chat: bool = True  # whether to keep tokens of chats, Markdown and code even if unseen

    def __post_init__(self) -> None:
        """Raise UsageError for impossible values."""
        if self.size is None and not 0 < (self.coverage or 0) <= 1:
            raise UsageError(f"--coverage {self.coverage:g} is no share of a text: give one above 0, up to 1")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--vocab-size {self.size} is no number of tokens: give how many are to stay")
        if self.round_to < 1:
            raise UsageError(f"--round-to {self.round_to} is no step: give 1 or more")

    def __str__(self) -> str:
        return f"vocab:{self.size}" if self.size is not None else f"vocab:{self.coverage:g}"


@dataclass(frozen=True)
class LanguageCoverage:
    """How much of a language's text the kept tokens cover, and what is lost."""

    language: str
    tokens: int  # of the text that was counted
    covered: float  # share of them whose token stays
    seen: int  # different tokens in the text
    lost: int  # of these, how many leave


@dataclass(frozen=True)
class VocabularyChoice:
    """The kept ids, and their coverage of each language."""

    stay: tuple[int, ...]  # ascending
    rows: int  # of the whole vocabulary
    required: int  # ids that stay whatever the text
    languages: tuple[LanguageCoverage, ...]
    kind: Kind  # of the tokenizer
    chat: int | None = None  # ids that stay for chats, Markdown and code alone; None: none was to
    new: tuple[float, ...] = ()  # by language: about what share of other text are tokens that were not counted once

    def record(self) -> VocabularyRecord:
        """Return the record that an artifact keeps of the choice."""
        record = {
            "rows_before": self.rows,
            "rows_after": len(self.stay),
            "required": self.required,
            **({} if self.chat is None else {"chat": self.chat}),
            "languages": [asdict(each) for each in self.languages],
        }
        return cast("VocabularyRecord", record)


def choose_vocabulary(
    vocabulary: Vocabulary,
    counts: Mapping[str, TokenCounts],  # by language
    target: VocabularyTarget,
    *,
    always: Collection[int] = (),
    chat: Collection[int] | None = None,
    rows: int,  # of the embedding: it may have more than the tokenizer has tokens
) -> VocabularyChoice:
    """Choose the tokens to keep: the most frequent ones of each language, their parts, and those that must be kept.

    With a coverage, each language keeps the fewest tokens that cover it, and the union is kept. With a size, tokens are
    ordered by their largest share in any language. The number kept is rounded up to a multiple with the next tokens in
    that order, or is the whole vocabulary. always: ids that configurations name; ids beyond the tokenizer's are rows that
    are kept unchanged. chat: ids of chats, Markdown and code, which are kept too.
    Raises UsageError for a size below what has to stay, LangpruneError for counts of nothing and ids without a row.
    """
    if (last := max([vocabulary.size - 1, *always])) >= rows:
        raise LangpruneError(
            f"the id {last} is named by the model's files, and its embeddings have {rows} rows: use the tokenizer and the "
            "configuration that belong to the model"
        )
    for language, each in counts.items():
        if not each.tokens:
            raise LangpruneError(
                f"no token of {language} was counted: give text to langprune calibrate --collect tokens"
            )
    beyond = {i for i in always if i >= vocabulary.size}
    required = vocabulary.required([i for i in always if i not in beyond])
    plain = required  # what stays before tokens are added up to the number
    if target.size is None:
        wanted = {i for each in counts.values() for i in _covering(each, float(target.coverage or 0))}
        plain = required | vocabulary.closed(sorted(wanted & vocabulary.tokens.keys()))
    without_chat = len(required) + len(beyond)
    required |= vocabulary.closed(chat or ())
    stay = plain | required
    order = _order(vocabulary, counts)
    least = len(required) + len(beyond)
    if target.size is None:
        goal = -(-(len(stay) + len(beyond)) // target.round_to) * target.round_to
    else:
        goal = -(-target.size // target.round_to) * target.round_to
        if least > goal:
            of_chat = "" if chat is None else ", those of chats, Markdown and code"
            instead = "" if chat is None else f", or {without_chat} or more with --no-keep-chat"
            raise UsageError(
                f"--vocab-size {target.size} is less than the {least} tokens that have to stay (special tokens, bytes or "
                f"characters, digits{of_chat}, and what they are made of): give {least} or more{instead}"
            )
    kept = sorted(_filled(vocabulary, set(stay), order, goal - len(beyond)) | beyond)
    covered = tuple(_covered(name, each, kept) for name, each in counts.items())
    # Of a size, tokens of the text have to go for those of chats.
    without = (
        plain if target.size is None or chat is None else _filled(vocabulary, set(plain), order, goal - len(beyond))
    )
    for_chat = None if chat is None else len((stay & set(kept)) - without)
    new = tuple(_unseen(each, kept) for each in counts.values())
    return VocabularyChoice(tuple(kept), rows, least, covered, vocabulary.kind, for_chat, new)


def ids_in(record: dict[str, object]) -> set[int]:
    """Return every token id in a configuration, config.json or generation_config.json."""
    return {place.id for place in _named(record)}


def replace_ids(record: dict[str, object], new: Mapping[int, int]) -> None:
    """Replace every token id in a configuration by its new id; raises KeyError for an id that is not kept."""
    for place in list(_named(record)):
        place.replace(new[place.id])


def _named(record: dict[str, object]) -> Iterator[IdPlace]:
    """Yield the place of every token id."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _named(value)
        elif key.endswith(("_token_id", "_token_index")) and _is_id(value):
            yield IdPlace.in_object(record, key)
        elif key == "forced_decoder_ids" and isinstance(value, list):
            yield from (IdPlace.in_array(pair, 1) for pair in map(items, value) if _is_id(pair[1]))
        elif key.endswith(("_token_id", "_token_ids", "suppress_tokens", "_words_ids")) and isinstance(value, list):
            yield from _places(value)


def _places(ids: list[Json]) -> Iterator[IdPlace]:
    for place, value in enumerate(ids):
        if isinstance(value, list):
            yield from _places(value)
        elif _is_id(value):
            yield IdPlace.in_array(ids, place)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0  # -1 stands for none in some


def _shares(counts: Mapping[str, TokenCounts]) -> NDArray[np.float64]:  # [v]
    """Return each token's largest share in any language."""
    found = np.zeros(max((len(each.counts) for each in counts.values()), default=0))
    for each in counts.values():
        share = each.counts.numpy() / each.tokens
        found[: len(share)] = np.maximum(found[: len(share)], share)
    return found


def _order(vocabulary: Vocabulary, counts: Mapping[str, TokenCounts]) -> list[int]:
    """Return all ids, the most frequent first; ties by id, since vocabularies are ordered from frequent to rare."""
    shares = _shares(counts)
    return sorted(vocabulary.tokens, key=lambda i: (-shares[i] if i < len(shares) else 0.0, i))


def _covering(counts: TokenCounts, coverage: float) -> list[int]:
    """Return the fewest ids that cover `coverage` of a text; ties by id."""
    numbers = counts.counts.numpy()
    order = np.argsort(-numbers, kind="stable")
    # The share as it is written, and in whole numbers: a product in floating point may ask for one token more.
    needed = ceil(Fraction(str(coverage)) * counts.tokens)
    many = int(np.searchsorted(np.cumsum(numbers[order]), needed)) + 1
    return [int(i) for i in order[:many] if numbers[i]]


def _filled(vocabulary: Vocabulary, stay: set[int], order: list[int], goal: int) -> set[int]:
    """Add tokens in order, each with its parts, until `goal` are kept; skip a token that would exceed it."""
    for i in order:
        if len(stay) >= goal:
            break
        if i not in stay:
            parts = vocabulary.closed([i]) - stay
            if len(stay) + len(parts) <= goal:
                stay |= parts
    return stay


def _unseen(counts: TokenCounts, stay: list[int]) -> float:
    """Estimate the share of similar text made up of unseen tokens that are pruned.

    Good (1953): all unseen tokens together are as frequent as those seen once. Unseen tokens that are kept anyway are assumed
    to be no more frequent than the others.
    """
    numbers = counts.counts.numpy()
    unseen = int((numbers == 0).sum())
    staying = sum(1 for i in stay if i < len(numbers) and not numbers[i])
    return float((numbers == 1).sum() / counts.tokens) * (1 - staying / unseen if unseen else 0.0)


def _covered(language: str, counts: TokenCounts, stay: list[int]) -> LanguageCoverage:
    numbers = counts.counts.numpy()
    kept = np.zeros(len(numbers), dtype=bool)
    kept[[i for i in stay if i < len(numbers)]] = True
    seen = numbers > 0
    return LanguageCoverage(
        language, counts.tokens, float(numbers[kept].sum() / counts.tokens), int(seen.sum()), int((seen & ~kept).sum())
    )
