"""The streamed model equals the whole one, bit by bit, for every family."""

from pathlib import Path

import pytest
import torch

from langprune_cli.models.streamed import StreamedModel
from langprune_cli.walk import HiddenStates, walk
from tests.pico import FAMILIES, save_pico


def streamed_logits(folder: Path, ids: torch.Tensor, batch_tokens: int) -> torch.Tensor:
    model = StreamedModel(folder)
    states = HiddenStates(model, ids, batch_tokens)
    for _ in walk(states):
        pass
    return torch.cat([logits for _, _, logits in states.logits()])


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_logits_are_bit_equal(family: str, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path, shard_size="20KB")
    ids = torch.randint(3, 97, (4, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.cat([whole(input_ids=part).logits for part in ids.split(2)])
    assert torch.equal(streamed_logits(tmp_path, ids, batch_tokens=48), expected)
