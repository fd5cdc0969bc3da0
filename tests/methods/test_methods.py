"""Every method's score against its definition, and the registry that finds them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.methods.method import get_method, methods
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.numerics.site import Site, SiteStats
from tests.reference import scores as reference

WINDOWS = 6
Statistics = tuple[Tensor, SiteStats]


def layer(rows: int = 9, columns: int = 14, dtype: torch.dtype = torch.float32, seed: int = 0) -> Statistics:
    """Make a weight matrix and statistics of its input, whose columns differ in size as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator).to(dtype)
    sum_sq = torch.rand(columns, generator=generator, dtype=torch.float64) ** 3 * 5000 + 1e-3
    return w, SiteStats(sum_sq, torch.zeros_like(sum_sq), tokens=WINDOWS * 100, windows=WINDOWS)


def scored(name: str, w: Tensor, stats: SiteStats | None) -> Tensor:
    return get_method(name).score(w, Site(w, (len(w),), stats))


def as_numpy(w: Tensor, stats: SiteStats) -> tuple[np.ndarray, np.ndarray]:
    return w.double().numpy(), stats.sum_sq.numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", lambda w, _sum_sq: reference.magnitude(w)),
        ("wanda", lambda w, sum_sq: reference.wanda(w, sum_sq, WINDOWS)),
        ("ria", lambda w, sum_sq: reference.ria(w, sum_sq, WINDOWS)),
    ],
)
def test_scores_are_their_definitions(name: str, expected: Callable[..., np.ndarray], dtype: torch.dtype) -> None:
    w, stats = layer(dtype=dtype)
    before = w.clone()
    score = scored(name, w, stats)
    assert score.dtype == torch.float32
    assert torch.equal(w, before)
    np.testing.assert_allclose(score.double().numpy(), expected(*as_numpy(w, stats)), rtol=2e-6)


def test_magnitude_needs_no_statistics() -> None:
    w, _ = layer()
    assert torch.equal(scored("magnitude", w, None), w.abs())
    for name in ("wanda", "wanda-variant", "ria"):
        with pytest.raises(ValueError, match="column norms"):
            scored(name, w, None)


def test_scores_do_not_depend_on_how_a_matrix_lies_in_memory() -> None:
    w, stats = layer()
    for name in (name for name, method in methods().items() if method.needs != "hessian"):
        stored = w.t().contiguous().t()  # as a Conv1D weight is seen
        torch.testing.assert_close(scored(name, stored, stats), scored(name, w, stats), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "wanda-variant", "ria"])
def test_zero_rows_and_columns_are_lowest_and_never_nan(name: str) -> None:
    w, stats = layer(8, 12)
    w[2] = 0
    w[:, 5] = 0
    stats.sum_sq[7] = 0  # a dead input
    method = get_method(name)
    score = scored(name, w, stats)
    assert bool(torch.isfinite(score).all())
    assert bool((score[2] == 0).all())
    others = [row for row in range(8) if row != 2]
    dead = [5] if name == "magnitude" else [5, 7]
    assert bool((score[others][:, dead] == 0).all())
    assert bool((score[others][:, [0, 1, 2, 3, 4, 6]] > 0).all())
    everything = scored(name, torch.zeros(4, 6), SiteStats(torch.zeros(6).double(), torch.zeros(6).double(), 0, 1))
    assert bool((everything == 0).all())
    assert int((~keep_mask(everything, Pattern(0.5), group=method.group, ties=method.ties)).sum()) == 12


def test_variant_score_is_the_share_of_the_row_up_to_a_weight() -> None:
    w = torch.tensor([[4.0, -1.0, 3.0, 2.0], [0.1, 0.1, -0.3, 0.5]])
    stats = SiteStats(torch.ones(4).double(), torch.zeros(4).double(), tokens=1, windows=1)
    score = scored("wanda-variant", w, stats)
    torch.testing.assert_close(score, torch.tensor([[1.0, 0.1, 0.6, 0.3], [0.1, 0.2, 0.5, 1.0]]))


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_variant_masks_are_those_of_the_published_bisection(sparsity: float, seed: int) -> None:
    w, stats = layer(40, 120, seed=seed)
    metric = reference.wanda(*as_numpy(w, stats), WINDOWS)
    removed, alpha = reference.variant_by_bisection(metric, sparsity)
    assert abs(removed.mean() - sparsity) < 0.02 or alpha > 0.79  # where a bracket below 0.001 ends the search
    method = get_method("wanda-variant")
    score = scored("wanda-variant", w, stats)
    assert np.array_equal(score.double().numpy() <= alpha, removed)
    pattern = Pattern(float(removed.mean()))
    keep = keep_mask(score, pattern, group=method.group, ties=method.ties)
    assert np.array_equal(~keep.numpy(), removed)
    per_row = removed.sum(axis=1)
    assert per_row.min() < per_row.max()  # rows lose different numbers of weights, unlike Wanda's


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_variant_reaches_any_sparsity_exactly(sparsity: float) -> None:
    w, stats = layer(16, 32)
    method = get_method("wanda-variant")
    keep = keep_mask(scored("wanda-variant", w, stats), Pattern(sparsity), group=method.group, ties=method.ties)
    assert int((~keep).sum()) == 16 * 32 * sparsity


def test_the_registry_holds_the_methods() -> None:
    found = {name: (method.needs, method.group, method.ties) for name, method in methods().items()}
    assert found == {
        "magnitude": ("nothing", "layer", "together"),
        "wanda": ("norms", "row", "exact"),
        "wanda-variant": ("norms", "layer", "exact"),
        "ria": ("norms", "row", "exact"),
        "admm": ("hessian", "layer", "exact"),
        "sparsegpt": ("hessian", "row", "exact"),
    }
    for name, method in methods().items():
        assert get_method(name) is method
        assert method.name == name
        assert method.paper.startswith("https://")


def test_an_unknown_method_names_the_near_ones() -> None:
    with pytest.raises(LangpruneError, match=r"'wonda' is unknown: did you mean wanda\?") as caught:
        get_method("wonda")
    for name in methods():
        assert name in str(caught.value)
    with pytest.raises(LangpruneError, match="'xyz' is unknown: Known:"):
        get_method("xyz")
