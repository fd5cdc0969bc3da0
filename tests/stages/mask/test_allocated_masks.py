"""Masks whose blocks lose different shares: exact totals, N:M of each block's own, and what is kept of an interrupted run."""

import hashlib
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from langprune_cli.location.location import locate_model
from langprune_cli.methods.method import get_method
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.stages.mask.mask import MaskSource, mask
from langprune_cli.stages.solving import allocating
from langprune_cli.stages.solving.choosing import MaskSettings, WeightChooser
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import ArtifactWriter, open_artifact
from langprune_cli.store.building import Silent
from langprune_cli.store.target import Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from tests.support.artifact_making import sign
from tests.support.command import DRAW, SEQLEN, did, langprune, one_sentence, snapshot, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level

WEIGHTS, LINEARS, IN_BLOCK = 23040, 21, 7680
PART = "allocation.json"
STATS = {"uniform": "uk", "owl": "uk", "alpha": "uk", "search": "uk-hessian"}

Make = Callable[..., Path]
Keep = NDArray[np.bool_]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Llama whose blocks differ: the weights of block 1 have heavy tails, those of block 2 light ones."""
    folder = tmp_path_factory.mktemp("varied") / "model"
    save_pico("llama", folder, vocab_size=len(byte_level()), max_position_embeddings=64)
    byte_level().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        if "layers.0." not in name and "proj" in name:
            bent = weight.sign() * weight.abs() ** (3.0 if "layers.1." in name else 0.5)
            weight.copy_(bent * weight.norm() / bent.norm())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, varied: Path, pico_text: Path) -> Path:
    """Make a workspace with statistics uk and uk-hessian, and scores uk-wanda."""
    folder = tmp_path_factory.mktemp("calibrated")
    text = ["-m", varied, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW]
    for collect in ("hessian", "norms"):
        did("calibrate", "-w", folder, *text, "--collect", collect)
    did("score", "-w", folder, "--stats", "uk")
    return folder


@pytest.fixture
def workspace(calibrated: Path, tmp_path: Path) -> Path:
    """Copy it."""
    shutil.copytree(calibrated, tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def make(workspace: Path, pico_text: Path) -> Make:
    """Return what runs `mask` or `prune` on Ukrainian text and gives the folder of the mask."""

    def run(command: str, *words: object) -> Path:
        text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW] if command == "prune" else []
        made = did(command, "-w", workspace, *text, *words, "--json").json["artifacts"]
        return next(Path(each["path"]) for each in made if each["kind"] == "masks")

    return run


def blocks_of(folder: Path) -> list[dict[str, Keep]]:
    """Return the keep masks of each block, unpacked; no linear of these models has a width that eight does not divide."""
    return [
        {
            name: np.unpackbits(bits.numpy(), axis=1, bitorder="little").astype(bool)
            for name, bits in load_file(folder / block_part(index)).items()
        }
        for index in range(3)
    ]


def removed(block: dict[str, Keep]) -> int:
    return sum(int((~keep).sum()) for keep in block.values())


def allocation_in(folder: Path) -> Any:
    return json.loads((folder / PART).read_bytes())


@pytest.mark.parametrize("method", ["wanda", "wanda-variant", "ria", "sparsegpt", "admm"])
@pytest.mark.parametrize("allocation", ["owl", "alpha", "search"])
def test_the_total_is_exact_and_blocks_differ(allocation: str, method: str, make: Make) -> None:
    stats = "uk-hessian" if method in {"sparsegpt", "admm"} else STATS[allocation]
    words = ["--method", method, "--stats", stats, "--allocation", allocation, "--sparsity", "0.6"]
    folder = make("mask", *words)
    assert folder.name == f"{stats}-{method}-0.6-{allocation}"
    blocks = blocks_of(folder)
    record = allocation_in(folder)
    assert record["allocation"] == allocation
    shares = [each["sparsity"] for each in record["blocks"]]
    assert sum(shares) / 3 == pytest.approx(0.6, abs=1e-12)
    assert max(shares) - min(shares) > 0.05
    for block, share in zip(blocks, shares, strict=True):
        for keep in block.values():  # each linear to one weight, and rows, where they are compared, to one another
            assert 0 <= share * keep.size - (~keep).sum() < 1
            rows = (~keep).sum(axis=1)
            assert method not in {"wanda", "ria"} or rows.max() - rows.min() <= 1
    total = sum(map(removed, blocks))
    assert abs(total - 0.6 * WEIGHTS) < LINEARS
    about = open_artifact(folder, "masks").manifest.about
    assert (about["weights"], about["removed"], about["linears"]) == (WEIGHTS, total, LINEARS)


@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_allocations_go_by_the_dense_model_in_any_propagation(
    method: str, make: Make, workspace: Path, varied: Path
) -> None:
    """The sparsities are those of `mask`; choices are made on what pruned blocks put out, and the stage makes the same."""
    folder = make("prune", "--method", method, "--allocation", "owl", "--sparsity", "0.6", "--name", "owl")
    blocks = blocks_of(folder)
    assert abs(sum(map(removed, blocks)) - 0.6 * WEIGHTS) < LINEARS
    by_stage = make("mask", "--method", method, "--allocation", "owl", "--sparsity", "0.6", "--stats", "uk-hessian")
    assert (folder / PART).read_bytes() == (by_stage / PART).read_bytes()
    assert len({removed(block) for block in blocks}) == 3
    checked = open_artifact(workspace / "models/owl", "models").manifest.about["checked"]
    assert checked["zeros"] == sum(map(removed, blocks))
    if method != "magnitude":
        dense, pruned = (open_artifact(workspace / "stats" / name, "stats") for name in ("uk", folder.name))
        source = MaskSource(pruned, allocation_stats=dense)
        model = OpenedModel(locate_model(str(varied)), Compute())
        chooser = WeightChooser.of(get_method(method), MaskSettings(Pattern(0.6), allocation="owl"))
        again = mask(Workspace(workspace), model, source, chooser, Silent(), to=Target("again")).artifact
        made = open_artifact(folder, "masks")
        assert (again.key, again.manifest.parts) == (made.key, made.manifest.parts)


@pytest.mark.parametrize("command", ["mask", "prune"])
@pytest.mark.parametrize("allocation", ["owl", "uniform"])
def test_each_block_has_an_n_of_its_own(
    allocation: str, command: str, make: Make, workspace: Path, pico_text: Path
) -> None:
    """The sum of N is what the total asks for, in masks, in the pruned model that is written, and `eval` takes both."""
    words = ["--method", "wanda", "--pattern", "N:8", "--sparsity", "0.5", "--allocation", allocation]
    folder = make(command, *words, *(["--stats", "uk"] if command == "mask" else []), "--name", "mix")
    record = allocation_in(folder)
    ns = [each["n"] for each in record["blocks"]]
    assert record == {"allocation": allocation, "blocks": [{"m": 8, "n": n} for n in ns]}
    assert sum(ns) == 12
    assert len(set(ns)) == (1 if allocation == "uniform" else 3)
    blocks = blocks_of(folder)
    for n, block in zip(ns, blocks, strict=True):
        assert all((keep.reshape(-1, 8).sum(axis=1) == n).all() for keep in block.values())
    if command == "mask":
        did("apply", "-w", workspace, "--mask", "mix")
    weights = load_file(workspace / "models/mix/model.safetensors")
    for block in blocks:
        assert all(((weights[name] != 0).numpy() == keep).all() for name, keep in block.items())
    checked = open_artifact(workspace / "models/mix", "models").manifest.about["checked"]
    assert (checked["zeros"], checked["sparsity"]) == (WEIGHTS // 2, 0.5)
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--json"]
    by_mask = did("eval", "-w", workspace, "--mask", folder.name, *text).json["rows"]
    by_model = did("eval", "-w", workspace, "--model", "mix", *text).json["rows"]
    assert by_mask[1]["nats"] == by_model[-1]["nats"] != by_mask[0]["nats"]


@pytest.mark.parametrize(("sparsity", "sum_of_n"), [("0.125", 21), ("0.6", 10), ("0.75", 6), ("0.875", 3)])
def test_totals_of_n_of_8(sparsity: str, sum_of_n: int, make: Make) -> None:
    """The nearest to 24 x (1 - sparsity), among whole numbers from 1 to 7; no block is left out or left dense."""
    for allocation in ("uniform", "owl"):
        words = ["--stats", "uk", "--pattern", "N:8", "-s", sparsity, "--allocation", allocation]
        ns = [each["n"] for each in allocation_in(make("mask", *words))["blocks"]]
        assert sum(ns) == sum_of_n
        assert all(1 <= n <= 7 for n in ns)


def test_the_check_of_a_model_knows_each_blocks_pattern(make: Make, workspace: Path) -> None:
    """A mask that says one N and holds another is noticed when the model is read back."""
    folder = make("mask", "--stats", "uk", "--pattern", "N:8", "--sparsity", "0.5", "--name", "mix")
    manifest, record = json.loads((folder / "manifest.json").read_bytes()), allocation_in(folder)
    record["blocks"][1]["n"] -= 1
    data = json.dumps(record).encode()
    manifest["parts"][PART] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / PART).write_bytes(data)
    sign(folder / "manifest.json", manifest)
    one_sentence(langprune("apply", "-w", workspace, "--mask", "mix"), 1, r"layers\.1\..* reads back differently")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-p", "2:4", "--allocation", "owl"], 2, "--pattern 2:4, .*: give --pattern N:4 --sparsity 0.5"),
        (["-p", "6:8", "--allocation", "alpha"], 2, "--pattern 6:8, .*: give --pattern N:8 --sparsity 0.25"),
        (["--allocation", "ovl"], 1, "--allocation 'ovl' is unknown: did you mean owl"),
        (["-p", "N:8", "-s", "0.95"], 1, "N:8 blocks cannot reach sparsity 0.95: give 0.125 to 0.875"),
        (["-p", "N:1"], 2, "--pattern 'N:1' is unknown"),
        (["--allocation", "search"], 1, "--allocation search needs Hessians, and stats uk hold only column norms"),
        (["--allocation", "owl", "--exclude", "proj"], 1, "leaves nothing to prune"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go(words: list[str], code: int, says: str, workspace: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    one_sentence(langprune("mask", "-w", workspace, "--stats", "uk", *words), code, says)
    assert snapshot(tmp_path) == before
    scores = langprune("mask", "-w", workspace, "--scores", "uk-wanda", "--allocation", "owl")
    one_sentence(scores, 2, "read statistics, not scores: give --stats and --method")


def test_blocks_and_linears_that_stay_dense_count_for_nothing(make: Make) -> None:
    words = ["--stats", "uk", "--allocation", "owl", "-s", "0.6", "--exclude", r"layers\.0\.|down_proj"]
    none, first, last = blocks_of(make("mask", *words))
    assert none == {}
    assert all("down_proj" not in name for name in (*first, *last))
    assert abs(removed(first) + removed(last) - 0.6 * 2 * (IN_BLOCK - 1536)) < 12
    assert removed(first) != removed(last)


@pytest.mark.parametrize("pattern", [["-s", "0.6"], ["-p", "N:8"]], ids=["unstructured", "N:8"])
def test_an_allocation_is_not_sought_again(
    pattern: list[str], make: Make, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was interrupted between blocks goes on with what is on disk, and ends as one that was not."""
    words = ["--stats", "uk", *pattern, "--allocation", "owl", "--name"]
    write = ArtifactWriter.write_tensors

    def interrupted(self: ArtifactWriter, name: str, *args: Any) -> None:
        if name == block_part(1):
            raise KeyboardInterrupt
        write(self, name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactWriter, "write_tensors", interrupted)
        assert langprune("mask", "-w", workspace, *words, "owl").code == 130
    kept = snapshot(workspace / "masks/owl")
    assert kept.keys() == {"manifest.json", PART, block_part(0)}

    def refuse(*_args: object) -> None:
        raise AssertionError("the allocation was sought again")

    with monkeypatch.context() as patch:
        patch.setattr(allocating, "_spread_over_blocks", refuse)
        folder = make("mask", *words, "owl")
    after = snapshot(folder)
    assert all(after[part] == kept[part] for part in (PART, block_part(0)))
    assert tree(folder) == tree(make("mask", *words, "whole"))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "magnitude"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_uniform_is_as_without_the_option(pattern: str, method: str, make: Make) -> None:
    words = ["--method", method, "--stats", "uk-hessian", "--pattern", pattern]
    without = make("mask", *words, "--name", "without")
    uniform = make("mask", *words, "--allocation", "uniform", "--name", "uniform")
    assert tree(without) == tree(uniform)
    assert not (uniform / PART).exists()
    assert "allocation" not in open_artifact(uniform, "masks").manifest.params
    assert make("mask", *words, "--allocation", "uniform") == without


def test_owl_keeps_more_where_there_are_more_outliers(make: Make, workspace: Path, varied: Path) -> None:
    """By the definition: the share of a block's Wanda scores above five times their mean, one weight at a time."""
    folder = make("mask", "--stats", "uk", "--allocation", "owl", "-s", "0.6")
    weights = load_file(varied / "model.safetensors")
    shares = []
    for index in range(3):
        tensors, record = open_artifact(workspace / "stats/uk", "stats").tensors_and_record(block_part(index))
        norms = {name: tensors[f"{site}/sum_sq"].sqrt() for site, names in record["sites"].items() for name in names}
        scores = np.concatenate([(weights[name].abs().double() * norms[name]).numpy().ravel() for name in norms])
        shares.append(float((scores > 5 * scores.mean()).mean()))
    sparsities = [each["sparsity"] for each in allocation_in(folder)["blocks"]]
    order = sorted(range(3), key=lambda index: shares[index])
    assert len(set(shares)) == 3
    assert all(sparsities[less] > sparsities[more] for less, more in pairwise(order))
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)
