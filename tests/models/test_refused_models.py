"""Models that cannot be pruned as they should be are refused with one sentence, before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from langprune_cli.errors import LangpruneError
from langprune_cli.models.skeleton import build_skeleton, find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.vocabulary_rows import VocabularyRows
from langprune_cli.streaming.walk import HiddenStates, walk
from tests.support.pico import save_pico


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
    with pytest.raises(LangpruneError, match="uses the same linears in several blocks"):
        StreamedModel(tmp_path)


def test_matrices_that_are_stacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path)
    stacked = nn.Parameter(torch.empty(4, 32, device="meta"))

    def stack(layers: nn.ModuleList) -> None:
        layers[2].mlp.up_proj.weight = nn.Parameter(stacked.view(2, 2, 32))

    changed_model(monkeypatch, stack)
    with pytest.raises(
        LangpruneError, match=r"several matrices in one tensor of mlp\.up_proj, in a layout that is not known"
    ):
        StreamedModel(tmp_path)


def test_blocks_whose_parts_lie_in_several_lists(tmp_path: Path) -> None:
    """One of the lists alone would give the loss of another model."""
    save_pico("xlm", tmp_path)
    with pytest.raises(LangpruneError, match=r"in several lists [(]transformer.attentions, .*ffns, "):
        StreamedModel(tmp_path)


def test_embeddings_with_more_rows_than_tokens(tmp_path: Path) -> None:
    save_pico("cpmant", tmp_path)
    with pytest.raises(LangpruneError, match=r"embeddings of \d+ rows for a vocabulary of 97: .* cannot be trimmed"):
        _ = VocabularyRows(StreamedModel(tmp_path), range(50)).names


@pytest.mark.parametrize("family", ["rwkv", "recurrent_gemma", "bert-generation"])
def test_what_was_refused_for_its_name_or_for_experts_that_it_lacks(family: str, tmp_path: Path) -> None:
    """Kernels have parameters of three dimensions of their own; they are no linears, and stay."""
    model = save_pico(family, tmp_path)
    ids = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
    streamed = StreamedModel(tmp_path)
    states = HiddenStates(streamed, ids, batch_tokens=20)
    for _ in walk(states):
        pass
    with torch.no_grad():
        expected = torch.cat([model(input_ids=row[None], use_cache=False).logits for row in ids])
    torch.testing.assert_close(torch.cat([logits for _, _, logits in states.logits()]), expected, rtol=1e-5, atol=1e-6)
    linears = {linear.name for index in range(3) for linear in streamed.linears(index)}
    assert linears
    assert all(len(streamed.checkpoint.entries[name].shape) == 2 for name in linears)


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


def reconfigured(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    "wanted", ["nobody/attention-kernel", "flash_attention_2", "flex_attention", "langprune_causal", 3]
)
def test_attention_code_that_a_configuration_names_is_not_fetched(wanted: object, tmp_path: Path) -> None:
    model = save_pico("llama", tmp_path)
    reconfigured(
        tmp_path, _attn_implementation=wanted, attn_implementation=wanted, _attn_implementation_internal=wanted
    )
    ids = torch.arange(12).reshape(2, 6)
    states = HiddenStates(StreamedModel(tmp_path), ids, batch_tokens=12)
    for _ in walk(states):
        pass
    with torch.no_grad():
        assert torch.equal(torch.cat([logits for _, _, logits in states.logits()]), model(ids).logits)


@pytest.mark.parametrize(
    ("family", "values", "says"),
    [
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers = 1e[+]09, which no model has"),
        ("qwen3_moe", {"num_experts": -(10**6)}, "num_experts = -1e[+]06, which no model has"),
        ("llama", {"num_hidden_layers": 1900}, "cannot build the llama model of .* [(]more than .* parameters"),
        ("llama", {"num_hidden_layers": 0}, "cannot build the llama model of .* [(]num_hidden_layers = 0"),
        ("llama", {"num_attention_heads": 0}, "transformers cannot open .*config.json"),
        ("llama", {"hidden_act": "none such"}, "cannot build the llama model of .* [(].*none such"),
        ("bloom", {"n_head": 0}, "cannot build the bloom model"),
        ("mixtral", {"num_experts_per_tok": 5}, "MixtralForCausalLM cannot run block by block with the values of .*config.json"),
    ],
)  # fmt: skip
def test_a_configuration_that_describes_no_model(
    family: str, values: dict[str, Any], says: str, tmp_path: Path
) -> None:
    save_pico(family, tmp_path)
    reconfigured(tmp_path, **values)
    with pytest.raises(LangpruneError, match=says):
        for _ in walk(HiddenStates(StreamedModel(tmp_path), torch.arange(12).reshape(2, 6), batch_tokens=12)):
            pass


def test_a_buffer_larger_than_any_models_is_refused_before_it_is_made() -> None:
    config = transformers.GPTNeoConfig(hidden_size=16, num_layers=2, attention_types=[[["global"], 2]], num_heads=2)
    config.max_position_embeddings = 10**5  # of a mask of positions by positions
    with pytest.raises(LangpruneError, match=r"a buffer of [\d.]+ GB"):
        build_skeleton(config, torch.float32)
