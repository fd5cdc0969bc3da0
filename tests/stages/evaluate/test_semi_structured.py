"""`eval --semi-structured`: which linears are held in packed form, and what is said where nothing accelerates them.

torch's 2:4 kernels need CUDA with compute capability 8.0 or later: without it the last test is skipped. Packing runs anywhere,
by torch's own conversion for CUTLASS, and so all that leads to the kernels is tested on a CPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS, to_sparse_semi_structured
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass
from transformers.pytorch_utils import Conv1D

from langprune_cli.cli.display.speeds import print_speeds
from langprune_cli.errors import LangpruneError
from langprune_cli.stages.evaluate import semi_structured
from langprune_cli.stages.evaluate.semi_structured import (
    STAYS_DENSE,
    accelerates,
    held_bytes,
    is_two_of_four,
    kernel_errors,
    kernels_take,
    semi_structured_twin,
    two_of_four_linears,
)
from langprune_cli.stages.evaluate.speed import Speed, Workload, compare, speed_rows
from tests.stages.evaluate.test_eval_and_export import PRUNED
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

WIDE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 128}
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning")
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)),
    reason="torch's 2:4 kernels need CUDA with compute capability 8.0 or later",
)


def pruned(weight: Tensor) -> Tensor:
    """Return [o, i] with the second and the fourth of every four inputs zero."""
    return weight * torch.tensor([1, 0, 1, 0], dtype=weight.dtype).repeat(weight.shape[1] // 4)


def wide_model(folder: Path, dtype: torch.dtype = torch.bfloat16, only: str = "") -> Any:
    """Save a Llama whose linears named `only` are 2:4; not all of them have shapes that the kernels take."""
    model = save_pico("llama", folder, dtype=dtype, **WIDE)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and only in name and name != "lm_head":
                module.weight.copy_(pruned(module.weight))
    model.save_pretrained(folder)
    return model


def pack(weight: Tensor) -> SparseSemiStructuredTensor:
    """Return what `to_sparse_semi_structured` returns on CUDA with the backend CUTLASS."""
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    nothing = {"packed_t": None, "meta_t": None, "compressed_swizzled_bitmask": None}
    return SparseSemiStructuredTensorCUTLASS(weight.shape, packed=packed, meta=meta, **nothing)


def test_what_two_of_four_is() -> None:
    """Two zeros in each four that lie side by side in a row, wherever they are; not in columns, and not in eights."""
    assert is_two_of_four(torch.tensor([[1.0, 0, 0, 2], [0, 0, 3, 4], [0, 5, 6, -0.0]]))
    assert is_two_of_four(torch.tensor([[0.0, 0, 0, 1, 0, 0, 0, 0]]))  # 1:4 and less
    assert not is_two_of_four(torch.tensor([[0.0, 0, 0, 1, 2, 3, 4, 0]]))  # 4:8
    assert not is_two_of_four(torch.tensor([[1.0, 0, 0, 2], [1, 2, 3, 0]]))
    assert not is_two_of_four(pruned(torch.ones(4, 8)).t())
    assert not is_two_of_four(torch.zeros(3, 6))  # no fours
    assert not is_two_of_four(torch.zeros(0, 8))


def test_half_sparse_at_random_is_not_two_of_four() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    assert not is_two_of_four(weight * (weight.abs() > weight.abs().median()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_torch_packs_without_loss_what_is_two_of_four_and_nothing_else(dtype: torch.dtype, seed: int) -> None:
    """Against torch's own packed form: it gives back what it was made of just where that was 2:4."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(32, 64, generator=random)
    best = weight.abs().view(32, 16, 4).topk(2, dim=-1).indices
    kept = torch.zeros(32, 16, 4).scatter_(-1, best, 1.0).view(32, 64)
    weight = (weight * kept).to(dtype)
    assert is_two_of_four(weight)
    assert kernels_take(linear_of(weight))
    assert torch.equal(pack(weight).to_dense(), weight)
    weight[5, 8:11] = 1.0
    assert not is_two_of_four(weight)
    assert not torch.equal(pack(weight).to_dense(), weight)


def linear_of(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@pytest.mark.parametrize(
    ("rows", "columns", "dtype", "taken"),
    [
        (32, 64, torch.bfloat16, True),
        (96, 128, torch.float16, True),
        (16, 64, torch.bfloat16, False),
        (48, 64, torch.bfloat16, False),
        (32, 32, torch.bfloat16, False),
        (32, 96, torch.float16, False),
        (32, 64, torch.float32, False),
    ],
)
def test_shapes_and_dtypes_that_the_kernels_take(rows: int, columns: int, dtype: torch.dtype, *, taken: bool) -> None:
    """What is taken fits the smallest blocks of both backends, as torch states them."""
    assert kernels_take(nn.Linear(columns, rows, dtype=dtype)) is taken
    if taken:
        for backend in (SparseSemiStructuredTensorCUTLASS, torch.sparse.SparseSemiStructuredTensorCUSPARSELT):
            least = backend._DTYPE_SHAPE_CONSTRAINTS[dtype]
            assert rows % least.sparse_min_rows == columns % least.sparse_min_cols == 0


def test_transposed_linears_are_seen_and_stay_dense() -> None:
    conv = Conv1D(64, 64).bfloat16()  # [in, out]
    with torch.no_grad():
        conv.weight.copy_(pruned(torch.randn(64, 64)).t())
    assert two_of_four_linears(nn.Sequential(conv)) == {"0": conv}
    assert not kernels_take(conv)


def test_a_twin_holds_what_the_kernels_take_and_shares_the_rest(tmp_path: Path) -> None:
    model = wide_model(tmp_path)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = two_of_four_linears(model)
    assert len(found) == 3 * 7
    taken = [name for name, each in found.items() if each.weight.shape[0] % 32 == each.weight.shape[1] % 64 == 0]
    twin = semi_structured_twin(model, pack)
    assert twin is not None
    assert (twin.converted, twin.linears) == (len(taken), len(found))
    assert 0 < twin.converted < twin.linears  # down_proj reads 96, which is no multiple of 64
    for (name, own), (same, others) in zip(model.named_parameters(), twin.model.named_parameters(), strict=True):
        assert name == same
        if name.removesuffix(".weight") in taken:
            assert isinstance(others, SparseSemiStructuredTensor)
            assert torch.equal(others.to_dense(), own)
            assert held_bytes(others) * 16 == held_bytes(own) * 9  # half of it, and two bits a weight that stays
        else:
            assert others is own
        assert others.numel() == own.numel()
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_device_without_kernels_is_one_sentence(tmp_path: Path) -> None:
    twin = semi_structured_twin(wide_model(tmp_path), pack)
    assert twin is not None
    with (
        pytest.raises(LangpruneError, match=r"kernels do not run m here \(.+\): measure without --semi-structured$"),
        kernel_errors("m"),
        torch.no_grad(),
    ):
        twin.model(input_ids=torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(LangpruneError, match=r"\(.*Only CUDA tensors are currently supported"), kernel_errors("m"):
        to_sparse_semi_structured(torch.zeros(32, 64, dtype=torch.bfloat16))


def test_a_twin_of_what_is_converted_nowhere_computes_the_same(tmp_path: Path) -> None:
    """float32 is not taken, so that the twin runs on a CPU."""
    model = wide_model(tmp_path, torch.float32)
    twin = semi_structured_twin(model)
    assert twin is not None
    assert (twin.converted, twin.linears) == (0, 21)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(twin.model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_dense_model_has_no_twin(tmp_path: Path) -> None:
    assert semi_structured_twin(save_pico("llama", tmp_path, dtype=torch.bfloat16, **WIDE)) is None


def test_rows_of_models_and_their_twins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In float32, of which the kernels take nothing: a row that says so, after its model; the dense one has no other."""
    save_pico("llama", tmp_path / "dense", **WIDE)
    wide_model(tmp_path / "sparse", torch.float32, only="mlp")
    capsys.readouterr()
    folders = {name: tmp_path / name for name in ("dense", "sparse")}
    found = compare(folders, Workload(prompt=8, new_tokens=2, repeats=1), semi_structured=True)
    twin = "sparse, 0 of 9 linears semi-structured"
    assert list(found) == ["dense", "sparse", twin]
    rows = speed_rows(found)
    assert [row["semi_structured"] for row in rows] == [None, None, {"converted": 0, "linears": 9}]
    assert {key: rows[2][key] for key in ("parameters", "weight_bytes", "file_bytes")} == {
        key: rows[1][key] for key in ("parameters", "weight_bytes", "file_bytes")
    }
    print_speeds(rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].startswith(twin)
    assert shown[-1] == STAYS_DENSE
    assert "float16 or bfloat16, outputs a multiple of 32 and inputs of 64" in STAYS_DENSE
    assert list(compare(folders, Workload(prompt=8, new_tokens=2, repeats=1))) == ["dense", "sparse"]


def test_all_converted_needs_no_more_words(capsys: pytest.CaptureFixture[str]) -> None:
    speed = Speed(1, 4, 100, "bfloat16", "cuda", 1, 10, 10, (1.0,), (1.0,))
    twin = Speed(1, 3, 100, "bfloat16", "cuda", 1, 10, 10, (0.5,), (1.0,), semi_structured=(21, 21))
    print_speeds(speed_rows({"m": speed, "m, 21 of 21 linears semi-structured": twin}))
    out = capsys.readouterr().out
    assert "2.00x" in out
    assert STAYS_DENSE not in out


def test_a_cpu_accelerates_nothing_and_the_table_comes_all_the_same(workspace: Path) -> None:
    assert not accelerates(torch.device("cpu"))
    done = did("eval", "-w", workspace, "--semi-structured", "--device", "cpu")
    assert done.err.splitlines()[-1] == semi_structured.NO_KERNELS
    assert "CUDA with compute capability 8.0 or later" in semi_structured.NO_KERNELS
    assert [line.split()[0] for line in done.out.splitlines()[-2:]] == ["pico", PRUNED]
    rows = did("eval", "-w", workspace, "--semi-structured", "--device", "cpu", "--json").json["speed"]
    assert [(row["model"], row["semi_structured"]) for row in rows] == [("pico", None), (PRUNED, None)]


def test_nothing_is_measured_in_a_dry_run(workspace: Path) -> None:
    done = langprune("eval", "-w", workspace, "--semi-structured", "--dry-run")
    one_sentence(done, 2, "--semi-structured measures, and --dry-run runs nothing")


@needs_kernels
def test_the_kernels(workspace: Path, tmp_path: Path) -> None:
    """Logits of a twin are those of its model but for rounding; a row of it is measured, and none of a dense model."""
    model = wide_model(tmp_path / "wide").cuda()
    twin = semi_structured_twin(model)
    assert twin is not None
    assert 0 < twin.converted < twin.linears
    ids = torch.arange(64, device="cuda").view(2, 32)
    with torch.inference_mode():
        expected, found = (each(input_ids=ids).logits.float() for each in (model, twin.model))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    words = ["eval", "-w", workspace, "--device", "cuda", "--dtype", "bfloat16", "--semi-structured", "--model"]
    (plain, row) = did(*words, tmp_path / "wide", "--json").json["speed"]
    assert row["model"] == f"wide, {twin.converted} of {twin.linears} linears semi-structured"
    assert row["weight_bytes"] < plain["weight_bytes"]
    save_pico("llama", tmp_path / "dense", dtype=torch.bfloat16, **WIDE)
    done = did(*words, tmp_path / "dense")
    assert done.err.splitlines()[-1] == semi_structured.NO_LINEARS
