"""Refinements of masks: the registry, what all of them promise, and DSnoT against a literal version of its loop."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.refinements.refinement import get_refinement, refinements
from langprune_cli.solvers.swaps import row_loss

WINDOWS = 5
PATTERNS = [Pattern(0.5), Pattern(0.8), Pattern(0.5, (2, 4)), Pattern(0.5, (4, 8)), Pattern(0.75, (8, 32))]


def make_site(
    rows: int = 12, columns: int = 70, shift: float = 0.2, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Site:
    """Make weights, and statistics of inputs that go together in part; `shift` is how far their means are from zero."""
    generator = torch.Generator().manual_seed(seed)
    tokens = WINDOWS * 60
    common = torch.randn(tokens, 8, generator=generator) @ torch.randn(8, columns, generator=generator)
    x = (common + torch.randn(tokens, columns, generator=generator)) * (0.1 + torch.rand(columns, generator=generator))
    x = (x + shift * torch.randn(columns, generator=generator)).double()
    w = torch.randn(rows, columns, generator=generator).to(dtype)
    stats = SiteStats(x.square().sum(dim=0), x.sum(dim=0), tokens, WINDOWS, (x.T @ x).to(dtype))
    return Site(w, (rows - 5, 5), stats)


def wanda(site: Site, pattern: Pattern) -> Tensor:
    return keep_mask((site.weight * site.norms.sum_sq.sqrt()).abs(), pattern)


def per_group(keep: Tensor, m: int) -> Tensor:
    whole = keep.shape[1] - keep.shape[1] % m
    return keep[:, :whole].reshape(len(keep), -1, m).sum(dim=2)


def test_the_registry_holds_what_it_should() -> None:
    found = {name: each.needs for name, each in refinements().items()}
    assert found == {"dsnot": "norms", "sparseswaps": "hessian"}
    for name, refinement in refinements().items():
        assert get_refinement(name) is refinement
        assert refinement.name == name
        assert refinement.paper.startswith("https://arxiv.org/abs/")


def test_an_unknown_refinement_names_the_near_ones() -> None:
    with pytest.raises(LangpruneError, match=r"--refine 'sparseswap' is unknown: did you mean sparseswaps\?"):
        get_refinement("sparseswap")


def test_what_calibration_did_not_collect_is_missed() -> None:
    site = make_site()
    keep = wanda(site, Pattern(0.5))
    without = replace(site, stats=replace(site.norms, hessian=None))
    assert get_refinement("dsnot").refine(without, keep, Pattern(0.5)).shape == keep.shape
    with pytest.raises(ValueError, match="needs a Hessian"):
        get_refinement("sparseswaps").refine(without, keep, Pattern(0.5))
    for refinement in refinements().values():
        with pytest.raises(ValueError, match="column norms"):
            refinement.refine(replace(site, stats=None), keep, Pattern(0.5))


@pytest.mark.parametrize("name", ["dsnot", "sparseswaps"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("origin", ["wanda", "layer", "random"])
def test_counts_stay_and_inputs_are_not_touched(name: str, pattern: Pattern, origin: str) -> None:
    site = make_site()
    weight = site.weight.clone()
    anything = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1))
    group = "layer" if origin == "layer" else "row"  # by layers, rows keep different numbers of weights
    before = wanda(site, pattern) if origin == "wanda" else keep_mask(anything, pattern, group=group)
    given = before.clone()
    refine = get_refinement(name).refine
    after = refine(site, before, pattern)
    assert torch.equal(before, given)
    assert torch.equal(site.weight, weight)
    assert after.dtype == torch.bool
    assert after.sum(dim=1).tolist() == before.sum(dim=1).tolist()
    assert not torch.equal(after, before)
    if pattern.keep_of:
        n, m = pattern.keep_of
        assert bool((per_group(after, m) == n).all())
        assert bool(after[:, 70 - pattern.tail(70) :].all())
    assert torch.equal(refine(site, before, pattern), after)


@pytest.mark.parametrize("name", ["dsnot", "sparseswaps"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_rows_do_not_influence_one_another(name: str, pattern: Pattern) -> None:
    site = make_site(dtype=torch.float64)
    keep = wanda(site, pattern)
    refine = get_refinement(name).refine
    after = refine(site, keep, pattern)
    for row in range(12):
        alone = replace(site, weight=site.weight[row : row + 1], rows=(1,))
        assert torch.equal(refine(alone, keep[row : row + 1], pattern), after[row : row + 1])


@pytest.mark.parametrize("name", ["dsnot", "sparseswaps"])
@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern(0.5, (2, 4))], ids=str)
def test_edges(name: str, pattern: Pattern) -> None:
    refine = get_refinement(name).refine
    site = make_site(columns=22)
    for sparsity in (0.0, 1.0):
        keep = keep_mask(site.weight, Pattern(sparsity))
        assert torch.equal(refine(site, keep, pattern), keep)
    zero = replace(site, weight=torch.zeros_like(site.weight))
    keep = wanda(site, pattern)
    assert torch.equal(refine(zero, keep, pattern), keep)
    narrow = make_site(columns=3)
    assert bool(refine(narrow, torch.ones(12, 3, dtype=torch.bool), pattern).all())
    none = torch.zeros(22, dtype=torch.float64)
    unseen = replace(site, stats=SiteStats(none, none, 0, 0, torch.zeros(22, 22)))  # an expert that no token reached
    assert torch.equal(refine(unseen, keep, pattern), keep)
    assert refine(replace(site, weight=site.weight[:0], rows=(0,)), keep[:0], pattern).shape == (0, 22)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparseswaps_lowers_the_loss_of_every_row(pattern: Pattern) -> None:
    site = make_site()
    before = wanda(site, pattern)
    after = get_refinement("sparseswaps").refine(site, before, pattern)
    exact = (site.weight.double(), site.hessian.double())
    ratio = row_loss(*exact, after) / row_loss(*exact, before)
    assert float(ratio.max()) <= 1.0
    assert float(ratio.mean()) < 0.8


def literal_dsnot(site: Site, keep: Tensor, m: int) -> Tensor:
    """Refine row by row with lists and loops: growing, pruning, updating the expected error, up to 50 times."""
    stats = site.norms
    w, columns = site.weight, site.weight.shape[1]
    expected = w * stats.sum_x / stats.tokens
    variance = stats.sum_sq / stats.tokens - (stats.sum_x / stats.tokens) ** 2
    score = (w * stats.sum_sq.sqrt()).abs()
    after = keep.clone()
    for row in range(len(w)):
        e = expected[row].tolist()
        growable = [j for j in range(columns - columns % (m or 1)) if not keep[row, j]]
        prunable = [j for j in range(columns) if keep[row, j]]
        error = sum(e[j] for j in growable)
        for _ in range(50):
            sign = 1 if error > 0 else -1
            growing = [j for j in growable if sign * e[j] > 0]
            if abs(error) <= 0.1 or not growing:
                break
            grown = max(growing, key=lambda j: sign * e[j] / variance[j])
            growable.remove(grown)
            pruning = [j for j in prunable if sign * e[j] < 0 and (not m or j // m == grown // m)]
            if not pruning:
                continue
            pruned = min(pruning, key=lambda j: score[row, j])
            prunable.remove(pruned)
            error += e[pruned] - e[grown]
            after[row, grown], after[row, pruned] = True, False
    return after


@pytest.mark.parametrize("shift", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_dsnot_is_its_loop(pattern: Pattern, shift: float) -> None:
    site = make_site(columns=230, shift=shift, dtype=torch.float64, seed=3)
    if shift == 5.0:  # errors that 50 swaps do not undo
        site = replace(site, weight=site.weight.abs(), stats=replace(site.norms, sum_x=site.norms.sum_x.abs()))
        site.weight[:, ::4] *= -1
    m = pattern.keep_of[1] if pattern.keep_of else 0
    before = wanda(site, pattern)
    after = get_refinement("dsnot").refine(site, before, pattern)
    assert torch.equal(after, literal_dsnot(site, before, m))
    most = int((after & ~before).sum(dim=1).max())
    assert most == 50 if (pattern, shift) == (Pattern(0.5), 5.0) else 0 < most <= 50


def test_dsnot_brings_the_expected_error_near_zero() -> None:
    site = make_site(columns=200, shift=0.5, seed=4)
    mean = site.norms.sum_x / site.norms.tokens
    before = wanda(site, Pattern(0.5))
    after = get_refinement("dsnot").refine(site, before, Pattern(0.5))
    errors = [(site.weight * ~keep * mean).sum(dim=1).abs() for keep in (before, after)]
    assert float(errors[1].mean()) < 0.3 * float(errors[0].mean())
    for row in (errors[0] <= 0.1).nonzero()[:, 0].tolist():
        assert torch.equal(after[row], before[row])


def test_dsnot_leaves_inputs_of_mean_zero_alone() -> None:
    site = make_site()
    centred = replace(site, stats=replace(site.norms, sum_x=torch.zeros(70, dtype=torch.float64)))
    keep = wanda(site, Pattern(0.5))
    assert torch.equal(get_refinement("dsnot").refine(centred, keep, Pattern(0.5)), keep)


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern(0.5, (2, 4))], ids=str)
def test_dsnot_with_dead_and_constant_inputs(pattern: Pattern) -> None:
    site = make_site(columns=40)
    stats = site.norms
    dead, constant = [2, 9, 30], [5, 21]
    stats.sum_x[dead], stats.sum_sq[dead] = 0.0, 0.0
    stats.sum_x[constant] = 0.3 * stats.tokens
    stats.sum_sq[constant] = 0.3**2 * stats.tokens  # a variance of zero: rounding may make it negative
    keep = keep_mask(site.weight.abs(), pattern)
    after = get_refinement("dsnot").refine(site, keep, pattern)
    assert not bool((after & ~keep)[:, dead].any())  # a dead input is not grown
    mean = stats.sum_x / stats.tokens
    error = (site.weight * ~keep * mean).sum(dim=1)
    grown = after & ~keep
    for row in (error.abs() > 0.1).nonzero()[:, 0].tolist():
        wanted = [j for j in constant if not keep[row, j] and site.weight[row, j] * mean[j] * error[row] > 0]
        if wanted and bool(grown[row].any()) and not pattern.keep_of:
            assert bool(grown[row, wanted].any())  # a constant one comes first
