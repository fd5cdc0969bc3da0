"""Which token ids must be kept so that a smaller vocabulary encodes like the whole one.

Two promises hold for ids that `Vocabulary.required` and `Vocabulary.closed` have completed: a text whose tokens are all
kept is cut into the same tokens, and any text survives encoding and decoding as with the whole vocabulary. Why the first
holds:

- BPE: every merge that a text needed lies on the path of one of its tokens (`merge_path`), so it stays. What is
  left of the ranked merges is a part of them in the same order: at each step the merge that came first comes
  first again, and at the end no other is possible.
- Unigram: the best path is the one whose pieces' log probabilities sum highest (Kudo 2018, arXiv 1804.10959).
  Fewer pieces leave fewer paths beside it, and where a character has lost its piece the path through the unknown
  piece counts less than the one that left: the lowest score less 10 (`tokenizers`, models/unigram/model.rs).
  That needs the lowest score itself to stay. Ties go by position, which no path beside it improves.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.json_values import IdPlace, Json, JsonObject, items, members, real, text, whole
from langprune_cli.tokens.merging import merge_path
from langprune_cli.tokens.token_bytes import added_tokens, byte_characters, description, space_mark, steps
from langprune_cli.tokens.tokenizer import Tokenizer

Kind = Literal["byte-level BPE", "BPE", "Unigram"]
Pair = tuple[str, str]

_BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# Numbers belong to every language, and a sample of text shows few of them. Tokenizers that group digits take up to
# three at a time, and a number after a space begins with a single one; longer pieces (years, mostly) are vocabulary
# like any other, and would be a tenth of one learned from code.
_DIGITS = re.compile(r"[0-9]{1,3}| [0-9]")
_BYTE_LEVEL_SPACE = "Ġ"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer and their parts."""

    kind: Kind
    tokens: dict[int, str]  # the string of each id, added tokens included
    pieces: dict[str, int]  # the model's own; added tokens are among them or come after
    named: frozenset[int]  # ids that other parts name: added tokens, post-processor, padding, the unknown token
    ranks: dict[Pair, int]  # BPE: pair -> rank of its merge
    scores: list[float]  # Unigram: log probability of each piece, by id
    space: str | None  # what a space is written as within tokens
    falls_back: bool  # characters without a piece are written as bytes, and read back

    @classmethod
    def opened(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """Read the vocabulary of a tokenizer as `transformers` opened it, which is what encodes the texts.

        It may differ from its tokenizer.json: some classes build a tokenizer of their own from pieces and merges
        (a T5Tokenizer never falls back to bytes), or add tokens, whose ids come after those of the file.

        Raises LangpruneError for a tokenizer without such a file, and where `of` does.
        """
        described = description(tokenizer)
        if described is None:
            raise LangpruneError(
                f"the vocabulary of a {type(tokenizer).__name__} cannot be trimmed, since it has no tokenizer.json: "
                "use a model with a fast tokenizer"
            )
        return cls.of(described)

    @classmethod
    def of(cls, described: JsonObject) -> "Vocabulary":
        """Read the vocabulary of a `tokenizer.json`.

        Raises LangpruneError for a kind whose tokens cannot leave one by one, for a file whose ids are not those that
        the library gives its tokens, and for one that is not such a file.
        """
        with well_formed("tokenizer.json"):
            return cls._of(described)

    @classmethod
    def _of(cls, described: JsonObject) -> "Vocabulary":
        kind = _kind(described)
        model = members(described["model"])
        unigram = kind == "Unigram"
        scored = unigram_pieces(model) if unigram else []
        own = dict(enumerate(piece for piece, _ in scored)) if unigram else {i: s for s, i in bpe_pieces(model).items()}
        # A string that stands twice has the later id, as in the library. So has a pair the later rank.
        pieces = {piece: i for i, piece in own.items()}
        count = len(scored) if unigram else len(members(model["vocab"]))
        decoder = steps(described.get("decoder"))
        vocabulary = cls(
            kind=kind,
            tokens=own | {i: token for token, i in _added(described, pieces, count).items()},
            pieces=pieces,
            named=_named(described, pieces),
            ranks={} if unigram else {pair: rank for rank, pair in enumerate(merge_pairs(model["merges"]))},
            scores=[score for _, score in scored],
            space=_BYTE_LEVEL_SPACE if kind == "byte-level BPE" else space_mark(decoder),
            falls_back=_falls_back(model, kind, pieces, decoder),
        )
        vocabulary.check(vocabulary.named)
        return vocabulary

    @property
    def size(self) -> int:
        """Return the number of ids: the highest plus one."""
        return max(self.tokens) + 1

    def check(self, ids: Collection[int]) -> None:
        """Raise LangpruneError if an id is not the tokenizer's."""
        if stranger := [i for i in ids if i not in self.tokens]:
            raise LangpruneError(
                f"the tokenizer has no token of the id {min(stranger)}, and its ids end at {self.size - 1}: "
                "use the tokenizer and the configuration that belong to the model"
            )

    def required(self, always: Collection[int] = ()) -> frozenset[int]:
        """Return the ids to keep for any text: named ones, `always`, the alphabet, and their parts.

        The alphabet makes any text writable: bytes if the tokenizer has them, else all characters and the longer pieces
        that are the only ones with some character. ASCII characters and short numbers are kept with it.
        """
        lowest = [self.scores.index(min(self.scores))] if self.scores else []
        return self.closed({*self.named, *always, *(self.pieces[piece] for piece in self._alphabet()), *lowest})

    def closed(self, ids: Collection[int]) -> frozenset[int]:
        """Return the ids and those of all their parts.

        BPE: the path of each token. One that merging never reaches is found as a whole word (`ignore_merges`)
        or not at all, and needs nothing. Unigram: its characters, so that words written with the same letters
        are not cut into bytes.

        Raises LangpruneError for an id that no token has.
        """
        self.check(ids)
        made_of: set[str] = set()
        tokens = [token for token in (self.tokens[i] for i in ids) if token in self.pieces]
        if self.kind == "Unigram":
            made_of.update(*tokens)
        else:
            # Longest first: the path of a token that lies on a longer one's is a part of that path.
            for token in sorted(tokens, key=len, reverse=True):
                if token not in made_of:
                    made_of |= merge_path(token, self.ranks) or set()
        return frozenset(ids) | {self.pieces[token] for token in made_of if token in self.pieces}

    def _alphabet(self) -> Iterator[str]:
        """Yield the pieces to keep so that any text can be written, and those of digits."""
        byte_level = self.kind == "byte-level BPE"
        space = self.space
        # Only these characters ever reach the pieces of a byte-level vocabulary.
        written = byte_characters() if byte_level else frozenset("".join(self.pieces))
        alone = {c for c in written if c in self.pieces}
        elsewhere = written - alone
        for piece in self.pieces:
            if len(piece) == 1:
                # A space written as bytes would be read back as the mark: decoders look for it before for bytes.
                stays = not self.falls_back or piece.isascii() or piece == space
            else:
                stays = piece in _BYTE_PIECES or not (self.falls_back or elsewhere.isdisjoint(piece))
            if stays or _DIGITS.fullmatch(piece.replace(space, " ", 1) if space else piece):
                yield piece


@contextmanager
def well_formed(where: str) -> Iterator[None]:
    """Turn the errors of reading a malformed file into a LangpruneError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, StopIteration) as error:
        raise LangpruneError(
            f"{where} is not laid out as the tokenizers library does it: copy the tokenizer again from where it came"
        ) from error


def unigram_pieces(model: JsonObject) -> list[tuple[str, float]]:
    """Return the pieces of a Unigram with their scores, by id."""
    return [(text(piece), real(score)) for piece, score in map(items, items(model["vocab"]))]


def bpe_pieces(model: JsonObject) -> dict[str, int]:
    """Return the pieces of a BPE with their ids."""
    return {piece: whole(i) for piece, i in members(model["vocab"]).items()}


def merge_pairs(merges: Json) -> Iterator[Pair]:
    """Yield the pairs of the merges of a `tokenizer.json`, which writes them as "a b" or as ["a", "b"]."""
    for merge in items(merges):
        if isinstance(merge, str):
            a, b = merge.split(" ")
            yield a, b
        else:
            first, second = items(merge)
            yield text(first), text(second)


def id_places(described: JsonObject) -> Iterator[IdPlace]:
    """Yield the place of every id in a `tokenizer.json` outside of the table of pieces.

    Raises LangpruneError for a post-processor of an unknown type, which might name some.
    """
    for token in added_tokens(described):
        yield IdPlace.in_object(token, "id")
    for step in steps(described.get("post_processor")):
        if step["type"] == "TemplateProcessing":
            for special in members(step["special_tokens"]).values():
                ids = items(members(special)["ids"])
                yield from (IdPlace.in_array(ids, k) for k in range(len(ids)))
        elif step["type"] in {"BertProcessing", "RobertaProcessing"}:
            yield IdPlace.in_array(items(step["sep"]), 1)
            yield IdPlace.in_array(items(step["cls"]), 1)
        elif step["type"] != "ByteLevel":
            raise LangpruneError(
                f"tokenizer.json has a post-processor of the unknown type {step['type']}: use a model without it"
            )
    if described.get("padding"):
        yield IdPlace.in_object(members(described["padding"]), "pad_id")
    model = members(described["model"])
    if model.get("unk_id") is not None:
        yield IdPlace.in_object(model, "unk_id")


def _kind(described: JsonObject) -> Kind:
    """Return the kind of a tokenizer, or raise LangpruneError for one whose tokens cannot leave one by one."""
    model = members(described.get("model") or {})
    written = model.get("type")
    if written is None and "merges" in model:
        written = "BPE"  # files of the library's first versions do not say
    if written == "Unigram":
        return "Unigram"
    if written != "BPE":
        raise LangpruneError(
            f"tokenizer.json describes a {written or 'model of unknown type'}, whose vocabulary cannot be trimmed: "
            "use a model with a BPE or a Unigram tokenizer"
        )
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise LangpruneError(
                f"tokenizer.json marks places in words ({affix} {model[affix]!r}), and such a vocabulary cannot be "
                "trimmed: use a model with a tokenizer that does not"
            )
    if model.get("byte_fallback") and any(not _BYTE_PIECES.isdisjoint(pair) for pair in merge_pairs(model["merges"])):
        raise LangpruneError(
            "tokenizer.json merges byte pieces (<0x00> to <0xFF>), and such a vocabulary cannot be trimmed: "
            "use a model with another tokenizer"
        )
    before = [*steps(described.get("normalizer")), *steps(described.get("pre_tokenizer"))]
    both_ways = all(
        any(step["type"] == "ByteLevel" for step in part) for part in (before, steps(described.get("decoder")))
    )
    return "byte-level BPE" if both_ways else "BPE"


def _falls_back(model: JsonObject, kind: Kind, pieces: dict[str, int], decoder: list[JsonObject]) -> bool:
    """Return whether a character without a piece becomes bytes that the decoder turns back into it."""
    return (
        bool(model.get("byte_fallback"))
        and pieces.keys() >= _BYTE_PIECES
        and any(step["type"] == "ByteFallback" for step in decoder)
        and not (kind == "Unigram" and model.get("unk_id") is None)  # an error there, before bytes are tried
    )


def _added(described: JsonObject, pieces: dict[str, int], count: int) -> dict[str, int]:
    """Return the ids of the added tokens, or raise LangpruneError if they are not those that the library gives.

    It does not read the ids in the file: a token has its piece's, or the next after the model's `count` pieces.
    """
    added: dict[str, int] = {}
    for token in added_tokens(described):
        content = text(token["content"])
        if content not in added:
            added[content] = pieces.get(content, count)
            count += content not in pieces
        if token["id"] != added[content]:
            raise LangpruneError(
                f"tokenizer.json gives the token {content!r} the id {token['id']}, and opened it has {added[content]}: "
                "repair the file, or save the tokenizer anew with AutoTokenizer.from_pretrained and save_pretrained"
            )
    return added


def _named(described: JsonObject, pieces: dict[str, int]) -> frozenset[int]:
    """Return the ids that parts of a tokenizer name, by number or, as a BPE its unknown token, by string."""
    named = {place.id for place in id_places(described)}
    unknown = members(described["model"]).get("unk_token")
    return frozenset(named | ({pieces[unknown]} if isinstance(unknown, str) and unknown in pieces else set()))
