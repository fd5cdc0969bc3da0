"""Models that cannot be pruned as they should be are refused with one sentence, before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from langprune_cli.errors import LangpruneError
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from tests.pico import save_pico

SMALL = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS: dict[str, dict[str, Any]] = {
    "GptOssConfig": {"num_local_experts": 2},
    "GraniteMoeConfig": {"num_local_experts": 2},
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_checkpoints_with_merged_experts(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, kind)(**SMALL | EXPERTS[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(LangpruneError, match="matrices of several experts in one tensor"):
        StreamedModel(tmp_path)


def changed_model(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the skeleton be built as a family would that lays out its blocks in another way."""
    from langprune_cli.models import streamed  # noqa: PLC0415

    build = streamed.build_skeleton

    def build_changed(*args: Any, **options: Any) -> Any:
        model = build(*args, **options)
        change(model.model.layers)
        return model

    monkeypatch.setattr(streamed, "build_skeleton", build_changed)


def test_linears_that_blocks_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path)

    def share(layers: nn.ModuleList) -> None:
        layers[1].mlp = layers[0].mlp

    changed_model(monkeypatch, share)
    with pytest.raises(LangpruneError, match="shares linears between blocks"):
        StreamedModel(tmp_path)


def test_matrices_that_are_stacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path)
    stacked = nn.Parameter(torch.empty(4, 32, device="meta"))

    def stack(layers: nn.ModuleList) -> None:
        layers[2].mlp.up_proj.weight = nn.Parameter(stacked.view(2, 2, 32))

    changed_model(monkeypatch, stack)
    with pytest.raises(LangpruneError, match="several experts in one tensor"):
        StreamedModel(tmp_path)


def test_code_of_the_models_own_is_asked_for(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "its_own", "auto_map": {"AutoConfig": "its_own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LangpruneError, match=r"add --trust-remote-code$"):
        StreamedModel(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_without_a_stated_dtype_the_weights_decide(tmp_path: Path, dtype: torch.dtype) -> None:
    save_pico("llama", tmp_path, dtype=dtype)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dtype"}))
    assert StreamedModel(tmp_path).dtype == dtype


def test_blocks_are_the_outermost_list_of_their_length() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.LlamaConfig(num_hidden_layers=2)
            self.adapter = nn.Module()
            self.adapter.inner = nn.Module()
            self.adapter.inner.heads = nn.ModuleList([nn.Linear(1, 1) for _ in range(2)])
            self.layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(2)])

    assert find_blocks(Holder())[0] == "layers"
