"""Optimal swaps: no swap is left that helps, by brute force; losses fall at every step; counts, edges and determinism."""

import pytest
import torch
from torch import Tensor

from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.solvers import swaps
from langprune_cli.solvers.swaps import row_loss, swap

SMALL = 1e-12  # of a row's loss: what float64 may leave behind


def site(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Make weights [r, i] and a Hessian [i, i] of inputs that go together in part, and differ in size and mean."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(4 * columns, max(columns // 6, 1), generator=generator, dtype=torch.float64)
    x = common @ torch.randn(common.shape[1], columns, generator=generator, dtype=torch.float64)
    x += 1.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x *= torch.rand(columns, generator=generator, dtype=torch.float64) * 2 + 0.1
    x += 0.3 * torch.randn(columns, generator=generator, dtype=torch.float64)
    w = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return w.to(dtype), (x.T @ x).to(dtype)


def wanda(w: Tensor, hessian: Tensor, pattern: Pattern) -> Tensor:
    return keep_mask(w.abs() * hessian.diagonal().clamp(min=0).sqrt(), pattern)


def anything(w: Tensor, pattern: Pattern) -> Tensor:
    """Return a mask that knows nothing of the weights, and so has much to gain."""
    return keep_mask(torch.rand(w.shape, generator=torch.Generator().manual_seed(0)), pattern)


def literal_loss(w: Tensor, hessian: Tensor, keep: Tensor) -> float:
    """Return d H dᵀ of one row, sum by sum."""
    pruned = [j for j in range(len(w)) if not keep[j]]
    return sum(float(w[j] * w[k] * hessian[j, k]) for j in pruned for k in pruned)


def best_swap(w: Tensor, hessian: Tensor, keep: Tensor, m: int) -> tuple[float, Tensor]:
    """Return the lowest loss that one swap of a row can reach, and its mask, by trying all swaps."""
    best, mask = literal_loss(w, hessian, keep), keep
    whole = len(w) - len(w) % m
    for u in keep[:whole].nonzero()[:, 0].tolist():
        for p in (~keep[:whole]).nonzero()[:, 0].tolist():
            if u // m == p // m:
                tried = keep.clone()
                tried[u], tried[p] = False, True
                if (loss := literal_loss(w, hessian, tried)) < best:
                    best, mask = loss, tried
    return best, mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("columns", "m"), [(10, None), (14, None), (12, 4), (15, 4), (17, 8), (13, 3)])
def test_no_swap_is_left_that_helps(columns: int, m: int | None, seed: int) -> None:
    w, hessian = site(4, columns, seed)
    pattern = Pattern(0.5, (m // 2, m)) if m else Pattern(0.5)
    for before in (anything(w, pattern), wanda(w, hessian, pattern)):
        after = swap(w, hessian, before, m)
        for row in range(4):
            loss = literal_loss(w[row], hessian, after[row])
            assert loss <= literal_loss(w[row], hessian, before[row])
            assert best_swap(w[row], hessian, after[row], m or columns)[0] >= loss * (1 - SMALL)


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_swap_is_the_best_of_all(m: int | None, seed: int) -> None:
    w, hessian = site(3, 12, seed)
    before = anything(w, Pattern(0.5, (2, 4)) if m else Pattern(0.5))
    after = swap(w, hessian, before, m, most=1)
    for row in range(3):
        assert after[row].tolist() == best_swap(w[row], hessian, before[row], m or 12)[1].tolist()


@pytest.mark.parametrize(("size", "pairs", "rows"), [(1, 2**20, 512), (3, 2**20, 2), (8, 100, 512), (64, 2**20, 512)])
@pytest.mark.parametrize("m", [None, 8, 60])
def test_short_lists_and_batches_lose_nothing(
    m: int | None, size: int, pairs: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "_SHORTLIST", size)
    monkeypatch.setattr(swaps, "_PAIRS", pairs)
    monkeypatch.setattr(swaps, "_ROWS", rows)
    w, hessian = site(5, 130, seed=1)
    before = wanda(w, hessian, Pattern(0.5, (m // 2, m)) if m else Pattern(0.5))
    after = swap(w, hessian, before, m)
    loss = row_loss(w, hessian, after)
    group = torch.arange(130) // (m or 130)
    inside = torch.arange(130) < 130 - 130 % (m or 130)
    allowed = (group[:, None] == group) & inside & inside[:, None]
    for row in range(5):  # all costs at once, as the module's text defines them
        q = w[row][:, None] * hessian * w[row]
        v = q @ (~after[row]).double()
        cost = (q.diagonal() + 2 * v)[:, None] + (q.diagonal() - 2 * v) - 2 * q
        assert float(cost[allowed & after[row][:, None] & ~after[row]].min()) >= -1e-9 * float(loss[row])
    assert bool((loss < row_loss(w, hessian, before)).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("m", [None, 4])
def test_every_swap_lowers_the_loss(m: int | None, dtype: torch.dtype) -> None:
    w, hessian = site(8, 60, seed=2, dtype=dtype)
    keep = anything(w, Pattern(0.5, (2, 4)) if m else Pattern(0.5))
    for step in range(100):  # noqa: B007 (asked for below)
        after = swap(w, hessian, keep, m, most=1)
        moved = (after != keep).sum(dim=1)
        assert set(moved.tolist()) <= {0, 2}
        before, loss = (row_loss(w.double(), hessian.double(), mask) for mask in (keep, after))
        assert bool((loss[moved > 0] < before[moved > 0]).all())
        keep = after
        if not bool(moved.any()):
            break
    assert 5 < step < 99
    assert torch.equal(swap(w, hessian, keep, m), keep)


@pytest.mark.parametrize("m", [None, 4])
def test_at_most_so_many_swaps(m: int | None) -> None:
    w, hessian = site(6, 80, seed=3)
    keep = wanda(w, hessian, Pattern(0.5, (2, 4)) if m else Pattern(0.5))
    assert torch.equal(swap(w, hessian, keep, m, most=0), keep)
    last = row_loss(w, hessian, keep)
    for most in (1, 2, 5, 9):
        after = swap(w, hessian, keep, m, most=most)
        assert int((after != keep).sum(dim=1).max()) <= 2 * most
        loss = row_loss(w, hessian, after)
        assert bool((loss <= last).all())
        last = loss


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern(0.9), Pattern(0.5, (2, 4)), Pattern(0.75, (4, 16))])
def test_masks_of_any_origin_keep_their_counts(pattern: Pattern) -> None:
    w, hessian = site(16, 70, seed=4, dtype=torch.float32)
    scores = torch.rand(w.shape, generator=torch.Generator().manual_seed(0))
    before = keep_mask(scores, pattern, group="layer")  # rows of different counts, but for N:M
    given = before.clone()
    m = pattern.keep_of[1] if pattern.keep_of else None
    after = swap(w, hessian, before, m)
    assert torch.equal(before, given)
    assert after.dtype == torch.bool
    assert after.sum(dim=1).tolist() == before.sum(dim=1).tolist()
    if m:
        whole = 70 - 70 % m
        assert bool((after[:, :whole].reshape(-1, m).sum(dim=1) == pattern.keep_of[0]).all())
        assert bool(after[:, whole:].all())
    losses = row_loss(w.double(), hessian.double(), after) / row_loss(w.double(), hessian.double(), before)
    assert float(losses.max()) < 0.8


@pytest.mark.parametrize("m", [None, 4])
def test_without_correlation_the_mask_of_magnitudes_stays(m: int | None) -> None:
    w, _ = site(6, 40)
    pattern = Pattern(0.5, (2, 4)) if m else Pattern(0.5)
    best = keep_mask(w.abs(), pattern)
    assert torch.equal(swap(w, torch.eye(40).double(), best, m), best)
    worst = keep_mask(-w.abs(), pattern)
    assert torch.equal(swap(w, torch.eye(40).double(), worst, m), best)


def test_equal_weights_are_not_swapped() -> None:
    keep = keep_mask(torch.zeros(3, 12), Pattern(0.5))
    assert torch.equal(swap(torch.ones(3, 12), torch.eye(12), keep), keep)
    assert torch.equal(swap(torch.zeros(3, 12), torch.eye(12), keep), keep)


def test_the_error_of_equal_inputs_cancels() -> None:
    w = torch.tensor([[1.0, -1.0, 2.0, 0.5]]).double()
    hessian = torch.eye(4).double()
    hessian[:2, :2] = 1.0  # the first two inputs are one and the same
    keep = torch.tensor([[False, True, True, False]])
    assert swap(w, hessian, keep).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("m", [None, 4])
def test_rows_with_nothing_to_swap_stay(m: int | None) -> None:
    w, hessian = site(5, 30)
    keep = anything(w, Pattern(0.5, (2, 4)) if m else Pattern(0.5))
    keep[1] = True
    keep[3] = False
    after = swap(w, hessian, keep, m)
    assert torch.equal(after[[1, 3]], keep[[1, 3]])
    assert bool((after[[0, 2, 4]] != keep[[0, 2, 4]]).any(dim=1).all())
    alone = swap(w[[0, 2, 4]], hessian, keep[[0, 2, 4]], m)
    assert torch.equal(after[[0, 2, 4]], alone)  # rows do not influence one another


@pytest.mark.parametrize("kept", [True, False])
def test_all_rows_kept_or_pruned(kept: bool) -> None:  # noqa: FBT001
    w, hessian = site(3, 20)
    keep = torch.full((3, 20), kept)
    assert torch.equal(swap(w, hessian, keep), keep)
    assert torch.equal(swap(w, hessian, keep, 4), keep)


def test_dead_columns_are_pruned_first() -> None:
    w, hessian = site(6, 24, seed=5, dtype=torch.float32)
    dead = [3, 10, 17]
    hessian[dead] = 0
    hessian[:, dead] = 0
    keep = anything(w, Pattern(0.5))
    after = swap(w, hessian, keep)
    assert not bool(after[:, dead].any())
    assert after.sum(dim=1).tolist() == [12] * 6
    assert torch.equal(swap(w, torch.zeros(24, 24), keep), keep)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (3, 1), (3, 3)])
def test_too_little_to_swap(shape: tuple[int, int]) -> None:
    keep = torch.ones(shape, dtype=torch.bool)
    keep[:, :1] = False
    w, hessian = torch.ones(shape), torch.eye(shape[1])
    assert torch.equal(swap(w, hessian, keep, 4), keep)
    assert swap(w, hessian, keep).shape == shape


def test_the_tail_counts_but_stays() -> None:
    w, hessian = site(6, 23, seed=6)
    keep = wanda(w, hessian, Pattern(0.5, (2, 4)))
    keep[:, 21] = False  # as no N:M mask has it: its error is part of the loss all the same
    after = swap(w, hessian, keep, 4)
    assert torch.equal(after[:, 20:], keep[:, 20:])
    for row in range(6):
        loss = literal_loss(w[row], hessian, after[row])
        assert best_swap(w[row], hessian, after[row], 4)[0] >= loss * (1 - SMALL)


def test_rounding_never_raises_a_loss() -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(200, 96, generator=generator) * 0.01 + 100 * torch.randn(96, generator=generator)
    w = torch.randn(32, 96, generator=generator)
    hessian = x.T @ x  # nearly of rank one: in float32 nearly all that matters here is rounding
    keep = wanda(w, hessian, Pattern(0.5))
    after = swap(w, hessian, keep)
    assert bool((row_loss(w, hessian, after) <= row_loss(w, hessian, keep)).all())
    assert after.sum(dim=1).tolist() == [48] * 32


@pytest.mark.parametrize("m", [None, 4])
def test_the_same_masks_every_time(m: int | None) -> None:
    w, hessian = site(40, 120, seed=8, dtype=torch.float32)
    keep = wanda(w, hessian, Pattern(0.5, (2, 4)) if m else Pattern(0.5))
    once = swap(w, hessian, keep, m)
    assert torch.equal(once, swap(w.t().contiguous().t(), hessian.clone(), keep, m))
    assert torch.equal(swap(w, hessian, once, m), once)


def test_row_loss_is_the_error_of_the_outputs() -> None:
    generator = torch.Generator().manual_seed(9)
    x, w = torch.randn(50, 12, generator=generator).double(), torch.randn(4, 12, generator=generator).double()
    keep = torch.rand(4, 12, generator=generator) > 0.5
    error = (x @ (w - w * keep).T).square().sum(dim=0)
    torch.testing.assert_close(row_loss(w, x.T @ x, keep), error)
