"""Linears that transformers makes of other tensors' rows on loading: they are pruned as the checkpoint has them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, Concatenate, Interleave, PermuteForRope, Split, WeightConverter

from langprune_cli.layouts.composed import Composed
from langprune_cli.models.skeleton import build_skeleton
from langprune_cli.models.streamed import StreamedModel
from tests.layouts.test_mixtures import loss, some_windows
from tests.support.command import did, langprune, one_sentence


class TurnedConfig(LlamaConfig):
    """A llama whose checkpoints have other linears than its modules."""

    model_type = "turned"


class TurnedForCausalLM(LlamaForCausalLM):
    config_class = TurnedConfig


def to(sources: str, targets: str, *operations: Any, suffix: str = ".weight") -> WeightConverter:
    """Return a rule; names are those of modules, one or several. suffix: "" for weights and biases."""
    return WeightConverter(
        source_patterns=[f"{each}{suffix}" for each in sources.split()],
        target_patterns=[f"{each}{suffix}" for each in targets.split()],
        operations=list(operations),
    )


RULES = [
    to("self_attn.wq", "self_attn.q_proj", PermuteForRope()),
    to("self_attn.wkv", "self_attn.k_proj self_attn.v_proj", Split(dim=0)),
    to("self_attn.upper self_attn.lower", "self_attn.o_proj", Concatenate(dim=0)),
    to("mlp.w13", "mlp.gate_proj mlp.up_proj", Interleave(dim=0), Chunk(dim=0), suffix=""),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of the type, with random weights, and return its folder."""
    AutoConfig.register("turned", TurnedConfig, exist_ok=True)
    AutoModelForCausalLM.register(TurnedConfig, TurnedForCausalLM, exist_ok=True)
    register_checkpoint_conversion_mapping("turned", RULES, overwrite=True)
    torch.manual_seed(0)
    config = TurnedConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, mlp_bias=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("turned") / "model"
    made = TurnedForCausalLM(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_windows(tmp_path_factory.mktemp("windows") / "windows.safetensors")


def stock_loss(folder: Path, ids: torch.Tensor) -> float:
    return float(loss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids))


def test_the_checkpoint_is_another_one_than_the_modules(model: Path) -> None:
    held = load_file(model / "model.safetensors")
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    block, file = stock.model.layers[0], {name: held[f"model.layers.0.{name}.weight"] for name in names_of_block()}
    assert torch.equal(file["mlp.w13"][::2], block.mlp.gate_proj.weight)
    assert torch.equal(file["mlp.w13"][1::2], block.mlp.up_proj.weight)
    assert torch.equal(file["self_attn.wkv"][:16], block.self_attn.k_proj.weight)
    assert torch.equal(file["self_attn.lower"], block.self_attn.o_proj.weight[16:])
    assert not torch.equal(file["self_attn.wq"], block.self_attn.q_proj.weight)


def names_of_block() -> list[str]:
    return ["self_attn.wq", "self_attn.wkv", "self_attn.upper", "self_attn.lower", "mlp.w13", "mlp.down_proj"]


def test_linears_have_the_names_of_the_checkpoint(model: Path) -> None:
    found = [linear.name.removeprefix("model.layers.1.") for linear in StreamedModel(model).linears(1)]
    assert found == [
        "self_attn.wq.weight", "self_attn.wkv.weight[0:16]", "self_attn.wkv.weight[16:32]", "self_attn.upper.weight",
        "self_attn.lower.weight", "mlp.w13.weight", "mlp.down_proj.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("method", [["--method", "wanda", "--update", "none"], ["--method", "sparsegpt"], []])
def test_they_are_pruned_as_stored(method: list[str], model: Path, windows: Path, tmp_path: Path) -> None:
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    folder = Path(did("prune", "-m", model, "--pattern", "2:4", *method, *words).json["path"])
    before, after = (load_file(each / "model.safetensors") for each in (model, folder))
    assert before.keys() == after.keys()
    pruned = {name for name in before if not torch.equal(before[name], after[name])}
    assert pruned == {f"model.layers.{index}.{name}.weight" for index in range(2) for name in names_of_block()}
    for name in pruned:
        assert (after[name].unflatten(-1, (-1, 4)) != 0).sum(-1).eq(2).all(), name
        if "wanda" in method:
            assert torch.equal(after[name][after[name] != 0], before[name][after[name] != 0])
    ids = load_file(windows)["windows"]
    for each in (model, folder):
        (row,) = did("eval", "-m", each, *words).json["rows"][-1:]
        assert row["nats"] == pytest.approx(stock_loss(each, ids), abs=1e-6)


def test_rows_that_share_a_tensor_have_the_statistics_of_one_site(model: Path, windows: Path, tmp_path: Path) -> None:
    words = ["calibrate", "-m", model, "--data", windows, "-w", tmp_path / "w", "--json"]
    folder = Path(did(*words).json["path"])
    found = load_file(folder / "block-000.safetensors")
    ids = load_file(windows)["windows"]
    assert int(found["model.layers.0.mlp.w13.weight/tokens"]) == ids.numel()
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    sums = torch.zeros(32, dtype=torch.float64)

    def add(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        sums.add_(args[0].double().square().sum((0, 1)))

    stock.model.layers[0].mlp.gate_proj.register_forward_pre_hook(add)
    with torch.no_grad():
        stock(input_ids=ids.long())
    torch.testing.assert_close(found["model.layers.0.mlp.w13.weight/sum_sq"], sums, rtol=1e-5, atol=0)


def test_a_configuration_alone_says_the_same(model: Path) -> None:
    """Without a checkpoint, on real and on meta devices: the layout in which transformers saves."""
    config = AutoConfig.from_pretrained(model)
    for device in ("cpu", "meta"):
        with torch.device(device):
            skeleton = build_skeleton(config, torch.float32)
        found = [path for path, each in skeleton.named_modules() if isinstance(each, Composed)]
        assert [path.rpartition(".")[2] for path in found] == ["q_proj", "o_proj", "gate_proj", "up_proj"] * 2
    planned = did("plan", "-m", model, "--pattern", "2:4", "--json").json
    held = load_file(model / "model.safetensors")
    assert "model.layers.0.mlp.w13.bias" in held
    assert planned["parameters_after"] == sum(each.numel() for each in held.values())
    linears = [held[f"model.layers.{index}.{name}.weight"] for index in range(2) for name in names_of_block()]
    assert planned["zeros"] == sum(each.numel() for each in linears) // 2


def test_a_tensor_that_is_missing_is_named(model: Path, windows: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in model.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    held = load_file(model / "model.safetensors")
    del held["model.layers.1.self_attn.lower.weight"]
    save_file(held, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    done = langprune("calibrate", "-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w")
    one_sentence(done, 1, r"has model\.layers\.1\.self_attn\.upper\.weight, which transformers changes by Concatenate")


def check_channels(model: Path, words: list[Any]) -> None:
    """Remove channels of experts and shared experts, which are found in the layout of the whole model's checkpoint."""
    pattern = ["--pattern", "channels:0.25", "--round-to", "2"]
    made = did("prune", "-m", model, *pattern, "--method", "magnitude", "--update", "none", *words).json
    held = load_file(Path(made["path"]) / "model.safetensors")
    before = "language_model.model.layers.1.block_sparse_moe."
    shapes = {name.removeprefix(before): list(each.shape) for name, each in held.items() if name.startswith(before)}
    assert shapes["experts.3.w1.weight"] == shapes["experts.3.w3.weight"] == [36, 32]
    assert shapes["shared_experts.gate_proj.weight"] == shapes["shared_experts.up_proj.weight"] == [18, 32]
    assert shapes["shared_experts.down_proj.weight"] == [32, 18]
    planned = did("plan", "-m", model, *pattern, "--json").json
    parameters = (each for name, each in held.items() if "e_score_correction_bias" not in name)  # a buffer
    assert planned["parameters_after"] == sum(each.numel() for each in parameters)
    zeroed = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    smaller = transformers.AutoModelForImageTextToText.from_pretrained(made["path"], dtype=torch.float32).eval()
    with torch.no_grad():
        for index, block in enumerate(zeroed.model.language_model.layers):
            shared, left = block.mlp.shared_experts, smaller.model.language_model.layers[index].mlp.shared_experts
            shared.down_proj.weight.mul_(columns_that_stay(shared.down_proj.weight, left.down_proj.weight))
            for number, down in enumerate(block.mlp.experts.down_proj):
                left_down = smaller.model.language_model.layers[index].mlp.experts.down_proj[number]
                down.mul_(columns_that_stay(down, left_down))
        ids = load_file(words[1])["windows"].long()
        torch.testing.assert_close(smaller(input_ids=ids).logits, zeroed(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def columns_that_stay(whole: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Return which columns of a matrix another one has, as 0 and 1."""
    return (whole[:, :, None] == left[:, None, :]).all(0).any(-1).float()


def test_minimax_m3_vl_whose_shared_experts_are_concatenated(windows: Path, tmp_path: Path) -> None:
    text = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "num_local_experts": 4,
        "num_experts_per_tok": 2, "shared_intermediate_size": 24,
    }  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
    }
    config = transformers.MiniMaxM3VLConfig(
        text_config=text, vision_config=vision | {"patch_size": 4}, image_token_id=96
    )
    torch.manual_seed(0)
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "model")
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    method = ["--method", "wanda", "--update", "none", "--min-expert-tokens", "1"]
    folder = Path(did("prune", "-m", tmp_path / "model", "--pattern", "2:4", *method, *words).json["path"])
    before, after = (load_file(each / "model.safetensors") for each in (tmp_path / "model", folder))
    assert before.keys() == after.keys()
    pruned = [name for name in before if not torch.equal(before[name], after[name])]
    assert sum("shared_experts" in name for name in pruned) == 3 * 2
    assert not any("vision" in name or "norm" in name for name in pruned)
    ids = load_file(windows)["windows"]
    for each in (tmp_path / "model", folder):
        stock = transformers.AutoModelForImageTextToText.from_pretrained(each, dtype=torch.float32).eval()
        (row,) = did("eval", "-m", each, *words).json["rows"][-1:]
        assert row["nats"] == pytest.approx(float(loss(stock, ids)), abs=1e-6)
    check_channels(tmp_path / "model", words)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "minimax_m3_vl"
