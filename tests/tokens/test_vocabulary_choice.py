"""Which tokens are chosen: the fewest that cover each language's text, a number of them, and what stays anyway."""

import copy
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.tokens.choice import (
    VocabularyChoice,
    VocabularyTarget,
    choose_vocabulary,
)
from langprune_cli.tokens.counting import TokenCounts
from langprune_cli.tokens.vocabulary import Vocabulary
from tests.support.text.tokenizer_training import gpt2_like, lines, llama2_like, without_fallback, xlmr_like
from tests.support.text.vocabulary_trimming import tokenizer_of

Make = Callable[[], dict[str, Any]]
every_kind = pytest.mark.parametrize("make", [gpt2_like, llama2_like, xlmr_like])


def counted(numbers: list[int] | torch.Tensor) -> TokenCounts:
    counts = torch.as_tensor(numbers, dtype=torch.int64)
    return TokenCounts(counts, int(counts.sum()), 0, 1)


def of_lines(make: Make, part: slice) -> TokenCounts:
    """Count the tokens of some lines, one at a time."""
    tokenizer = tokenizer_of(make)
    numbers = [0] * len(tokenizer)
    for line in lines()[part]:
        for i in tokenizer(line, add_special_tokens=False)["input_ids"]:
            numbers[i] += 1
    return counted(numbers)


def flat(words: int) -> Vocabulary:
    """Return a vocabulary of an unknown token, two letters, and words that are made of nothing else: no merge is left."""
    described = copy.deepcopy(without_fallback()) | {"added_tokens": [], "post_processor": None}
    pieces = ["<unk>", "a", "b", *(f"{k:b}".replace("1", "a").replace("0", "b") for k in range(2, 2 + words))]
    described["model"] |= {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": []}
    return Vocabulary.of(described)


def chosen(numbers: list[int], coverage: float, words: int | None = None) -> set[int]:
    """Return which words of `flat` stay, counted from 0; the other three tokens are no part of the text."""
    vocabulary = flat(words or len(numbers))
    target = VocabularyTarget(coverage, round_to=1)
    choice = choose_vocabulary(vocabulary, {"uk": counted([0, 0, 0, *numbers])}, target, rows=vocabulary.size)
    assert set(choice.stay) >= {0, 1, 2}
    return {i - 3 for i in choice.stay} - {-3, -2, -1}


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any),
    share=st.integers(1, 20),
)
def test_no_fewer_tokens_cover_as_much(numbers: list[int], share: int) -> None:
    """Every set of tokens is tried; a share is what its decimals say, not the nearest binary fraction."""
    needed = Fraction(share, 20) * sum(numbers)
    fewest = next(
        size for size in range(len(numbers) + 1) if any(sum(each) >= needed for each in combinations(numbers, size))
    )
    stay = chosen(numbers, share / 20)
    assert len(stay) == fewest
    assert sum(numbers[i] for i in stay) >= needed
    assert stay == set(sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))[:fewest])


@pytest.mark.parametrize(
    ("numbers", "coverage", "expected"),
    [
        ([7, *[1] * 93], 0.07, {0}),  # 0.07 * 100 is 7.000000000000001
        ([29, *[1] * 71], 0.29, {0}),  # 0.29 * 100 is 28.999999999999996
        ([28, *[1] * 72], 0.29, {0, 1}),
        ([3, 2, 0, 1], 1.0, {0, 1, 3}),
        ([3, 2, 0, 1], 1e-12, {0}),
        ([1, 5, 5], 0.4, {1}),
        ([4 * 10**9, 1, 0, 1], 1.0, {0, 1, 3}),  # every token of a text, however large
        ([4 * 10**9, 2 * 10**9, 1, 1], 0.9999, {0, 1}),
        ([10**15, 10**15, 1], 1.0, {0, 1, 2}),
    ],
)
def test_coverage_is_exact(numbers: list[int], coverage: float, expected: set[int]) -> None:
    assert chosen(numbers, coverage) == expected


def test_each_language_is_covered_and_stays_covered_by_itself() -> None:
    vocabulary = flat(6)
    counts = {"en": counted([0, 0, 0, 90, 10, 0, 0, 0, 0]), "uk": counted([0, 0, 0, 0, 0, 1, 6, 2, 1])}
    choice = choose_vocabulary(vocabulary, counts, VocabularyTarget(0.8, round_to=1), rows=9)
    assert choice.stay == (0, 1, 2, 3, 6, 7)
    english, ukrainian = choice.languages
    assert (english.language, english.tokens, english.covered, english.seen, english.lost) == ("en", 100, 0.9, 2, 1)
    assert (ukrainian.language, ukrainian.tokens, ukrainian.covered) == ("uk", 10, 0.8)
    assert (ukrainian.seen, ukrainian.lost) == (4, 2)
    assert choice.record()["rows_before"] == 9
    assert choice.record()["rows_after"] == len(choice.stay)
    assert choice.record()["languages"][1]["lost"] == 2


def test_a_number_of_tokens_goes_by_the_share_in_the_language_where_it_is_largest() -> None:
    """1 of 10 tokens of a small text stands before 9 of 100 of a large one; equal shares go by id."""
    vocabulary = flat(6)
    counts = {"en": counted([0, 0, 0, 80, 9, 0, 1, 10, 0]), "uk": counted([0, 0, 0, 0, 1, 9, 0, 0, 0])}
    order = [5, 3, 4, 7, 6, 8]  # 0.9, 0.8, 0.1 (uk, not 0.09), 0.1, 0.01, none
    for size in range(3, 10):
        choice = choose_vocabulary(vocabulary, counts, VocabularyTarget(None, size, 1), rows=9)
        assert choice.stay == tuple(sorted([0, 1, 2, *order[: size - 3]]))


@every_kind
@pytest.mark.parametrize("round_to", [1, 7, 64])
def test_exactly_as_many_stay_as_asked_for_and_rounded_up(make: Make, round_to: int) -> None:
    vocabulary = Vocabulary.of(make())
    counts = {"a": of_lines(make, slice(0, 150)), "b": of_lines(make, slice(150, None))}
    required = vocabulary.required()
    for size in (len(required), len(required) + 1, 400, 513, 777, 1000, vocabulary.size - 1):
        choice = choose_vocabulary(vocabulary, counts, VocabularyTarget(None, size, round_to), rows=vocabulary.size)
        assert len(choice.stay) == min(-(-size // round_to) * round_to, vocabulary.size)
        closed_and_complete(vocabulary, choice)
        assert choice.required == len(required)


@every_kind
@pytest.mark.parametrize("coverage", [1e-9, 0.5, 0.99, 1.0])
def test_coverage_is_reached_and_rounded_up(make: Make, coverage: float) -> None:
    vocabulary = Vocabulary.of(make())
    counts = {"a": of_lines(make, slice(0, 100)), "b": of_lines(make, slice(100, 200))}
    sizes = {}
    for round_to in (1, 64):
        target = VocabularyTarget(coverage, round_to=round_to)
        choice = choose_vocabulary(vocabulary, counts, target, rows=vocabulary.size)
        closed_and_complete(vocabulary, choice)
        sizes[round_to] = len(choice.stay)
        for each in choice.languages:
            numbers = counts[each.language].counts.tolist()
            assert each.covered == sum(numbers[i] for i in choice.stay) / sum(numbers) >= coverage
            assert each.lost == sum(1 for i, number in enumerate(numbers) if number and i not in choice.stay)
        if coverage == 1.0:
            assert [each.lost for each in choice.languages] == [0, 0]
    assert sizes[64] == min(-(-sizes[1] // 64) * 64, vocabulary.size)


def closed_and_complete(vocabulary: Vocabulary, choice: VocabularyChoice) -> None:
    assert list(choice.stay) == sorted(set(choice.stay))
    assert vocabulary.required() <= set(choice.stay) == vocabulary.closed(choice.stay)


@every_kind
def test_a_size_below_what_has_to_stay_says_the_least_and_that_works(make: Make) -> None:
    vocabulary = Vocabulary.of(make())
    counts, rows = {"a": of_lines(make, slice(0, 20))}, vocabulary.size + 3
    always = [vocabulary.size - 5, vocabulary.size + 1]
    least = len(vocabulary.required(always[:1])) + 1
    with pytest.raises(
        UsageError, match=rf"--vocab-size {least - 1} is less than the {least} tokens .* give {least} or more"
    ):
        choose_vocabulary(vocabulary, counts, VocabularyTarget(None, least - 1, 1), always=always, rows=rows)
    for round_to in (1, 64):
        target = VocabularyTarget(None, least, round_to)
        choice = choose_vocabulary(vocabulary, counts, target, always=always, rows=rows)
        assert choice.required == least
        assert len(choice.stay) == -(-least // round_to) * round_to
    assert choose_vocabulary(vocabulary, counts, VocabularyTarget(None, 1, least), always=always, rows=rows).stay


@every_kind
@pytest.mark.parametrize("target", [VocabularyTarget(round_to=100_000), VocabularyTarget(None, 100_000)])
def test_more_than_there_are_is_all_there_are(make: Make, target: VocabularyTarget) -> None:
    vocabulary = Vocabulary.of(make())
    counts = {"a": of_lines(make, slice(0, 20))}
    choice = choose_vocabulary(vocabulary, counts, target, rows=vocabulary.size + 9)
    assert choice.stay == tuple(range(vocabulary.size))  # rows beyond have no token, and none is named
    assert choice.rows == vocabulary.size + 9


def test_rows_beyond_the_tokenizer_stay_where_they_are_named() -> None:
    vocabulary = flat(4)
    counts = {"a": counted([0, 0, 0, 5, 1, 1, 1, 0, 0, 3])}  # of given ids, one of which is such a row
    for target, size in ((VocabularyTarget(0.5, round_to=1), 6), (VocabularyTarget(None, 6, 1), 6)):
        choice = choose_vocabulary(vocabulary, counts, target, always=[8, 10, 1], rows=11)
        assert choice.stay == (0, 1, 2, 3, 8, 10)
        assert (len(choice.stay), choice.required, choice.rows) == (size, 5, 11)


@pytest.mark.parametrize(("always", "rows", "last"), [([11], 11, 11), ([], 6, 6), ([3, 400], 11, 400)])
def test_ids_without_a_row_are_refused(always: list[int], rows: int, last: int) -> None:
    with pytest.raises(LangpruneError, match=f"the id {last} is named by the model's files, .* have {rows} rows: use"):
        choose_vocabulary(flat(4), {"a": counted([0, 0, 0, 5])}, VocabularyTarget(), always=always, rows=rows)


def test_counts_of_nothing_are_refused() -> None:
    counts = {"en": counted([0, 0, 0, 1]), "uk": counted([0] * 7)}
    with pytest.raises(LangpruneError, match="no token of uk was counted: give text"):
        choose_vocabulary(flat(4), counts, VocabularyTarget(), rows=7)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"coverage": 0.0}, "--coverage 0 is no share"),
        ({"coverage": -0.1}, "--coverage -0.1 is no share"),
        ({"coverage": 1.0001}, "--coverage 1.0001 is no share"),
        ({"coverage": float("nan")}, "--coverage nan is no share"),
        ({"coverage": float("inf")}, "--coverage inf is no share"),
        ({"coverage": None, "size": 0}, "--vocab-size 0 is no number"),
        ({"coverage": None, "size": -5}, "--vocab-size -5 is no number"),
        ({"round_to": 0}, "--round-to 0 is no step"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        VocabularyTarget(**values)


def test_targets_are_spelled() -> None:
    assert str(VocabularyTarget()) == "vocab:0.9999"
    assert str(VocabularyTarget(None, 32_000)) == "vocab:32000"


@every_kind
def test_text_that_was_not_counted_has_about_as_much_of_what_leaves_as_is_said(make: Make) -> None:
    vocabulary = Vocabulary.of(make())
    short, rest = of_lines(make, slice(0, 300, 4)), of_lines(make, slice(2, 300, 4))
    choice = choose_vocabulary(vocabulary, {"a": short}, VocabularyTarget(1.0, round_to=1), rows=vocabulary.size)
    stay = set(choice.stay)
    lost = sum(number for i, number in enumerate(rest.counts.tolist()) if i not in stay) / rest.tokens
    assert choice.new[0] == pytest.approx(lost, rel=0.5)
    all_of_it = choose_vocabulary(vocabulary, {"a": short}, VocabularyTarget(None, 10**6), rows=vocabulary.size)
    assert all_of_it.new == (0.0,)
