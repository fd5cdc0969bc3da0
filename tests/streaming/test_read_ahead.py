"""Blocks read by a thread while the one before them is at work, as for a GPU.

Where there is no GPU, memory that cannot be pinned stands in for what can, and the CPU for the device.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.streaming.walk import HiddenStates, walk

IDS = torch.arange(3, 35).view(2, 16)


@pytest.fixture
def ahead(pico_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamedModel:
    """Open a copy of a model on the CPU that reads ahead as it would for a GPU."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    model = StreamedModel(shutil.copytree(pico_model, tmp_path / "model"))
    model._reader = ThreadPoolExecutor(1)
    return model


def outputs(model: StreamedModel, ids: Tensor = IDS) -> Tensor:
    states = HiddenStates(model, ids, ids.numel())
    for _ in walk(states):
        pass
    return states.hidden[0].cpu()


def test_it_changes_nothing_but_who_reads(
    ahead: StreamedModel, pico_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_thread: list[list[str]] = []
    read = ahead._read_pinned
    monkeypatch.setattr(ahead, "_read_pinned", lambda names: (by_thread.append(names), read(names))[1])
    assert torch.equal(outputs(ahead), outputs(StreamedModel(pico_model)))
    assert by_thread == [ahead.tensor_names(1), ahead.tensor_names(2)]


def test_a_block_that_was_not_expected_is_read_now(ahead: StreamedModel) -> None:
    ahead.expect(2)
    with ahead.block(1) as block:
        found = block.linears[0].weight.clone()
    ahead.expect(1)
    with ahead.block(1) as block:
        assert torch.equal(block.linears[0].weight, found)
    with ahead.block(1) as block:
        assert torch.equal(block.linears[0].weight, found)


def test_what_goes_wrong_in_the_thread_is_said_when_the_block_is_wanted(ahead: StreamedModel) -> None:
    (file,) = ahead.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:5000])
    ahead.expect(1)
    with pytest.raises(LangpruneError, match="shorter after it was opened"), ahead.block(1):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_the_outputs_are_those_of_weights_that_were_copied_at_once(pico_model: Path) -> None:
    model = StreamedModel(pico_model, device="cuda")
    found = outputs(model)
    model._reader = None
    assert torch.equal(found, outputs(model))
