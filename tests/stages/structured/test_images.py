"""An image through models without some channels, KV groups or blocks: it is seen as the dense model sees it without them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import langprune_cli
from langprune_cli.errors import LangpruneError
from tests.support.images.composites import read_with, save, some_windows
from tests.support.text.text_corpora import SENTENCES, byte_level, write_jsonl

# In a process that cannot import langprune: the pruned model against the dense one whose units are zero and whose blocks hand on
# what they are given. What left is told from the weights: the columns of the linears that read units, and whole blocks.
_STOCK = """
import json, sys
sys.modules["langprune_cli"] = None
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
folders, inputs = sys.argv[1:3], [load_file(each) for each in sys.argv[3:]]
dense, pruned = (AutoModelForImageTextToText.from_pretrained(each, dtype=torch.float32).eval() for each in folders)

def run(model, read):
    with torch.no_grad():
        return model(**read).logits

def hand_on(_, args, kwargs, output):
    hidden = args[0] if args else kwargs["hidden_states"]
    return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

before = [run(dense, each) for each in inputs]
blocks, kept = dense.get_decoder().layers, pruned.get_decoder().layers
units, idle, place = 0, [], 0
for index, block in enumerate(blocks):
    if place == len(kept) or block.input_layernorm.weight.ne(kept[place].input_layernorm.weight).any():
        block.register_forward_hook(hand_on, with_kwargs=True)
        idle.append(index)
        continue
    for path in ("mlp.down_proj", "self_attn.o_proj"):
        wide, narrow = (each.get_submodule(path).weight for each in (block, kept[place]))
        stays = (wide.T[:, None] == narrow.T[None]).all(-1).any(-1)
        assert int(stays.sum()) == narrow.shape[1], (index, path)
        units += int((~stays).sum())
        with torch.no_grad():
            wide[:, ~stays] = 0
    place += 1
assert place == len(kept)
for read, first in zip(inputs, before, strict=True):
    found, expected = run(pruned, read), run(dense, read)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, first, rtol=1e-2, atol=1e-2)
assert not torch.allclose(run(pruned, inputs[0]), run(pruned, inputs[1]), rtol=1e-2, atol=1e-2)
print(json.dumps({"units": units, "idle": idle}))
"""
_FAMILIES = ("llava", "gemma3", "mistral3", "qwen2_5_vl", "qwen3_vl")


def _each(*families: str) -> list[Any]:
    """Return families as parameters; each takes a process of stock transformers, so only the first is fast."""
    return [pytest.param(each, marks=pytest.mark.slow if number else ()) for number, each in enumerate(families)]


def _compared(dense: Path, pruned: Path, family: str, tmp_path: Path) -> dict[str, Any]:
    """Compare two models in stock transformers on two images; return what left."""
    paths = [tmp_path / f"image-{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        save_file(read_with(family, seed), path)
    ran = subprocess.run(
        [sys.executable, "-c", _STOCK, dense, pruned, *paths], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _pruned(family: str, tmp_path: Path, **options: object) -> tuple[Path, Path]:
    folder = tmp_path / family
    save(family, folder)
    made = langprune_cli.prune(
        model=folder, data=some_windows(tmp_path / "windows.safetensors"), workspace=tmp_path / "w", **options
    )
    return folder, made.folder


@pytest.mark.parametrize("family", _each(*_FAMILIES))
def test_without_channels(family: str, tmp_path: Path) -> None:
    dense, pruned = _pruned(family, tmp_path, pattern="channels:0.25", method="wanda-sp", update="none", round_to=1)
    assert _compared(dense, pruned, family, tmp_path) == {"units": 3 * 12, "idle": []}


@pytest.mark.parametrize("family", _each("llava", "gemma3", "mistral3", "qwen3_vl"))
def test_without_kv_groups(family: str, tmp_path: Path) -> None:
    dense, pruned = _pruned(family, tmp_path, pattern="kv-groups:0.5", method="wanda-sp", update="none")
    assert _compared(dense, pruned, family, tmp_path) == {"units": 3 * 16, "idle": []}


@pytest.mark.parametrize("method", ["influence", "search"])
@pytest.mark.parametrize("family", _each(*_FAMILIES))
def test_without_blocks(family: str, method: str, tmp_path: Path) -> None:
    dense, pruned = _pruned(family, tmp_path, pattern="blocks:0.34", method=method)
    found = _compared(dense, pruned, family, tmp_path)
    assert found["units"] == 0
    assert len(found["idle"]) == 1


def test_blocks_that_images_are_added_between_have_to_stay(tmp_path: Path) -> None:
    """qwen3_vl adds what two blocks of its vision tower put out after blocks 0 and 1: without block 0, after 1 and 2."""
    save("qwen3_vl", tmp_path / "qwen3_vl")
    asked: dict[str, Any] = {
        "model": tmp_path / "qwen3_vl", "data": some_windows(tmp_path / "windows.safetensors"), "workspace": tmp_path / "w",
    }  # fmt: skip
    for method in ("influence", "search"):
        mask = langprune_cli.prune(pattern="blocks:0.34", method=method, **asked).artifacts[-1]
        assert mask.manifest.about["removed_blocks"] == [2]
        assert mask.manifest.params["held"] == [0, 1]
        with pytest.raises(LangpruneError, match="2 of the 3 blocks of qwen3_vl are to leave and only 1 can"):
            langprune_cli.prune(pattern="blocks:0.67", method=method, **asked)


@pytest.mark.parametrize("family", _each("gemma3", "mistral3", "qwen2_5_vl"))
def test_with_fewer_tokens(family: str, tmp_path: Path) -> None:
    """Those that stay have the logits that they had; tests/models/test_composites.py has llava."""
    folder, tokenizer = tmp_path / family, byte_level()
    rows = len(tokenizer) + 1
    save(family, folder, rows=rows)
    tokenizer.save_pretrained(folder)
    text = write_jsonl(tmp_path / "text.jsonl", [SENTENCES[1]] * 4)
    made = langprune_cli.prune(
        model=folder, data=text, pattern="vocab", keep_chat=False, round_to=1, workspace=tmp_path / "w"
    )
    mask = next(each for each in made.artifacts if each.manifest.kind == "masks")
    stay = load_file(mask.folder / "vocabulary.safetensors")["stay"]
    assert int(stay[-1]) == rows - 1
    assert len(stay) < rows
    smaller = read_with(family, 1, image=len(stay) - 1, most=len(stay) - 5)
    whole = smaller | {"input_ids": stay[smaller["input_ids"]]}
    dense, pruned = (
        transformers.AutoModelForImageTextToText.from_pretrained(each, dtype=torch.float32).eval()
        for each in (folder, made.folder)
    )
    with torch.no_grad():
        found, expected = pruned(**smaller).logits, dense(**whole).logits[..., stay]
        other = dense(**whole | {"pixel_values": -whole["pixel_values"]}).logits[..., stay]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, other, rtol=1e-2, atol=1e-2)
