"""`plan`: what a pruning would leave, counted from config.json alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from langprune_cli.location.location import ModelLocation
from langprune_cli.models.families import FAMILIES as CUTTABLE
from langprune_cli.models.families import Kind, axes_of
from langprune_cli.models.narrowing import Narrowing
from langprune_cli.stages.plan.plan import plan, read_patterns
from tests.support.command import did, langprune, one_sentence
from tests.support.narrowed import EXPERTS
from tests.support.pico import FAMILIES, MIXTURES, save_pico
from tests.support.plan_configs import TIMED, config_file, count

COHERE = {"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 24576, "num_hidden_layers": 40,
          "num_attention_heads": 64, "num_key_value_heads": 8}  # fmt: skip
LLAMA_2 = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096}  # fmt: skip
LLAMA_3 = LLAMA_2 | {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}
QWEN_14B = {"vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8}  # fmt: skip
# name -> (model type, settings, tied, channels after, the pruning rate that is published or follows by hand)
REAL: dict[str, tuple[str, dict[str, int], bool, int, str]] = {
    "Llama-2-7b": ("llama", LLAMA_2, False, 9856, "6.7224%"),
    "Llama-3-8B": ("llama", LLAMA_3, False, 12928, "6.8945%"),
    "Qwen2.5-14B": ("qwen2", QWEN_14B, False, 12416, "7.0284%"),
    "Command-R-08-2024": ("cohere", COHERE, True, 22144, "7.4025%"),
}
QUARK = ("--pattern", "channels", "--sparsity", "0.1", "--round", "nearest", "--round-to", "128")


def by_hand(kind: str, size: dict[str, int], *, tied: bool) -> int:
    """Count the parameters of a gated decoder with grouped heads."""
    h, f, layers = size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"]
    kv = h // size["num_attention_heads"] * size["num_key_value_heads"]
    block = 2 * h * h + 2 * h * kv + 3 * h * f
    block += (h + 2 * kv if kind == "qwen2" else 0) + (h if kind == "cohere" else 2 * h)  # biases of q, k, v; norms
    return (1 if tied else 2) * size["vocab_size"] * h + layers * block + h


@pytest.mark.parametrize("name", REAL)
def test_published_models(name: str, tmp_path: Path) -> None:
    kind, size, tied, channels, rate = REAL[name]
    folder = config_file(tmp_path / name, kind, size, tie_word_embeddings=tied, dtype="float16")
    document = did("plan", "-m", folder, *QUARK, "--json").json
    before = by_hand(kind, size, tied=tied)
    after = by_hand(kind, size | {"intermediate_size": channels}, tied=tied)
    assert (document["parameters_before"], document["parameters_after"]) == (before, after)
    assert f"{document['pruning_rate']:.4%}" == rate
    assert (document["disk_bytes_before"], document["disk_bytes"]) == (2 * before, 2 * after)
    (axis,) = document["axes"]
    assert (axis["before"], axis["after"]) == (size["intermediate_size"], channels)
    assert axis["removed"] == pytest.approx(1 - channels / size["intermediate_size"])
    # More than the hidden states and the largest Hessian, and less than the model where that is large.
    states, hessian = 128 * 2048 * size["hidden_size"] * 2, 4 * size["intermediate_size"] ** 2
    assert states + 3 * hessian < document["peak_device_bytes"] < document["peak_ram_bytes"]
    assert document["peak_ram_bytes"] < document["disk_bytes_before"]


def test_the_document_and_the_table(tmp_path: Path) -> None:
    folder = config_file(tmp_path / "llama", "llama", LLAMA_2, tie_word_embeddings=False, dtype="float16")
    document = did("plan", "-m", folder, *QUARK, "--json").json
    assert document.keys() == {
        "schema", "kind", "model", "parameters_before", "parameters_after", "pruning_rate", "zeros", "dtype", "disk_bytes",
        "disk_bytes_before", "peak_ram_bytes", "peak_device_bytes", "windows", "seqlen", "axes",
        "logits_bytes", "logits_bytes_before", "costs", "flops_per_second", "seconds", "device",
    }  # fmt: skip
    assert (document["schema"], document["kind"], document["model"]) == (1, "plan", str(folder))
    assert (document["dtype"], document["zeros"], document["windows"], document["seqlen"]) == ("float16", 0, 128, 2048)
    assert document["axes"][0].keys() == {"pattern", "unit", "before", "after", "removed"}
    lines = [line.split() for line in did("plan", "-m", folder, *QUARK).out.splitlines()]
    assert lines[0] == ["Model", "Size", "Pruning", "rate", "Pruned", "size"]
    assert lines[1] == [str(folder), "6.7384", "B", "6.7224%", "6.2854", "B"]
    assert ["channels", "channels", "per", "block", "11,008", "9,856", "10.47%"] in lines


def test_a_folder_its_config_and_what_the_checkpoint_holds(pico_model: Path) -> None:
    """The demo and a folder count what their files hold, and a path to config.json is that folder."""
    document = did("plan", "-m", pico_model, "--json").json
    weights = load_file(pico_model / "model.safetensors")
    assert document["parameters_before"] == sum(tensor.numel() for tensor in weights.values())
    assert document["disk_bytes_before"] == sum(tensor.nbytes for tensor in weights.values())
    by_file = did("plan", "-m", pico_model / "config.json", "--json").json
    assert by_file | {"model": ""} | TIMED == document | {"model": ""} | TIMED
    assert not Path("langprune-workspace").exists()


def test_no_model_is_the_demo_and_an_artifact_is_one(workspace: Path) -> None:
    shutil.rmtree(workspace / "evals")
    remembered = did("plan", "-w", workspace, "--json").json
    artifact = did("plan", "-w", workspace, "-m", "uk-wanda-2x4", "--json").json
    assert artifact | {"model": ""} | TIMED == remembered | {"model": ""} | TIMED
    fresh = langprune("plan", "--json")
    assert fresh.json["model"] == "demo"
    assert "built-in demo model" in fresh.err


WIDTH = {"opt": "ffn_dim", "gpt2": "n_inner"}
LAYERS = {"gpt2": "n_layer", "bloom": "n_layer"}


@pytest.mark.parametrize("family", sorted(CUTTABLE.keys() - EXPERTS.keys()))
def test_channels_of_every_family(family: str, tmp_path: Path) -> None:
    width = WIDTH.get(family, "intermediate_size")
    settings: dict[str, Any] = {width: 48}
    save_pico(family, tmp_path, **settings)
    document = did("plan", "-m", tmp_path, "-p", "channels:0.25", "--json").json
    assert [(axis["before"], axis["after"]) for axis in document["axes"]] == [(48, 36)]
    assert document["parameters_before"] == count(family, **settings)
    assert document["parameters_after"] == count(family, **{width: 36})


@pytest.mark.parametrize(("family", "before"), [("mixtral", 1), ("qwen2_moe", 3), ("qwen3_moe", 2)])
def test_channels_of_experts(family: str, before: int, tmp_path: Path) -> None:
    """Experts, what all tokens share beside them, and dense blocks have widths of their own, of which each loses its share."""
    save_pico(family, tmp_path)
    document = did("plan", "-m", tmp_path, "-p", "channels:0.25", "--json").json
    widths = {where.width_key: 0 for where in CUTTABLE[family].channels.values()}
    base = MIXTURES[family][1]
    left = {key: base[key] * 3 // 4 for key in widths}
    assert [(axis["before"], axis["after"]) for axis in document["axes"]] == [(base[key], left[key]) for key in widths]
    assert len(document["axes"]) == before
    assert document["parameters_before"] == count(family)
    assert document["parameters_after"] == count(family, **left)
    assert sum("per expert" in axis["unit"] for axis in document["axes"]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_every_family(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    document = did("plan", "-m", tmp_path, "-p", "blocks:0.34", "--json").json
    assert [(axis["before"], axis["after"]) for axis in document["axes"]] == [(3, 2)]
    assert document["parameters_after"] == count(family, **{LAYERS.get(family, "num_hidden_layers"): 2})
    assert document["axes"][0] | {"removed": 0} == {
        "pattern": "blocks", "unit": "blocks", "before": 3, "after": 2, "removed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "cohere", "gemma2", "phi3"])
def test_kv_groups(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    document = did("plan", "-m", tmp_path, "-p", "kv-groups:0.5", "--json").json
    assert [(axis["before"], axis["after"]) for axis in document["axes"]] == [(2, 1)]
    assert document["parameters_after"] == count(family, num_attention_heads=2, num_key_value_heads=1, head_dim=8)


def test_combinations_are_what_a_real_narrowing_leaves(tmp_path: Path) -> None:
    """All three at once: as many parameters as the tensors hold once they are sliced."""
    model = save_pico("qwen2", tmp_path)
    document = did(
        "plan", "-m", tmp_path, "-p", "channels:0.25", "-p", "kv-groups:0.5", "-p", "blocks:0.34", "--json"
    ).json
    kinds: tuple[Kind, ...] = ("channels", "kv-groups")
    axes = axes_of(model.config, kinds)
    assert [axis["pattern"] for axis in document["axes"]] == [*kinds, "blocks"]
    left: dict[Kind, int] = {"channels": 36, "kv-groups": 1}
    narrowing = Narrowing(axes, left, (0, 2), "model.layers")
    keep = {axis.reader: torch.arange(axis.units) < left[axis.kind] for axis in axes}
    found = 0
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        words = name.split(".")
        if words[1] != "layers":
            found += tensor.numel()
        elif int(words[2]) in narrowing.blocks:
            found += narrowing.tensor(".".join(words[3:]), tensor, keep).numel()
    assert document["parameters_after"] == found
    assert document["pruning_rate"] == 1 - found / document["parameters_before"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_zeros(family: str, tmp_path: Path) -> None:
    """Patterns of single weights leave all parameters and their room on disk; a row's last columns stay without M."""
    model = save_pico(family, tmp_path)
    shapes = [tuple(parameter.shape) for name, parameter in model.named_parameters()
              if parameter.dim() == 2 and (".layers." in name or ".h." in name)]  # fmt: skip
    if family == "gpt2":
        shapes = [(out, inputs) for inputs, out in shapes]
    total = sum(out * inputs for out, inputs in shapes)
    document = did("plan", "-m", tmp_path, "-p", "3:7", "--json").json
    zeros = sum(out * (inputs // 7) * 4 for out, inputs in shapes)
    assert (document["zeros"], document["pruning_rate"]) == (zeros, 0.0)
    assert document["disk_bytes"] == document["disk_bytes_before"] == 4 * document["parameters_after"]
    (axis,) = document["axes"]
    assert (axis["pattern"], axis["before"], axis["after"]) == ("3:7", total, total - zeros)
    for words in (["unstructured"], ["N:8"], ["2:4"]):
        assert did("plan", "-m", tmp_path, "-p", *words, "--json").json["zeros"] == total // 2
    assert did("plan", "-m", tmp_path, "-p", "unstructured", "-s", "0.75", "--json").json["zeros"] == total * 3 // 4


def test_zeros_are_counted_in_what_is_left(tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    both = did("plan", "-m", tmp_path, "-p", "2:4", "-p", "channels:0.25", "--json").json
    # 32 x 32 q and o, 32 x 16 k and v, three matrices of 36 channels; three blocks
    assert both["zeros"] == 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 36) // 2
    assert both["parameters_after"] == count("llama", intermediate_size=36)


def test_default_rounding_never_removes_more_than_the_share(tmp_path: Path) -> None:
    folder = config_file(tmp_path, "llama", LLAMA_2)
    (axis,) = did("plan", "-m", folder, "--json").json["axes"]
    assert axis["after"] == 9984  # 9907.2, up to a multiple of 128
    (axis,) = did("plan", "-m", folder, "--round-to", "1", "--json").json["axes"]
    assert axis["after"] == 9908
    (axis,) = did("plan", "-m", folder, "-p", "blocks", "--json").json["axes"]
    assert axis["after"] == 29  # 28.8
    assert did("plan", "-m", folder, "--json").json["dtype"] == "bfloat16"  # where the file states none


def test_memory_grows_with_the_text(tmp_path: Path) -> None:
    location = ModelLocation(config_file(tmp_path, "llama", LLAMA_2, dtype="float32"), "llama", None, "folder")
    few, more = (plan(location, read_patterns(["channels"], None), windows=n).peaks.cpu for n in (64, 128))
    assert more - few == 64 * 2048 * 4096 * 4
    short = plan(location, read_patterns(["channels"], None), windows=64, seqlen=512)
    assert few - short.peaks.cpu == 64 * 1536 * 4096 * 4


WRONG: list[tuple[list[object], int, str]] = [
    (["-p", "channels:0.9", "--round-to", "48", "--round", "nearest"], 2, "None of 48 units would stay"),
    (["-p", "channels:1"], 1, "1 is not a fraction"),
    (["-p", "blocks:0.3"], 1, "removes none of 3 blocks"),
    (["--round-to", "128"], 2, "48 units cannot be rounded to multiples of 128"),
    (["-p", "blocks", "--round-to", "8"], 2, "--round-to 8 is for channels"),
    (["--round", "up"], 2, "--round 'up' is unknown"),
    (
        ["-p", "chanels"],
        2,
        "'chanels' is unknown: give unstructured, N:M .* or blocks, channels, experts, hidden, kv-groups",
    ),
    (["-p", "channels:half"], 2, "'channels:half' needs a number after the colon"),
    (["-p", "channels:"], 2, "needs a number after the colon"),
    (["-p", "channels:1.5"], 1, "1.5 is not a fraction"),
    (["-p", "channels:nan"], 1, "nan is not a fraction"),
    (["-s", "-1"], 1, "-1 is not a fraction"),
    (["-p", "channels", "-p", "channels:0.2"], 2, "channels is given twice"),
    (["-p", "channels:0.1", "-s", "0.2"], 2, "--sparsity 0.2 has no effect"),
    (["-p", "2:4", "-s", "0.3"], 2, "contradicts --pattern 2:4"),
    (["-p", "4:2"], 1, "removes nothing"),
    (["-p", "2:4", "-p", "unstructured"], 2, "both prune single weights"),
    (["--revision", "main"], 2, "has no revisions"),
]


@pytest.mark.parametrize(("words", "code", "says"), WRONG)
def test_options_that_cannot_be(words: list[object], code: int, says: str, pico_model: Path) -> None:
    one_sentence(langprune("plan", "-m", pico_model, *words), code, says)


def test_models_that_cannot_be(tmp_path: Path) -> None:
    llama = FAMILIES["llama"][1]
    wrong: list[tuple[str, dict[str, Any], list[str], str]] = [
        ("llama", llama | {"quantization_config": {"quant_method": "gptq"}}, [], "quantized checkpoint"),
        ("t5", {}, [], "not a causal language model"),
        ("no_such_type", {}, [], "transformers cannot open"),
        ("bloom", FAMILIES["bloom"][1], [], "no number of its configuration counts them"),
        ("llama", llama | {"num_key_value_heads": 1}, ["-p", "kv-groups"], "a single KV group"),
        ("opt", FAMILIES["opt"][1], ["-p", "kv-groups"], "fewer heads"),
    ]
    for number, (kind, settings, words, says) in enumerate(wrong):
        folder = config_file(tmp_path / str(number), kind, settings)
        one_sentence(langprune("plan", "-m", folder, *words), 1, says)
    for folder in (config_file(tmp_path / "bloom", "bloom", FAMILIES["bloom"][1]),):  # what needs no table works
        assert did("plan", "-m", folder, "-p", "2:4", "--json").json["zeros"] > 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "llama.json").write_text("{}")
    one_sentence(langprune("plan", "-m", tmp_path / "empty"), 1, "has no config.json")
    one_sentence(langprune("plan", "-m", tmp_path / "llama.json"), 1, "is a file: name a config.json")
    one_sentence(langprune("plan", "-m", tmp_path / "gone"), 1, "there is no folder")
    (tmp_path / "empty" / "config.json").write_text("{")
    one_sentence(langprune("plan", "-m", tmp_path / "empty"), 1, "transformers cannot open")


def test_memory_of_blocks_counts_the_comparison_in_float32(tmp_path: Path) -> None:
    """Before blocks leave, embeddings and head are in memory in float32, which for many tokens is the most there is."""
    size = {"vocab_size": 200_000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    folder = config_file(tmp_path / "wide", "llama", size, tie_word_embeddings=False, dtype="bfloat16")
    location = ModelLocation(folder, "wide", None, "folder")
    blocks, channels = (
        plan(location, read_patterns([pattern], None), windows=1, seqlen=8).peaks
        for pattern in ("blocks:0.5", "channels:0.5")
    )
    embeddings = 200_000 * 64 + 64
    outside = 200_000 * 64 + embeddings
    block = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert blocks.device - channels.device == 4 * outside - 2 * (embeddings + block)
    assert blocks.cpu - channels.cpu == blocks.device - channels.device


@pytest.mark.parametrize("name", ["num_experts_per_tok", "n_shared_experts"])
@pytest.mark.parametrize("value", [None, "two", [], 0.5, -1])
def test_counts_of_experts_that_are_none(tmp_path: Path, name: str, value: object) -> None:
    """A mixture's counts are read as numbers; transformers takes any value for some of them."""
    save_pico("deepseek_v3", tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {name: value}))
    done = langprune("plan", "-m", tmp_path / "mine", "-p", "2:4")
    if done.code:
        one_sentence(done, 1, "config.json")
