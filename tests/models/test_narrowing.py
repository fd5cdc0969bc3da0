"""Smaller models open in stock transformers, and compute what the dense one does with those units and blocks gone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from langprune_cli.models.families import FAMILIES, Kind, axes_of
from langprune_cli.models.narrowing import Narrowing
from tests.support.narrowed import CHANNELS, EXPERTS, IDS, as_if_narrowed, equal, logits, narrow, numbers, opened
from tests.support.pico import save_pico

SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 48},
    "gemma3_text": {"sliding_window_pattern": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
}
# more of a family: what else it can have in its blocks
MORE: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 4}),
    ("phi3", {"num_key_value_heads": 4}),
    ("qwen2", {"num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    ("cohere", {"attention_bias": True, "use_qk_norm": True}),
    ("gemma2", {"attention_bias": True}),
    ("qwen3", {"attention_bias": True}),
    ("opt", {"enable_bias": False}),
    ("gpt_neox", {"attention_bias": False}),
]
CASES = [(family, SETTINGS.get(family, {})) for family in FAMILIES] + MORE
HEADS = [(family, settings) for family, settings in CASES if FAMILIES[family].attention]


def half_the_groups(settings: dict[str, Any]) -> dict[Kind, int]:
    return {"kv-groups": settings.get("num_key_value_heads", 2) // 2}


def check(tmp_path: Path, family: str, settings: dict[str, Any], kept: dict[Kind, int], blocks: list[int]) -> Any:
    """Narrow a pico model, compare its logits with the dense model's, and let it generate."""
    dense = save_pico(family, tmp_path / "dense", **settings)
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", kept, blocks)
    model = opened(narrowed.folder)
    equal(logits(model, IDS), logits(as_if_narrowed(dense, narrowed), IDS))
    check_generation(model)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(narrowed.folder))
    assert fresh.num_parameters() == model.num_parameters()
    return model


def check_generation(model: Any) -> None:
    """With its cache, the model gives the tokens that it gives without."""
    found = model.generate(
        IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False, attention_mask=torch.ones_like(IDS)
    )
    assert found.shape == (2, 23)
    ids = IDS
    for step in range(3):
        last = logits(model, ids)[:, -1]
        last[:, model.generation_config.eos_token_id or 2] = -torch.inf  # min_new_tokens forbids it
        assert torch.equal(found[:, 20 + step], last.argmax(-1))
        ids = found[:, : 21 + step]


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_fewer_channels(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    check(tmp_path, family, settings, EXPERTS.get(family, CHANNELS), [0, 1, 2])


@pytest.mark.parametrize(("family", "settings"), [case for case in HEADS if case[0] != "olmo2"])
def test_fewer_kv_groups(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = check(tmp_path, family, settings, half_the_groups(settings), [0, 1, 2])
    assert model.config.num_attention_heads == 2
    assert model.config.head_dim == 8


@pytest.mark.parametrize(("family", "settings"), [*CASES, ("bloom", {})])
def test_fewer_blocks(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """The middle one leaves: every other block of gemma2 and gemma3 sees it all."""
    model = check(tmp_path, family, settings, {}, [0, 2])
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize(("family", "settings"), [case for case in HEADS if case[0] != "olmo2"])
def test_all_at_once(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    check(tmp_path, family, settings, EXPERTS.get(family, CHANNELS) | half_the_groups(settings), [0, 2])


@pytest.mark.parametrize("family", [family for family in FAMILIES if not FAMILIES[family].attention])
def test_channels_and_blocks_at_once(family: str, tmp_path: Path) -> None:
    check(tmp_path, family, SETTINGS.get(family, {}), CHANNELS, [1, 2])


@pytest.mark.parametrize("blocks", [[0, 1, 2], [0, 2]])
def test_kv_groups_of_olmo2_are_those_of_a_smaller_olmo2(blocks: list[int], tmp_path: Path) -> None:
    """Its norms span all heads, so that the reference is not the dense model but a smaller one, filled row by row."""
    dense = save_pico("olmo2", tmp_path / "dense").state_dict()
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", {"kv-groups": 1}, blocks)
    counts = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": len(blocks)}
    settings = AutoConfig.from_pretrained(tmp_path / "dense").to_dict() | counts
    reference = AutoModelForCausalLM.from_config(transformers.Olmo2Config(**settings)).eval()
    for name, parameter in reference.named_parameters():
        value = dense[name]
        if name.startswith("model.layers."):
            new = int(name.split(".")[2])
            value = dense[name.replace(f"layers.{new}.", f"layers.{blocks[new]}.")]
            group = int(narrowed.keep[blocks[new]]["self_attn.o_proj"].nonzero())
            kind = name.split(".")[4]
            if kind in {"q_proj", "q_norm"}:
                value = value[16 * group : 16 * group + 16]
            if kind in {"k_proj", "v_proj", "k_norm"}:
                value = value[8 * group : 8 * group + 8]
            if kind == "o_proj":
                value = value[:, 16 * group : 16 * group + 16]
        parameter.data = value
    model = opened(narrowed.folder)
    equal(logits(model, IDS), logits(reference, IDS))
    check_generation(model)


def test_blocks_differ_in_what_they_keep(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    first, second, _ = narrow(tmp_path / "dense", tmp_path / "small", CHANNELS | {"kv-groups": 1}).keep
    assert not torch.equal(first["mlp.down_proj"], second["mlp.down_proj"])
    assert not torch.equal(first["self_attn.o_proj"], second["self_attn.o_proj"])


@pytest.mark.parametrize(("family", "settings", "types"), [
    ("gemma2", {}, ["sliding_attention", "sliding_attention"]),
    ("gemma3_text", {"sliding_window_pattern": 2}, ["sliding_attention", "sliding_attention"]),
    ("qwen3", SETTINGS["qwen3"] | {"max_window_layers": 2}, ["full_attention", "sliding_attention"]),
    ("qwen2", SETTINGS["qwen3"] | {"max_window_layers": 2}, ["full_attention", "sliding_attention"]),
])  # fmt: skip
def test_types_that_the_file_leaves_out_stay_with_their_blocks(
    family: str, settings: dict[str, Any], types: list[str], tmp_path: Path
) -> None:
    dense = save_pico(family, tmp_path / "dense", **settings)
    path = tmp_path / "dense" / "config.json"
    raw = json.loads(path.read_text())
    raw |= settings
    del raw["layer_types"]
    path.write_text(json.dumps(raw))
    assert AutoConfig.from_pretrained(tmp_path / "dense").layer_types == dense.config.layer_types
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", {}, [0, 2])
    model = opened(narrowed.folder)
    assert model.config.layer_types == types
    if "max_window_layers" in raw:
        assert json.loads((narrowed.folder / "config.json").read_text())["max_window_layers"] == 1
    equal(logits(model, IDS), logits(as_if_narrowed(dense, narrowed), IDS))


def test_types_of_other_families(tmp_path: Path) -> None:
    """gpt_neo says the kinds of its blocks as runs of a pattern, smollm3 in two lists."""
    small = {"vocab_size": 97, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    neo = {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4}
    smol = {"num_hidden_layers": 4, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    for kind, settings in {"GPTNeo": neo, "SmolLM3": smol}.items():
        torch.manual_seed(0)
        dense = AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**small | settings)).eval()
        dense.save_pretrained(tmp_path / kind)
        narrowed = narrow(tmp_path / kind, tmp_path / f"small {kind}", {}, [1, 3])
        equal(logits(opened(narrowed.folder), IDS), logits(as_if_narrowed(dense, narrowed), IDS))


def test_the_text_part_of_a_nested_configuration() -> None:
    config = transformers.Gemma3Config(text_config={"num_hidden_layers": 3, "sliding_window_pattern": 2})
    raw = {
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 3, "sliding_window_pattern": 2},
        "mm": [1, 2, 3],
    }
    narrowing = Narrowing(axes_of(config, CHANNELS), CHANNELS, (0, 2), "model.layers")
    smaller = narrowing.config(raw, config)
    text = {"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2, "intermediate_size": 32}
    assert smaller == raw | {"text_config": raw["text_config"] | text}  # type: ignore[operator] # a dict


def test_what_leaves_is_what_was_planned(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense", attention_bias=True, mlp_bias=True)
    total = numbers(tmp_path / "dense")
    channels = 16 * (3 * 32 + 2)  # a row of gate and up and a column of down each, and two biases
    groups = (16 + 8 + 8) * (32 + 1) + 32 * 16
    block = 3 * 32 * 48 + 2 * 48 + 32 + (32 + 16 + 16) * 33 + 32 * 33 + 2 * 32
    for number, (kept, blocks, gone) in enumerate([
        (CHANNELS, [0, 1, 2], 3 * channels),
        ({"kv-groups": 1}, [0, 1, 2], 3 * groups),
        ({}, [0, 2], block),
        (CHANNELS | {"kv-groups": 1}, [0, 2], block + 2 * (channels + groups)),
    ]):  # fmt: skip
        folder = narrow(tmp_path / "dense", tmp_path / str(number), kept, blocks).folder  # type: ignore[arg-type] # Kind
        assert numbers(folder) == total - gone
        assert opened(folder).num_parameters() == total - gone
        assert tensor_bytes(folder) == tensor_bytes(tmp_path / "dense") - 4 * gone


def tensor_bytes(folder: Path) -> int:
    """Return the size of a file without its header, which is as long as the names are."""
    file = (folder / "model.safetensors").read_bytes()
    return len(file) - 8 - int.from_bytes(file[:8], "little")


def test_nothing_leaves(tmp_path: Path) -> None:
    """All units and blocks kept: the same tensors, and a configuration that says the same."""
    dense = save_pico("gemma2", tmp_path / "dense")
    narrow(tmp_path / "dense", tmp_path / "small", {"channels": 48, "kv-groups": 2})
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("dense", "small"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    said = AutoConfig.from_pretrained(tmp_path / "small").to_dict()
    assert said | {"_name_or_path": ""} == dense.config.to_dict()


@pytest.mark.slow
def test_a_process_that_has_no_langprune(tmp_path: Path) -> None:
    dense = save_pico("mistral", tmp_path / "dense", dtype=torch.float32)
    narrowed = narrow(tmp_path / "dense", tmp_path / "small", CHANNELS | {"kv-groups": 1}, [0, 2])
    expected = logits(as_if_narrowed(dense, narrowed), IDS)
    save_file({"ids": IDS, "expected": expected}, tmp_path / "expected.safetensors")
    code = """
import sys
sys.modules["langprune_cli"] = None
from safetensors.torch import load_file
import torch, transformers
try:
    import langprune_cli
except ImportError:
    pass
else:
    sys.exit("it is there")
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
told = load_file(sys.argv[2])
torch.testing.assert_close(model(told["ids"]).logits.detach(), told["expected"], rtol=1e-5, atol=1e-5)
print(model.num_parameters())
"""
    command = [sys.executable, "-I", "-c", code, str(narrowed.folder), str(tmp_path / "expected.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == numbers(narrowed.folder)
