"""The command `prune`: what it says, what it finds made already, names, records, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from langprune_cli.numerics.gram import unpack_upper
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import open_artifact
from tests.support.command import DRAW, did, langprune, one_sentence, snapshot, tree
from tests.support.pruned_models import artifacts, linears_of, sums_in, weight_of

Matrix = NDArray[np.float64]
Keep = NDArray[np.bool_]
Words = list[object]
SEQLEN = 24


@pytest.fixture
def uk(pico_text: Path) -> Words:
    """Return options for a text of six windows."""
    return ["--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]


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
        assert layer.keys() == {"block", "linear", "weights", "removed", "error", "damping"}
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
    assert [each["cached"] for each in prune()["artifacts"]] == [False, True, True]  # new weights follow from the parts
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


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ("sparsegpt", "--update none"),
        ("sparsegpt", "--pattern 2:4"),
        ("sparsegpt", r"--exclude layers\.0\."),
        ("sparsegpt", "--allocation owl"),
        ("wanda --update pcg", "--damping 0.1"),
    ],
)
def test_statistics_belong_to_one_pruning(base: str, more: str, prune: Callable[..., Any]) -> None:
    """All that changes what a block puts out makes other statistics of the blocks after it, which are not mixed up."""
    words = ["--method", *base.split()]
    first, second = (artifacts(prune(*each))["stats"] for each in (words, words + more.split()))
    assert first.key != second.key
    parts = [[stats.manifest.parts[block_part(index)] for index in range(3)] for stats in (first, second)]
    assert [one == other for one, other in zip(*parts, strict=True)] == [True, False, False]


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
        (["--refine", "sparseswap"], 1, "--refine 'sparseswap' is unknown: did you mean sparseswaps"),
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
