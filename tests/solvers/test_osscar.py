"""OSSCAR and its least squares: against all subsets, elimination by the book, and lstsq on the inputs themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.numerics.units import UnitSite
from langprune_cli.solvers import osscar
from langprune_cli.solvers.tableau import Tableau
from langprune_cli.updates.update import get_update
from tests.reference import units as reference
from tests.support.hessians import correlated, site_of


def unit_site(rows: int, x: Tensor, size: int = 1, *, damping: float = 0.01, seed: int = 1) -> UnitSite:
    return UnitSite(site_of((rows,), x, damping=damping, seed=seed), size)


def as_numpy(site: UnitSite) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights, those of dead columns being zero, and the inverse of the damped Hessian."""
    hessian = site.site.hessian.double().numpy()
    w = site.site.weight.double().numpy() * (np.diag(hessian) != 0)
    return w, np.linalg.inv(reference.damped(hessian, site.site.damping))


def error_of(site: UnitSite, keep: Tensor) -> float:
    w, inverse = as_numpy(site)
    return reference.error(w, inverse, reference.columns_of((~keep).nonzero()[:, 0].tolist(), site.size))


def random_problem(seed: int, size: int = 1, most: int = 12) -> tuple[UnitSite, int]:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    units = draw(3, most)
    site = unit_site(draw(1, 10), correlated(draw(units, 6 * units * size), units * size, seed), size, seed=seed)
    return site, draw(1, units - 1)


@pytest.mark.parametrize(("size", "most", "cases"), [(1, 12, 200), (4, 8, 40)])
def test_it_finds_the_best_of_all_subsets_nearly_always(size: int, most: int, cases: int) -> None:
    """Of 200 problems of up to 12 columns; elimination alone does so less often, with swaps from there more often."""
    near = torch.zeros(3)
    for seed in range(cases):
        site, stay = random_problem(seed, size, most)
        least = reference.best(*as_numpy(site), size, stay)
        eliminated = osscar.eliminate(site, stay)
        found = eliminated, osscar.swap(site, eliminated), osscar.choose(site, stay)
        errors = [error_of(site, keep) for keep in found]
        assert errors[1] <= errors[0] * (1 + 1e-9)
        assert errors[2] <= errors[1] * (1 + 1e-9)
        near += torch.tensor([error <= 1.01 * least for error in errors])
    assert near[2] >= 0.97 * cases
    assert near[1] >= 0.9 * cases
    assert near[0] >= 0.6 * cases


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [3, 40])
def test_elimination_is_that_by_the_book(rows: int, size: int) -> None:
    site = unit_site(rows, correlated(200, 12 * size, seed=size), size)
    w, inverse = as_numpy(site)
    for stay in (11, 7, 3, 1):
        expected = reference.eliminated(w, inverse, size, stay)
        assert osscar.eliminate(site, stay).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 4])
def test_what_it_says_each_removal_costs_is_what_least_squares_leaves(size: int) -> None:
    """Along the whole path, and the tableau's own sum at its end."""
    site = unit_site(20, correlated(400, 96, seed=3), size)
    tableau, claimed = osscar._all_kept(site), 0.0
    for _ in range(site.units - 2):
        cost, unit = tableau.worth().masked_fill(~tableau.keep, torch.inf).min(dim=0)
        claimed += float(cost)
        tableau.exchange(unit[None])
        exact = error_of(site, tableau.keep)
        assert claimed == pytest.approx(exact, rel=1e-9)
        assert osscar._error(site, tableau) == pytest.approx(exact, rel=1e-9)
        assert osscar.removal_error(site, tableau.keep) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("rows", [5, 60])
def test_the_tableau_says_what_every_change_of_sides_does(rows: int, size: int) -> None:
    """Leaving, joining and every swap: in the whole, and in a part of it after others have moved there."""
    site = unit_site(rows, correlated(100, 10 * size), size)
    tableau = osscar._all_kept(site)
    tableau.exchange(torch.tensor([1, 4, 6]))
    tableau.exchange(torch.tensor([4, 8, 0]))  # one comes back while others leave
    part = tableau.part(torch.tensor([0, 2, 3, 5, 6]))
    part.exchange(torch.tensor([1, 4]))  # of the whole: 2 leaves, 6 comes back
    keep = tableau.keep.clone()
    keep[[2, 6]] = torch.tensor([False, True])
    for table, of_whole, now in ((tableau, range(10), tableau.keep), (part, [0, 2, 3, 5, 6], keep)):
        here, worth = error_of(site, now), table.worth()
        for place, unit in enumerate(of_whole):
            other = now.clone()
            other[unit] = ~other[unit]
            assert float(worth[place]) == pytest.approx(abs(error_of(site, other) - here), rel=1e-8)
        leaves, joins = table.keep.nonzero()[:, 0], (~table.keep).nonzero()[:, 0]
        changes = torch.cat([change for _, change in table.swaps(leaves, joins)], dim=1)
        for k, leaf in enumerate(leaves.tolist()):
            for r, join in enumerate(joins.tolist()):
                other = now.clone()
                other[[of_whole[leaf], of_whole[join]]] = torch.tensor([False, True])
                assert float(changes[k, r]) == pytest.approx(error_of(site, other) - here, rel=1e-8, abs=1e-9 * here)


def wide_problem(seed: int = 0) -> UnitSite:
    """Make 700 columns, some of them nearly copies of others: of two such, one may leave, and the other then may not."""
    x = correlated(900, 700, seed)
    x[:, 1:200:2] = x[:, 0:200:2] + 0.05 * torch.randn(900, 100, generator=torch.Generator().manual_seed(seed))
    return unit_site(30, x)


@pytest.mark.parametrize("stay", [630, 350, 40])
def test_elimination_by_lists_is_as_good_as_one_by_one_and_avoids_both_of_two_copies(stay: int) -> None:
    """700 columns are more than a list holds."""
    site = wide_problem()
    keep = osscar.eliminate(site, stay)
    assert int(keep.sum()) == stay
    one_by_one = torch.from_numpy(reference.eliminated_by_downdates(*as_numpy(site), stay))
    assert osscar.removal_error(site, keep) <= 1.002 * osscar.removal_error(site, one_by_one)
    assert int((keep != one_by_one).sum()) <= 0.02 * 700
    if stay == 630:
        assert not (~keep[0:200:2] & ~keep[1:200:2]).any()


def test_swaps_by_lists_end_where_no_swap_is_worthwhile() -> None:
    """From a poor mask of 400 columns: more than a list holds, and the end is checked by the whole tableau."""
    site = unit_site(30, correlated(600, 400))
    start = torch.arange(400) % 2 == 0
    keep = osscar.swap(site, start)
    assert int(keep.sum()) == 200
    after = osscar.removal_error(site, keep)
    assert after < 0.7 * osscar.removal_error(site, start)
    tableau = osscar._all_kept(site)
    tableau.exchange((~keep).nonzero()[:, 0])
    assert torch.equal(tableau.keep, keep)
    for _, change in tableau.swaps(keep.nonzero()[:, 0], (~keep).nonzero()[:, 0]):
        assert float(change.min()) >= -1.1e-6 * osscar.removal_error(site, start)


@pytest.mark.parametrize("damping", [0.01, 0.0, 1.0])
@pytest.mark.parametrize("size", [1, 4])
def test_least_squares_is_lstsq_on_the_inputs(damping: float, size: int) -> None:
    """In float64, the damping as further inputs; what comes out is its nearest float32, exactly zero off the kept columns."""
    x = correlated(300, 60).double()
    w = torch.randn(9, 60, generator=torch.Generator().manual_seed(2))
    hessian = x.t() @ x
    added = damping * float(hessian.diagonal().mean())
    inputs = torch.cat([x, added**0.5 * torch.eye(60)])
    keep = (torch.arange(60 // size) % 3 != 0).repeat_interleave(size)
    expected = torch.linalg.lstsq(inputs[:, keep], inputs @ w.double().t(), driver="gelsd").solution.t()
    fitted, _ = osscar._fit(w, hessian, damping, keep)
    assert float((fitted - expected).norm() / expected.norm()) < 1e-8
    new = osscar.least_squares(w, hessian, damping, keep)
    assert new.dtype == torch.float32
    assert torch.equal(new[:, keep], fitted.float())
    assert not new[:, ~keep].any()
    assert not torch.signbit(new[:, ~keep]).any()


def test_the_update_is_it_and_refuses_masks_whose_rows_differ() -> None:
    update = get_update("least-squares")
    assert update.needs == "hessian"
    site = site_of((4, 3), correlated(80, 24))
    keep = torch.arange(24) % 4 != 1
    stacked = keep.expand(7, 24)
    found = update.update(site, stacked).weight
    assert torch.equal(found, osscar.least_squares(site.weight, site.hessian, site.damping, keep))
    assert torch.equal(update.update(site, torch.ones(7, 24, dtype=torch.bool)).weight, site.weight)
    assert torch.equal(update.update(site, torch.zeros(7, 24, dtype=torch.bool)).weight, torch.zeros(7, 24))
    uneven = stacked.clone()
    uneven[2, 5:7] = ~uneven[2, 5:7]
    with pytest.raises(LangpruneError, match="rows of this one differ: use --update pcg"):
        update.update(site, uneven)


@pytest.mark.parametrize("size", [1, 4])
def test_dead_units_leave_first_and_dead_columns_keep_their_weights(size: int) -> None:
    x = correlated(200, 48)
    dead = torch.zeros(48 // size, dtype=torch.bool)
    dead[[0, 5, 11]] = True
    x[:, dead.repeat_interleave(size)] = 0
    x[:, 30] = 0  # for size 4: one of a unit that lives
    site = unit_site(10, x, size)
    site.site.weight[:, 30] = 1000.0  # of no effect whatever it is
    gone = dead.clone()
    if size == 1:
        gone[30] = True
    assert torch.equal(osscar.choose(site, site.units - int(gone.sum())), ~gone)
    assert not osscar.choose(site, 4)[gone].any()
    first = osscar.eliminate(site, site.units - 1)
    assert (~first).nonzero().tolist() == [[0]]  # of ties the earlier
    keep = osscar.choose(site, site.units - 5)
    assert osscar.removal_error(site, keep) == pytest.approx(error_of(site, keep), rel=1e-9)
    columns = torch.arange(48) % 5 != 0  # column 30 and some dead ones leave, others stay
    new = osscar.least_squares(site.site.weight, site.site.hessian, 0.01, columns)
    still = columns & (site.site.hessian.diagonal() == 0)
    assert int(still.sum()) > 0
    assert torch.equal(new[:, still], site.site.weight[:, still])


def test_nothing_but_dead_columns() -> None:
    site = unit_site(3, torch.zeros(10, 6))
    assert osscar.choose(site, 4).tolist() == [False, False, True, True, True, True]
    keep = torch.tensor([True, False, True, True, False, True])
    new = osscar.least_squares(site.site.weight, site.site.hessian, 0.01, keep)
    assert torch.equal(new, site.site.weight * keep)
    assert osscar.removal_error(site, keep) == 0.0


def test_a_unit_whose_weights_are_zero_costs_nothing() -> None:
    site = unit_site(6, correlated(100, 20))
    site.site.weight[:, [3, 17]] = 0.0
    assert (~osscar.eliminate(site, 18)).nonzero()[:, 0].tolist() == [3, 17]


@given(st.integers(0, 100), st.sampled_from([1, 4]))
@settings(deadline=None, max_examples=25)
def test_the_scale_of_the_hessian_does_not_matter(seed: int, size: int) -> None:
    site, stay = random_problem(seed, size)
    stats = site.site.norms
    assert stats.hessian is not None
    for scale in (2.0**-60, 1e-5, 3e8):
        scaled = replace(site.site, stats=replace(stats, hessian=stats.hessian * scale))
        other = UnitSite(scaled, size)
        if scale == 2.0**-60:  # exact: the very same numbers
            assert torch.equal(osscar.choose(other, stay), osscar.choose(site, stay))
        keep = osscar.eliminate(site, stay)
        assert osscar.removal_error(other, keep) == pytest.approx(scale * osscar.removal_error(site, keep), rel=1e-3)
        columns = site.columns(keep)
        new, expected = (osscar.least_squares(each.weight, each.hessian, 0.01, columns) for each in (scaled, site.site))
        assert torch.allclose(new, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("damping", [0.01, 0.0])
def test_one_token_is_enough_to_run_on(damping: float, size: int) -> None:
    """A Hessian of rank one, which without damping cannot be factored: it then gets some."""
    site = unit_site(5, correlated(1, 16), size, damping=damping)
    keep = osscar.choose(site, 16 // size // 2)
    assert int(keep.sum()) == 16 // size // 2
    new = osscar.least_squares(site.site.weight, site.site.hessian, damping, site.columns(keep))
    assert bool(torch.isfinite(new).all())
    x = correlated(1, 16).double()
    before, after = (float((x @ w.double().t()).norm()) for w in (site.site.weight, site.site.weight - new))
    assert after < 0.1 * before  # one token's outputs can be met, but for the damping


@pytest.mark.parametrize("size", [1, 4])
def test_all_stay_one_stays_and_none_stays(size: int) -> None:
    site = unit_site(8, correlated(100, 24), size)
    everything = torch.ones(site.units, dtype=torch.bool)
    assert torch.equal(osscar.choose(site, site.units), everything)
    assert torch.equal(osscar.swap(site, everything), everything)
    assert torch.equal(osscar.swap(site, ~everything), ~everything)
    assert osscar.removal_error(site, everything) == 0.0
    one = osscar.choose(site, 1)
    assert int(one.sum()) == 1
    assert error_of(site, one) == pytest.approx(reference.best(*as_numpy(site), size, 1), rel=1e-5)
    assert not osscar.choose(site, 0).any()
    for stay in (-1, site.units + 1):
        for search in (osscar.eliminate, osscar.choose):
            with pytest.raises(ValueError, match="cannot stay"):
                search(site, stay)


def test_what_it_is_given_is_left_alone_and_it_gives_the_same_again() -> None:
    site = wide_problem(1)
    assert site.site.stats is not None
    weight, hessian = site.site.weight.clone(), site.site.hessian.clone()
    keep = osscar.choose(site, 500)
    assert torch.equal(osscar.choose(site, 500), keep)
    assert torch.equal(osscar.swap(site, osscar.eliminate(site, 500)), keep)  # many units: no second search
    start = keep.clone()
    osscar.swap(site, start)
    osscar.least_squares(site.site.weight, site.site.hessian, 0.01, keep)
    assert torch.equal(start, keep)
    assert torch.equal(site.site.weight, weight)
    assert torch.equal(site.site.hessian, hessian)


def test_a_hessian_that_is_not_finite_or_not_a_hessian_is_refused() -> None:
    hessian = torch.eye(4)
    hessian[1, 1] = torch.inf
    stats = SiteStats(torch.ones(4).double(), torch.zeros(4).double(), 1, 1, hessian)
    site = UnitSite(Site(torch.ones(2, 4), (2,), stats), 1)
    with pytest.raises(LangpruneError, match="not finite"):
        osscar.eliminate(site, 2)
    indefinite = torch.ones(4, 4) * 1000.0
    indefinite.diagonal().fill_(1.0)
    with pytest.raises(LangpruneError, match="cannot be factored"):
        osscar.least_squares(torch.ones(2, 4), indefinite, 0.01, torch.tensor([True, True, False, True]))


def test_a_tableau_of_many_outputs_is_cut_down_to_as_many_as_it_has_columns() -> None:
    tableau = Tableau(torch.eye(6).double(), torch.randn(6, 50).double(), torch.ones(3, dtype=torch.bool), 2)
    part = tableau.part(torch.tensor([2, 0]))
    assert part.y.shape == (4, 4)
    assert torch.allclose(part.worth(), tableau.worth()[[2, 0]])
