"""A model without weights: its buffers are those of the model with weights, and parameters take no memory."""

from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from langprune_cli.models.skeleton import build_skeleton
from tests.support import pico

FAMILIES = pico.EVERY_FAMILY | pico.FOUND | pico.OTHERS


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_buffers_are_those_of_the_whole_model(family: str) -> None:
    kind, settings = FAMILIES[family]
    config = getattr(transformers, kind)(**settings)
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = build_skeleton(config, torch.float32, experts_apart=False)
    assert all(each.is_meta for each in model.parameters())
    buffers, expected = dict(model.named_buffers()), dict(whole.named_buffers())
    assert buffers.keys() == expected.keys()
    for name, each in buffers.items():
        assert torch.equal(each, expected[name]), name


class _Draws(TorchDispatchMode):
    """Counts draws of random numbers."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mixtral"])
def test_parameters_get_no_first_values(family: str) -> None:
    kind, settings = FAMILIES[family]
    config = getattr(transformers, kind)(**settings)
    with _Draws() as draws:
        transformers.AutoModelForCausalLM.from_config(config)
    assert draws.count
    with _Draws() as draws:
        build_skeleton(config, torch.float32)
    assert not draws.count


def test_a_parameter_may_be_larger_than_the_memory() -> None:
    """Experts of 2 TB in one tensor, as the largest mixtures come near to."""
    config = transformers.MixtralConfig(
        hidden_size=2**16, intermediate_size=2**16, num_local_experts=128, num_hidden_layers=1
    )
    assert build_skeleton(config, torch.bfloat16).get_parameter("lm_head.weight").is_meta
