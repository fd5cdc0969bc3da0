"""Blocks leave only where the others compute what they did: measured before any work, family by family."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from langprune_cli.depth_methods.method import depth_methods, get_depth_method
from langprune_cli.errors import LangpruneError
from langprune_cli.models.narrowing import Narrowing, opened_as
from langprune_cli.models.protocols import block_count
from langprune_cli.models.skeleton import build_skeleton, find_blocks
from langprune_cli.stages.structured.without_blocks import check_first_run, check_without
from tests.methods.test_depth_methods import opened, some_ids
from tests.support.command import langprune, one_sentence
from tests.support.narrowed import as_if_narrowed, equal, logits, narrow
from tests.support.narrowed import opened as reopened
from tests.support.pico import EVERY_FAMILY, save_pico

BY_NUMBER: dict[str, dict[str, Any]] = {
    "minicpm3": {},
    "beam": {},
    "diffllama": {},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
}
LONGCAT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "moe_topk": 2,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
FREE = [*EVERY_FAMILY, "mamba", "mamba2", "bamba"]


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    save_file({"windows": some_ids()}, tmp_path / "ids.safetensors")
    return tmp_path / "ids.safetensors"


def layers(family: str, count: int) -> dict[str, int]:
    return {"n_layer" if family in {"gpt2", "bloom"} else "num_hidden_layers": count}


@pytest.mark.parametrize("family", sorted(FREE))
def test_what_may_leave_gives_the_model_that_was_measured(family: str, tmp_path: Path) -> None:
    """What is let through equals stock transformers' dense model in which these blocks do nothing."""
    dense = save_pico(family, tmp_path / "dense", **layers(family, 4))
    stay = (1, 3)
    check_first_run(opened(tmp_path / "dense"), 2)
    check_without(opened(tmp_path / "dense"), stay)
    assert torch.is_grad_enabled()  # for what is tuned afterwards
    small = narrow(tmp_path / "dense", tmp_path / "small", {}, stay)
    windows = some_ids(2).long()
    equal(logits(reopened(small.folder), windows), logits(as_if_narrowed(dense, small), windows))


@pytest.mark.parametrize("family", BY_NUMBER)
def test_blocks_that_compute_by_their_number(family: str, tmp_path: Path) -> None:
    """It is no matter of the dtype of the checkpoint: a few per cent are less than bfloat16 shows."""
    save_pico(family, tmp_path, dtype=torch.bfloat16, **BY_NUMBER[family])
    with pytest.raises(
        LangpruneError, match=rf"this {family} .* \(the output of block 1 as block 0 differs by .* of its"
    ):
        check_first_run(opened(tmp_path), 1)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("rwkv", r"expects pre_ln.weight of block 1 as \[32\], and it is none"),
        ("ernie4_5_moe", r"expects mlp.gate.weight of block 1 as none, and it is \["),
    ],
)
def test_blocks_whose_parts_depend_on_their_number(family: str, says: str, tmp_path: Path) -> None:
    """The checkpoint is whole, and is not said to lack a tensor."""
    save_pico(family, tmp_path)
    with pytest.raises(
        LangpruneError, match=rf"Blocks of this {family} cannot be removed.* \(the smaller model {says}"
    ):
        check_first_run(opened(tmp_path), 1)


@pytest.mark.parametrize(
    ("kind", "sizes", "key"),
    [
        ("Bart", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 4, "decoder_ffn_dim": 48}, "decoder_layers"),
        ("ProphetNet", {"hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 4}, "num_decoder_layers"),
        ("LongcatFlash", {"num_layers": 4} | LONGCAT, "num_layers"),
    ],
)
def test_blocks_that_a_configuration_counts_otherwise(kind: str, sizes: dict[str, Any], key: str) -> None:
    """num_hidden_layers is the number of an encoder's blocks, or of layers of attention."""
    config = getattr(transformers, f"{kind}Config")(vocab_size=97, **sizes)
    assert len(find_blocks(build_skeleton(config, torch.float32))[1]) == 4 == block_count(config)
    fewer = opened_as(config, Narrowing((), {}, (1, 3), "").config(config.to_dict(), config))
    assert getattr(fewer, key) == 2
    assert len(find_blocks(build_skeleton(fewer, torch.float32))[1]) == 2


def test_windows_of_attention_that_leave_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is short, and what a block looks back over is made shorter: else full and sliding attention look alike."""
    save_pico("gemma2", tmp_path, num_hidden_layers=4, sliding_window=40)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layer_types"]  # which gemma2 then computes from the blocks' numbers
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_first_run(opened(tmp_path), 1)
    monkeypatch.setattr("langprune_cli.models.narrowing._PER_BLOCK", ())  # as if langprune did not know of them
    with pytest.raises(LangpruneError, match="the output of block 1 as block 0 differs"):
        check_first_run(opened(tmp_path), 1)


def looked_at_only(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize("family", ["minicpm3", "jamba", "gemma3n_text"])
def test_nothing_is_begun_that_cannot_be_finished(
    family: str, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pico(family, tmp_path / "model")
    here, model = ["-w", tmp_path / "w"], ["--model", tmp_path / "model"]
    if family != "minicpm3":  # what its weights show, its configuration does not
        refused(langprune("plan", *model, *here, "--pattern", "blocks:0.34"))
    langprune("calibrate", *here, *model, "--data", ids, "--name", "of-dense")
    monkeypatch.setattr("langprune_cli.stages.calibrate.calibrate._collect", looked_at_only)
    for method in ("search", "influence"):
        monkeypatch.setitem(depth_methods(), method, replace(get_depth_method(method), choose=looked_at_only))
        refused(langprune("mask", *here, *model, "--stats", "of-dense", "--pattern", "blocks:0.34", "--method", method))
    save_file({"windows": some_ids(6)}, ids)  # not what was calibrated on
    refused(langprune("prune", *here, *model, "--data", ids, "--pattern", "blocks:0.34"))
    assert [path.name for path in (tmp_path / "w").glob("[sm]*/*")] == ["of-dense"]


def refused(done: Any) -> None:
    one_sentence(done, 1, "cannot be removed|would not open")


def test_a_mask_that_was_made_before_is_looked_at_by_apply(
    ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pico("diffllama", tmp_path / "model")
    here = ["-w", tmp_path / "w"]
    langprune("calibrate", *here, "--model", tmp_path / "model", "--data", ids)
    with monkeypatch.context() as patch:
        for name in ("check_first_run", "check_without"):
            patch.setattr(f"langprune_cli.stages.structured.block_choosing.{name}", lambda *_: None)
        assert langprune("mask", *here, "--pattern", "blocks:0.34", "--method", "influence").code == 0
    (blocks,) = (tmp_path / "w" / "masks").glob("*/blocks.json")
    if json.loads(blocks.read_text())["removed"] != [2]:  # without its last block all others keep their number
        refused(langprune("apply", *here))
        assert not list((tmp_path / "w").glob("models/*"))
