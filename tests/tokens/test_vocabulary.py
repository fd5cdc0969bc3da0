"""Which tokens have to stay: the alphabet, what other parts name, and what the kept tokens are made of."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.merging import merge_path
from langprune_cli.tokens.token_bytes import byte_characters
from langprune_cli.tokens.trimmed_tokenizer import trimmed
from langprune_cli.tokens.vocabulary import Vocabulary, id_places
from tests.support.text.text_corpora import word_piece
from tests.support.text.tokenizer_training import (
    BYTES,
    KINDS,
    SPECIAL,
    gpt2_like,
    llama2_like,
    llama3_like,
    unigram_with_fallback,
    without_fallback,
    xlmr_like,
)
from tests.tokens.test_merging import merged_naively

Make = Callable[[], dict[str, Any]]
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
every_bpe = pytest.mark.parametrize("make", [gpt2_like, llama3_like, llama2_like, without_fallback])


def changed(make: Make, **model: Any) -> dict[str, Any]:
    """Return a description with settings of its model changed."""
    described = copy.deepcopy(make())
    described["model"] |= model
    return described


def alone(described: dict[str, Any]) -> Any:
    """Return the bare model of a tokenizer, which merges and does not look whole words up."""
    model = described["model"] | ({"ignore_merges": False} if described["model"]["type"] == "BPE" else {})
    return Tokenizer.from_str(json.dumps(described | {"model": model})).model


def strings(vocabulary: Vocabulary, ids: frozenset[int]) -> set[str]:
    return {vocabulary.tokens[i] for i in ids}


@every_bpe
def test_tokens_that_merging_reached_are_reached_from_what_is_closed(make: Make) -> None:
    described = make()
    vocabulary = Vocabulary.of(described)
    whole = alone(described)
    ids = range(vocabulary.size - 1, 0, -9)
    stay = vocabulary.closed({*vocabulary.required(), *ids})
    left = alone(trimmed(described, sorted(stay)))
    reached = 0
    for i in stay - vocabulary.named:
        token = vocabulary.tokens[i]
        if [part.value for part in whole.tokenize(token)] == [token]:
            assert [part.value for part in left.tokenize(token)] == [token]
            reached += 1
    assert reached > 300
    assert len(stay) < vocabulary.size * 0.8


@every_bpe
def test_closure_of_a_token_is_its_path(make: Make) -> None:
    vocabulary = Vocabulary.of(make())
    lengths = set()
    for i in sorted(vocabulary.pieces.values())[::7]:
        token = vocabulary.tokens[i]
        after = merged_naively(token, vocabulary.ranks)
        expected = {token}.union(*after) if after[-1] == {token} else {token}
        assert strings(vocabulary, vocabulary.closed([i])) == expected
        lengths.add(len(expected))
    assert max(lengths) > 6


def test_word_that_no_merge_makes_stays_without_a_path() -> None:
    vocabulary = Vocabulary.of(llama3_like())
    unreachable = [i for token, i in vocabulary.pieces.items() if merge_path(token, vocabulary.ranks) is None]
    assert len(unreachable) > 50
    assert vocabulary.closed(unreachable) == set(unreachable)


@every_kind
def test_closing_twice_adds_nothing_and_everything_is_closed(make: Make) -> None:
    vocabulary = Vocabulary.of(make())
    assert vocabulary.closed(vocabulary.tokens) == vocabulary.tokens.keys()
    some = vocabulary.closed(range(0, vocabulary.size, 7))
    assert vocabulary.closed(some) == some
    assert vocabulary.closed([]) == frozenset()


@every_kind
def test_required_are_names_digits_and_an_alphabet(make: Make) -> None:
    described = make()
    vocabulary = Vocabulary.of(described)
    required = vocabulary.required()
    assert {token["id"] for token in described["added_tokens"]} <= required
    tokens = strings(vocabulary, required)
    digits = {piece for piece in vocabulary.pieces if piece.isascii() and piece.isdigit() and len(piece) < 4}
    assert digits
    assert digits <= tokens
    assert {piece for piece in vocabulary.pieces if len(piece) == 1 and piece.isascii()} <= tokens
    assert {f"{vocabulary.space}{digit}" for digit in "0123456789"} & vocabulary.pieces.keys() <= tokens
    assert tokens >= set(BYTES) & vocabulary.pieces.keys()
    assert len(required) < 400


def test_alphabets() -> None:
    for make in (gpt2_like, llama3_like):
        vocabulary = Vocabulary.of(make())
        assert vocabulary.kind == "byte-level BPE"
        assert strings(vocabulary, vocabulary.required()) >= byte_characters()
    for make in (llama2_like, unigram_with_fallback):
        vocabulary = Vocabulary.of(make())
        tokens = strings(vocabulary, vocabulary.required())
        assert vocabulary.falls_back
        assert "▁" in tokens
        assert "і" in vocabulary.pieces
        assert "і" not in tokens
    for make in (without_fallback, xlmr_like):
        vocabulary = Vocabulary.of(make())
        assert {piece for piece in vocabulary.pieces if len(piece) == 1} <= strings(vocabulary, vocabulary.required())


def test_mark_of_spaces_stays_by_itself() -> None:
    """As bytes it would be read back as the mark: decoders look for it before they join bytes."""
    pieces = ["<unk>", *SPECIAL, *BYTES, "▁", "т", "а", "▁т", "▁та"]
    merges = [["▁", "т"], ["▁т", "а"]]
    described = changed(llama2_like, vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    vocabulary = Vocabulary.of(described)
    required = vocabulary.required()
    assert strings(vocabulary, required) == {"<unk>", *SPECIAL, *BYTES, "▁"}
    small = Tokenizer.from_str(json.dumps(trimmed(described, sorted(required))))
    assert small.decode(small.encode("та  та").ids) == "та  та"


def test_characters_stay_where_an_unknown_one_is_an_error() -> None:
    described = copy.deepcopy(unigram_with_fallback())
    described["model"]["unk_id"] = None
    with pytest.raises(Exception, match="unk"):
        Tokenizer.from_str(json.dumps(described)).encode("\u1234", add_special_tokens=False)
    vocabulary = Vocabulary.of(described)
    assert {piece for piece in vocabulary.pieces if len(piece) == 1} <= strings(vocabulary, vocabulary.required())


@pytest.mark.parametrize("broken", ["setting", "decoder", "piece"])
def test_characters_stay_where_bytes_do_not_stand_in_for_them(broken: str) -> None:
    described = changed(llama2_like, byte_fallback=broken != "setting")
    if broken == "decoder":
        described["decoder"]["decoders"] = [
            step for step in described["decoder"]["decoders"] if step["type"] != "ByteFallback"
        ]
    if broken == "piece":
        vocab = described["model"]["vocab"]
        described["model"]["vocab"] = {"<0xNN>" if piece == "<0x7F>" else piece: i for piece, i in vocab.items()}
    vocabulary = Vocabulary.of(described)
    assert not vocabulary.falls_back
    tokens = strings(vocabulary, vocabulary.required())
    assert {piece for piece in vocabulary.pieces if len(piece) == 1 or piece in BYTES} <= tokens


def test_piece_that_alone_holds_a_character_stays() -> None:
    described = copy.deepcopy(xlmr_like())
    described["model"]["vocab"] += [["дощ☔", -9.0], ["дощик", -9.0]]
    vocabulary = Vocabulary.of(described)
    tokens = strings(vocabulary, vocabulary.required())
    assert "дощ☔" in tokens
    assert "дощик" not in tokens


def test_word_that_alone_holds_a_byte_stays() -> None:
    described = copy.deepcopy(llama3_like())
    vocab = described["model"]["vocab"]
    nul = "Ā"  # how GPT-2's table writes the byte 0
    vocab["☔"] = vocab.pop(nul)
    word = next(piece for piece in vocab if len(piece) > 4)
    vocab[nul + word] = vocab.pop(word)
    described["model"]["merges"] = [
        merge for merge in described["model"]["merges"] if word not in {*merge, "".join(merge)}
    ]
    vocabulary = Vocabulary.of(described)
    assert nul + word in strings(vocabulary, vocabulary.required())
    assert len(vocabulary.required()) < 400


def test_lowest_score_stays_and_so_do_the_letters_of_a_piece() -> None:
    described = unigram_with_fallback()
    vocabulary = Vocabulary.of(described)
    required = vocabulary.required()
    assert min(vocabulary.scores) == min(vocabulary.scores[i] for i in required)
    word = max((piece for piece in vocabulary.pieces if "к" in piece), key=len)
    assert strings(vocabulary, vocabulary.closed([vocabulary.pieces[word]])) == {word, *word}


def test_named_ids_are_found_everywhere() -> None:
    gpt2 = Vocabulary.of(gpt2_like())
    assert strings(gpt2, gpt2.named) == set(SPECIAL)
    described = copy.deepcopy(without_fallback())
    described["added_tokens"] = []
    assert strings(Vocabulary.of(described), Vocabulary.of(described).named) == {"<s>", "<unk>"}  # frame, unknown token
    described = copy.deepcopy(xlmr_like())
    described["added_tokens"] = []
    described["padding"] = {"strategy": "BatchLongest", "pad_id": 1, "pad_token": "<pad>"}
    assert strings(Vocabulary.of(described), Vocabulary.of(described).named) == {"<s>", "</s>", "<pad>", "<unk>"}
    assert len(list(id_places(described))) == 4


def test_always_stays_with_what_it_is_made_of() -> None:
    vocabulary = Vocabulary.of(llama2_like())
    i = vocabulary.size - 1
    assert vocabulary.required([i]) == vocabulary.required() | vocabulary.closed([i])
    with pytest.raises(LangpruneError, match=f"no token of the id {i + 1}, and its ids end at {i}:"):
        vocabulary.required([i + 1])


def test_pair_that_stands_twice_has_its_later_rank_as_in_the_library() -> None:
    described = changed(without_fallback, vocab={"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6})
    described |= {"added_tokens": [], "post_processor": None}
    described["model"]["merges"] = [["a", "b"], ["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]
    vocabulary = Vocabulary.of(described)
    assert [part.value for part in alone(described).tokenize("abc")] == ["abc"]
    assert strings(vocabulary, vocabulary.closed([6])) == {"a", "b", "c", "bc", "abc"}


def test_first_files_do_not_name_their_type() -> None:
    described = copy.deepcopy(gpt2_like())
    del described["model"]["type"]
    assert Vocabulary.of(described) == Vocabulary.of(gpt2_like())


def test_tokens_that_share_a_prefix_share_its_path() -> None:
    pieces = ["<unk>", *"lowerst", "lo", "low", "er", "lower", "es", "est", "lowest"]
    merges = [["e", "r"], ["e", "s"], ["l", "o"], ["es", "t"], ["lo", "w"], ["low", "er"], ["low", "est"]]
    described = changed(without_fallback, vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    described |= {"added_tokens": [], "post_processor": None}
    vocabulary = Vocabulary.of(described)
    closed = vocabulary.closed([vocabulary.pieces["lowest"]])
    assert strings(vocabulary, closed) == {*"lowest", "lo", "low", "es", "est", "lowest"}
    small = alone(trimmed(described, sorted(closed | vocabulary.required())))
    assert [part.value for part in small.tokenize("lowest")] == ["lowest"]
    assert [part.value for part in small.tokenize("lower")] == ["low", "e", "r"]


def test_tokenizer_that_is_not_described_by_parts() -> None:
    class Slow:
        """No `backend_tokenizer`."""

    with pytest.raises(
        LangpruneError, match=r"the vocabulary of a Slow cannot be trimmed, since it has no tokenizer\.json"
    ):
        Vocabulary.opened(Slow())


def _with_processor(described: dict[str, Any]) -> dict[str, Any]:
    return described | {"post_processor": {"type": "Sequence", "processors": [{"type": "Framing", "start": 3}]}}


def _moved(described: dict[str, Any], k: int) -> dict[str, Any]:
    described = copy.deepcopy(described)
    described["added_tokens"][k]["id"] += 7
    return described


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (
            json.loads(word_piece().backend_tokenizer.to_str()),
            "describes a WordPiece, whose vocabulary cannot be trimmed",
        ),
        ({"model": {"type": "WordLevel", "vocab": {}}}, "describes a WordLevel"),
        ({"model": {"vocab": {}}}, "model of unknown type"),
        ({}, "model of unknown type"),
        (changed(gpt2_like, end_of_word_suffix="</w>"), "end_of_word_suffix '</w>'"),
        (changed(gpt2_like, continuing_subword_prefix="##"), "continuing_subword_prefix '##'"),
        (changed(llama2_like, merges=[["<0xE2>", "<0x96>"]]), "merges byte pieces"),
        (_with_processor(llama2_like()), "post-processor of the unknown type Framing"),
        (_moved(gpt2_like(), 1), "gives the token '</s>' the id 1608, and opened it has 1601"),
        (_moved(llama3_like(), 1), "gives the token '</s>' the id [0-9]+, and opened it has"),
    ],
)
def test_what_cannot_be_trimmed_is_said_in_a_sentence(described: dict[str, Any], says: str) -> None:
    with pytest.raises(LangpruneError, match=says) as caught:
        Vocabulary.of(described)
    assert "\n" not in str(caught.value)


def test_id_of_a_frame_that_is_no_token() -> None:
    described = copy.deepcopy(gpt2_like())
    described["padding"]["pad_id"] = 99_999
    with pytest.raises(LangpruneError, match="no token of the id 99999"):
        Vocabulary.of(described)
