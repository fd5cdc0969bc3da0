"""Gradients that go back through a streamed model equal those of the whole one, for every family."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.streaming import walk as walk_module
from langprune_cli.streaming.backward import TracedStates, traced
from tests.support.pico import EVERY_FAMILY, save_pico

WINDOWS, SEQLEN, SEED = 2, 12, 7


def some_ids(windows: int = WINDOWS) -> Tensor:
    return torch.randint(3, 97, (windows, SEQLEN), generator=torch.Generator().manual_seed(1))


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a token at each position [t] by the inverse of the cumulative distribution."""
    places = torch.rand(len(logits), generator=generator).double()
    reached = logits.double().softmax(-1).cumsum(-1)
    return (reached <= places[:, None]).sum(-1).clamp(max=logits.shape[1] - 1)


def whole_gradients(folder: Path, ids: Tensor) -> list[Tensor]:
    """Return the gradients by the input of block 0, of each window, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    read: list[Tensor] = []

    def keep(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden.retain_grad()
        read.append(hidden)

    find_blocks(model)[1][0].register_forward_pre_hook(keep, with_kwargs=True)
    generator = torch.Generator().manual_seed(SEED)
    for window in ids:
        logits = model(input_ids=window[None], use_cache=False).logits[0].float()
        cross_entropy(logits, drawn(logits.detach(), generator), reduction="sum").backward()
    return [each.grad for each in read if each.grad is not None]


@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_gradients_are_those_of_the_whole_model(family: str, windows: int, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    model, ids = StreamedModel(tmp_path), some_ids()
    states = traced(TracedStates(model, ids, windows * SEQLEN), None)
    gradients = states.pop().sampled_gradients(SEED)
    for index in reversed(range(len(model.blocks))):
        with model.block(index) as block:
            before = states.pop()
            gradients = [before.back(block, number, each) for number, each in enumerate(gradients)]
    whole = whole_gradients(tmp_path, ids)
    assert len(whole) == WINDOWS
    for mine, theirs in zip(torch.cat(gradients).split(1), whole, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_a_head_in_pieces_and_states_in_a_file_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path)
    model, ids = StreamedModel(tmp_path), some_ids()
    plain = traced(TracedStates(model, ids, SEQLEN), None)[-1].sampled_gradients(SEED)
    monkeypatch.setattr(walk_module, "_LOGITS_BYTES", 4 * 97 * 5)  # pieces of five positions
    filed = traced(TracedStates(model, ids, SEQLEN, tmp_path), tmp_path)
    assert all(type(each.hidden).__name__ == "TensorFile" for each in filed)
    for one, other in zip(plain, filed[-1].sampled_gradients(SEED), strict=True):
        torch.testing.assert_close(one, other)


def test_tokens_are_drawn_from_the_models_own_distribution(tmp_path: Path) -> None:
    """The mean of gradients is zero, and of their squares the diagonal of the Fisher information, from all tokens."""
    save_pico("llama", tmp_path)
    model, draws = StreamedModel(tmp_path), 600
    states = traced(TracedStates(model, some_ids(1).expand(draws, -1), SEQLEN), None)[-1]
    found = torch.cat(states.sampled_gradients(SEED))[:, -1].double()  # of one position [draws, h]
    read = states.hidden[0].clone().requires_grad_()
    with model.outside():
        chances = model.capture.head(some_ids(1), read)[0, -1].double().log_softmax(-1)
        of_tokens = torch.stack([torch.autograd.grad(each, read, retain_graph=True)[0][0, -1] for each in chances])
    exact = (chances.exp()[:, None] * of_tokens.double().square()).sum(0)
    torch.testing.assert_close(found.square().mean(0), exact, rtol=0.25, atol=0)
    assert (found.mean(0).abs() < 5 * (exact / draws).sqrt()).all()
