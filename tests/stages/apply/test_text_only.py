"""`--text-only`: the text tower of a model that reads images, as a causal language model of its own."""

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
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.recipes.running import run_recipe
from langprune_cli.requests.shared.results import Made
from langprune_cli.store.artifact import Artifact
from langprune_cli.units.towers import check_alone
from tests.support.command import did, langprune, one_sentence, tree
from tests.support.images.composites import CONFIGS, save, some_windows
from tests.support.interrupting import Interrupting
from tests.support.text.text_corpora import SENTENCES, byte_level, write_jsonl

# In a process that cannot import langprune: both models' logits of a text, and the names that the tower is saved under.
_STOCK = """
import sys
sys.modules["langprune_cli"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
whole, alone, windows, found = sys.argv[1:]
ids = load_file(windows)["windows"]
whole = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32).eval()
tower, problems = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, output_loading_info=True)
tower = tower.eval()
assert not any(problems.values()), problems
with torch.no_grad():
    logits = {"whole": whole(input_ids=ids).logits, "alone": tower(input_ids=ids).logits}
made = tower.generate(input_ids=ids[:1, :4], max_new_tokens=3, min_new_tokens=3, do_sample=False)
assert made.shape[1] == 7
tower.save_pretrained(found)
save_file(logits, found + "/logits.safetensors")
"""
_WEIGHTS: dict[str, Any] = {"method": "wanda", "update": "none"}
# Family and what is pruned: every pattern but that of tokens, which needs a tokenizer.
_EACH = [
    ("llava", "unstructured", _WEIGHTS),
    ("gemma3", "2:4", _WEIGHTS),
    ("llava", "channels:0.25", {}),
    ("gemma3", "kv-groups:0.5", {}),
    ("mistral3", "blocks:0.34", {}),
    ("llava-mixtral", "experts:0.5", {}),
    ("llava-mixtral", "2:4", _WEIGHTS),
]


def _stock(whole: Path, alone: Path, windows: Path, found: Path) -> dict[str, torch.Tensor]:
    """Return the logits of both in stock transformers; the tower is saved to `found` by it."""
    ran = subprocess.run(
        [sys.executable, "-c", _STOCK, whole, alone, windows, found], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return load_file(found / "logits.safetensors")


def _model(made: Made) -> Artifact:
    return next(each for each in made.artifacts if each.manifest.kind == "models")


@pytest.mark.parametrize(
    ("family", "pattern", "options"),
    [pytest.param(*each, marks=pytest.mark.slow if number > 1 else ()) for number, each in enumerate(_EACH)],
)
def test_the_tower_alone_has_the_logits_of_the_model_that_reads_images(
    family: str, pattern: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Bit by bit, in stock transformers, which saves it with the same names, shapes and values."""
    folder, windows = tmp_path / family, some_windows(tmp_path / "windows.safetensors")
    save(family, folder)
    asked: dict[str, Any] = {
        "model": folder,
        "data": windows,
        "pattern": pattern,
        "workspace": tmp_path / "w",
        **options,
    }
    whole, alone = (langprune_cli.prune(**asked, text_only=only).folder for only in (False, True))
    logits = _stock(whole, alone, windows, tmp_path / "found")
    assert torch.equal(logits["whole"], logits["alone"])
    before, after, saved = (load_file(each / "model.safetensors") for each in (whole, alone, tmp_path / "found"))
    assert after.keys() == saved.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, saved[name]), name
    assert len(after) < len(before)
    config = json.loads((alone / "config.json").read_bytes())
    text = CONFIGS[family][1]["text_config"]["model_type"]
    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text]
    assert (config["model_type"], config["architectures"]) == (text, [causal])
    assert not any("image" in key or "vision" in key for key in config)
    assert {path.name for path in alone.iterdir()} == {path.name for path in whole.iterdir()} - {
        "preprocessor_config.json"
    }


def test_fewer_tokens(tmp_path: Path) -> None:
    """The tokenizer of the smaller vocabulary goes with the tower."""
    folder, tokenizer = tmp_path / "llava", byte_level()
    save("llava", folder, rows=len(tokenizer) + 1)
    tokenizer.save_pretrained(folder)
    text = write_jsonl(tmp_path / "text.jsonl", [SENTENCES[1]] * 4)
    asked: dict[str, Any] = {
        "model": folder, "data": text, "pattern": "vocab", "keep_chat": False, "round_to": 1, "workspace": tmp_path / "w",
    }  # fmt: skip
    whole, alone = (langprune_cli.prune(**asked, text_only=only).folder for only in (False, True))
    ids = transformers.AutoTokenizer.from_pretrained(alone)(SENTENCES[1], return_tensors="pt").input_ids
    assert torch.equal(
        ids, transformers.AutoTokenizer.from_pretrained(whole)(SENTENCES[1], return_tensors="pt").input_ids
    )
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    logits = _stock(whole, alone, tmp_path / "windows.safetensors", tmp_path / "found")
    assert torch.equal(logits["whole"], logits["alone"])
    assert json.loads((alone / "config.json").read_bytes())["vocab_size"] < len(tokenizer)


@pytest.mark.slow
def test_several_patterns_at_once_leave_only_the_last_model_alone(tmp_path: Path) -> None:
    folder, windows, work = tmp_path / "llava", some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save("llava", folder)
    asked: dict[str, Any] = {"model": folder, "data": windows, "pattern": ["channels:0.25", "2:4"], "workspace": work}
    whole, alone = (langprune_cli.prune(**asked, text_only=only) for only in (False, True))
    logits = _stock(whole.folder, alone.folder, windows, tmp_path / "found")
    assert torch.equal(logits["whole"], logits["alone"])
    first, second = ([each for each in made.artifacts if each.manifest.kind == "models"] for made in (whole, alone))
    assert [each.key for each in first[1:]] == [each.key for each in second[1:]]


def test_it_is_in_the_key_and_in_the_recipe_behind_it(tmp_path: Path) -> None:
    """`apply` of one mask with and without it makes two models; the recipe of the second one makes the same bytes."""
    folder, windows, work = tmp_path / "gemma3", some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save("gemma3", folder)
    langprune_cli.calibrate(model=folder, data=windows, workspace=work)
    langprune_cli.mask(pattern="2:4", workspace=work)
    whole, alone, again = (_model(langprune_cli.apply(workspace=work, text_only=only)) for only in (False, True, True))
    assert whole.key != alone.key == again.key
    assert "text_only" not in whole.manifest.params
    assert alone.manifest.params["text_only"] is True
    assert alone.name == f"{whole.name}-text"
    checked = alone.manifest.about["checked"]
    assert checked["sparsity"] == pytest.approx(0.5)
    assert checked["parameters_after"] < checked["parameters_before"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(did("recipe", f"models/{alone.name}", "--workspace", work).out)
    assert "text-only: true" in recipe.read_text()
    run_recipe(recipe, workspace=tmp_path / "other")
    made = tmp_path / "other" / "models" / alone.name
    for name in ("model.safetensors", "config.json", "pruning.json"):
        assert (made / name).read_bytes() == (alone.folder / name).read_bytes()


def test_what_was_interrupted_is_resumed_with_the_same_bytes(tmp_path: Path) -> None:
    """The results of linears in finished files are those of the model that reads images, by their names there."""
    folder, windows, work = tmp_path / "llava", some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save("llava", folder)
    langprune_cli.calibrate(model=folder, data=windows, workspace=work)
    langprune_cli.mask(workspace=work)
    asked: dict[str, Any] = {"workspace": work, "text_only": True, "max_shard_size": "20KB"}
    whole = langprune_cli.apply(**asked, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        langprune_cli.apply(**asked, out=tmp_path / "out", reporter=Interrupting(2))
    resumed = langprune_cli.apply(**asked, out=tmp_path / "out")
    one, other = tree(whole.folder), tree(resumed.folder)
    assert len([name for name in one if name.endswith(".safetensors")]) == 4
    assert {name for name in one if one[name] != other.get(name)} <= {"manifest.json"}


def test_a_tower_alone_is_tuned_towards_the_model_that_reads_images(tmp_path: Path) -> None:
    folder, windows, work = tmp_path / "llava", some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save("llava", folder)
    asked: dict[str, Any] = {"model": folder, "data": windows, "pattern": "channels:0.25", "workspace": work}
    made = langprune_cli.prune(**asked, text_only=True, tune=True, epochs=1)
    opened = transformers.AutoModelForCausalLM.from_pretrained(made.folder)
    assert type(opened).__name__ == "LlamaForCausalLM"
    rows = langprune_cli.evaluate(model=[made.folder], data=windows, seqlen=24, workspace=work).rows
    assert [row["model"] for row in rows][-1] == made.artifact.name


def test_eval_gives_it_the_loss_that_it_has_with_its_images(tmp_path: Path) -> None:
    folder, windows, work = tmp_path / "gemma3", some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save("gemma3", folder)
    asked: dict[str, Any] = {"model": folder, "data": windows, "workspace": work, **_WEIGHTS}
    names = [langprune_cli.prune(**asked, text_only=only).artifact.name for only in (False, True)]
    rows = langprune_cli.evaluate(model=names, data=windows, seqlen=24, workspace=work).rows
    nats = {row["model"]: row["nats"] for row in rows}
    assert nats[names[0]] == nats[names[1]]
    assert len(nats) == 3


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_towers_without_a_causal_language_model_are_refused_before_any_work(family: str, tmp_path: Path) -> None:
    folder, windows, work = tmp_path / family, some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    save(family, folder)
    words = ("prune", "--model", folder, "--data", windows, "--workspace", work, "--text-only")
    one_sentence(langprune(*words), 1, f"transformers has no causal language model of the type {family}_text")
    assert not list((work / "stats").glob("*")) if (work / "stats").exists() else True
    assert not (work / "models").exists()


def test_models_without_images_have_no_tower_to_write(pico_model: Path, tmp_path: Path) -> None:
    windows, work = some_windows(tmp_path / "windows.safetensors"), tmp_path / "w"
    words = ("--model", pico_model, "--workspace", work)
    one_sentence(langprune("prune", *words, "--data", windows, "--text-only"), 2, "which reads no images: leave it out")
    did("mask", *words, "--method", "magnitude")
    one_sentence(langprune("apply", *words, "--text-only"), 2, "which reads no images: leave it out")
    with pytest.raises(UsageError, match="--text-only does not go with --reapply"):
        langprune_cli.apply(model=pico_model, reapply=True, text_only=True, workspace=work)


def test_a_tower_that_computes_something_else_alone_is_refused() -> None:
    """Cohere's language model scales its logits, and the model that reads images does not."""
    config = transformers.AyaVisionConfig(
        text_config={"model_type": "cohere2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 97, "head_dim": 8},
        vision_config={"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "intermediate_size": 32, "image_size": 16, "patch_size": 4},
    )  # fmt: skip
    with pytest.raises(LangpruneError, match="a cohere2 does not compute what it does inside of a aya_vision"):
        check_alone(config, "aya")
