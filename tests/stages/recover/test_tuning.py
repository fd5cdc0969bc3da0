"""Blockwise tuning against stock transformers: what it may change, what it must not, and that it ends the same every time."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import ModelLocation
from langprune_cli.stages.recover.block_tuning import TuneSettings, held_out
from langprune_cli.stages.recover.tuning import Pair, tune
from langprune_cli.stages.recover.tuning_run import read_tuned
from langprune_cli.store.building import Outcome
from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.target import Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.text.windows import fingerprint
from langprune_cli.types import TextSpec, Windows
from tests.reference.sites import SITES
from tests.support.artifact_making import sign
from tests.support.command import did, tree
from tests.support.pico import save_pico

SETTINGS = TuneSettings(epochs=3, learning_rate=1e-3)
FAMILIES = {
    "llama": torch.bfloat16,
    "gpt2": torch.float32,
    "gemma2": torch.float32,
    "opt": torch.float16,
    "bloom": torch.bfloat16,
}


@dataclass
class Reporter:
    """Keeps notes, and may be told to stop the run after a block."""

    stop_after: int | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, what: str, blocks: int, tokens: int) -> None: ...

    def tick(self, block: int, tokens: int) -> None:  # noqa: ARG002 - as reporters are called
        if block == self.stop_after:
            raise KeyboardInterrupt

    def end(self) -> None: ...


def windows(count: int = 10, length: int = 12) -> Windows:
    ids = torch.randint(3, 97, (count, length), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    return Windows(ids, fingerprint(ids), TextSpec("uk", "text.safetensors", "text"), "given", None, 0)


def opened(folder: Path) -> OpenedModel:
    return OpenedModel(ModelLocation(folder, str(folder), None, "folder"), Compute(device="cpu"))


def tuned(here: Path, settings: TuneSettings = SETTINGS, reporter: Reporter | None = None, **more: Any) -> Outcome:
    """Tune here/pruned to be as here/dense."""
    dense, pruned = opened(here / "dense"), opened(here / "pruned")
    pair, on = Pair(dense, pruned, more.pop("blocks", None)), more.pop("on", windows())
    return tune(Workspace(here / "ws"), pair, on, settings, reporter or Reporter(), to=Target(**more))


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def rewritten(
    folder: Path, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **config: object
) -> None:
    """Write a copy of a model with other weights and another configuration."""
    to.mkdir()
    record = json.loads((folder / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(record))
    save_file({name: tensor.contiguous() for name, tensor in change(weights(folder)).items()}, to / "model.safetensors")


def linears(folder: Path) -> list[str]:
    model = opened(folder).streamed
    return [linear.name for index in range(len(model.blocks)) for linear in model.linears(index)]


def sparse(here: Path, family: str, **settings: Any) -> None:
    """Make here/dense, and here/pruned without the lower half of each linear's weights."""
    save_pico(family, here / "dense", **settings)

    def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in linears(here / "dense"):
            size = tensors[name].float().abs()
            tensors[name].masked_fill_(size < size.median(), 0.0)
        return tensors

    rewritten(here / "dense", here / "pruned", halve)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same bits."""
    return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (a, b)))


def last_hidden(folder: Path, family: str, ids: Tensor, index: int = -1) -> Tensor:
    """Return what a block of a stock model puts out, float64."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    found: list[Tensor] = []
    block = model.get_submodule(SITES[family][0])[index]
    block.register_forward_hook(lambda _m, _a, out: found.append(out if isinstance(out, Tensor) else out[0]))
    with torch.no_grad():
        for each in ids.long():
            model(each[None])
    return torch.cat(found).double()


def error(is_: Tensor, should_be: Tensor) -> float:
    return float((is_ - should_be).square().sum() / should_be.square().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sparse_model(family: str, tmp_path: Path) -> None:
    """Blocks come closer to the dense ones; zeros, norms, and all outside of the blocks stay bit by bit."""
    sparse(tmp_path, family, dtype=FAMILIES[family])
    reporter = Reporter()
    artifact = tuned(tmp_path, reporter=reporter).artifact
    blocks = read_tuned(artifact)
    assert [each["block"] for each in blocks] == [0, 1, 2]
    assert all(each["after"] < each["before"] for each in blocks)
    assert [note[:16] for note in reporter.notes] == [f"Block {n} of 3: er" for n in (1, 2, 3)]
    before, after = weights(tmp_path / "pruned"), weights(artifact.folder)
    assert before.keys() == after.keys()
    pruned = linears(tmp_path / "dense")
    trained = {*pruned, *(name.removesuffix("weight") + "bias" for name in pruned)}
    for name, was in before.items():
        now = after[name]
        assert (now.dtype, now.shape) == (was.dtype, was.shape)
        assert same(was, now) == (name not in trained)
        if name in pruned:
            assert torch.equal(now == 0, was == 0)
            assert not torch.signbit(now[now == 0]).any()
    held = windows().ids[held_out(10)]
    dense, old, new = (
        last_hidden(each, family, held) for each in (tmp_path / "dense", tmp_path / "pruned", artifact.folder)
    )
    assert error(new, dense) < error(old, dense)
    assert error(new, dense) == pytest.approx(
        blocks[-1]["after"], rel=1e-4 if FAMILIES[family] == torch.float32 else 0.05
    )
    firsts = [last_hidden(tmp_path / each, family, held, 0) for each in ("pruned", "dense")]
    assert error(*firsts) == pytest.approx(blocks[0]["before"], rel=1e-4 if FAMILIES[family] == torch.float32 else 0.05)


def test_a_narrower_model_with_fewer_blocks(tmp_path: Path) -> None:
    """Only a third of the channels and blocks 0 and 2 are left; block 0 learns to do what 0 and 1 did."""
    save_pico("llama", tmp_path / "dense")

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = {
            name.replace("layers.2.", "layers.1."): each for name, each in tensors.items() if "layers.1." not in name
        }
        cut = {name: each[:16] if "gate" in name or "up" in name else each for name, each in tensors.items()}
        return {name: each[:, :16] if "down" in name else each for name, each in cut.items()}

    rewritten(tmp_path / "dense", tmp_path / "pruned", narrow, intermediate_size=16, num_hidden_layers=2)
    with pytest.raises(LangpruneError, match="has 2 blocks, but its record keeps"):
        tuned(tmp_path)
    artifact = tuned(tmp_path, blocks=(0, 2)).artifact
    blocks = read_tuned(artifact)
    assert all(each["after"] < each["before"] for each in blocks)
    held = windows().ids[held_out(10)]
    imitated = last_hidden(tmp_path / "dense", "llama", held, 1)
    assert error(last_hidden(tmp_path / "pruned", "llama", held, 0), imitated) == pytest.approx(
        blocks[0]["before"], rel=1e-4
    )
    assert error(last_hidden(artifact.folder, "llama", held, 0), imitated) == pytest.approx(
        blocks[0]["after"], rel=1e-4
    )
    assert artifact.manifest.about["checked"]["zeros"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_lost_nothing_comes_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    save_pico("llama", tmp_path / "dense", dtype=dtype)
    rewritten(tmp_path / "dense", tmp_path / "pruned", lambda tensors: tensors)
    artifact = tuned(tmp_path).artifact
    assert [(each["before"], each["epoch"]) for each in read_tuned(artifact)] == [(0, 0)] * 3
    before, after = weights(tmp_path / "pruned"), weights(artifact.folder)
    assert all(same(tensor, after[name]) for name, tensor in before.items())


def test_a_block_that_would_be_worse_stays_bit_by_bit(tmp_path: Path) -> None:
    sparse(tmp_path, "gpt2")
    reporter = Reporter()
    artifact = tuned(tmp_path, replace(SETTINGS, learning_rate=10.0), reporter).artifact
    assert [each["epoch"] for each in read_tuned(artifact)] == [0, 0, 0]
    assert all(note.endswith("unchanged") for note in reporter.notes)
    before, after = weights(tmp_path / "pruned"), weights(artifact.folder)
    assert all(same(tensor, after[name]) for name, tensor in before.items())


def test_zeros_of_either_sign_are_kept_as_they_are(tmp_path: Path) -> None:
    sparse(tmp_path, "llama")
    tensors = weights(tmp_path / "pruned")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3] = -0.0
    save_file(tensors, tmp_path / "pruned" / "model.safetensors")
    now = weights(tuned(tmp_path).artifact.folder)[name]
    assert torch.signbit(now[3]).all()
    assert not now[3].any()


SHARDED = replace(SETTINGS, epochs=1, max_shard_bytes=20_000)  # one block in each, and what is outside
ONE_FILE = replace(SHARDED, max_shard_bytes=10**9)


@pytest.fixture(scope="module", params=[SHARDED, ONE_FILE], ids=["shards", "one file"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TuneSettings]:
    """Return a folder with models and the workspace of a run without interruption, and its settings."""
    here: Path = tmp_path_factory.mktemp("whole")
    sparse(here, "llama", dtype=torch.bfloat16)
    tuned(here, request.param)
    return here, request.param


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_stopped_and_run_again_it_is_byte_identical(
    tmp_path: Path, whole: tuple[Path, TuneSettings], stop_after: int
) -> None:
    here, settings = whole
    for model in ("dense", "pruned"):
        (tmp_path / model).symlink_to(here / model)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path, settings, Reporter(stop_after))
    reporter = Reporter()
    assert not tuned(tmp_path, settings, reporter).cached
    assert reporter.notes[0] == f"Resuming pruned-tuned: {stop_after + 1} of 3 blocks are done."
    assert len(reporter.notes) == 3 - stop_after  # blocks that are done are not trained again
    assert files(tmp_path) == files(here)
    assert tuned(tmp_path, settings).cached


def files(here: Path) -> dict[str, str]:
    """Return the files of the tuned model; where its models lie may differ."""
    found = tree(here / "ws" / "models" / "pruned-tuned")
    manifest = json.loads((here / "ws" / "models" / "pruned-tuned" / "manifest.json").read_text())
    manifest["about"]["model"] = manifest["about"]["tuned"]["model"] = manifest["digest"] = (
        None  # it is of the paths too
    )
    return found | {"manifest.json": json.dumps(manifest)}


@pytest.mark.parametrize(
    "part", ["model-*.safetensors", "model*.safetensors", "tuning.json", "pruning.json", "config.json"]
)
def test_a_lost_part_is_made_again_byte_identical(tmp_path: Path, whole: tuple[Path, TuneSettings], part: str) -> None:
    here, settings = whole
    shutil.copytree(here, tmp_path, dirs_exist_ok=True)
    place = tmp_path / "ws" / "models" / "pruned-tuned"
    lost = sorted(place.glob(part))[-1:]
    for path in lost:
        path.unlink()
    assert tuned(tmp_path, settings).cached is not bool(lost)
    assert files(tmp_path) == files(here)
    assert not list(place.glob("tuned-*"))


def test_what_the_manifest_says(tmp_path: Path) -> None:
    """A tuned model stands beside the dense one it is compared with, and carries on what is known of the pruned one."""
    sparse(tmp_path, "llama")
    known = {"mask": {"name": "m", "method": "wanda"}, "text": {"language": "uk"}, "checked": {"pruned_weights": 24576}}
    record = {"tool": "langprune 0", "inputs": {"mask": "abc"}, "params": {"update": "sparsegpt"}, "about": known}
    sign(tmp_path / "pruned" / "langprune.json", record | {"parts": {}})
    manifest = read_manifest(tuned(tmp_path).artifact.folder)
    assert manifest.inputs["model"] == opened(tmp_path / "dense").digest
    assert manifest.inputs["pruned"] == opened(tmp_path / "pruned").digest
    assert manifest.inputs["mask"] == "abc"
    assert manifest.params["update"] == "sparsegpt, tune"
    about = manifest.about
    assert about["mask"] == known["mask"]
    assert about["model"]["name"] == str(tmp_path / "dense")
    assert about["tuned"]["text"]["fingerprint"] == windows().fingerprint
    assert about["checked"]["sparsity"] == about["checked"]["zeros"] / 24576


def test_the_commands_know_it_as_a_pruned_model(workspace: Path, pico_model: Path, tmp_path: Path) -> None:
    """It is listed, evaluated beside the dense model it came from, and exported with figures of both."""
    pruned = workspace / "models" / "uk-wanda-2x4"
    outcome = tune(Workspace(workspace), Pair(opened(pico_model), opened(pruned)), windows(), SETTINGS, Reporter())
    assert outcome.artifact.name == "uk-wanda-2x4-tuned"
    assert outcome.artifact.manifest.about["checked"]["sparsity"] == 0.5
    assert "with mask uk-wanda-2x4, 50.00% zeros, checked" in did("ls", "models", "-w", workspace).out
    text = tmp_path / "windows.safetensors"
    save_file({"windows": windows().ids}, text)
    rows = did("eval", "-w", workspace, "--model", "uk-wanda-2x4-tuned", "--data", text, "--json").json["rows"]
    assert [row["model_digest"] for row in rows] == [
        opened(each).digest for each in (pico_model, outcome.artifact.folder)
    ]
    did("export", "-w", workspace, "--model", "uk-wanda-2x4-tuned", "--out", tmp_path / "out", "--with-mask")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| update of surviving weights | tune |" in card
    assert all(f"{row['ppl']:.4g}" in card for row in rows)


def test_settings_and_text_make_another_model(tmp_path: Path) -> None:
    sparse(tmp_path, "llama")
    keys = {
        tuned(tmp_path, replace(SETTINGS, epochs=1, **each)).artifact.key
        for each in ({}, {"seed": 1}, {"step_windows": 2})
    }
    keys.add(tuned(tmp_path, replace(SETTINGS, epochs=1), on=windows(9)).artifact.key)
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("family", "settings", "says"),
    [
        ("qwen2", {}, "its model_type is llama and not qwen2"),
        ("llama", {"hidden_size": 16}, "its hidden_size is 32 and not 16"),
    ],
)
def test_models_that_do_not_go_together(tmp_path: Path, family: str, settings: dict[str, Any], says: str) -> None:
    save_pico("llama", tmp_path / "pruned")
    save_pico(family, tmp_path / "dense", **settings)
    with pytest.raises(LangpruneError, match=says):
        tuned(tmp_path)


@pytest.mark.parametrize("blocks", [(0, 1), (0, 0, 1), (0, 2, 1), (1, 2, 3)])
def test_blocks_that_cannot_have_stayed(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    sparse(tmp_path, "llama")
    with pytest.raises(LangpruneError, match="name the model that it was made from"):
        tuned(tmp_path, blocks=blocks)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    sparse(tmp_path, "llama")
    with pytest.raises(LangpruneError, match="give at least 2"):
        tuned(tmp_path, on=windows(1))
    with pytest.raises(UsageError, match="is the model itself"):
        tuned(tmp_path, out=tmp_path / "dense")
    tensors = weights(tmp_path / "dense")
    tensors["model.layers.1.mlp.up_proj.weight"][0] = torch.inf
    save_file(tensors, tmp_path / "dense" / "model.safetensors")
    with pytest.raises(LangpruneError, match="block 1 are not finite"):
        tuned(tmp_path)


def test_what_is_held_out() -> None:
    for count in range(2, 200):
        held = held_out(count)
        assert int(held.sum()) == max(1, count // 8)
        gaps = held.nonzero().flatten().diff()
        assert not len(gaps) or int(gaps.max() - gaps.min()) <= 1


def test_the_rate_follows_the_width_and_the_error() -> None:
    assert TuneSettings().rate(4096, 1.0) == 1e-4
    assert TuneSettings().rate(1024, 0.05) == pytest.approx(4e-4)
    assert TuneSettings().rate(64, 0.5) == 2e-3
    assert TuneSettings().rate(64, 0.0005) == pytest.approx(2e-4)
    assert TuneSettings(learning_rate=0.5).rate(64, 0.0005) == 0.5
