"""Gradient checkpointing: the bits of every gradient, with less kept in memory."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from langprune_cli.defaults import Train
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.recover.student import Student, checkpointed
from tests.support.pico import save_pico


def gradients(model: StreamedModel, train: Train, *, again: bool, dtype: torch.dtype) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of what is trained, by name, and the bytes that were kept for them."""
    ids = torch.randint(3, 97, (2, 16), generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with model.whole() as parameters:
        student = Student(model, parameters, train, seed=0)
        with checkpointed(model.blocks) if again else nullcontext():
            for name, parameter in student.trained.items():
                if name.endswith(".lora_B"):
                    torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
            with (
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
            ):
                logits = student.logits(ids)
            logits.float().logsumexp(-1).square().mean().backward()  # type: ignore[no-untyped-call] # torch's own
        found = {name: each.grad for name, each in student.trained.items() if each.grad is not None}
        student.release()
    assert not any("forward" in vars(block) for block in model.blocks)
    return found, sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("train", ["all", "lora", "norms"])
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma2", "mixtral", "qwen2_moe", "llama4_text", "bloom"])
def test_gradients_keep_their_bits_and_less_is_kept(
    family: str, train: Train, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Dropout, which opt, gpt2 and bloom have inside of blocks, stays off: the seed differs."""
    save_pico(family, tmp_path)
    model = StreamedModel(tmp_path, dtype=torch.float32)
    torch.manual_seed(1)
    plain, much = gradients(model, train, again=False, dtype=dtype)
    torch.manual_seed(2)
    again, little = gradients(model, train, again=True, dtype=dtype)
    assert plain.keys() == again.keys()
    assert any(each.any() for each in plain.values())
    assert all(torch.equal(each.view(torch.int32), again[name].view(torch.int32)) for name, each in plain.items())
    assert little < much
