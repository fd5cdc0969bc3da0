"""Intervals of means: against a literal loop, their coverage, invariances, and samples too small to say."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from langprune_cli.numerics import bootstrap
from langprune_cli.numerics.bootstrap import RESAMPLES, SEED, Interval, mean_intervals

Samples = NDArray[np.float64]


def interval(values: Samples) -> Interval:
    (found,) = mean_intervals(values[:, None])
    return found


def bounds(values: Samples) -> tuple[float, float]:
    found = interval(values)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def skewed(n: int, seed: int) -> Samples:
    return np.random.default_rng(seed).lognormal(-0.5, 1.0, n)


def literal(values: Samples) -> tuple[float, float]:
    """Draw, studentise and sort one resample at a time (Efron & Tibshirani 1993, section 12.5)."""
    generator, n = np.random.default_rng(SEED), len(values)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = values[generator.integers(n, size=n)]
        ratios.append((drawn.mean() - values.mean()) / (drawn.std(ddof=0) / math.sqrt(n - 1)))
    ratios.sort()
    error = values.std(ddof=1) / math.sqrt(n)
    # 250 of 10,000 ratios lie below the one, 250 above the other.
    return values.mean() - ratios[-251] * error, values.mean() - ratios[250] * error


@pytest.mark.parametrize("n", [12, 40])
def test_equals_a_literal_loop(n: int) -> None:
    assert bounds(skewed(n, 1)) == pytest.approx(literal(skewed(n, 1)), rel=1e-9)


def test_resamples_are_the_same_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_intervals(skewed(60, 2).reshape(20, 3))
    monkeypatch.setattr(bootstrap, "_CHUNK", 20 * 999)
    chunks = mean_intervals(skewed(60, 2).reshape(20, 3))
    for one, other in zip(whole, chunks, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-12)


def test_columns_do_not_see_each_other() -> None:
    samples = np.stack([skewed(30, 3), -skewed(30, 4), np.zeros(30)], axis=1)
    for found, column in zip(mean_intervals(samples), samples.T, strict=True):
        alone = interval(column)
        assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high), abs=1e-12)


@pytest.mark.parametrize("n", [10, 30, 200])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_covers_the_true_mean_as_often_as_it_says(n: int, draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """95% of 400 intervals, give or take 4 standard errors (1.1% each)."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)  # enough for a tail of 25, and the test is to be short
    generator = np.random.default_rng(n)
    samples = generator.normal(1.0, 3.0, (n, 400)) if draw == "normal" else generator.exponential(1.0, (n, 400))
    inside = [found.low <= 1.0 <= found.high for found in mean_intervals(samples)]  # type: ignore[operator] # known
    assert abs(np.mean(inside) - 0.95) < 4 * 0.011


def test_no_difference_is_noise_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    pairs = np.random.default_rng(5).gamma(2.0, 1.0, (2, 40, 400))
    wrong = np.mean([found.significant for found in mean_intervals(pairs[0] - pairs[1])])
    assert 0.05 - 4 * 0.011 < wrong < 0.05 + 4 * 0.011


def test_pairing_takes_away_what_windows_have_in_common() -> None:
    hard = 100 * skewed(50, 6)  # windows differ a hundred times more than the models
    difference = np.random.default_rng(6).normal(0.2, 0.3, 50)
    assert interval((hard + difference) - hard).significant is True
    assert interval(hard + difference - hard[::-1]).significant is False


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        (lambda v: v + 7.0, lambda b: b + 7.0),
        (lambda v: v * 8.0, lambda b: b * 8.0),
        (lambda v: v * 1e-9, lambda b: b * 1e-9),
    ],
    ids=["shift", "scale", "another unit"],
)
def test_moves_and_grows_with_the_sample(change: Callable[[Samples], Samples], bound: Callable[[float], float]) -> None:
    before = bounds(skewed(25, 7))
    assert bounds(change(skewed(25, 7))) == pytest.approx([bound(each) for each in before], rel=1e-9)


def test_the_other_way_round_is_the_mirror_image() -> None:
    low, high = bounds(skewed(25, 8))
    assert bounds(-skewed(25, 8)) == pytest.approx((-high, -low), rel=1e-12)


def test_a_long_tail_makes_the_far_side_longer() -> None:
    low, high = bounds(skewed(40, 9))
    mean = skewed(40, 9).mean()
    assert high - mean > 1.2 * (mean - low)


def test_more_windows_make_it_narrower() -> None:
    sample = np.random.default_rng(10).normal(0.0, 1.0, 3200)
    widths = [np.subtract(*reversed(bounds(sample[:n]))) for n in (50, 800, 3200)]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)  # the root of 16, and then of 4
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.15)


def test_samples_without_spread() -> None:
    assert interval(np.zeros(9)) == Interval(0.0, 0.0, 0.0)
    assert interval(np.zeros(9)).significant is False
    same = interval(np.full(9, 0.1))
    assert (same.low, same.high) == (same.mean, same.mean)
    assert same.mean == pytest.approx(0.1)
    assert same.significant is True


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.7], [0.5, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0, 9.0]])
def test_too_few_windows_give_no_bounds(values: list[float]) -> None:
    """Of three windows every ninth resample is one window three times, and says nothing of the spread."""
    found = interval(np.array(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high, found.significant) == (None, None, None)


def test_bounds_at_zero_are_noise() -> None:
    assert Interval(1.0, 0.0, 2.0).significant is False
    assert Interval(-1.0, -2.0, 0.0).significant is False
    assert Interval(1.0, 1e-9, 2.0).significant is True
    assert Interval(-1.0, -2.0, -1e-9).significant is True
