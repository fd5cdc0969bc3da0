"""`prune` against the chained stages, to the byte, and block by block against a literal loop over whole models."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from langprune_cli.numerics.gram import unpack_upper
from langprune_cli.stages.parts import block_part
from langprune_cli.store.artifact import Artifact, open_artifact
from tests.conftest import DRAW, did, langprune, one_sentence, snapshot, tree
from tests.pico import save_pico
from tests.reference.sites import SITES
from tests.test_hessian_stats import exact_hessians
from tests.text_corpora import byte_level

Matrix = NDArray[np.float64]
Keep = NDArray[np.bool_]
Words = list[object]
SEQLEN = 24


def linears_of(model: Any, place: str) -> dict[str, nn.Module]:
    """Return the linears of a whole model whose paths begin with `place`, by "<module>.weight"."""
    kinds = (nn.Linear, Conv1D)
    named = model.named_modules()
    return {f"{path}.weight": each for path, each in named if path.startswith(place) and isinstance(each, kinds)}


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight [out, in] of a linear, to be read and written."""
    weight: Tensor = module.weight.data  # type: ignore[assignment] # a Parameter
    return weight.t() if isinstance(module, Conv1D) else weight


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


def artifacts(document: Any) -> dict[str, Artifact]:
    return {each["kind"]: open_artifact(Path(each["path"]), each["kind"]) for each in document["artifacts"]}


def agreement(mask: Artifact, expected: dict[str, Keep]) -> float:
    """Return the share of weights of which a mask says what was expected."""
    packed = {name: bits.numpy() for index in range(3) for name, bits in mask.tensors(block_part(index)).items()}
    assert packed.keys() == expected.keys()
    found = {name: np.unpackbits(packed[name], axis=1, bitorder="little") for name in packed}
    same = [(found[name][:, : keep.shape[1]] == keep).ravel() for name, keep in expected.items()]
    return float(np.concatenate(same).mean())


def sums_in(stats: Artifact, what: str) -> dict[str, Tensor]:
    """Return one statistic by linear: that of its site."""
    found: dict[str, Tensor] = {}
    for index in range(3):
        tensors, record = stats.tensors_and_record(block_part(index))
        found |= {linear: tensors[f"{site}/{what}"] for site, linears in record["sites"].items() for linear in linears}
    return found


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
    found = artifacts(did("prune", "-m", tmp_path / "model", *on(windows), "--json").json)
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
    "sparsegpt": ["--method", "sparsegpt", "--damping", "0.05", "--sparsity", "0.3"],
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
    choice = [word for option, value in options.items() if option != "--update" for word in (option, value)]
    did("mask", "-w", other, "-m", tmp_path / "model", "--stats", name, *choice, "--name", name)
    did("apply", "-w", other, *update, "--name", name)
    for kind in ("masks", "models"):
        first, second = (open_artifact(folder / kind / name, kind) for folder in (made, other))
        assert (first.key, first.manifest.inputs) == (second.key, second.manifest.inputs)
        assert first.manifest.parts.keys() == second.manifest.parts.keys()
        for part in [part for part in first.manifest.parts if part.endswith(".safetensors")]:
            assert (first.folder / part).read_bytes() == (second.folder / part).read_bytes()
        assert first.manifest.about == second.manifest.about


WORKSPACE = Path("langprune-workspace")


@pytest.fixture
def prune(pico_model: Path, uk: Words) -> Callable[..., Any]:
    """Return what prunes the pico model for Ukrainian, in the default workspace, and gives the JSON document."""
    return lambda *words: did("prune", "-m", pico_model, *uk, *words, "--json").json


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_the_document_and_the_table(method: str, prune: Callable[..., Any], pico_model: Path, uk: Words) -> None:
    """Errors are those of the written weights on the calibration text, with norms alone as if inputs were uncorrelated."""
    document = prune("--method", method, "--sparsity", "0.6")
    assert document.keys() >= {"schema", "kind", "name", "path", "key", "cached", "seconds", "layers"}
    assert (document["kind"], document["cached"]) == ("models", False)
    found = artifacts(document)
    dense, pruned = load_file(pico_model / "model.safetensors"), load_file(found["models"].folder / "model.safetensors")
    sums = sums_in(found["stats"], "hessian" if method == "sparsegpt" else "sum_sq")
    assert sorted(layer["linear"] for layer in document["layers"]) == sorted(sums)
    for layer in document["layers"]:
        assert layer.keys() == {"block", "linear", "weights", "removed", "error"}
        name = layer["linear"]
        assert f"layers.{layer['block']}." in name
        w, new = dense[name].double(), pruned[name].double()
        assert (layer["weights"], layer["removed"]) == (w.numel(), int((new == 0).sum()))
        assert layer["removed"] == pytest.approx(0.6 * w.numel(), abs=len(w))
        hessian = unpack_upper(sums[name]).double() if method == "sparsegpt" else sums[name].diag()
        lost, before = ((each @ hessian * each).sum() for each in (w - new, w))
        assert layer["error"] == pytest.approx(float(lost / before), rel=0.01)
    table = did("prune", *uk, "--method", method, "-s", "0.6").out.splitlines()
    head = next(line.split() for line in table if line.startswith("layer"))
    assert head == [
        "layer",
        "sparsity",
        *(layer["linear"].split(".")[-2] for layer in document["layers"][:7]),
        "seconds",
    ]
    rows = {line.split()[0]: line.split()[2:9] for line in table if line[:8].strip().isdigit()}
    errors = [f"{layer['error']:.2%}" for layer in document["layers"]]
    assert rows == {"0": errors[:7], "1": errors[7:14], "2": errors[14:]}


def test_a_second_run_is_cached(prune: Callable[..., Any]) -> None:
    first = prune()
    before = snapshot(WORKSPACE)
    second = prune()
    assert [each["cached"] for each in second["artifacts"]] == [True] * 3
    assert [each["key"] for each in second["artifacts"]] == [each["key"] for each in first["artifacts"]]
    assert second["layers"] == first["layers"]
    changed = {name for name, state in snapshot(WORKSPACE).items() if state != before[name]}
    assert {Path(name).name for name in changed} == {"manifest.json"}  # made the newest
    assert tree(WORKSPACE) == {name: digest for name, (digest, _) in before.items()}
    shutil.rmtree(WORKSPACE / "models")
    assert [each["cached"] for each in prune()["artifacts"]] == [False] * 3  # and new weights follow from the parts
    assert tree(WORKSPACE) == {name: digest for name, (digest, _) in before.items()}


def test_a_folder_of_the_users(prune: Callable[..., Any], tmp_path: Path) -> None:
    document = prune("--out", tmp_path / "mine", "--pattern", "2:4")
    assert Path(document["path"]).resolve() == tmp_path / "mine"
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "mine", output_loading_info=True)
    assert not any(info.values())
    for name, module in linears_of(model, "model.layers.").items():
        weight = weight_of(module)
        assert (weight.reshape(-1, 4).count_nonzero(dim=1) == 2).all(), name
        assert not weight.view(torch.int32)[weight == 0].any()  # +0.0
    assert prune("--out", tmp_path / "mine", "--pattern", "2:4")["cached"] is True


def test_what_fails_takes_nothing_away(prune: Callable[..., Any], uk: Words, tmp_path: Path) -> None:
    """The statistics and the mask of a model that could not be written a second time stay complete."""
    name = prune("--method", "wanda")["name"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = tree(tmp_path)
    done = langprune("prune", *uk, "--method", "wanda", "--out", tmp_path / "mine")
    one_sentence(done, 1, "mine is not empty and holds no langprune artifact")
    assert tree(tmp_path) == before
    did("mask", "--stats", name, "--pattern", "2:4")


@pytest.mark.parametrize("seed", ["0", "5"])
def test_names_are_those_of_the_artifacts(seed: str, prune: Callable[..., Any]) -> None:
    """Also where the names that they would get are taken."""
    prune("--method", "wanda")
    document = prune("--method", "wanda", "--seed", seed)
    names = {each["kind"]: each["name"] for each in document["artifacts"]}
    assert document["about"]["mask"]["name"] == names["masks"]
    assert document["about"]["stats"] == names["stats"]
    assert open_artifact(WORKSPACE / "masks" / names["masks"], "masks").manifest.about["stats"] == names["stats"]


@pytest.mark.parametrize("method", ["sparsegpt", "admm"])
def test_more_damping_is_on_record(method: str, prune: Callable[..., Any], pico_model: Path) -> None:
    """16 tokens and 32 or 48 inputs: no Hessian can be factored, and none is replaced by the identity in silence."""
    document = prune("--nsamples", "1", "--method", method, "--damping", "1e-9")
    found = artifacts(document)
    sites = [site for index in range(3) for site in found["stats"].tensors_and_record(block_part(index))[1]["sites"]]
    used: dict[str, float] = {}
    for index in range(3):
        used |= found["masks"].tensors_and_record(block_part(index))[1]["damping"]
    assert sorted(used) == sorted(sites)
    assert all(1e-9 < damping < 0.01 for damping in used.values())
    assert found["masks"].manifest.about["more_damping"] == used
    dense, pruned = load_file(pico_model / "model.safetensors"), load_file(found["models"].folder / "model.safetensors")
    for layer in document["layers"]:  # the identity would leave the kept weights as they were
        before, after = dense[layer["linear"]], pruned[layer["linear"]]
        kept = after != 0
        assert float((after - before)[kept].abs().mean()) > 0.01 * float(before[kept].abs().mean())
    other = artifacts(prune("--nsamples", "1", "--method", method))
    assert other["masks"].tensors_and_record(block_part(0))[1]["damping"] == dict.fromkeys(sites[:4], 0.01)
    assert "more_damping" not in other["masks"].manifest.about


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--lang", "en", "--data", "TEXT/en.jsonl"], 2, "one text at a time, and 2 were given"),
        (["--method", "sparsegtp"], 1, "--method 'sparsegtp' is unknown: did you mean sparsegpt"),
        (["--update", "pgc"], 1, "--update 'pgc' is unknown: did you mean pcg"),
        (["--refine", "sparseswap"], 1, "--refine 'sparseswap' is unknown: "),
        (["--allocation", "own"], 1, "--allocation 'own' is unknown: did you mean owl"),
        (["--propagation", "prune"], 2, "--propagation 'prune' is unknown: did you mean pruned"),
        (["--damping", "0"], 2, "--damping 0 is not a share"),
        (["--damping", "1.5"], 2, "--damping 1.5 is not a share"),
        (["--damping", "nan"], 2, "--damping nan is not a share"),
        (["--exclude", "proj"], 1, "leaves nothing to prune"),
        (["--method", "sparsegpt", "--group", "layer"], 2, "--group layer does not go with --method sparsegpt"),
        (["--pattern", "2:4", "--allocation", "owl"], 2, "give --pattern N:4 --sparsity 0.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go(words: list[str], code: int, says: str, pico_model: Path, uk: Words, pico_text: Path) -> None:
    given = [word.replace("TEXT", str(pico_text)) for word in words]
    done = langprune("prune", "-m", pico_model, *uk, *given)
    one_sentence(done, code, says)
    assert not list(WORKSPACE.glob("*/*"))
