"""Merging of one token's own string: the symbols on the way, against merging step by step."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.tokens.merging import merge_path


def merged_naively(token: str, ranks: dict[tuple[str, str], int]) -> list[set[str]]:
    """Return the symbols after each step of merging: the lowest rank of all neighbours, the leftmost of equals."""
    symbols = list(token)
    after = [set(symbols)]
    while pairs := [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]:
        i = min(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        after.append(set(symbols))
    return after


@given(
    token=st.text("ab", min_size=1, max_size=14),
    parts=st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3)), unique=True
    ),
)
def test_path_is_what_merging_step_by_step_passes(token: str, parts: list[tuple[str, str]]) -> None:
    ranks = {pair: rank for rank, pair in enumerate(parts)}
    after = merged_naively(token, ranks)
    assert merge_path(token, ranks) == (set.union(*after) if after[-1] == {token} else None)


def test_equal_ranks_merge_from_the_left() -> None:
    ranks = {("a", "a"): 0, ("aa", "a"): 1}
    assert merge_path("aaa", ranks) == {"a", "aa", "aaa"}
    assert merge_path("aaa", {("a", "a"): 0, ("a", "aa"): 1}) is None  # aa a, and nothing joins these
    assert merge_path("", ranks) is None


def test_path_of_a_very_long_token() -> None:
    ranks = {("=" * 2**k, "=" * 2**k): k for k in range(15)}
    assert merge_path("=" * 2**15, ranks) == {"=" * 2**k for k in range(16)}
