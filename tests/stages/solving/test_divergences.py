"""What pruning a site costs, by second derivatives: against whole models, and against the divergence itself."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from langprune_cli.allocations.allocation import Trials
from langprune_cli.location.location import locate_model
from langprune_cli.numerics.site import Site
from langprune_cli.stages.solving.divergences import Divergence, Measuring
from langprune_cli.stages.statistics.collecting import BlockStats, StatsCollector
from langprune_cli.stages.statistics.sites import SOLVING, prunable
from langprune_cli.store.building import Silent
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, walk
from tests.streaming.test_backward import drawn
from tests.support.pico import FAMILIES, save_pico

SPARSITIES = (0.2, 0.5)


def changed(weight: Tensor, sparsity: float, size: float = 0.02) -> Tensor:
    """Return a change of each weight that depends on nothing else, more of it for a higher sparsity."""
    return size * sparsity * torch.sin(1000 * weight)


def moved(site: Site, sparsity: float, size: float) -> Tensor:
    return site.weight + changed(site.weight, sparsity, size)


def some_ids(windows: int, seqlen: int) -> Tensor:
    return torch.randint(3, 97, (windows, seqlen), generator=torch.Generator().manual_seed(1))


def statistics(model: OpenedModel, ids: Tensor) -> list[BlockStats]:
    states = HiddenStates(model.streamed, ids, ids.numel())
    collector = StatsCollector(hessian=True)
    walked = walk(states, observe=collector.watch)
    return [BlockStats(*collector.tensors(block), len(ids)) for block in walked]


def measured(
    folder: Path, ids: Tensor, exclude: str | None = None, size: float = 0.02
) -> tuple[OpenedModel, list[list[Divergence]]]:
    model = OpenedModel(locate_model(str(folder)), Compute())
    known = statistics(model, ids)
    chosen = partial(prunable, model, exclude=exclude)
    trial = partial(moved, size=size)
    measuring = Measuring(model, chosen, known.__getitem__, SOLVING, Trials(SPARSITIES, trial), Silent())
    return model, measuring.run(ids, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_products_with_the_whole_models_gradients(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    ids = some_ids(5, 16)
    model, found = measured(tmp_path, ids)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    weights: dict[str, Any] = dict(whole.named_parameters())
    linears = [names[0] for block in found for names in (each.linears for each in block)]
    assert linears == [each.name for index in range(3) for each in model.streamed.linears(index)]
    squares = {name: [0.0, 0.0] for name in linears}
    generator = torch.Generator().manual_seed(0)
    for window in ids:
        whole.zero_grad()
        logits = whole(input_ids=window[None]).logits[0]
        cross_entropy(logits, drawn(logits.detach(), generator), reduction="sum").backward()
        for name in linears:
            weight = weights[name]
            for place, sparsity in enumerate(SPARSITIES):
                change = changed(weight.detach(), sparsity).double()
                squares[name][place] += float((change * weight.grad.double()).sum()) ** 2
    for each in (each for block in found for each in block):
        exact = [square / (2 * ids.numel()) for square in squares[each.linears[0]]]
        assert each.nats == pytest.approx(exact, rel=1e-3)


def test_small_changes_cost_what_the_distribution_moves(tmp_path: Path) -> None:
    """Of each linear, a mean over windows of the square of a nearly normal value; the tolerance is three times its error."""
    save_pico("llama", tmp_path)
    windows, seqlen = 256, 16
    ids = some_ids(windows, seqlen)
    _, found = measured(tmp_path, ids, size=0.01)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    weights: dict[str, Any] = dict(whole.named_parameters())
    ratios = []
    with torch.no_grad():
        dense = whole(input_ids=ids).logits.log_softmax(-1)
        for each in found[1]:
            weight = weights[each.linears[0]]
            kept = weight.clone()
            weight.add_(changed(weight.float(), SPARSITIES[1], 0.01))
            now = whole(input_ids=ids).logits.log_softmax(-1)
            weight.copy_(kept)
            ratios.append(each.nats[1] / float((dense.exp() * (dense - now)).sum(-1).mean()))
    assert math.prod(ratios) ** (1 / len(ratios)) == pytest.approx(1, abs=3 * math.sqrt(2 / windows))
    assert all(0.5 < each < 2 for each in ratios)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_are_taken_together(family: str, tmp_path: Path) -> None:
    """Seen or not: one sparsity for the gates of all experts of a block, one for their ups, one for their downs."""
    save_pico(family, tmp_path)
    model, found = measured(tmp_path, some_ids(6, 16))
    for index, block in enumerate(found):
        linears = {linear.name: linear.expert for linear in model.streamed.linears(index)}
        of_experts = [each for each in block if linears[each.linears[0]] is not None]
        experts = {expert for expert in linears.values() if expert is not None}
        for each in of_experts:
            assert {linears[name] for name in each.linears} == experts
        assert len(of_experts) == (3 if experts else 0)
        assert sorted(name for each in block for name in each.linears) == sorted(linears)


def test_linears_that_stay_are_left_out(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    _, found = measured(tmp_path, some_ids(2, 8), exclude="q_proj|down_proj")
    names = {name.split(".")[-2] for block in found for each in block for name in each.linears}
    assert names == {"k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
