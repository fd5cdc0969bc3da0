"""Which blocks go: influence and losses against stock transformers models, one of whose blocks may do nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langprune_cli.depth_methods import influence as influences
from langprune_cli.depth_methods import search
from langprune_cli.depth_methods.influence import block_influence
from langprune_cli.depth_methods.method import blocks_that_stay, depth_methods, get_depth_method
from langprune_cli.depth_methods.search import search_windows
from langprune_cli.errors import LangpruneError
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.store.building import Silent
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from tests.reference.depth import blocks_of, literal_influence, literal_nats, remove
from tests.support.pico import save_pico

# Both kinds of norm, rotary, learned and ALiBi positions, per-layer attention, Conv1D, blocks that return tuples.
VARIED = ["gemma2", "gpt2", "opt", "bloom"]
LAST = {"o_proj", "out_proj", "down_proj", "fc2", "c_proj", "dense", "dense_4h_to_h"}  # what a block adds is theirs


def some_ids(windows: int = 5, seqlen: int = 24) -> Tensor:
    return torch.randint(3, 97, (windows, seqlen), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def opened(folder: Path, batch_tokens: int = 48, dtype: str = "auto") -> OpenedModel:
    compute = Compute(dtype=dtype, device="cpu", batch_tokens=batch_tokens)
    return OpenedModel(ModelLocation(folder, "pico", None, "folder"), compute)


def foretold(model: Any, ids: Tensor) -> Tensor:
    """Return windows that begin as `ids` do and go on as the model would: what any change makes it worse at."""
    asked = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    told: Tensor = model.generate(ids[:, :4].long(), **asked)
    return told


def sharpen(model: Any) -> None:
    """Let a model be sure of what it predicts."""
    for path, parameter in model.named_parameters():
        if path.endswith((".norm.weight", ".final_layer_norm.weight", ".ln_f.weight")) and ".layers." not in path:
            parameter.data.add_(20)


def silence(model: Any, family: str, index: int) -> None:
    """Let a block add nothing to what it reads."""
    for path, parameter in blocks_of(model, family)[index].named_parameters():
        if path.split(".")[-2] in LAST:
            parameter.data.zero_()


@pytest.mark.parametrize("family", VARIED)
@pytest.mark.parametrize("batch_tokens", [1, 48, 10_000])
def test_influence_is_the_literal_one(family: str, batch_tokens: int, tmp_path: Path) -> None:
    """Micro-batches of one window, of two with one left over, and of all windows."""
    whole = save_pico(family, tmp_path)
    found = block_influence(opened(tmp_path), some_ids(), batch_tokens, Silent())
    assert found == pytest.approx(literal_influence(whole, family, some_ids()), rel=1e-5)
    assert min(found) > 0.01  # random blocks do turn their inputs


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_influence_of_a_bf16_checkpoint(dtype: str, tmp_path: Path) -> None:
    whole = save_pico("gemma3_text", tmp_path, dtype=torch.bfloat16)
    if dtype != "auto":
        whole = whole.float()
    found = block_influence(opened(tmp_path, dtype=dtype), some_ids(), 24, Silent())
    assert found == pytest.approx(literal_influence(whole, "gemma3_text", some_ids()), rel=1e-3)


def test_vectors_of_zeros_have_a_cosine() -> None:
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [1e-30, 0.0]]])
    y = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-6.0, -8.0], [-4.0, 3.0], [1e-30, 0.0]]])
    assert influences._cosines(x, y).tolist() == [[1.0, 0.0, 0.0, -1.0, 0.0, 1.0]]


@pytest.mark.parametrize("family", [*VARIED, "llama"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_block_that_does_nothing_goes(family: str, index: int, tmp_path: Path) -> None:
    whole = save_pico(family, tmp_path)
    silence(whole, family, index)
    sharpen(whole)
    whole.save_pretrained(tmp_path)
    model, ids = opened(tmp_path), foretold(whole, some_ids())
    influence = block_influence(model, ids, 48, Silent())
    assert [each == 0.0 for each in influence] == [k == index for k in range(3)]  # exactly
    stay = tuple(k for k in range(3) if k != index)
    for name, method in depth_methods().items():
        chosen = method.choose(model, ids, 0.34, Silent())
        assert chosen.blocks == stay
        assert (chosen.record["method"], chosen.record["removed"]) == (name, [index])
        assert json.loads(json.dumps(chosen.record, allow_nan=False)) == chosen.record
    searched = search_windows(model, ids, 1, Silent())
    assert searched.runs[0] == (index, searched.dense)  # to the last bit


@pytest.mark.parametrize(
    ("family", "blocks", "count"),
    [("gemma2", 5, 1), ("gemma2", 5, 2), ("gemma3_text", 7, 3), ("gemma3_text", 7, 6), ("gpt2", 3, 1), ("opt", 3, 2),
     ("bloom", 3, 1), ("llama", 3, 2), ("cohere", 3, 1)],
)  # fmt: skip
def test_a_search_gives_the_losses_of_stock_models_without_these_blocks(
    family: str, blocks: int, count: int, tmp_path: Path
) -> None:
    """Every start, with the attention of each block that stays: full, or sliding over 8 of 24 tokens."""
    layers = {"n_layer" if family in {"gpt2", "bloom"} else "num_hidden_layers": blocks}
    save_pico(family, tmp_path, **layers)
    ids = some_ids()
    found = search_windows(opened(tmp_path), ids, count, Silent())
    assert found.count == count
    assert found.dense == pytest.approx(literal_nats(save_pico(family, tmp_path, **layers), ids), rel=1e-6)
    assert sorted(start for start, _ in found.runs) == list(range(blocks - count + 1))
    assert [nats for _, nats in found.runs] == sorted(nats for _, nats in found.runs)
    for start, nats in found.runs:
        smaller = remove(save_pico(family, tmp_path, **layers), family, range(start, start + count))
        assert len(find_blocks(smaller)[1]) == blocks - count
        assert nats == pytest.approx(literal_nats(smaller, ids), rel=1e-6), start


def test_blocks_of_gemma_differ_in_what_they_attend_to(tmp_path: Path) -> None:
    """The test above would notice if a block were called as its neighbour is."""
    model = save_pico("gemma3_text", tmp_path, num_hidden_layers=7)
    assert set(model.config.layer_types) == {"sliding_attention", "full_attention"}
    before = literal_nats(model, some_ids())
    model.config.layer_types.reverse()
    assert literal_nats(model, some_ids()) != pytest.approx(before, rel=1e-6)


def test_a_search_in_bf16(tmp_path: Path) -> None:
    save_pico("gemma3_text", tmp_path, dtype=torch.bfloat16, num_hidden_layers=7)
    found = search_windows(opened(tmp_path, batch_tokens=24), some_ids(), 2, Silent())
    for start, nats in found.runs:
        whole = save_pico("gemma3_text", tmp_path, dtype=torch.bfloat16, num_hidden_layers=7)
        smaller = remove(whole, "gemma3_text", range(start, start + 2))
        assert nats == pytest.approx(literal_nats(smaller, some_ids()), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 48, 10_000])
@pytest.mark.parametrize("budget", [1, 40_000, 1 << 30])
def test_a_search_does_not_depend_on_how_windows_are_grouped(
    batch_tokens: int, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One window of 3 KiB a stream at a time, some of them, or all at once."""
    save_pico("gemma2", tmp_path, num_hidden_layers=5)
    expected = search_windows(opened(tmp_path), some_ids(), 2, Silent())
    monkeypatch.setattr(search, "_LEAST_BYTES", budget)
    found = search_windows(opened(tmp_path, batch_tokens), some_ids(), 2, Silent())
    assert found.dense == pytest.approx(expected.dense, rel=1e-6)
    assert dict(found.runs) == pytest.approx(dict(expected.runs), rel=1e-6)


def test_hidden_states_of_a_search_stay_within_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path)
    monkeypatch.setattr(search, "_LEAST_BYTES", 1)
    window = 24 * 32 * 4  # bytes
    for windows in (1, 4, 5, 64):
        for streams in (3, 4, 40):
            for batch_tokens in (1, 48, 10_000):
                fit = search._windows_at_once(opened(tmp_path, batch_tokens), some_ids(windows), streams)
                assert fit >= 1
                assert fit == 1 or fit * streams * window <= 2 * windows * window
                batch = max(1, batch_tokens // 24)
                assert fit < batch or fit % batch == 0


@pytest.mark.parametrize("seqlen", [2, 24])
def test_one_window(seqlen: int, tmp_path: Path) -> None:
    whole = save_pico("llama", tmp_path)
    ids = some_ids(1, seqlen)
    assert block_influence(opened(tmp_path), ids, 48, Silent()) == pytest.approx(
        literal_influence(whole, "llama", ids), rel=1e-5
    )
    found = search_windows(opened(tmp_path), ids, 2, Silent())
    assert found.dense == pytest.approx(literal_nats(whole, ids), rel=1e-6)
    assert [nats for _, nats in found.runs] == pytest.approx(
        sorted(literal_nats(remove(save_pico("llama", tmp_path), "llama", range(k, k + 2)), ids) for k in range(2))
    )


def test_all_blocks_but_one_go(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    model = opened(tmp_path)
    influence = block_influence(model, some_ids(), 48, Silent())
    assert influences.choose(model, some_ids(), 0.67, Silent()).blocks == (influence.index(max(influence)),)
    chosen = search.choose(model, some_ids(), 0.67, Silent())
    runs = search_windows(model, some_ids(), 2, Silent()).runs
    assert chosen.blocks == ((2,) if runs[0][0] == 0 else (0,))
    assert chosen.record["runs"] == [{"first": first, "nats": nats} for first, nats in runs]


@pytest.mark.parametrize(
    ("total", "sparsity", "stay"),
    [(32, 0.25, 24), (32, 0.26, 24), (32, 0.031, None), (32, 1 / 32, 31), (100, 0.29, 71), (3, 0.34, 2), (3, 0.99, 1),
     (3, 1.0, None), (1, 0.5, None), (24, 0.0, None)],
)  # fmt: skip
def test_how_many_stay(total: int, sparsity: float, stay: int | None) -> None:
    """The whole part goes; 0.29 x 100 is 28.999... in binary."""
    if stay is None:
        with pytest.raises(LangpruneError, match=f"--sparsity {sparsity:g} removes (none of|all) {total} blocks: "):
            blocks_that_stay(total, sparsity)
    else:
        assert blocks_that_stay(total, sparsity) == stay


@pytest.mark.parametrize("total", [2, 3, 7, 12, 28, 32, 80, 126])
def test_the_sparsity_that_the_message_names_removes_a_block(total: int) -> None:
    with pytest.raises(LangpruneError) as caught:
        blocks_that_stay(total, 0.0)
    named = float(str(caught.value).split("give ")[1].split()[0])
    assert blocks_that_stay(total, named) == total - 1


def test_what_cannot_be_judged_is_one_sentence(tmp_path: Path) -> None:
    whole = save_pico("llama", tmp_path / "nan")
    whole.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    whole.save_pretrained(tmp_path / "nan")
    model = opened(tmp_path / "nan")
    with pytest.raises(LangpruneError, match=r"block 1: .* is not finite: compute in another dtype"):
        block_influence(model, some_ids(), 48, Silent())
    with pytest.raises(LangpruneError, match="the loss of pico is not finite: compute in another dtype"):
        search_windows(model, some_ids(), 1, Silent())
    with pytest.raises(LangpruneError, match="windows of one token"):
        search_windows(model, some_ids(3, 1), 1, Silent())
    with pytest.raises(LangpruneError, match=r"has no method 'influnce'.*did you mean influence"):
        get_depth_method("influnce")


def pushing(folder: Path, pushes: list[float], *, head: float | None = None) -> OpenedModel:
    """Return a float16 model, 30000 in coordinate 0 of its hidden states, to which a block adds its push while it is positive.

    head: what each logit reads of that coordinate, where it is more than rounding.
    """
    whole = save_pico("llama", folder, dtype=torch.float16, num_hidden_layers=len(pushes))
    whole.model.embed_tokens.weight.data.mul_(100)
    whole.model.embed_tokens.weight.data[:, 0] = 30_000
    if head:
        whole.lm_head.weight.data[:, 0] = head
    for index, block in enumerate(whole.model.layers):
        silence(whole, "llama", index)
        block.post_attention_layernorm.weight.data.fill_(1)
        for linear in (block.mlp.gate_proj, block.mlp.up_proj):
            linear.weight.data.zero_()
            linear.weight.data[0, 0] = 3.0  # the norm makes sqrt(32) of any large coordinate, or -sqrt(32)
        block.mlp.down_proj.weight.data[0, 0] = pushes[index] / (9 * 32)
    whole.save_pretrained(folder)
    return opened(folder)


def test_a_run_whose_loss_is_not_finite_comes_last(tmp_path: Path) -> None:
    """Without block 0, block 1 is given a positive coordinate, and its push overflows."""
    chosen = search.choose(pushing(tmp_path, [-60_000, 60_000, 0]), some_ids(), 0.34, Silent())
    *finite, last = chosen.record["runs"]
    assert last == {"first": 0, "nats": None}
    assert all(math.isfinite(run["nats"]) for run in finite)
    assert 0 in chosen.blocks


def test_a_model_that_overflows_without_any_run_is_refused(tmp_path: Path) -> None:
    """Its two blocks take 15000 each: the head overflows on what is left where either is missing."""
    model = pushing(tmp_path, [-15_000, -15_000], head=30_000)
    assert math.isfinite(search_windows(model, some_ids(), 1, Silent()).dense)
    with pytest.raises(LangpruneError, match="is infinite without any run of 1 blocks: compute"):
        search.choose(model, some_ids(), 0.5, Silent())
