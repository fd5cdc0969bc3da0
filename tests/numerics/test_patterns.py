"""Sparsity patterns: exact counts, ties, and agreement with brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.patterns import Pattern, follows, keep_mask, parse_pattern, prune_count
from tests.reference.selection import best_subset, keep_after_dropping, keep_n_of_m, whole_part

relaxed = settings(deadline=None)
# Few distinct values make ties, which is where mistakes hide.
values = st.one_of(st.integers(0, 3).map(float), st.floats(0, 2.0**100, width=32, allow_subnormal=False))


@st.composite
def scores(draw: st.DrawFn, rows: int = 4, columns: int = 24) -> Tensor:
    shape = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    size = shape[0] * shape[1]
    return torch.tensor(draw(st.lists(values, min_size=size, max_size=size))).view(shape)


sparsities = st.integers(0, 1000).map(lambda thousandths: f"{thousandths / 1000:g}")


@relaxed
@given(size=st.integers(0, 2**33), sparsity=st.integers(0, 10_000).map(lambda n: f"{n / 10_000:.4f}"))
def test_count_is_the_whole_part(size: int, sparsity: str) -> None:
    assert prune_count(size, float(sparsity)) == whole_part(size, sparsity)


def test_counts_that_binary_fractions_would_get_wrong() -> None:
    assert prune_count(100, 0.29) == 29
    assert prune_count(1000, 0.29) == 290
    assert prune_count(3, 1 / 3) == 1
    assert prune_count(7, 0.5) == 3
    assert prune_count(7, 1.0) == 7


@relaxed
@given(scores(), sparsities)
def test_rows_lose_their_lowest_by_a_stable_sort(score: Tensor, sparsity: str) -> None:
    count = whole_part(score.shape[1], sparsity)
    keep = keep_mask(score, Pattern(float(sparsity)), group="row")
    assert keep.dtype == torch.bool
    assert (~keep).sum(dim=1).tolist() == [count] * score.shape[0]
    assert keep.tolist() == [keep_after_dropping(row, count) for row in score.tolist()]


@relaxed
@given(scores(), sparsities)
def test_a_layer_loses_its_lowest_by_a_stable_sort(score: Tensor, sparsity: str) -> None:
    count = whole_part(score.numel(), sparsity)
    keep = keep_mask(score, Pattern(float(sparsity)), group="layer")
    assert int((~keep).sum()) == count
    assert keep.flatten().tolist() == keep_after_dropping(score.flatten().tolist(), count)


@st.composite
def groups_of_m(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Draw scores with N and M; above 16 columns N is near 0 or M, so that the subsets can all be looked at."""
    m = draw(st.integers(2, 40))
    n = draw(st.integers(1, m - 1)) if m <= 9 else draw(st.sampled_from([1, 2, m - 2, m - 1]))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 2 * m + m // 2))
    size = rows * columns
    return torch.tensor(draw(st.lists(values, min_size=size, max_size=size))).view(rows, columns), n, m


@settings(deadline=None, max_examples=150)
@given(groups_of_m())
def test_n_of_m_agrees_with_brute_force(case: tuple[Tensor, int, int]) -> None:
    score, n, m = case
    keep = keep_mask(score, Pattern(1 - n / m, (n, m)))
    assert np.array_equal(keep.numpy(), keep_n_of_m(score.double().numpy(), n, m))
    assert follows(keep.float(), Pattern(1 - n / m, (n, m)))


def test_the_two_references_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 8):
        for _ in range(20):
            row = torch.randint(0, 4, (8,), generator=generator).tolist()
            assert best_subset(row, n) == keep_after_dropping(row, 8 - n)


@pytest.mark.parametrize(("n", "m"), [(n, m) for m in (2, 3, 4, 8, 15, 16, 17, 18, 32, 40) for n in range(1, m)])
def test_every_n_of_m_keeps_n_and_a_dense_tail(n: int, m: int) -> None:
    score = torch.randint(0, 6, (5, 3 * m + m - 1), generator=torch.Generator().manual_seed(n * 100 + m)).float()
    pattern = Pattern(1 - n / m, (n, m))
    keep = keep_mask(score, pattern)
    whole = 3 * m
    assert bool((keep[:, :whole].reshape(-1, m).sum(dim=1) == n).all())
    assert bool(keep[:, whole:].all())
    assert pattern.tail(score.shape[1]) == m - 1
    rows = score[:, :whole].reshape(-1, m).tolist()
    assert keep[:, :whole].reshape(-1, m).tolist() == [keep_after_dropping(row, m - n) for row in rows]


@pytest.mark.parametrize("m", [4, 16, 17, 40])
def test_of_equal_scores_the_earlier_leave(m: int) -> None:
    keep = keep_mask(torch.full((2, 2 * m), 7.0), Pattern(0.5, (m // 2, m)))
    group = [False] * (m - m // 2) + [True] * (m // 2)
    assert keep.tolist() == [group + group] * 2
    assert keep_mask(torch.zeros(2, 5), Pattern(0.5)).tolist() == [[False, False, True, True, True]] * 2
    layer = keep_mask(torch.zeros(2, 5), Pattern(0.5), group="layer")
    assert layer.tolist() == [[False] * 5, [True] * 5]


@pytest.mark.parametrize("group", ["row", "layer"])
@pytest.mark.parametrize("ties", ["exact", "together"])
def test_sparsity_zero_and_one(group: str, ties: str) -> None:
    for score in (torch.zeros(3, 7), torch.arange(21.0).view(3, 7)):
        assert bool(keep_mask(score, Pattern(0.0), group=group, ties=ties).all())
        assert not bool(keep_mask(score, Pattern(1.0), group=group, ties=ties).any())


def test_a_row_shorter_than_m_stays() -> None:
    assert bool(keep_mask(torch.zeros(3, 3), Pattern(0.5, (2, 4))).all())
    assert bool(keep_mask(torch.zeros(3, 30), Pattern(0.5, (20, 40))).all())


def published_magnitude(score: Tensor, sparsity: float) -> Tensor:
    """Return what the published code keeps: the threshold is the sorted scores' entry at int(size x sparsity)."""
    threshold = score.flatten().sort().values[int(score.numel() * sparsity)]
    return score > threshold


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.9])
def test_together_removes_what_equals_the_threshold(sparsity: float) -> None:
    score = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    flat = score.view(-1)
    count = int(flat.numel() * sparsity)
    order = flat.sort().indices
    flat[order[count + 5 : count + 20]] = flat[order[count]].clone()
    keep = keep_mask(score, Pattern(sparsity), group="layer", ties="together")
    assert torch.equal(keep, published_magnitude(score, sparsity))
    assert int((~keep).sum()) == count + 16


def test_together_holds_up_to_a_hundredth() -> None:
    distinct = torch.arange(1000.0) + 1
    for ties, expected in [(10, 510), (11, 500)]:  # ties beyond the count of 500: at most 1% of 1000, then too many
        score = distinct.clone()
        score[500 : 500 + ties] = 501.0
        keep = keep_mask(score.view(10, 100), Pattern(0.5), group="layer", ties="together")
        assert int((~keep).sum()) == expected
    exact = keep_mask(torch.ones(10, 100), Pattern(0.5), group="layer", ties="together")
    assert exact.flatten().tolist() == [False] * 500 + [True] * 500


def test_together_is_for_layers_only() -> None:
    score = torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    assert keep_mask(score, Pattern(0.5), group="row", ties="together").tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    ("text", "sparsity", "expected", "shown"),
    [
        ("unstructured", None, Pattern(0.5), ("unstructured", "0.5")),
        ("unstructured", 0.0, Pattern(0.0), ("unstructured", "0")),
        ("unstructured", 1.0, Pattern(1.0), ("unstructured", "1")),
        ("unstructured", 0.625, Pattern(0.625), ("unstructured", "0.625")),
        ("2:4", None, Pattern(0.5, (2, 4)), ("2:4", "2x4")),
        ("2:4", 0.5, Pattern(0.5, (2, 4)), ("2:4", "2x4")),
        ("3:4", 0.25, Pattern(0.25, (3, 4)), ("3:4", "3x4")),
        ("1:3", 0.6666667, Pattern(1 - 1 / 3, (1, 3)), ("1:3", "1x3")),
        ("128:256", None, Pattern(0.5, (128, 256)), ("128:256", "128x256")),
    ],
)
def test_patterns_that_are_read(text: str, sparsity: float | None, expected: Pattern, shown: tuple[str, str]) -> None:
    pattern = parse_pattern(text, sparsity)
    assert pattern == expected
    assert (str(pattern), pattern.slug) == shown


@pytest.mark.parametrize(
    ("text", "sparsity", "kind", "said"),
    [
        ("unstructured", -0.1, LangpruneError, "-0.1 is not a fraction"),
        ("unstructured", 1.01, LangpruneError, "1.01 is not a fraction"),
        ("unstructured", 50, LangpruneError, "give 0.5 for half"),
        ("unstructured", float("nan"), LangpruneError, "nan is not a fraction"),
        ("Unstructured", None, UsageError, "'Unstructured' is unknown"),
        ("", None, UsageError, "unknown"),
        ("2:4 ", None, UsageError, "unknown"),
        ("2-4", None, UsageError, "unknown"),
        ("2:4:8", None, UsageError, "unknown"),
        ("-2:4", None, UsageError, "unknown"),
        ("2:99999", None, UsageError, "unknown"),
        ("4:4", None, LangpruneError, "removes nothing"),
        ("8:4", None, LangpruneError, "removes nothing"),
        ("0:0", None, LangpruneError, "removes nothing"),
        ("0:4", None, LangpruneError, "keeps none"),
        ("2:4", 0.6, UsageError, "contradicts --pattern 2:4, which removes 0.5"),
    ],
)
def test_patterns_that_are_refused(text: str, sparsity: float | None, kind: type[LangpruneError], said: str) -> None:
    with pytest.raises(LangpruneError) as caught:
        parse_pattern(text, sparsity)
    assert type(caught.value) is kind
    assert said in str(caught.value)


def test_follows_counts_zeros_per_group() -> None:
    pattern = Pattern(0.5, (2, 4))
    weight = torch.tensor([[0.0, 1, -0.0, 2, 3, 0, 0, 4, 5, 6], [1, 0, 0, 0, 0, 0, 0, 0, 7, 8]])
    assert follows(weight, pattern)
    for row, column in [(0, 0), (0, 5)]:
        broken = weight.clone()
        broken[row, column] = 1e-30
        assert not follows(broken, pattern)
    assert follows(torch.ones(2, 3), pattern)
    assert follows(torch.ones(2, 8), Pattern(0.5))
    assert follows(weight.bfloat16(), pattern)
