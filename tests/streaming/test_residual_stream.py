"""What a block writes to its residual stream, found from values alone, for families that compose their blocks differently."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.streaming.residual_stream import NO_STREAM, find_stream
from langprune_cli.streaming.walk import HiddenStates
from tests.support.pico import save_pico

LLAMA = {"self_attn.o_proj": 1.0, "mlp.down_proj": 1.0}
NORMS = {"post_attention_layernorm": 1.0, "post_feedforward_layernorm": 1.0}
STREAMS = {
    "llama": LLAMA,
    "cohere": LLAMA,  # attention and FFN beside each other
    "gpt2": {"attn.c_proj": 1.0, "mlp.c_proj": 1.0},
    "opt": {"self_attn.out_proj": 1.0, "fc2": 1.0},
    "granite": dict.fromkeys(LLAMA, 0.7),
    "minicpm3": dict.fromkeys(LLAMA, 0.808),
    "gemma2": NORMS,
    "olmo2": NORMS,
    "mixtral": {"self_attn.o_proj": 1.0, "mlp.experts": 1.0},
    "granitemoeshared": {"self_attn.o_proj": 1.0, "block_sparse_moe.experts": 1.0, "shared_mlp.output_linear": 1.0},
    "falcon_h1": {"mamba.out_proj": 1.0, "self_attn.o_proj": 1.0, "feed_forward.down_proj": 1.0},
    "mamba": {"mixer.out_proj": 1.0},
}


def passed(model: StreamedModel, block: Block) -> tuple[Tensor, Tensor, dict[nn.Module, Tensor]]:
    """Return the input and output of a loaded block on some windows, and the outputs of its modules in the order of calls."""
    states = HiddenStates(model, torch.randint(3, 97, (4, 24), generator=torch.Generator().manual_seed(1)), 96)
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[module] = output[0] if isinstance(output, tuple) else output

    handles = [module.register_forward_hook(keep) for module in list(block.module.modules())[1:]]
    before = states.hidden[0]
    states.forward(block)
    for handle in handles:
        handle.remove()
    return before, states.hidden[0], seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", STREAMS)
def test_the_stream_of_families(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_pico(family, tmp_path, dtype=dtype)
    model = StreamedModel(tmp_path)
    with model.block(0) as block:
        before, after, outputs = passed(model, block)
        stream = find_stream(block, before, after, outputs)
        assert stream.kept == 1.0
        assert list(stream.factors) == list(STREAMS[family])  # in the order of calls
        assert stream.factors == pytest.approx(STREAMS[family], rel=2e-3)
        error = before.float() - after.float()
        for path, factor in stream.factors.items():
            error += factor * outputs[block.module.get_submodule(path)].view_as(error)
        assert float(error.norm() / (after.float() - before.float()).norm()) < (
            1e-3 if dtype == torch.float32 else 2e-2
        )


def test_nothing_is_known_of_an_output_that_is_no_sum(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    model = StreamedModel(tmp_path)
    with model.block(0) as block:
        before, after, outputs = passed(model, block)
        assert find_stream(block, before, after * before.sign(), outputs) == NO_STREAM
        assert find_stream(block, before, after + 1e-3 * torch.randn_like(after), outputs) == NO_STREAM
        assert find_stream(block, before, after, {}) == NO_STREAM
