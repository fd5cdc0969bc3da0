"""calibrate, score, mask and apply on a pico model: what they write, when they do nothing, and who can read it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.stages.structured.keep_masks import MaskReader, remove_pruned
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel, locate_model
from langprune_cli.streaming.walk import HiddenStates, walk
from tests.support.command import DRAW, SEQLEN, did, snapshot, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level

Open = Callable[[str, str], Artifact]
DOCUMENT = {"schema", "kind", "name", "path", "key", "cached", "seconds"}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def keep_masks(artifact: Artifact, weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the keep masks [out, in] of an artifact, unpacked by numpy."""
    packed = {}
    for part in artifact.manifest.parts:
        packed |= artifact.tensors(part)
    return {
        name: np.unpackbits(bits.numpy(), axis=1, bitorder="little")[:, : weights[name].shape[1]].astype(bool)
        for name, bits in packed.items()
    }


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


def masked_logits(model: Path, mask: Artifact, ids: torch.Tensor) -> torch.Tensor:
    """Return logits as `eval --mask` computes them, the mask applied to each block as it streams by."""
    opened = OpenedModel(locate_model(str(model)), Compute())
    reader = MaskReader(mask, opened)

    def edit(block: Block) -> None:
        for linear, keep in reader.block(block.index):
            remove_pruned(linear.weight, keep)

    states = HiddenStates(opened.streamed, ids, batch_tokens=ids.numel())
    for _ in walk(states, edit=edit):
        pass
    return torch.cat([logits for _, _, logits in states.logits()])


def test_a_text_each_makes_an_artifact_each(workspace: Path, pico_text: Path) -> None:
    texts = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", pico_text / "en.jsonl"]
    made = did("calibrate", "-w", workspace, *texts, *DRAW, "--seed", "1", "--json").json["artifacts"]
    assert [each["name"] for each in made] == [
        f"uk-{made[0]['key'][:8]}",
        f"en-{made[1]['key'][:8]}",
    ]  # uk, en are taken
    for each, tag in zip(made, ("uk", "en"), strict=True):
        record = json.loads((Path(each["path"]) / "manifest.json").read_bytes())
        assert record["inputs"]["text"]["language"] == tag
        assert record["about"]["text"]["seed"] == 1


COMMANDS = {
    "calibrate": ["calibrate", "--lang", "uk", "--data", "TEXT/uk.jsonl", *DRAW],
    "score": ["score", "--stats", "uk"],
    "mask": ["mask", "--stats", "uk", "--pattern", "2:4"],
    "apply": ["apply"],
    "eval": ["eval", "--lang", "uk", "--data", "TEXT/uk.jsonl", "--lang", "en", "--data", "TEXT/en.jsonl",
             "--seqlen", SEQLEN, "--max-windows", "5"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_is_cached(workspace: Path, pico_text: Path, command: str) -> None:
    words = [word.replace("TEXT", str(pico_text)) for word in COMMANDS[command]]
    before = snapshot(workspace)
    document = did(*words, "-w", workspace, "--json").json
    assert document.keys() >= DOCUMENT
    assert document["cached"] is True
    after = snapshot(workspace)
    changed = [name for name in after if after[name] != before.get(name)]
    assert changed == [str((Path(document["path"]) / "manifest.json").relative_to(workspace))]  # made the newest
    assert after[changed[0]][0] == before[changed[0]][0]  # and its bytes are the same
    assert after.keys() == before.keys()
    if command != "eval":
        assert "already there, nothing to do" in did(*words, "-w", workspace).out


@pytest.mark.parametrize("command", COMMANDS)
def test_force_makes_the_same_again(workspace: Path, pico_text: Path, command: str) -> None:
    words = [word.replace("TEXT", str(pico_text)) for word in COMMANDS[command]]
    before = snapshot(workspace)
    document = did(*words, "-w", workspace, "--force", "--json").json
    assert document["cached"] is False
    after = snapshot(workspace)
    assert {name: digest for name, (digest, _) in after.items()} == {n: digest for n, (digest, _) in before.items()}
    parts = [name for name in after if (workspace / name).parent == Path(document["path"])]
    assert parts
    assert all(after[name][1] > before[name][1] for name in parts)


@pytest.mark.parametrize("lang", [["--lang", "uk"], []], ids=["language", "none"])
def test_kept_windows_repeat_a_calibration(workspace: Path, lang: list[str], tmp_path: Path, pico_model: Path) -> None:
    first = json.loads((workspace / "stats/uk/manifest.json").read_bytes())
    kept = workspace / "stats/uk/windows.safetensors"
    other = tmp_path / "other"
    again = did(
        "calibrate", "-w", other, "-m", pico_model, *lang, "--data", kept, "--name", "again", *DRAW, "--json"
    ).json
    assert (again["key"] == first["key"]) is bool(lang)  # the language is part of what the statistics are about
    record = json.loads((other / "stats/again/manifest.json").read_bytes())
    assert record["parts"] == first["parts"]
    assert record["inputs"]["text"]["fingerprint"] == first["inputs"]["text"]["fingerprint"]


def test_a_second_mask_runs_no_forward_pass(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("a forward pass began")

    monkeypatch.setattr(HiddenStates, "__init__", refuse)
    document = did("mask", "-w", workspace, "--stats", "uk", "-p", "unstructured", "-s", "0.25", "--json").json
    assert document["about"] == document["about"] | {"weights": 23040, "removed": 5760, "linears": 21}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "wanda-variant", "ria"])
@pytest.mark.parametrize("pattern", ["unstructured", "4:8"])
def test_a_mask_from_scores_is_the_one_from_statistics(workspace: Path, method: str, pattern: str) -> None:
    scores = did("score", "-w", workspace, "--method", method, "--stats", "en", "--json").json
    did("mask", "-w", workspace, "--scores", scores["name"], "--pattern", pattern, "--name", "from-scores")
    did("mask", "-w", workspace, "--stats", "en", "--method", method, "--pattern", pattern, "--name", "direct")
    assert tree(workspace / "masks/from-scores") == tree(workspace / "masks/direct")


def test_columns_that_m_does_not_divide_stay_dense(workspace: Path, pico_model: Path, opened: Open) -> None:
    done = did("mask", "-w", workspace, "--stats", "uk", "--pattern", "3:5", "--name", "tail")
    assert "M does not divide the width of 21 linears; their last columns stay dense: " in done.out
    mask, weights = opened("masks", "tail"), load_file(pico_model / "model.safetensors")
    tails = mask.manifest.about["dense_tail_columns"]
    for name, keep in keep_masks(mask, weights).items():
        columns = keep.shape[1]
        assert tails[name] == columns % 5 > 0
        assert keep[:, -tails[name] :].all()
        assert (keep[:, : -tails[name]].reshape(-1, 5).sum(axis=1) == 3).all()


def test_excluded_tensors_stay_dense(workspace: Path, pico_model: Path, opened: Open) -> None:
    did("mask", "-w", workspace, "--stats", "uk", "-p", "2:4", "--exclude", r"layers\.1\.|down_proj", "--name", "few")
    did("apply", "-w", workspace, "--mask", "few")
    base = load_file(pico_model / "model.safetensors")
    pruned = load_file(workspace / "models/few/model.safetensors")
    expected = {f"model.layers.{i}.{part}.weight" for i in (0, 2) for part in _parts() if "down" not in part}
    assert keep_masks(opened("masks", "few"), base).keys() == expected
    assert {name for name in base if not torch.equal(bits(base[name]), bits(pruned[name]))} == expected


def _parts() -> list[str]:
    return [f"{'mlp' if name in LINEARS[4:] else 'self_attn'}.{name}" for name in LINEARS]


def test_apply_zeroes_what_is_pruned_and_touches_nothing_else(workspace: Path, pico_model: Path, opened: Open) -> None:
    base = load_file(pico_model / "model.safetensors")
    pruned = load_file(workspace / "models/uk-wanda-2x4/model.safetensors")
    masks = keep_masks(opened("masks", "uk-wanda-2x4"), base)
    assert masks.keys() == {f"model.layers.{i}.{part}.weight" for i in range(3) for part in _parts()}
    assert pruned.keys() == base.keys()
    for name, before in base.items():
        keep = torch.from_numpy(masks[name]) if name in masks else torch.ones_like(before, dtype=torch.bool)
        assert torch.equal(bits(pruned[name])[keep], bits(before)[keep])
        assert not bits(pruned[name])[~keep].any()  # +0.0 is all zero bits; -0.0 has the sign bit
        assert name not in masks or (before[~keep] < 0).any()
        assert name not in masks or (keep.reshape(-1, 4).sum(dim=1) == 2).all()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (workspace / "models/uk-wanda-2x4" / name).read_bytes() == (pico_model / name).read_bytes()


LOAD = """
import sys
sys.modules["langprune_cli"] = None
try:
    import langprune_cli
except ImportError:
    pass
else:
    sys.exit("langprune_cli is importable")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, windows, out = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
assert not any(info.values()), info
assert AutoTokenizer.from_pretrained(folder)("калина").input_ids
with torch.no_grad():
    save_file({"logits": model(load_file(windows)["windows"].long()).logits}, out)
"""


def test_a_pruned_model_needs_transformers_only(
    workspace: Path, pico_model: Path, opened: Open, tmp_path: Path
) -> None:
    windows = workspace / "stats/en/windows.safetensors"
    words = [str(workspace / "models/uk-wanda-2x4"), str(windows), str(tmp_path / "logits")]
    done = subprocess.run([sys.executable, "-I", "-c", LOAD, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    on_the_fly = masked_logits(pico_model, opened("masks", "uk-wanda-2x4"), load_file(windows)["windows"])
    assert torch.equal(load_file(tmp_path / "logits")["logits"], on_the_fly)


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_transposed_and_tied_weights(family: str, tmp_path: Path, pico_text: Path) -> None:
    """GPT-2 stores [in, out], and both tie the head to the embeddings."""
    base = save_pico(family, tmp_path / "base", vocab_size=len(byte_level()), dtype=torch.bfloat16)
    byte_level().save_pretrained(tmp_path / "base")
    did("calibrate", "-m", tmp_path / "base", "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW)
    did("mask", "--pattern", "2:4")
    did("apply", "--out", tmp_path / "pruned")
    before, after = load_file(tmp_path / "base/model.safetensors"), load_file(tmp_path / "pruned/model.safetensors")
    assert "lm_head.weight" not in after
    changed = {
        name for name in before if not torch.equal(before[name].view(torch.int16), after[name].view(torch.int16))
    }
    kinds = ("c_attn", "c_proj", "c_fc") if family == "gpt2" else LINEARS
    assert changed == {name for name in before if any(f"{kind}.weight" in name for kind in kinds)}
    for name in changed:
        seen = after[name].t() if family == "gpt2" else after[name]
        assert (seen.reshape(-1, 4).count_nonzero(dim=1) == 2).all()
        assert not after[name].view(torch.int16)[after[name] == 0].any()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)
    mask = next((tmp_path / "langprune-workspace/masks").iterdir()).name
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN]
    rows = did("eval", "--mask", mask, "--model", tmp_path / "base", *text, "--json").json["rows"]
    written = did("eval", "--model", tmp_path / "pruned", *text, "--json").json["rows"]
    assert rows[1]["nats"] == written[1]["nats"] != rows[0]["nats"] == written[0]["nats"]


def test_apply_to_a_folder_of_the_users(workspace: Path, tmp_path: Path) -> None:
    document = did("apply", "-w", workspace, "--out", tmp_path / "mine", "--json").json
    assert tree(tmp_path / "mine") == tree(workspace / "models/uk-wanda-2x4")
    assert Path(document["path"]).resolve() == tmp_path / "mine"
    assert did("apply", "-w", workspace, "--out", tmp_path / "mine", "--json").json["cached"] is True
    AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    did("rm", "-w", workspace, f"models/{document['name']}")
    assert (tmp_path / "mine/model.safetensors").is_file()


def test_shards_hold_the_same_tensors(workspace: Path, tmp_path: Path) -> None:
    did("apply", "-w", workspace, "--out", tmp_path / "mine", "--max-shard-size", "60KB")
    shards = sorted((tmp_path / "mine").glob("*.safetensors"))
    count = len(shards)
    assert [path.name for path in shards] == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    assert count == 4  # what is outside of the blocks, and three blocks of about 30 KB
    found: dict[str, Any] = {}
    for path in shards:
        found |= load_file(path)
    whole = load_file(workspace / "models/uk-wanda-2x4/model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    index = json.loads((tmp_path / "mine/model.safetensors.index.json").read_bytes())
    assert index["weight_map"] == {name: path.name for path in shards for name in load_file(path)}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    assert all(torch.equal(loaded.state_dict()[name], whole[name]) for name in whole)
    assert StreamedModel(tmp_path / "mine").digest == StreamedModel(workspace / "models/uk-wanda-2x4").digest
