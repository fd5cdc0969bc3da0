"""Propagation `corrected`: drifts against whole models in float64, what linears aim at, resuming, processes, bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.methods.method import get_method
from langprune_cli.numerics.factor import damped_factor
from langprune_cli.numerics.gram import unpack_upper
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Site, SiteStats
from langprune_cli.solvers.correction import correction
from langprune_cli.stages.solving.site_solving import SolvedSite, Solver
from langprune_cli.stages.statistics.collecting import BlockStats
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming import resuming
from langprune_cli.streaming.opened import OpenedModel
from tests.support.command import did, langprune, one_sentence, tree
from tests.support.pico import save_pico
from tests.support.pruned_models import artifacts

WRITERS = ("self_attn.o_proj", "mlp.down_proj")
Words = list[object]


@pytest.fixture
def words(tmp_path: Path) -> Words:
    """Return options for a model of three blocks and 21 windows."""
    save_pico("llama", tmp_path / "model")
    ids = torch.randint(3, 97, (21, 24), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    return ["-m", tmp_path / "model", "--lang", "uk", "--data", tmp_path / "windows.safetensors"]


def found_by(*words: object) -> dict[str, Artifact]:
    return artifacts(did("prune", *words, "--json").json)


def streams(model: Any, index: int, windows: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (stream before it writes [t, h], what it reads [t, i]) of the writers of a stock llama's block, in float64."""
    block, seen = model.model.layers[index], {}

    def see(name: str, place: int) -> Callable[..., None]:
        def hook(_module: object, args: tuple[Tensor, ...]) -> None:
            seen[name, place] = args[0].flatten(0, 1)

        return hook

    block.register_forward_pre_hook(see(WRITERS[0], 0))
    block.post_attention_layernorm.register_forward_pre_hook(see(WRITERS[1], 0))
    for name in WRITERS:
        block.get_submodule(name).register_forward_pre_hook(see(name, 1))
    with torch.no_grad():
        model(windows.long())
    return {name: (seen[name, 0], seen[name, 1]) for name in WRITERS}


@pytest.mark.parametrize("method", ["sparsegpt", "admm"])
@pytest.mark.parametrize("batch_tokens", [24, 120, 4096])
def test_drifts_are_those_of_whole_models(method: str, batch_tokens: int, words: Words, tmp_path: Path) -> None:
    """Before each block, the pruned model has the new weights of the blocks before it, and the dense model its own."""
    corrected = ["--method", method, "--propagation", "corrected", "--batch-tokens", batch_tokens]
    found = found_by(*words, *corrected)
    windows = load_file(tmp_path / "windows.safetensors")["windows"]
    new = AutoModelForCausalLM.from_pretrained(found["models"].folder, dtype=torch.float64).state_dict()
    for index in range(3):
        dense = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
        pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
        pruned.load_state_dict(
            {name: new[name] for name in new if name.startswith(tuple(f"model.layers.{n}." for n in range(index)))},
            strict=False,
        )
        ours, theirs = streams(pruned, index, windows), streams(dense, index, windows)
        tensors = found["stats"].tensors(block_part(index))
        for name in WRITERS:
            drift = tensors[f"model.layers.{index}.{name}.weight/drift"].double()
            away, x = theirs[name][0] - ours[name][0], ours[name][1]
            halves = [
                away.view(21, 24, -1)[half::2].flatten(0, 1).T @ x.view(21, 24, -1)[half::2].flatten(0, 1)
                for half in (0, 1)
            ]
            scale = torch.stack([theirs[name][0].abs().T @ x.abs()] * 2)
            assert bool(((drift - torch.stack(halves)).abs() <= 1e-5 * scale + 1e-12).all())
            assert bool(drift.any()) == (index > 0)


def test_writers_aim_at_their_output_and_the_drift(words: Words, tmp_path: Path) -> None:
    """Their weights are those of the solver for the sum of both."""
    found = found_by(*words, "--method", "sparsegpt", "--propagation", "corrected")
    written, before = (
        load_file(folder / "model.safetensors") for folder in (found["models"].folder, tmp_path / "model")
    )
    sums = found["stats"].tensors(block_part(2))
    solve = get_method("sparsegpt").solve
    assert solve is not None
    for name in (f"model.layers.2.{writer}.weight" for writer in WRITERS):
        hessian = unpack_upper(sums[f"{name}/hessian"])
        change = correction(damped_factor(hessian), sums[f"{name}/drift"])
        assert float(change.norm()) > 1e-3 * float(before[name].norm())
        stats = SiteStats(sums[f"{name}/sum_sq"], sums[f"{name}/sum_x"], 21 * 24, 21, hessian)
        site = Site(before[name] + change, (len(change),), stats)
        assert torch.equal(written[name], solve(site, Pattern(0.5)).weight)


@pytest.mark.parametrize("save_after", [0.0, 1e9])
def test_an_interrupted_run_ends_with_the_same_bytes(
    save_after: float, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the parts on disk, and from both kinds of hidden states where they were saved."""
    monkeypatch.setattr(resuming, "SAVE_AFTER_SECONDS", save_after)
    did("prune", "-w", tmp_path / "whole", *words)
    solved = Solver.sites

    def twice(self: Solver, model: OpenedModel, index: int, known: BlockStats | None) -> list[SolvedSite]:
        if index == 2:
            raise KeyboardInterrupt
        return solved(self, model, index, known)

    with monkeypatch.context() as cut:
        cut.setattr(Solver, "sites", twice)
        assert langprune("prune", "-w", tmp_path / "cut", *words).code
    monkeypatch.undo()
    did("prune", "-w", tmp_path / "cut", *words)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_what_it_does_not_go_with(words: Words) -> None:
    for choice in (["--method", "wanda"], ["--method", "magnitude", "--update", "pcg"], ["--update", "none"]):
        done = langprune("prune", *words, *choice, "--propagation", "corrected")
        one_sentence(done, 2, "--propagation corrected goes with an update by Hessians")


OWN = {"corrected": ["--method", "admm"], "pruned": ["--method", "sparsegpt"], "no-update": ["--update", "none"]}


@pytest.mark.parametrize("case", OWN)
def test_the_default_is_the_methods_own(case: str, words: Words) -> None:
    """`corrected` for admm with an update by Hessians; sparsegpt stays as published."""
    own = "corrected" if case == "corrected" else "pruned"
    assert found_by(*words, *OWN[case])["stats"].manifest.params["propagation"] == own
