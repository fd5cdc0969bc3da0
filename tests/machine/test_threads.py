"""Slices of rows that threads share: every row once and in order, whoever takes them, and errors that are not lost."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from langprune_cli.machine.threads import one_thread, over_rows
from langprune_cli.numerics.values import count_true

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (7, 3), (1000, 1024), (3, 1 << 20), (5000, 0)])
def test_every_row_is_taken_once_and_what_is_found_is_in_their_order(shape: tuple[int, int], threads: int) -> None:
    taken = over_rows(lambda rows: list(range(shape[0]))[rows], shape, CPU)
    assert [row for part in taken for row in part] == list(range(shape[0]))
    if shape == (1000, 1024):
        assert len(taken) == 4
    assert torch.get_num_threads() == threads


def test_threads_write_side_by_side(threads: int) -> None:
    w = torch.randn(3000, 700, generator=torch.Generator().manual_seed(threads))
    out = torch.empty_like(w)

    def double(rows: slice) -> float:
        assert torch.get_num_threads() == 1  # the slices are what is shared, not what is done to one
        out[rows] = 2 * w[rows]
        return float(w[rows].double().sum())

    sums = over_rows(double, w.shape, CPU)
    assert torch.equal(out, 2 * w)
    assert sum(sums) == pytest.approx(float(w.double().sum()), rel=1e-9)


def test_an_error_in_a_slice_is_raised(threads: int) -> None:
    def refuse(rows: slice) -> None:
        if rows.start:
            raise ValueError(f"{threads} threads")

    with pytest.raises(ValueError, match=f"{threads} threads"):
        over_rows(refuse, (4000, 400), CPU)


def test_other_devices_are_given_all_rows_at_once() -> None:
    assert over_rows(lambda rows: rows, (4000, 4000), torch.device("meta")) == [slice(0, 4000)]


def test_one_thread_is_for_a_while() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("mask", [torch.zeros(0, 4).bool(), torch.eye(5).bool(), torch.eye(5).bool()[:, ::2].t()])
def test_what_is_true_is_counted(mask: Tensor) -> None:
    assert count_true(mask) == sum(map(sum, mask.tolist()))
