"""`calibrate --collect hessian` against whole transformers models and float64, and what becomes of what is not finite."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from langprune_cli.location.location import ModelLocation
from langprune_cli.models.fast_attention import fast_attention
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.numerics.gram import pack_upper, unpack_upper
from langprune_cli.numerics.site import Statistics
from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate
from langprune_cli.stages.statistics.collecting import StatsCollector
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Silent
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, walk
from langprune_cli.types import TextSpec
from tests.reference.forward import each_input
from tests.reference.sites import SITES
from tests.support.command import DRAW, did, langprune, one_sentence, snapshot
from tests.support.pico import FAMILIES, save_pico
from tests.support.text.text_corpora import byte_level

Matrix = NDArray[np.float64]
WINDOWS, SEQLEN = 5, 24
TOKENS = WINDOWS * SEQLEN
NORMS = ("sum_sq", "sum_x", "tokens")


def some_ids() -> Tensor:
    return torch.randint(3, 97, (WINDOWS, SEQLEN), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def exact_hessians(model: Any, windows: Tensor) -> dict[str, tuple[Matrix, Matrix]]:
    """Run the windows one by one; return the float64 sums of x xᵀ and of |x| |x|ᵀ of every linear by "<module>.weight"."""
    sums: dict[str, tuple[Matrix, Matrix]] = {}

    def see(name: str, x: Matrix) -> None:
        before = sums.get(name, (np.zeros((1, 1)), np.zeros((1, 1))))
        sums[name] = before[0] + x.T @ x, before[1] + np.abs(x).T @ np.abs(x)

    each_input(model, windows, see)
    return sums


def calibrated(folder: Path, collect: Statistics, batch_tokens: int = SEQLEN) -> Artifact:
    """Calibrate the model in `folder` on `some_ids`, in a workspace beside it."""
    windows = folder.with_name("windows.safetensors")
    save_file({"windows": some_ids()}, windows)
    model = OpenedModel(ModelLocation(folder, "pico", None, "folder"), Compute(device="cpu", batch_tokens=batch_tokens))
    workspace = Workspace(folder.with_name(f"{collect}-{batch_tokens}"))
    settings = CalibrationSettings(collect=collect)
    (outcome,) = calibrate(workspace, model, [TextSpec("uk", str(windows), "uk")], settings, Silent())
    return outcome.artifact


def parts(stats: Artifact) -> Iterator[tuple[int, dict[str, Tensor], dict[str, list[str]]]]:
    """Yield the number, tensors and sites of each block."""
    for index in range(3):
        tensors, record = stats.tensors_and_record(block_part(index))
        yield index, tensors, record["sites"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_hessian_for_each_site_of_every_family(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The inputs are those of the whole model, bit by bit; what differs from float64 is the rounding of float32 sums.

    The whole model has the attention that calibration has: in bfloat16 it rounds otherwise than torch's own.
    """
    whole = save_pico(family, tmp_path / "model", dtype=dtype)
    with fast_attention(find_blocks(whole)[1]):
        expected = exact_hessians(whole, some_ids())
    stats = calibrated(tmp_path / "model", "hessian")
    assert stats.manifest.params["collect"] == ["norms", "hessian"]
    prefix, groups = SITES[family]
    for index, tensors, sites in parts(stats):
        place = f"{prefix}.{index}."
        assert {frozenset(linears) for linears in sites.values()} == {
            frozenset(f"{place}{linear}.weight" for linear in group) for group in groups
        }
        assert tensors.keys() == {f"{site}/{what}" for site in sites for what in (*NORMS, "hessian")}
        for site, linears in sites.items():
            assert site in linears
            packed = tensors[f"{site}/hessian"]
            for linear in linears:  # all that share the site read the same
                exact, size = expected[linear]
                rows, columns = np.triu_indices(len(exact))  # the upper triangle, row after row
                assert packed.dtype == torch.float32
                assert packed.shape == rows.shape
                error = np.abs(packed.double().numpy() - exact[rows, columns])
                assert (error <= TOKENS * 2**-24 * size[rows, columns]).all()  # one rounding for each product added
            full = unpack_upper(packed)
            assert torch.equal(full, full.t())
            assert torch.equal(pack_upper(full), packed)
            sum_sq = tensors[f"{site}/sum_sq"]
            torch.testing.assert_close(full.diagonal().double(), sum_sq, rtol=TOKENS * 2**-24, atol=0)
            assert int(tensors[f"{site}/tokens"]) == TOKENS


@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_norms_are_the_same_with_and_without_hessians(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_pico(family, tmp_path / "model", dtype=dtype)
    with_hessians, without = (calibrated(tmp_path / "model", collect) for collect in ("hessian", "norms"))
    assert with_hessians.key != without.key
    for (_, more, sites), (_, tensors, same) in zip(parts(with_hessians), parts(without), strict=True):
        assert sites == same
        assert tensors.keys() == {name for name in more if not name.endswith("/hessian")}
        assert all(torch.equal(more[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_size_of_batches_matters_to_rounding_only(
    family: str, dtype: torch.dtype, rounding: float, tmp_path: Path
) -> None:
    """Batches of one window, of two with one left over, and of all; entries as parts of sqrt(H_ii H_jj)."""
    save_pico(family, tmp_path / "model", dtype=dtype)
    one, *others = [calibrated(tmp_path / "model", "hessian", batch) for batch in (1, 2 * SEQLEN, 10**6)]
    for other in others:
        assert other.key == one.key
        for (_, first, _), (_, second, _) in zip(parts(one), parts(other), strict=True):
            assert first.keys() == second.keys()
            for name in [name for name in first if name.endswith("/hessian")]:
                a, b = (unpack_upper(tensors[name]) for tensors in (first, second))
                scale = a.diagonal().sqrt()
                assert float(((a - b).abs() / (scale[:, None] * scale)).max()) < rounding
                assert first[name.replace("hessian", "tokens")] == second[name.replace("hessian", "tokens")]


Seen = list[tuple[dict[str, Tensor], dict[str, list[str]], Counter[str]]]


def watched(model: StreamedModel, *, inputs_only: bool) -> Seen:
    """Return each block's sums and sites, and how many products each linear made, in 3 micro-batches of 5 windows."""
    collector = StatsCollector(hessian=True)
    made: Counter[str] = Counter()

    @contextmanager
    def observe(block: Block) -> Iterator[None]:
        def count(name: str) -> Callable[..., None]:
            return lambda *_: made.update([name])

        handles = [linear.module.register_forward_hook(count(linear.name)) for linear in block.linears]
        with collector.watch(block, inputs_only=inputs_only):
            yield
        for handle in handles:
            handle.remove()

    found = []
    for block in walk(HiddenStates(model, some_ids(), 2 * SEQLEN), observe=observe, edit=lambda _: None):
        found.append((*collector.tensors(block), Counter(made)))
        made.clear()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_only_spares_the_last_product_and_changes_no_bit(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    model = StreamedModel(tmp_path)
    prefix, groups = SITES[family]
    (last,) = groups[-1]
    whole, spared = watched(model, inputs_only=False), watched(model, inputs_only=True)
    assert len(whole) == len(spared) == 3
    for index, ((tensors, sites, made), (same, same_sites, fewer)) in enumerate(zip(whole, spared, strict=True)):
        linears = {linear.name for linear in model.linears(index)}
        assert sites == same_sites
        assert tensors.keys() == same.keys()
        assert all(torch.equal(tensors[name], same[name]) for name in tensors)
        assert made == dict.fromkeys(linears, 3)
        assert fewer == made | {f"{prefix}.{index}.{last}.weight": 1}  # the first forward shows which the last one is


def damaged(folder: Path, name: str, value: float, *, at: tuple[int, ...]) -> Path:
    """Save a pico Llama with a tokenizer in which one value of a tensor is not finite."""
    save_pico("llama", folder, vocab_size=len(byte_level()))
    byte_level().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][at] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LAYER = "model.layers.{}."
UK = ["--lang", "uk", "--data", "TEXT/uk.jsonl", *DRAW]


def words_of(words: list[str], text: Path) -> list[str]:
    return [word.replace("TEXT", str(text)) for word in words]


@pytest.mark.parametrize("command", [["calibrate", "--collect", "hessian"], ["prune"]], ids=lambda words: words[0])
@pytest.mark.parametrize("block", [0, 2])
def test_an_activation_that_is_not_finite(block: int, command: list[str], tmp_path: Path, pico_text: Path) -> None:
    """Block and site are named; where blocks before it were done they stay, as after any interruption."""
    layer = LAYER.format(block)
    model = damaged(tmp_path / "model", f"{layer}post_attention_layernorm.weight", 3.4e38, at=(3,))  # it overflows
    site = re.escape(f"{layer}mlp.gate_proj.weight")
    done = langprune(*command, "-m", model, *words_of(UK, pico_text))
    assert (done.code, done.out) == (1, "")
    assert re.search(rf"^error: block {block}: the inputs of {site} are not finite", done.err.splitlines()[-1])
    assert "Traceback" not in done.err
    left = {path.name for path in tmp_path.glob("langprune-workspace/stats/*/block-*")}
    assert left == {block_part(index) for index in range(block)}
    if block == 0:
        left = [path for path in tmp_path.glob("langprune-workspace/*/*") if path.parent.name != "logs"]
        assert not left
    assert not list(tmp_path.glob("langprune-workspace/models/*/*.safetensors"))


@pytest.mark.parametrize("block", [0, 1])
def test_a_weight_that_is_not_finite(block: int, tmp_path: Path, pico_text: Path) -> None:
    """What such a weight puts out is seen one site later; the block's last product is seen by nobody before the solver."""
    layer = LAYER.format(block)
    model = damaged(tmp_path / "model", f"{layer}mlp.down_proj.weight", torch.nan, at=(3, 3))
    done = langprune("prune", "-m", model, *words_of(UK, pico_text))
    assert (done.code, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert re.search(rf"{re.escape(layer)}mlp\.down_proj\.weight holds values that are not finite", last)
    done = langprune("calibrate", "-m", model, *words_of(UK, pico_text), "--collect", "hessian", "-w", "other")
    site = re.escape(f"{LAYER.format(block + 1)}self_attn.q_proj.weight")
    assert re.search(rf"block {block + 1}: the inputs of {site} are not finite", done.err.splitlines()[-1])
    done = langprune("mask", "-m", model, "--method", "magnitude")
    assert re.search(rf"{re.escape(layer)}mlp\.down_proj\.weight holds values", done.err.splitlines()[-1])


NEEDS = [
    (["mask", "--method", "sparsegpt"], "--method sparsegpt"),
    (["mask", "--method", "admm", "--stats", "uk"], "--method admm"),
    (["mask", "--allocation", "search", "--stats", "uk"], "--allocation search"),
    (["apply", "--update", "pcg"], "--update pcg"),
    (["apply", "--update", "sparsegpt", "--stats", "uk", "--out", "mine"], "--update sparsegpt"),
]


@pytest.mark.parametrize(("words", "what"), NEEDS, ids=lambda value: value if isinstance(value, str) else "")
def test_statistics_without_hessians(workspace: Path, tmp_path: Path, words: list[str], what: str) -> None:
    """One sentence says which command makes some of the same text, and that command does."""
    did("rm", "-w", workspace, "stats/en")
    before = snapshot(tmp_path)
    done = langprune(*words, "-w", workspace)
    one_sentence(
        done, 1, rf"^error: {what} needs Hessians, and stats uk hold only column norms: run langprune calibrate"
    )
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "mine").exists()
    assert {path.name for kind in ("masks", "models") for path in (workspace / kind).iterdir()} == {"uk-wanda-2x4"}
    (advice,) = re.findall(r"run langprune (calibrate --lang uk --data \S+ --collect hessian)$", done.err.strip())
    did(*shlex.split(advice), *DRAW, "-w", workspace)
    words = [word for word in words if word not in {"--stats", "uk"}]
    did(*words, "-w", workspace)


def test_what_is_collected_has_a_name(workspace: Path, pico_text: Path) -> None:
    before = snapshot(workspace)
    done = langprune("calibrate", "-w", workspace, *words_of(UK, pico_text), "--collect", "hessians")
    one_sentence(done, 2, r"--collect 'hessians' is unknown: did you mean hessian\?")
    assert snapshot(workspace) == before
