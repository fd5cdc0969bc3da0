"""Families whose checkpoints transformers converts on loading: they are pruned as stored, and compute what stock models do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import StreamedModel
from tests.layouts.test_mixtures import loss, some_windows
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import LAYOUTS, save_pico

REFUSED = {
    "hrm_text": "runs two stacks of 3 blocks in turn, 24 steps in all, so that a block reads what later blocks made",
    "zaya": "each ZayaDecoderLayer needs more of the block before than its hidden states",
}
WORKING = sorted(LAYOUTS.keys() - REFUSED.keys())


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_windows(tmp_path_factory.mktemp("windows") / "windows.safetensors")


def save(family: str, folder: Path) -> None:
    save_pico(family, folder)
    if family == "deepseek_v4":  # as it was published: "model." before a name makes transformers miss the last norm
        file = folder / "model.safetensors"
        save_file({name.removeprefix("model."): each for name, each in load_file(file).items()}, file, {"format": "pt"})


def stock_loss(folder: Path, ids: torch.Tensor) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.config.use_cache = False  # transformers has no cache for some of these where no block has attention
    return float(loss(model, ids))


@pytest.mark.parametrize("family", WORKING)
def test_it_computes_what_stock_transformers_does(family: str, tmp_path: Path, windows: Path) -> None:
    """Before and after 2:4, which changes linears alone; all other tensors are as they were."""
    model, ids = tmp_path / "model", load_file(windows)["windows"]
    save(family, model)
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    method = ["--method", "wanda", "--update", "none", "--pattern", "2:4", "--min-expert-tokens", "1"]
    options = method if StreamedModel(model).has_experts else method[:-2]
    folder = Path(did("prune", "-m", model, *options, *words).json["path"])
    before, after = (load_file(each / "model.safetensors") for each in (model, folder))
    assert before.keys() == after.keys()
    pruned = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(pruned) >= 6 * len(StreamedModel(model).blocks)
    for name in pruned:
        assert (after[name].unflatten(-1, (-1, 4)) != 0).sum(-1).eq(2).all(), name
        assert torch.equal(after[name][after[name] != 0], before[name][after[name] != 0])
    assert not any(part in name for name in pruned for part in ("conv", "router", ".gate.weight", "norm"))
    for each in (model, folder):
        (row,) = did("eval", "-m", each, *words).json["rows"][-1:]
        assert row["nats"] == pytest.approx(stock_loss(each, ids), abs=1e-6)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_streamed_is_refused(family: str, tmp_path: Path, windows: Path) -> None:
    save_pico(family, tmp_path / "model")
    words = ["calibrate", "-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w"]
    one_sentence(langprune(*words), 1, REFUSED[family])


def test_channels_of_inkling_and_its_shared_experts(tmp_path: Path, windows: Path) -> None:
    """Stock transformers computes with fewer channels what it does with zeros in their columns."""
    save_pico("inkling_text", tmp_path / "model")
    words = ["--data", windows, "-w", tmp_path / "w", "--method", "magnitude", "--update", "none", "--json"]
    made = did("prune", "-m", tmp_path / "model", "--pattern", "channels:0.5", "--round-to", "4", *words).json
    zeroed, smaller = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (tmp_path / "model", made["path"])
    )
    seen = set()
    with torch.no_grad():
        left = dict(smaller.named_parameters())
        for name, weight in zeroed.named_parameters():
            if "down_proj" in name:
                same = (weight[..., :, None] == left[name][..., None, :]).all(-3)
                weight.mul_(same.any(-1).unsqueeze(-2))
                seen.add((name.split(".mlp.")[1], left[name].shape[-1] * 2 == weight.shape[-1]))
        ids = load_file(windows)["windows"].long()
        found, wanted = (model(input_ids=ids, use_cache=False).logits for model in (smaller, zeroed))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert seen == {(name, True) for name in ("down_proj.weight", "experts.down_proj", "shared_experts.down_proj")}


def test_mxfp4_checkpoints_are_refused_with_what_to_do(tmp_path: Path) -> None:
    save_pico("gpt_oss", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("{", '{"quantization_config": {"quant_method": "mxfp4"},', 1))
    with pytest.raises(LangpruneError, match=r"cannot be pruned: name a copy that was dequantized; .*dequantize=True"):
        StreamedModel(tmp_path)


def test_a_merged_checkpoint_of_a_family_that_is_published_apart(tmp_path: Path, windows: Path) -> None:
    """save_pretrained can leave the experts merged; both files are the same model."""
    model = save_pico("mixtral", tmp_path / "apart")
    shutil.copytree(tmp_path / "apart", tmp_path / "merged")
    save_file(model.state_dict(), tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    names = [linear.name for linear in StreamedModel(tmp_path / "merged").linears(0)]
    assert "model.layers.0.mlp.experts.gate_up_proj[3]" in names
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    rows = [did("eval", "-m", tmp_path / each, *words).json["rows"][0]["nats"] for each in ("apart", "merged")]
    assert rows[0] == pytest.approx(rows[1], abs=1e-6)
    narrower = langprune("prune", "-m", tmp_path / "merged", *words, "--pattern", "channels:0.34")
    one_sentence(narrower, 1, "in another layout than transformers saves: open the model with transformers, save it")


@pytest.mark.parametrize("pattern", ["channels:0.5", "blocks:0.5"])
def test_a_model_that_counts_two_layers_in_each_block(tmp_path: Path, windows: Path, pattern: str) -> None:
    """Fewer blocks are stated by their own number; experts keep their channels, whose width those without channels share."""
    save("longcat_flash", tmp_path / "model")
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    made = Path(did("prune", "-m", tmp_path / "model", *words, "--pattern", pattern).json["path"])
    before, after = (json.loads((each / "config.json").read_text()) for each in (tmp_path / "model", made))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == ({"ffn_hidden_size"} if pattern.startswith("channels") else {"num_layers"})
    found = did("eval", "-m", made, *words).json["rows"][-1]["nats"]
    assert found == pytest.approx(stock_loss(made, load_file(windows)["windows"].long()), abs=1e-6)
