"""A trimmed tokenizer: texts whose tokens stay are cut as before, and any text is read back as before."""

import copy
import functools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from langprune_cli.tokens.trimmed_tokenizer import id_map, trimmed
from langprune_cli.tokens.vocabulary import Vocabulary
from tests.support.text.tokenizer_training import (
    KINDS,
    gpt2_like,
    lines,
    llama2_like,
    llama3_like,
    unigram_with_fallback,
    xlmr_like,
)

Make = Callable[[], dict[str, Any]]
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)

HARD = (
    "",
    " ",
    "   \n\n\t \r\n ",
    "▁ ▁▁ <0xE2> <0x41><unk> </s><|user|>Ġ Ċ",
    "👨‍👩‍👧‍👦 🏳️‍🌈 🇺🇦🇺 👍🏽 e\u0301 \u200d\u200b\ufeff",
    "\x00\x01\x1f\x7f\x80\x9f\xa0\xad",
    "\u0378\u0e00\U000e0fff\ufffe\U0010ffff\ufffd",
    "ﷺ ﬁ Å ＡＢＣ ①②③ ½ 10²",
    "𝕳𝖊𝖑𝖑𝖔 ᏣᎳᎩ ꦗꦮ 𓀀 ไทย မြန်မာ ខ្មែរ 한국어 ქართული አማርኛ",
    "a" * 300 + "é" * 50 + " " * 100,
)


@functools.cache
def opened(make: Make) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(make()))


def trimmed_to(make: Make, ids: set[int]) -> tuple[Tokenizer, list[int]]:
    """Return the tokenizer of the ids and all that has to stay with them, and which old ids those are."""
    vocabulary = Vocabulary.of(make())
    stay = sorted(vocabulary.required(ids))
    return Tokenizer.from_str(json.dumps(trimmed(make(), stay))), stay


@functools.cache
def least(make: Make) -> Tokenizer:
    return trimmed_to(make, set())[0]


@functools.cache
def frequent(make: Make) -> Tokenizer:
    counts = Counter(i for line in lines() for i in opened(make).encode(line).ids)
    return trimmed_to(make, {i for i, _ in counts.most_common(400)})[0]


@every_kind
@pytest.mark.parametrize("coverage", [0.6, 0.7, 0.8, 0.9])
def test_lines_whose_tokens_stay_are_cut_as_before(make: Make, coverage: float) -> None:
    """Kept are the most frequent tokens up to a share of the text, some others by chance, and those of some lines.

    The lines are of the rarer scripts, whose characters would all have left.
    """
    whole = [opened(make).encode(line).ids for line in lines()]
    counts = Counter(i for ids in whole for i in ids)
    chance = random.Random(round(coverage * 100))
    kept, covered = set(), 0
    for i, count in counts.most_common():
        covered += count
        if covered <= coverage * counts.total() or chance.random() < 0.05:
            kept.add(i)
    for line, ids in zip(lines(), whole, strict=True):
        if max(line) > "\u0600" and chance.random() < 0.5:
            kept.update(ids)
    small, stay = trimmed_to(make, kept)
    assert len(stay) < 0.95 * Vocabulary.of(make()).size
    new = id_map(stay, Vocabulary.of(make()).size)

    checked = multiple = 0
    scripts = set()
    for line, ids in zip(lines(), whole, strict=True):
        # Runs of words are lines as well: nothing in these tokenizers reaches over a line's end.
        words = line.split(" ")
        for k in range(0, len(words), 3):
            text = " ".join(words[k : k + 3])
            old = opened(make).encode(text).ids if len(words) > 3 else ids
            mapped = new[torch.tensor(old, dtype=torch.int64)]
            if bool((mapped >= 0).all()):
                assert small.encode(text).ids == mapped.tolist()
                assert [stay[i] for i in mapped.tolist()] == old
                checked += 1
                multiple += any(len(token) > 3 and token[0] != "<" for token in small.encode(text).tokens)
                scripts |= {ord(c) >> 8 for c in text}
    assert checked > 100
    assert multiple > 30
    assert len(scripts) >= 4


@every_kind
@pytest.mark.parametrize("make_small", [least, frequent])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_back_as_before(make_small: Callable[[Make], Tokenizer], make: Make, text: str) -> None:
    _read_back_as_before(make_small, make, text)


@every_kind
@pytest.mark.parametrize("make_small", [least, frequent])
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_hard_texts_are_read_back_as_before(make_small: Callable[[Make], Tokenizer], make: Make, text: str) -> None:
    _read_back_as_before(make_small, make, text)


@every_kind
def test_lines_are_read_back_as_before(make: Make) -> None:
    for text in lines()[::5]:
        _read_back_as_before(least, make, text)


def _read_back_as_before(make_small: Callable[[Make], Tokenizer], make: Make, text: str) -> None:
    whole, small = opened(make), make_small(make)
    for skip in (False, True):
        before = whole.decode(whole.encode(text).ids, skip_special_tokens=skip)
        assert small.decode(small.encode(text).ids, skip_special_tokens=skip) == before


@every_kind
def test_half_of_a_surrogate_pair_is_refused_as_before(make: Make) -> None:
    for broken in ("\ud83d", "a\udc00b"):
        errors = []
        for tokenizer in (opened(make), least(make)):
            with pytest.raises((TypeError, UnicodeError)) as caught:
                tokenizer.encode(broken)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


@every_kind
def test_keeping_everything_changes_nothing(make: Make) -> None:
    described = make()
    everything = trimmed(described, range(Vocabulary.of(described).size))
    assert everything == described
    assert json.dumps(everything) == json.dumps(described)  # the order of pieces and parts as well


@every_kind
def test_the_given_description_is_left_as_it_is(make: Make) -> None:
    before = copy.deepcopy(make())
    trimmed(make(), sorted(Vocabulary.of(make()).required()))
    assert make() == before


@every_kind
def test_new_ids_are_positions_and_nothing_is_left_over(make: Make) -> None:
    vocabulary = Vocabulary.of(make())
    stay = sorted(vocabulary.required(range(0, vocabulary.size, 4)))
    described = trimmed(make(), stay)
    small = Vocabulary.of(described)
    assert [small.tokens[i] for i in range(len(stay))] == [vocabulary.tokens[i] for i in stay]
    assert small.size == len(stay)
    merges = described["model"].get("merges", [])
    assert merges == [merge for merge in make()["model"].get("merges", []) if merge in merges]
    old = {pair: rank for pair, rank in vocabulary.ranks.items() if {*pair, "".join(pair)} <= small.pieces.keys()}
    assert [pair for pair, _ in sorted(small.ranks.items(), key=lambda entry: entry[1])] == sorted(
        old, key=old.__getitem__
    )
    kept = {stay[i]: score for i, score in enumerate(small.scores)}
    assert kept == {i: score for i, score in enumerate(vocabulary.scores) if i in kept}


def test_merges_keep_their_form() -> None:
    for make, form in ((gpt2_like, str), (llama3_like, list)):
        described = trimmed(make(), sorted(Vocabulary.of(make()).required(range(0, 1500, 3))))
        assert {type(merge) for merge in described["model"]["merges"]} == {form}


def test_frames_and_padding_name_the_new_ids() -> None:
    specials = {}
    for make in (llama3_like, xlmr_like, gpt2_like):
        small, stay = trimmed_to(make, set())
        for text in ("2024", "1 2 3"):
            before, after = opened(make).encode(text), small.encode(text)
            assert [stay[i] for i in after.ids if small.id_to_token(i).startswith("<")] == [
                i for i in before.ids if opened(make).id_to_token(i).startswith("<")
            ]
        specials[make] = after.tokens
        assert [small.id_to_token(i) for i in after.ids] == after.tokens
    assert specials[llama3_like][0] == "<s>"
    assert (specials[xlmr_like][0], specials[xlmr_like][-1]) == ("<s>", "</s>")
    short, long = least(gpt2_like).encode_batch(["1", "2024"])
    assert len(short.ids) == len(long.ids)
    assert [least(gpt2_like).id_to_token(i) for i in short.ids] == short.tokens
    assert short.tokens[-1] == "<|end|>"


def test_words_looked_up_whole_stay_whole() -> None:
    vocabulary = Vocabulary.of(llama3_like())
    bare = Tokenizer.from_str(json.dumps(llama3_like() | {"model": llama3_like()["model"] | {"ignore_merges": False}}))
    looked_up = [
        (line, i)
        for line in lines()
        for i in opened(llama3_like).encode(line).ids
        if i not in bare.encode(line).ids and i not in vocabulary.named
    ]
    assert len(looked_up) > 30
    line, word = looked_up[0]
    ids = opened(llama3_like).encode(line).ids
    small, stay = trimmed_to(llama3_like, set(ids))
    assert word in stay
    assert [stay[i] for i in small.encode(line).ids] == ids


def test_a_space_is_never_written_as_bytes() -> None:
    for make in (llama2_like, unigram_with_fallback):
        text = "слово  за словом"
        assert least(make).decode(least(make).encode(text).ids) == opened(make).decode(opened(make).encode(text).ids)
        assert "<0x96>" not in least(make).encode(text).tokens


@pytest.mark.parametrize(("stay", "says"), [([5, 3], "ascend"), ([3, 3], "ascend"), ([0, 1, 2], "has to stay")])
def test_ids_that_cannot_be_are_refused(stay: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        trimmed(gpt2_like(), stay)


def test_id_map() -> None:
    assert torch.equal(id_map([0, 2, 5], 7), torch.tensor([0, -1, 1, -1, -1, 2, -1]))
    assert id_map([], 2).dtype == torch.int64
    assert torch.equal(id_map(range(4), 4), torch.arange(4))
