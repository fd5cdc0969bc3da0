"""The streamed model equals the whole one, bit by bit, for every family; and what streaming must not depend on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.errors import LangpruneError
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.stages.evaluate.evaluate import evaluate
from langprune_cli.stages.evaluate.subjects import Subject
from langprune_cli.stages.statistics.collecting import StatsCollector
from langprune_cli.store.building import Silent
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming import walk as walk_module
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, restore_states, save_states, walk
from langprune_cli.types import TextSpec
from tests.reference.forward import input_sums, perplexity
from tests.reference.sites import SITES
from tests.support.pico import EVERY_FAMILY, FAMILIES, save_pico

SINGLE = "model.safetensors"


def some_ids(windows: int = 4, seqlen: int = 24) -> Tensor:
    return torch.randint(3, 97, (windows, seqlen), generator=torch.Generator().manual_seed(1))


def whole_logits(model: Any, ids: Tensor, windows: int = 2) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=part).logits for part in ids.split(windows)])


def logits_of(states: HiddenStates) -> Tensor:
    """Put the pieces of all micro-batches together."""
    pieces: list[list[Tensor]] = [[] for _ in states.ids]
    for number, start, logits in states.logits():
        assert start == sum(piece.shape[1] for piece in pieces[number])
        pieces[number].append(logits)
    return torch.cat([torch.cat(parts, dim=1) for parts in pieces])


def streamed_logits(model: Path | StreamedModel, ids: Tensor, windows: int = 2) -> Tensor:
    model = StreamedModel(model) if isinstance(model, Path) else model
    states = HiddenStates(model, ids, windows * ids.shape[1])
    for _ in walk(states):
        pass
    return logits_of(states)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_streamed_logits_are_bit_equal(family: str, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path, shard_size="20KB")
    assert torch.equal(streamed_logits(tmp_path, some_ids()), whole_logits(whole, some_ids()))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom"])
def test_bf16_checkpoints_stream_in_bf16(family: str, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path, dtype=torch.bfloat16)
    streamed = streamed_logits(tmp_path, some_ids())
    assert streamed.dtype == torch.bfloat16
    assert torch.equal(streamed, whole_logits(whole, some_ids()))


def test_another_dtype_than_the_checkpoints(tmp_path: Path) -> None:
    save_pico("llama", tmp_path, dtype=torch.bfloat16)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = StreamedModel(tmp_path, dtype=torch.float32)
    assert torch.equal(streamed_logits(model, some_ids()), whole_logits(whole, some_ids()))


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_and_sums_of_every_family(family: str, tmp_path: Path) -> None:
    """Sites group the linears as the architecture does; the sums are those of plain hooks in the whole model."""
    whole = save_pico(family, tmp_path)
    ids = some_ids(3)
    expected = input_sums(whole, ids)
    model = StreamedModel(tmp_path)
    collector = StatsCollector(hessian=False)
    prefix, groups = SITES[family]
    for block in walk(HiddenStates(model, ids, ids.shape[1]), observe=collector.watch):
        tensors, sites = collector.tensors(block)
        place = f"{prefix}.{block.index}."
        assert {frozenset(linears) for linears in sites.values()} == {
            frozenset(f"{place}{linear}.weight" for linear in group) for group in groups
        }
        assert [linear.name for linear in block.linears] == [linear.name for linear in model.linears(block.index)]
        for site, linears in sites.items():
            assert site in linears
            for linear in linears:
                sums = expected[linear]
                size = float(sums.sum_sq.sum())
                found = {key: tensors[f"{site}/{key}"] for key in ("sum_sq", "sum_x", "tokens")}
                torch.testing.assert_close(found["sum_sq"], torch.from_numpy(sums.sum_sq), rtol=1e-12, atol=0)
                torch.testing.assert_close(found["sum_x"], torch.from_numpy(sums.sum_x), rtol=1e-12, atol=1e-12 * size)
                assert int(found["tokens"]) == sums.tokens == ids.numel()
        assert len(tensors) == 3 * len(sites)
    linears = {linear.name for index in range(3) for linear in model.linears(index)}
    assert {name for name in expected if name.startswith(prefix)} == linears


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_linears_are_checkpoint_tensors_seen_as_out_in(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    stored = load_file(tmp_path / SINGLE)
    model = StreamedModel(tmp_path)
    for index in range(3):
        with model.block(index) as block:
            for linear in block.linears:
                weight = stored[linear.name]
                assert linear.transposed is (family == "gpt2")
                assert torch.equal(linear.weight, weight.t() if family == "gpt2" else weight)
                linear.weight[1, 0] = 5.0  # writing into it changes the module's own weight
                own = linear.module.weight
                assert float(own[0, 1] if family == "gpt2" else own[1, 0]) == 5.0
    everything = [*model.outside_names(), *(name for index in range(3) for name in model.tensor_names(index))]
    assert sorted(everything) == sorted(stored)


def rename(folder: Path, change: Callable[[str], str], extra: dict[str, Tensor] | None = None) -> None:
    tensors = {change(name): tensor for name, tensor in load_file(folder / SINGLE).items()}
    save_file(tensors | (extra or {}), folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_checkpoints_without_the_base_models_prefix(family: str, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path)
    causal = torch.ones(64, 64).tril()[None, None]
    unused = {f"h.{k}.attn.bias": causal.clone() for k in range(3)} | {"h.0.attn.masked_bias": torch.tensor(-1e4)}
    rename(tmp_path, lambda name: name.removeprefix("transformer."), unused)
    model = StreamedModel(tmp_path)
    assert model.linears(1)[0].name.startswith("h.1.")
    assert set(unused) <= set(model.outside_names())
    assert torch.equal(streamed_logits(model, some_ids()), whole_logits(whole, some_ids()))


def test_checkpoints_of_a_bare_llama_and_unused_tensors(tmp_path: Path) -> None:
    whole = save_pico("llama", tmp_path, tie_word_embeddings=True)
    unused = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "vision.patch.weight": torch.ones(2, 2)}
    rename(tmp_path, lambda name: name.removeprefix("model."), unused)
    assert torch.equal(streamed_logits(tmp_path, some_ids()), whole_logits(whole, some_ids()))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_tied_embeddings_with_and_without_a_stored_head(family: str, tmp_path: Path, *, stored: bool) -> None:
    whole = save_pico(family, tmp_path, tie_word_embeddings=True)
    embedding = whole.get_input_embeddings().weight.detach().clone()
    assert "lm_head.weight" not in load_file(tmp_path / SINGLE)
    if stored:
        rename(tmp_path, str, {"lm_head.weight": embedding})
    assert torch.equal(streamed_logits(tmp_path, some_ids()), whole_logits(whole, some_ids()))


def test_an_untied_head_is_its_own(tmp_path: Path) -> None:
    whole = save_pico("llama", tmp_path)
    assert not torch.equal(whole.lm_head.weight, whole.model.embed_tokens.weight)
    rename(tmp_path, str, {"lm_head.weight": whole.lm_head.weight.detach() * 2})
    torch.testing.assert_close(streamed_logits(tmp_path, some_ids()), 2 * whole_logits(whole, some_ids()))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "bloom"])
def test_a_last_micro_batch_that_is_smaller(family: str, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path)
    ids = some_ids(5)
    model = StreamedModel(tmp_path)
    assert torch.equal(streamed_logits(model, ids, windows=2), whole_logits(whole, ids, windows=2))
    assert torch.equal(streamed_logits(model, ids, windows=99), whole_logits(whole, ids, windows=5))
    assert [len(part) for part in HiddenStates(model, ids, 1).ids] == [1] * 5  # one window at least


def test_logits_in_pieces_are_those_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("gemma2", tmp_path)
    model = StreamedModel(tmp_path)
    expected = streamed_logits(model, some_ids())
    monkeypatch.setattr(walk_module, "_LOGITS_BYTES", 4 * 97 * 2 * 7)  # 7 positions of two windows
    torch.testing.assert_close(streamed_logits(model, some_ids()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
@pytest.mark.parametrize("positions", [1, 7, 99])
def test_losses_in_pieces_give_the_literal_perplexity(
    family: str, positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window by window, token by token, in float64; gpt2 adds positions to its embeddings, gemma2 caps its logits."""
    whole = save_pico(family, tmp_path / "model")
    ids = some_ids(5)
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    monkeypatch.setattr(walk_module, "_LOGITS_BYTES", 4 * 97 * 2 * positions)  # micro-batches of two windows
    model = OpenedModel(
        ModelLocation(tmp_path / "model", "pico", None, "folder"), Compute(device="cpu", batch_tokens=48)
    )
    spec = TextSpec(None, str(tmp_path / "windows.safetensors"), "windows")
    outcome = evaluate(Workspace(tmp_path / "workspace"), [Subject(model)], [spec], Silent())
    (row,) = read_rows(outcome.artifact)
    assert row["ppl"] == pytest.approx(perplexity(whole, ids), rel=1e-6)
    assert (row["tokens"], row["bpb"]) == (5 * 23, None)  # no tokenizer says what text that is


def test_an_edit_goes_on_and_observe_sees_the_block_before_it(tmp_path: Path) -> None:
    whole = save_pico("llama", tmp_path)
    ids = some_ids()

    def halve(block: Block) -> None:
        for linear in block.linears:
            linear.weight.mul_(0.5)

    collector = StatsCollector(hessian=False)
    found = {}
    states = HiddenStates(StreamedModel(tmp_path), ids, ids.shape[1])
    for block in walk(states, observe=collector.watch, edit=halve):
        tensors, sites = collector.tensors(block)
        found |= {linear: tensors[f"{site}/sum_sq"] for site, linears in sites.items() for linear in linears}
    for index in range(3):
        # Blocks before this one are halved, this one and the later ones are as they were.
        expected = input_sums(whole, ids)
        for name in [name for name in found if f".{index}." in name]:
            torch.testing.assert_close(found[name], torch.from_numpy(expected[name].sum_sq), rtol=1e-12, atol=0)
        with torch.no_grad():
            for name, parameter in whole.model.layers[index].named_parameters():
                if name.endswith("proj.weight"):
                    parameter.mul_(0.5)
    assert torch.equal(logits_of(states), whole_logits(whole, ids, windows=1))


def test_weights_are_in_memory_only_while_their_context_lasts(tmp_path: Path) -> None:
    save_pico("qwen2", tmp_path)
    model = StreamedModel(tmp_path)

    def loaded() -> set[str]:
        return {name for name, parameter in model.model.named_parameters() if not parameter.is_meta}

    inside = [set(model.tensor_names(index)) for index in range(3)]
    assert loaded() == set()
    states = HiddenStates(model, some_ids(), 48)
    for block in walk(states):
        assert loaded() == inside[block.index]
    assert loaded() == set()
    next(states.logits())
    assert loaded() == set()
    assert all(not buffer.is_meta for buffer in model.model.buffers())


@pytest.mark.parametrize("windows", [2, 1, 3, 5])
def test_a_walk_goes_on_from_saved_hidden_states(windows: int, tmp_path: Path) -> None:
    """The walk that goes on may have micro-batches of another size than the one that was interrupted."""
    save_pico("gemma3_text", tmp_path, dtype=torch.bfloat16)
    model = StreamedModel(tmp_path)
    ids = some_ids(5)
    states = HiddenStates(model, ids, 2 * ids.shape[1])
    for block in walk(states):
        if block.index == 1:
            save_states(tmp_path / "resume.safetensors", [states], block.index)
    expected = logits_of(states)
    again = HiddenStates(model, ids, windows * ids.shape[1])
    assert restore_states(tmp_path / "resume.safetensors", [again]) == 1
    assert [block.index for block in walk(again, first=2)] == [2]
    if windows == 2:
        assert torch.equal(logits_of(again), expected)
    else:  # other batches, other rounding
        torch.testing.assert_close(logits_of(again), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "lm_head.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    rename(tmp_path, lambda stored: f"lost.{stored}" if stored == name else stored)
    with pytest.raises(LangpruneError, match=name.replace(".", r"\.")) as caught:
        StreamedModel(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    rename(tmp_path, str, {"model.layers.1.mlp.up_proj.weight": torch.zeros(47, 32)})
    model = StreamedModel(tmp_path)
    with pytest.raises(LangpruneError, match=r"up_proj\.weight with shape \[47, 32\].*\[48, 32\]"), model.block(1):
        pass


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    model = StreamedModel(tmp_path)
    collector = StatsCollector(hessian=False)

    def overflow(block: Block) -> None:
        for linear in block.linears:
            linear.weight.fill_(float("inf"))

    for block in walk(HiddenStates(model, some_ids(), 48), observe=collector.watch, edit=overflow):
        if block.index == 1:
            with pytest.raises(LangpruneError, match=r"block 1: the inputs of .* are not finite: compute in another"):
                collector.tensors(block)
