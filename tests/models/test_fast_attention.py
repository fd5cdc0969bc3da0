"""Which models and which calls get `causal_attention`: those that call torch's attention with `is_causal` and no more."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from langprune_cli.machine.attention import causal_attention
from langprune_cli.models.fast_attention import fast_attention
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.streaming.walk import HiddenStates, walk
from tests.machine.test_attention import heads
from tests.support.pico import EVERY_FAMILY, save_pico

NAME = "langprune_causal"


def states_of(model: StreamedModel, *, fast: bool) -> list[Tensor]:
    """Return the output of every block, of windows that are longer than what is dropped from at once."""
    ids = torch.randint(3, 97, (2, 150), generator=torch.Generator().manual_seed(1))
    states = HiddenStates(model, ids, ids.numel(), fast=fast)
    return [part.clone() for _ in walk(states) for part in states.hidden]


def all_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture
def torchs_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every causal call of torch's function with `causal_attention`, whoever calls it."""
    real = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
        if more["is_causal"] and more["attn_mask"] is None and query.dtype == torch.bfloat16:
            return causal_attention(query, key, value, more["scale"])
        return real(query, key, value, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)


def long_pico(family: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    _, base = EVERY_FAMILY[family]
    longest = {name: 256 for name in ("max_position_embeddings", "n_positions") if name in base}
    return save_pico(family, folder, dtype=dtype, **longest)  # type: ignore[no-any-return] # transformers is untyped


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_family_has_it_where_it_asks_for_causal_attention(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    long_pico(family, tmp_path)
    model = StreamedModel(tmp_path)
    fast, stock = states_of(model, fast=True), states_of(model, fast=False)
    # bloom adds its own bias, gemma2 caps, and the windows of mistral and gemma3 slide: none is causal and no more.
    assert all_equal(fast, stock) == (family in {"bloom", "gemma2", "mistral", "gemma3_text"})
    request.getfixturevalue("torchs_replaced")
    assert all_equal(fast, states_of(model, fast=False))


def test_float32_keeps_torchs_own(tmp_path: Path) -> None:
    long_pico("llama", tmp_path, torch.float32)
    model = StreamedModel(tmp_path)
    assert all_equal(states_of(model, fast=True), states_of(model, fast=False))


def call(module: nn.Module, *inputs: Tensor, mask: Tensor | None = None, name: str = NAME, **more: Any) -> Tensor:
    output: Tensor = AttentionInterface()[name](module, *inputs, mask, **more)[0]
    return output


def test_calls_that_get_it_and_calls_that_do_not() -> None:
    module = nn.Module()
    inputs = heads(300)
    mask = torch.ones(1, 1, 300, 300, dtype=torch.bool).tril()
    mine = causal_attention(*inputs).transpose(1, 2)
    own = call(module, *inputs, name="sdpa")
    assert not torch.equal(mine, own)  # or what follows would show nothing
    with torch.no_grad():
        assert torch.equal(call(module, *inputs), mine)
        assert torch.equal(call(module, *inputs, is_causal=True, dropout=0.0, sliding_window=None), mine)
        scaled = causal_attention(*inputs, 0.1).transpose(1, 2)
        assert torch.equal(call(module, *inputs, scaling=0.1), scaled)
        others: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = [
            (inputs, {"mask": mask}),
            (inputs, {"is_causal": False}),
            (inputs, {"position_bias": torch.ones(1, 1, 300, 300, dtype=torch.bfloat16)}),
            (tuple(each.float() for each in inputs), {}),
            (heads(8193), {}),
            (heads(1), {}),
        ]
        for these, more in others:
            assert torch.equal(call(module, *these, **more), call(module, *these, name="sdpa", **more))
        module.is_causal = False  # type: ignore[assignment] # as encoders have it
        assert torch.equal(call(module, *inputs), call(module, *inputs, name="sdpa"))
        with pytest.raises(ValueError, match="softcap"):
            call(module, *inputs, softcap=30.0)
    module.is_causal = True  # type: ignore[assignment] # as decoders have it
    assert torch.equal(call(module, *inputs), own)  # gradients: it has none


def test_models_share_key_heads_by_their_groups() -> None:
    module = nn.Module()
    module.num_key_value_groups = 4  # type: ignore[assignment] # as attention modules have it
    inputs = heads(140, keys=1)
    with torch.no_grad():
        assert torch.equal(call(module, *inputs), causal_attention(*inputs).transpose(1, 2))


def test_torchs_own_comes_back_after_an_error(tmp_path: Path) -> None:
    model = long_pico("llama", tmp_path)
    names = []
    with suppress(ValueError), fast_attention(find_blocks(model)[1]):
        names.append(model.config._attn_implementation)
        raise ValueError
    assert [*names, model.config._attn_implementation] == [NAME, "sdpa"]


def test_eager_attention_stays(tmp_path: Path) -> None:
    model = long_pico("llama", tmp_path)
    model.set_attn_implementation("eager")
    with fast_attention(find_blocks(model)[1]):
        assert model.config._attn_implementation == "eager"


def test_a_family_whose_code_names_torchs_attention_keeps_it(tmp_path: Path) -> None:
    """For any other name falcon computes scores of its own, which an absent mask leaves without causality."""
    config = transformers.FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    torch.manual_seed(0)
    transformers.FalconForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = StreamedModel(tmp_path)
    with fast_attention(model.blocks):
        assert model.config._attn_implementation == "sdpa"
    assert all_equal(states_of(model, fast=True), states_of(model, fast=False))
