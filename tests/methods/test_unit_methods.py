"""Every method for structured pruning against its definition, and the registry that finds them."""

import pytest
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.numerics.units import UnitSite, highest
from langprune_cli.solvers import osscar as solver
from langprune_cli.unit_methods import flap, magnitude, wanda_sp
from langprune_cli.unit_methods.method import get_unit_method, unit_methods
from langprune_cli.updates.update import updates
from tests.reference import units as reference
from tests.support.hessians import correlated

WINDOWS = 4
SIZES = [1, 4, 8]


def problem(size: int, units: int = 12, rows: int = 7, seed: int = 0) -> tuple[UnitSite, Tensor]:
    """Make a reader, what it reads [t, i], float64, and writers of two shapes."""
    generator = torch.Generator().manual_seed(seed)
    x = correlated(100, units * size, seed).double()
    stats = SiteStats((x**2).sum(0), x.sum(0), len(x), WINDOWS, (x.t() @ x).float())
    writers = torch.randn(units, 5 * size, generator=generator), torch.randn(units, size, 3, generator=generator)
    weight = torch.randn(rows, units * size, generator=generator)
    return UnitSite(Site(weight, (rows,), stats), size, writers), x


def lowest_leave(scores: list[float], stay: int) -> list[bool]:
    gone = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))[: len(scores) - stay]
    return [unit not in gone for unit in range(len(scores))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stay", [12, 7, 1, 0])
def test_methods_are_their_definitions(size: int, stay: int) -> None:
    site, x = problem(size)
    w, inputs = site.site.weight.double().numpy(), x.numpy()
    expected = {
        "flap": reference.flap(w, inputs, size),
        "wanda-sp": reference.wanda_sp(w, inputs, WINDOWS, size),
        "magnitude": reference.magnitude(w, [each.double().numpy() for each in site.writers], size),
    }
    for module in (flap, wanda_sp, magnitude):
        method = module.METHOD
        assert module.score(site).tolist() == pytest.approx(expected[method.name], rel=1e-6)
        assert method.choose(site, stay).tolist() == lowest_leave(expected[method.name], stay)
    assert torch.equal(get_unit_method("osscar").choose(site, stay), solver.choose(site, stay))


@pytest.mark.parametrize("name", ["osscar", "flap", "wanda-sp", "magnitude"])
@pytest.mark.parametrize("size", SIZES)
def test_exactly_so_many_stay_and_nothing_is_changed(name: str, size: int) -> None:
    site, _ = problem(size)
    weight = site.site.weight.clone()
    for stay in range(13):
        keep = get_unit_method(name).choose(site, stay)
        assert keep.shape == (12,)
        assert keep.dtype == torch.bool
        assert int(keep.sum()) == stay
    for stay in (-1, 13):
        with pytest.raises(ValueError, match="of 12 units cannot stay"):
            get_unit_method(name).choose(site, stay)
    assert torch.equal(site.site.weight, weight)


@pytest.mark.parametrize("name", ["osscar", "flap", "wanda-sp", "magnitude"])
def test_of_equal_units_the_earlier_leave_first(name: str) -> None:
    """Inputs that are independent and alike, and weights that are the same."""
    x = torch.eye(6).double()
    stats = SiteStats((x**2).sum(0), x.sum(0), 6, 1, (x.t() @ x).float())
    site = UnitSite(Site(torch.ones(3, 6), (3,), stats), 1, (torch.ones(6, 4),))
    assert get_unit_method(name).choose(site, 2).tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("name", ["osscar", "flap", "wanda-sp"])
def test_units_that_read_nothing_leave_first(name: str) -> None:
    site, x = problem(4)
    x[:, 8:16] = 0
    stats = SiteStats((x**2).sum(0), x.sum(0), len(x), WINDOWS, (x.t() @ x).float())
    site = UnitSite(Site(site.site.weight, site.site.rows, stats), 4)
    assert (~get_unit_method(name).choose(site, 10)).nonzero()[:, 0].tolist() == [2, 3]


def test_flap_sees_no_variance_in_inputs_that_are_always_the_same() -> None:
    """Sums of squares would say that they matter most; rounding may not make less than nothing of them either."""
    site, x = problem(1)
    x[:, 5] = 1e4 + 1 / 3
    stats = SiteStats((x**2).sum(0), x.sum(0), len(x), WINDOWS)
    site = UnitSite(Site(site.site.weight, site.site.rows, stats), 1)
    score = flap.score(site)
    assert bool((score >= 0).all())
    assert not flap.METHOD.choose(site, 11)[5]
    assert wanda_sp.METHOD.choose(site, 1)[5]
    nothing = SiteStats(torch.zeros(12).double(), torch.zeros(12).double(), 0, WINDOWS)
    assert not flap.score(UnitSite(Site(site.site.weight, site.site.rows, nothing), 1)).any()


def test_magnitude_needs_no_statistics_and_the_others_say_what_they_lack() -> None:
    site, _ = problem(4)
    bare = UnitSite(Site(site.site.weight, site.site.rows, None), 4, site.writers)
    assert torch.equal(magnitude.METHOD.choose(bare, 5), magnitude.METHOD.choose(site, 5))
    for name in ("flap", "wanda-sp", "osscar"):
        with pytest.raises(ValueError, match="column norms"):
            get_unit_method(name).choose(bare, 5)


def test_the_registry_finds_them() -> None:
    found = {name: (method.needs, method.update) for name, method in unit_methods().items()}
    assert found == {
        "flap": ("norms", "none"),
        "magnitude": ("nothing", "none"),
        "osscar": ("hessian", "least-squares"),
        "wanda-sp": ("norms", "none"),
    }
    assert {method.update for method in unit_methods().values()} <= updates().keys()
    assert all(method.paper.startswith("https://") for method in unit_methods().values())
    with pytest.raises(LangpruneError, match="--method 'oscar' is unknown: did you mean osscar"):
        get_unit_method("oscar")


def test_units_are_consecutive_columns() -> None:
    site, _ = problem(4)
    assert site.units == 12
    assert site.columns(torch.arange(12) == 2).nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    assert site.summed(torch.arange(48.0))[:2].tolist() == [6.0, 22.0]
    for size in (0, 5):
        with pytest.raises(ValueError, match="no whole number of units"):
            UnitSite(site.site, size)
    assert highest(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3).tolist() == [False, True, True, True]
