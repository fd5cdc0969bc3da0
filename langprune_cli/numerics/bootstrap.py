"""Confidence intervals of a mean over windows: the range to expect on other windows of the same kind of text.

Two models are compared on the same windows, so their differences are resampled, window by window: how hard a window is
cancels. Windows are assumed independent. An interval says nothing about other kinds of text, nor about a mask made from
other calibration windows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
METHOD = "bootstrap-t"
_CHUNK = 1 << 22  # counts held at once, 32 MiB

# A squared spread below this share of the sample's is rounding: the resample repeats one window.
_ROUNDING = 1e-20


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95% interval; None if there are too few windows."""

    mean: float
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool | None:
        """Return whether 0 lies outside the interval; None without one."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0 <= self.high


def mean_intervals(
    samples: NDArray[np.float64],  # [n, k], n draws of k quantities
) -> list[Interval]:
    """Return each column's mean with its bootstrap-t interval (Efron & Tibshirani 1993, section 12.5).

    Every resample draws n rows with replacement and is studentised by its own standard error; the quantiles of these
    ratios replace those of Student's distribution. With few windows and long tails this interval has the stated coverage,
    which percentile and BCa intervals do not (docs/decisions.md). All columns use the same resamples, and every call the
    same draw. Bounds are None for one window, and if so many resamples have no spread that a quantile is infinite, as with
    two or three windows.
    """
    n = samples.shape[0]
    means = samples.mean(axis=0)
    if n < 2:
        return [Interval(float(mean), None, None) for mean in means]
    centred = samples - means
    error = np.sqrt((centred**2).sum(axis=0) / (n * (n - 1)))
    # All windows differ by the same amount: only rounding is left after centring, so do not studentise it.
    error[error <= 1e-12 * np.abs(means)] = 0.0
    ratios = _studentised(centred)
    tail = (1 - LEVEL) / 2
    # Order statistics, without interpolation between finite and infinite ones: k-th smallest and k-th largest.
    rank = int(RESAMPLES * tail)
    ordered = np.sort(ratios, axis=0)
    found = []
    for mean, se, column in zip(means.tolist(), error.tolist(), ordered.T, strict=True):
        lowest, highest = float(column[rank]), float(column[-1 - rank])
        if se == 0:
            found.append(Interval(mean, mean, mean))
        elif np.isinf(lowest) or np.isinf(highest):
            found.append(Interval(mean, None, None))
        else:
            found.append(Interval(mean, mean - highest * se, mean - lowest * se))
    return found


def _studentised(
    centred: NDArray[np.float64],  # [n, k], of mean 0
) -> NDArray[np.float64]:  # [resamples, k]
    """Return each resample's mean divided by its standard error; infinite without spread."""
    n, k = centred.shape
    both = np.concatenate([centred, centred**2], axis=1)
    nothing = _ROUNDING * both[:, k:].mean(axis=0)
    generator = np.random.default_rng(SEED)
    chunk = max(1, _CHUNK // n)
    ratios = []
    for start in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means, squares = np.split(counts @ both / n, [k], axis=1)
        spread = squares - means**2
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = means / np.sqrt(np.where(spread > nothing, spread, 0.0) / (n - 1))
        ratios.append(np.nan_to_num(ratio, nan=0.0, posinf=np.inf, neginf=-np.inf))
    return np.concatenate(ratios)
