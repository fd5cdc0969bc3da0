"""`prune` against the chained stages, to the byte, and block by block against a literal loop over whole models."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact, open_artifact
from tests.reference.sites import SITES
from tests.stages.calibrate.test_hessian_stats import exact_hessians
from tests.support.command import DRAW, did, tree
from tests.support.pico import save_pico
from tests.support.pruned_models import artifacts, linears_of, sums_in, weight_of
from tests.support.text.text_corpora import byte_level

Matrix = NDArray[np.float64]
Keep = NDArray[np.bool_]
Words = list[object]
SEQLEN = 24


def literal_wanda(w: Matrix, hessian: Matrix, _width: int, _n: int) -> tuple[Keep, Matrix]:
    """Remove the lower half of |w| * ||x|| of each row."""
    scores = np.abs(w) * np.sqrt(np.diag(hessian))
    keep = np.ones(w.shape, dtype=bool)
    np.put_along_axis(keep, np.argsort(scores, axis=1)[:, : w.shape[1] // 2], values=False, axis=1)
    return keep, w * keep


def literal_sparsegpt(w: Matrix, hessian: Matrix, width: int, n: int) -> tuple[Keep, Matrix]:
    """Choose n of `width` columns of each row (n = 0: half of 128 columns of all rows); correct all that is to the right."""
    w, keep = w.copy(), np.ones(w.shape, dtype=bool)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    u = np.linalg.cholesky(np.linalg.inv(damped)).T
    for j in range(w.shape[1]):
        if j % width == 0:
            scores = (w[:, j : j + width] / np.diag(u)[j : j + width]) ** 2
            groups = scores if n else scores.reshape(1, -1)
            chosen = np.ones(groups.shape, dtype=bool)
            goes = np.argsort(groups, axis=1)[:, : width - n if n else groups.size // 2]
            np.put_along_axis(chosen, goes, values=False, axis=1)
            keep[:, j : j + width] = chosen.reshape(scores.shape)
        error = np.where(keep[:, j], 0.0, w[:, j]) / u[j, j]
        w[:, j + 1 :] -= np.outer(error, u[j, j + 1 :])
    return keep, w * keep


LITERAL = {"wanda": literal_wanda, "sparsegpt": literal_sparsegpt}


def literally_pruned(
    model: Any, prefix: str, windows: Tensor, method: str, width: int = 128, n: int = 0
) -> tuple[dict[str, Keep], dict[str, Matrix]]:
    """Prune a whole model in place, block by block, each on what those before it have become; return masks and Hessians."""
    masks: dict[str, Keep] = {}
    hessians: dict[str, Matrix] = {}
    for index in range(3):
        place = f"{prefix}.{index}."
        linears = linears_of(model, place)
        sums = exact_hessians(model, windows)
        hessians |= {name: sums[name][0] for name in linears}
        for name, module in linears.items():
            weight = weight_of(module)
            masks[name], new = LITERAL[method](weight.double().numpy(), hessians[name], width, n)
            weight.copy_(torch.from_numpy(new))
    return masks, hessians


@pytest.fixture
def uk(pico_text: Path) -> Words:
    """Return options for a text of six windows."""
    return ["--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Write windows of token ids, which need no tokenizer."""
    ids = torch.randint(3, 97, (20, SEQLEN), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    return tmp_path / "windows.safetensors"


def on(windows: Path) -> Words:
    """Return options for a text: windows go through a block one by one, as in a literal loop."""
    return ["--lang", "uk", "--data", windows, "--batch-tokens", SEQLEN]


def agreement(mask: Artifact, expected: dict[str, Keep]) -> float:
    """Return the share of weights of which a mask says what was expected."""
    packed = {name: bits.numpy() for index in range(3) for name, bits in mask.tensors(block_part(index)).items()}
    assert packed.keys() == expected.keys()
    found = {name: np.unpackbits(packed[name], axis=1, bitorder="little") for name in packed}
    same = [(found[name][:, : keep.shape[1]] == keep).ravel() for name, keep in expected.items()]
    return float(np.concatenate(same).mean())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2", "bloom"])
def test_wanda_is_the_literal_loop(family: str, tmp_path: Path, windows: Path) -> None:
    whole = save_pico(family, tmp_path / "model")
    prefix = SITES[family][0]
    found = artifacts(did("prune", "-m", tmp_path / "model", *on(windows), "--method", "wanda", "--json").json)
    expected, hessians = literally_pruned(whole, prefix, load_file(windows)["windows"], "wanda")
    assert agreement(found["masks"], expected) == 1
    sum_sq = sums_in(found["stats"], "sum_sq")
    assert all(np.allclose(sum_sq[name], np.diag(hessians[name]), rtol=1e-11, atol=0) for name in expected)
    loaded = AutoModelForCausalLM.from_pretrained(found["models"].folder)
    for name, module in linears_of(loaded, prefix).items():
        weight = weight_of(module)
        assert torch.equal(weight, weight_of(whole.get_submodule(name.removesuffix(".weight"))))
        assert not torch.signbit(weight[weight == 0]).any()


@pytest.mark.parametrize(
    ("family", "pattern", "width", "n"),
    [("llama", "unstructured", 128, 0), ("llama", "2:4", 4, 2), ("gpt2", "unstructured", 128, 0)],
)
def test_sparsegpt_is_the_literal_loop(
    family: str, pattern: str, width: int, n: int, tmp_path: Path, windows: Path
) -> None:
    """Its choices build on one another, so that float32 may turn some that are near; each turned one turns others."""
    wide: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 192} if family == "llama" else {}  # above 128
    whole = save_pico(family, tmp_path / "model", **wide)
    words = ["--method", "sparsegpt", "--pattern", pattern]
    found = artifacts(did("prune", "-m", tmp_path / "model", *on(windows), *words, "--json").json)
    expected, hessians = literally_pruned(whole, SITES[family][0], load_file(windows)["windows"], "sparsegpt", width, n)
    assert agreement(found["masks"], expected) >= 0.99
    sum_sq = sums_in(found["stats"], "sum_sq")
    for name in expected:
        rounding = 1e-11 if name.startswith(f"{SITES[family][0]}.0.") else 0.05
        assert np.allclose(sum_sq[name], np.diag(hessians[name]), rtol=rounding, atol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_block_sees_what_the_pruned_ones_before_it_put_out(family: str, tmp_path: Path, windows: Path) -> None:
    """With an update too: the written blocks, in a whole model whose later blocks are dense, give the very statistics."""
    whole = save_pico(family, tmp_path / "model")
    prefix = SITES[family][0]
    words = ["--propagation", "pruned", "--json"]
    found = artifacts(did("prune", "-m", tmp_path / "model", *on(windows), *words).json)
    dense = open_artifact(Path(did("calibrate", *on(windows), "--collect", "hessian", "--json").json["path"]), "stats")
    written = AutoModelForCausalLM.from_pretrained(found["models"].folder)
    sum_sq, before = sums_in(found["stats"], "sum_sq"), sums_in(dense, "sum_sq")
    for index in range(3):
        place = f"{prefix}.{index}."
        exact = exact_hessians(whole, load_file(windows)["windows"])
        for name, module in linears_of(whole, place).items():
            assert np.allclose(sum_sq[name], np.diag(exact[name][0]), rtol=1e-11, atol=0)
            assert torch.equal(sum_sq[name], before[name]) is (index == 0)
            weight_of(module).copy_(weight_of(written.get_submodule(name.removesuffix(".weight"))))
    assert found["stats"].manifest.parts[block_part(0)] == dense.manifest.parts[block_part(0)]
    assert found["stats"].manifest.params["propagation"] == "pruned"


CHAINED: dict[str, tuple[str | None, list[str]]] = {  # what is collected, options of apply
    "wanda": ("norms", []),
    "sparsegpt": ("hessian", []),
    "wanda with pcg": ("hessian", ["--update", "pcg"]),
    "magnitude": (None, []),
}


@pytest.mark.parametrize("case", CHAINED)
def test_propagation_dense_is_the_chained_stages(case: str, tmp_path: Path, pico_model: Path, uk: Words) -> None:
    """All that they leave: statistics, masks, weights, manifests and names."""
    collect, update = CHAINED[case]
    method = ["--method", case.split(maxsplit=1)[0]]
    words = ["-m", pico_model, *uk, *method, *update, "--propagation", "dense", "--json"]
    document = did("prune", "-w", tmp_path / "at-once", *words).json
    if collect:
        did("calibrate", "-w", tmp_path / "chained", "-m", pico_model, *uk, "--collect", collect)
    did("mask", "-w", tmp_path / "chained", "-m", pico_model, *method)
    did("apply", "-w", tmp_path / "chained", *update)
    assert tree(tmp_path / "at-once") == tree(tmp_path / "chained")
    kinds = ["models", "stats", "masks"] if collect else ["models", "masks"]
    assert [each["kind"] for each in document["artifacts"]] == kinds
    again = did("prune", "-w", tmp_path / "chained", *words).json
    assert [each["cached"] for each in again["artifacts"]] == [True] * len(kinds)


REMADE: dict[str, list[str]] = {
    "wanda": ["--method", "wanda"],
    "wanda with pcg": ["--method", "wanda", "--update", "pcg", "--pattern", "4:8"],
    "wanda with pcg, corrected": ["--method", "wanda", "--update", "pcg", "--propagation", "corrected"],
    "sparsegpt": ["--method", "sparsegpt", "--damping", "0.05", "--sparsity", "0.3"],
    "sparsegpt, corrected": ["--method", "sparsegpt", "--propagation", "corrected"],
    "sparsegpt with tails": ["--method", "sparsegpt", "--pattern", "3:5", "--exclude", r"layers\.1\.|k_proj"],
    "admm": [],
    "admm with none": ["--update", "none", "--pattern", "2:4"],
    "magnitude with sparsegpt": ["--method", "magnitude", "--update", "sparsegpt"],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", REMADE)
def test_mask_and_apply_make_the_same_of_its_statistics(
    case: str, dtype: torch.dtype, tmp_path: Path, uk: Words
) -> None:
    """The same keys, masks and weights, and the same said of them, in a copy of the workspace that has the statistics only."""
    save_pico("llama", tmp_path / "model", vocab_size=len(byte_level()), dtype=dtype)
    byte_level().save_pretrained(tmp_path / "model")
    name = did("prune", "-m", tmp_path / "model", *uk, *REMADE[case], "--json").json["name"]
    made, other = tmp_path / "langprune-workspace", tmp_path / "other"
    shutil.copytree(made / "stats", other / "stats")
    options = {"--method": "admm"} | dict(zip(REMADE[case][::2], REMADE[case][1::2], strict=True))
    update = [word for option in ("--update", "--damping") if option in options for word in (option, options[option])]
    choice = [
        word
        for option, value in options.items()
        if option not in {"--update", "--propagation"}
        for word in (option, value)
    ]
    did("mask", "-w", other, "-m", tmp_path / "model", "--stats", name, *choice, "--name", name)
    did("apply", "-w", other, *update, "--name", name)
    for kind in ("masks", "models"):
        first, second = (open_artifact(folder / kind / name, kind) for folder in (made, other))
        assert (first.key, first.manifest.inputs) == (second.key, second.manifest.inputs)
        assert first.manifest.parts.keys() == second.manifest.parts.keys()
        for part in [part for part in first.manifest.parts if part.endswith(".safetensors")]:
            assert (first.folder / part).read_bytes() == (second.folder / part).read_bytes()
        assert first.manifest.about == second.manifest.about
