"""Whole experts leave: the smaller model is the dense one whose router never picks those that left."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from langprune_cli.units.experts import expert_rows
from tests.reference.routing import Unpicked, never_picked
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

GROUPED = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1}
EIGHT: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8},
    "qwen2_moe": {"num_experts": 8},
    "qwen3_moe": {"num_experts": 8},
    "qwen3_next": {"num_experts": 8},
    "olmoe": {"num_experts": 8},
    "deepseek_v3": GROUPED,
    "dots1": GROUPED,
    "glm4_moe": GROUPED,
    "ernie4_5_moe": {"moe_num_experts": 8},
    "minimax": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
    "granitemoe": {"num_local_experts": 8},
    "llama4_text": {"num_local_experts": 8},
    "longcat_flash": {"n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 3},
}
OPENS = """
import sys
sys.modules["langprune_cli"] = None
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False).shape == (1, 7)
"""


def some_windows(count: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 97, (count, 24), generator=generator, dtype=torch.int32)


@pytest.fixture
def here(tmp_path: Path) -> tuple[object, ...]:
    """Return the options of a workspace, and put windows beside it."""
    save_file({"windows": some_windows()}, tmp_path / "windows.safetensors")
    return "-w", tmp_path / "w"


def calibrated(tmp_path: Path, here: tuple[object, ...]) -> None:
    windows = tmp_path / "windows.safetensors"
    did("calibrate", *here, "--model", tmp_path / "dense", "--data", windows, "--dtype", "float32", "--name", "stats")


def stayed(mask: Path) -> dict[int, list[int]]:
    blocks = json.loads((mask / "experts.json").read_text())["blocks"]
    return {int(index): each["stay"] for index, each in blocks.items()}


@contextmanager
def none_picks(model: Any, blocks: dict[int, list[int]], experts: int) -> Iterator[None]:
    """Let no token go to the experts that left."""
    rows = expert_rows(model.config).rows
    with ExitStack() as stack:
        for index, stay in blocks.items():
            gone = tuple(expert for expert in range(experts) if expert not in stay)
            stack.enter_context(never_picked(model.model.layers[index], Unpicked(index, gone, rows)))
        yield


def nats(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        losses = torch.log_softmax(model(ids, use_cache=False).logits.double(), -1)
    return -losses[:, :-1].gather(-1, ids[:, 1:, None])


@pytest.mark.parametrize("family", EIGHT)
def test_the_model_is_the_dense_one_that_never_picks_them(
    family: str, tmp_path: Path, here: tuple[object, ...]
) -> None:
    save_pico(family, tmp_path / "dense", **EIGHT[family])
    calibrated(tmp_path, here)
    did("mask", *here, "--pattern", "experts:0.5", "--name", "mask")
    did("apply", *here, "--mask", "mask", "--name", "small")
    small, blocks = tmp_path / "w" / "models" / "small", stayed(tmp_path / "w" / "masks" / "mask")
    assert blocks
    assert all(len(stay) == 4 for stay in blocks.values())
    ids = some_windows(seed=2).long()
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32).eval()
    before = nats(dense, ids)
    with none_picks(dense, blocks, 8):
        wanted = nats(dense, ids)
    found = nats(AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32).eval(), ids)
    assert (found - wanted).abs().mean() < 1e-6
    assert (found - wanted).abs().max() < 5e-6  # single tokens: other shapes of products round otherwise
    assert (before - wanted).abs().max() > 1e-4
    if family in {"mixtral", "deepseek_v3", "gpt_oss"}:
        subprocess.run([sys.executable, "-c", OPENS, small], check=True)
    unchanged_but_for(tmp_path / "dense", small)


def unchanged_but_for(dense: Path, small: Path) -> None:
    """Check that tensors of unchanged names and shapes outside of experts have the same bytes."""
    before, after = load_file(dense / "model.safetensors"), load_file(small / "model.safetensors")
    assert len(after) <= len(before)
    same = [name for name in after if "expert" not in name.replace("shared_expert", "") and name in before]
    same = [name for name in same if before[name].shape == after[name].shape]
    assert same
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in same)


def reap_of(model: Any, ids: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Return tokens by expert and the sums of REAP of a block of stock mixtral, in float64: an independent reference."""
    seen: list[Tensor] = []
    block = model.model.layers[index].mlp
    handle = block.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        for window in ids:
            model(window[None], use_cache=False)
    handle.remove()
    x = torch.cat([each.reshape(-1, each.shape[-1]) for each in seen])
    shares = (x @ block.gate.weight.T).softmax(-1)
    best = shares.topk(2, -1)
    tokens, sums = torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.float64)
    for token in range(len(x)):
        weights = best.values[token] / best.values[token].sum()
        for weight, expert in zip(weights, best.indices[token].tolist(), strict=True):
            gate, up = block.experts.gate_up_proj[expert].chunk(2)
            made = block.experts.down_proj[expert] @ (nn.functional.silu(gate @ x[token]) * (up @ x[token]))
            tokens[expert] += 1
            sums[expert] += weight * made.norm()
    return tokens, sums


def test_sums_are_those_of_the_paper(tmp_path: Path, here: tuple[object, ...]) -> None:
    save_pico("mixtral", tmp_path / "dense", **EIGHT["mixtral"])
    calibrated(tmp_path, here)
    did("mask", *here, "--pattern", "experts:0.25", "--name", "reap")
    did("mask", *here, "--pattern", "experts:0.25", "--method", "frequency", "--name", "often")
    how = {"dtype": torch.float64, "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", **how).eval()
    records = [json.loads((tmp_path / "w" / "masks" / name / "experts.json").read_text()) for name in ("reap", "often")]
    for index in range(3):
        tokens, sums = reap_of(model, some_windows().long(), index)
        reap, often = (each["blocks"][str(index)] for each in records)
        assert reap["tokens"] == often["tokens"] == tokens.tolist()
        torch.testing.assert_close(torch.tensor(reap["outputs"], dtype=torch.float64), sums, rtol=1e-5, atol=0)
        means = sums / tokens.clamp(min=1)
        assert reap["stay"] == sorted(means.argsort(descending=True)[:6].tolist())
        assert (
            often["stay"] == sorted(tokens.argsort(descending=True, stable=True)[:6].tolist())
            or len(set(tokens.tolist())) < 8
        )
        assert often["scores"] == (tokens.double() / tokens.sum()).tolist()


def test_prune_makes_what_the_stages_make_and_plan_says_its_size(tmp_path: Path, here: tuple[object, ...]) -> None:
    save_pico("qwen3_moe", tmp_path / "dense", **EIGHT["qwen3_moe"])
    calibrated(tmp_path, here)
    did("mask", *here, "--pattern", "experts:0.25", "--name", "mask")
    did("apply", *here, "--mask", "mask", "--name", "small")
    text = "--model", tmp_path / "dense", "--data", tmp_path / "windows.safetensors", "--dtype", "float32"
    asked = "prune", *here, *text, "--pattern", "experts:0.25", "--json"
    first = did(*asked).json
    assert [each["cached"] for each in did(*asked).json["artifacts"]] == [True] * len(first["artifacts"])
    made = Path(first["artifacts"][0]["path"])
    assert (made / "model.safetensors").read_bytes() == (
        tmp_path / "w" / "models" / "small" / "model.safetensors"
    ).read_bytes()
    planned = did("plan", "--model", tmp_path / "dense", "--pattern", "experts:0.25", "--json").json
    size = sum(each.numel() for each in load_file(made / "model.safetensors").values())
    assert planned["parameters_after"] == size
    config = json.loads((made / "config.json").read_text())
    assert {config[key] for key in ("num_experts", "num_local_experts") if key in config} == {6}


@pytest.mark.parametrize(
    ("family", "settings", "share", "says"),
    [
        ("llama", {}, 0.25, "this llama has no experts, so that none can leave"),
        (
            "mixtral",
            {},
            0.75,
            r"sends each token to 2 of its 4 experts, and with 1 experts it could not: .* 0.25 .* to 0.5 ",
        ),
        ("mixtral", {}, 0.1, "removes none of 4 experts: give 0.25 or more"),
        ("deepseek_v3", GROUPED, 0.125, r"from 1 of 2 groups of equal size, and with 7 experts it could not"),
        ("jetmoe", {}, 0.25, "experts cannot leave this jetmoe, since its attention has experts of its own"),
        ("deepseek_v4", {}, 0.25, "experts cannot leave this deepseek_v4, since it numbers the experts of each token"),
    ],
)
def test_what_cannot_leave(
    family: str, settings: dict[str, Any], share: float, says: str, tmp_path: Path, here: tuple[object, ...]
) -> None:
    """Before any text is read, and `plan` says the same."""
    save_pico(family, tmp_path / "dense", **settings)
    pattern = "--pattern", f"experts:{share}"
    text = "--data", tmp_path / "windows.safetensors"
    for asked in (("prune", *here, *text, "--dry-run"), ("prune", *here, *text), ("plan",)):
        one_sentence(langprune(*asked, "--model", tmp_path / "dense", *pattern), 1, says)


def two_texts(tmp_path: Path, here: tuple[object, ...]) -> None:
    """Calibrate mixtral on two texts, and on both at once."""
    save_pico("mixtral", tmp_path / "dense", **EIGHT["mixtral"])
    # Tokens of different halves of the vocabulary.
    texts = {"uk": some_windows(3) // 2 + 48, "en": some_windows(5, seed=3) // 2}
    for name, windows in (texts | {"both": torch.cat([texts["uk"], texts["en"]])}).items():
        save_file({"windows": windows.int()}, tmp_path / f"{name}.safetensors")
        text = "--data", tmp_path / f"{name}.safetensors", "--dtype", "float32"
        did("calibrate", *here, "--model", tmp_path / "dense", *text, "--name", name)


def test_sums_of_two_texts_are_those_of_both(tmp_path: Path, here: tuple[object, ...]) -> None:
    two_texts(tmp_path, here)
    did("combine", "stats", "uk", "en", *here, "--name", "sum")
    did("combine", "stats", "uk", "en", *here, "--weights", "0.9,0.1", "--name", "mostly-uk")
    stats = tmp_path / "w" / "stats"
    for index in range(3):
        uk, en, both, added, mostly = (
            load_file(stats / name / f"block-{index:03d}.safetensors")
            for name in ("uk", "en", "both", "sum", "mostly-uk")
        )
        for name in ("experts/routed", "experts/outputs"):
            assert both[name].shape == (8,)
            torch.testing.assert_close(added[name], both[name], rtol=1e-6, atol=0)
            weighted = 8 * (0.9 * uk[name].double() / 3 + 0.1 * en[name].double() / 5)
            torch.testing.assert_close(
                mostly[name].double(), weighted, rtol=1e-12, atol=0.5 if name == "experts/routed" else 0
            )
        assert torch.equal(added["experts/routed"], uk["experts/routed"] + en["experts/routed"])
        assert both["experts/routed"].sum() == 8 * 24 * 2
    for name in ("sum", "both", "uk"):
        did("mask", *here, "--stats", name, "--pattern", "experts:0.25", "--name", name)
    masks = tmp_path / "w" / "masks"
    assert stayed(masks / "sum") == stayed(masks / "both") != stayed(masks / "uk")


def test_statistics_without_routing_lead_to_the_same_mask(
    tmp_path: Path, here: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions gathered none: then the windows go through the model once more."""
    two_texts(tmp_path, here)
    asked = "mask", *here, "--stats", "uk", "--pattern", "experts:0.25", "--name"
    did(*asked, "read")
    monkeypatch.setattr("langprune_cli.stages.structured.whole_experts.routing_in", lambda *_: {})
    did(*asked, "gathered", "--force")
    blocks = [
        json.loads((tmp_path / "w" / "masks" / name / "experts.json").read_text()) for name in ("read", "gathered")
    ]
    assert blocks[0] == blocks[1]


def test_compare_shows_the_experts_of_each_text(tmp_path: Path, here: tuple[object, ...]) -> None:
    two_texts(tmp_path, here)
    found = did("compare", "uk", "en", *here, "--json").json["experts"]
    assert [each["block"] for each in found] == [0, 1, 2]
    for each in found:
        routed = {
            name: load_file(tmp_path / "w" / "stats" / name / f"block-{each['block']:03d}.safetensors")[
                "experts/routed"
            ].double()
            for name in ("uk", "en")
        }
        shares = {name: tokens / tokens.sum() for name, tokens in routed.items()}
        assert each["shares"] == {name: of.tolist() for name, of in shares.items()}
        assert each["apart"] == pytest.approx(float((shares["uk"] - shares["en"]).abs().sum() / 2))
    assert max(each["apart"] for each in found) > 0.1
    shown = did("compare", "uk", "en", *here).out
    best = max(enumerate(found[0]["shares"]["uk"]), key=lambda each: each[1])
    assert "experts of uk" in shown
    assert f" {best[0]} ({best[1]:.0%})" in shown


def test_prune_takes_channels_and_weights_after_experts(tmp_path: Path, here: tuple[object, ...]) -> None:
    save_pico("qwen2_moe", tmp_path / "dense", **EIGHT["qwen2_moe"])
    text = "--model", tmp_path / "dense", "--data", tmp_path / "windows.safetensors"
    patterns = [
        each for name in ("experts:0.25", "channels:0.34", "blocks:0.34", "2:4") for each in ("--pattern", name)
    ]
    made = did("prune", *here, *text, *patterns, "--round-to", "8", "--json").json["artifacts"]
    config = json.loads((Path(made[0]["path"]) / "config.json").read_text())
    found = [config[key] for key in ("num_experts", "moe_intermediate_size", "num_hidden_layers")]
    assert found == [6, 16, 2]
