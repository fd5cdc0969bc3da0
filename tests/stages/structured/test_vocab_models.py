"""Trimmed models of many families: stock transformers computes with them, bit by bit, what it did with the whole vocabulary."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.vocabulary_rows import VocabularyRows, with_default_ids, with_vocab_size
from tests.support import pico
from tests.support.command import did, langprune, one_sentence
from tests.support.text.tokenizer_training import gpt2_like, llama2_like, llama3_like, xlmr_like
from tests.support.text.vocabulary_trimming import USER, kept_lines, opened, reopened, save_model, trimmed, write_texts

TIED = {"qwen2", "gpt2", "gemma2", "opt", "cohere"}
# The only family with a bias in its head that is common; no pico model of the table has one.
PHI = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("text"))


def same_logits(dense: Any, small: Any, lines: list[list[int]], stay: list[int]) -> None:
    """Compare the logits of lines in both models' ids, on the rows that stay, bit by bit."""
    new = {old: position for position, old in enumerate(stay)}
    for ids in lines:
        with torch.no_grad():
            expected = dense(input_ids=torch.tensor([ids])).logits[..., stay]
            found = small(input_ids=torch.tensor([[new[i] for i in ids]])).logits
        assert torch.equal(found, expected)


def stored(folder: Path) -> tuple[int, int]:
    """Return the parameters in a folder's files and their bytes: what comes after each file's header."""
    files = list(folder.glob("*.safetensors"))
    sizes = [file.stat().st_size - 8 - struct.unpack("<Q", file.read_bytes()[:8])[0] for file in files]
    return sum(tensor.numel() for file in files for tensor in load_file(file).values()), sum(sizes)


def ids_of(folder: Path, file: str) -> dict[str, Any]:
    record = json.loads((folder / file).read_text())
    return {key: record[key] for key in record if key.endswith(("_token_id", "_tokens", "_ids"))}


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gpt2", "gemma2", "opt", "phi3", "gpt_neox", "cohere", "mixtral", "phi"]
)
def test_every_family_computes_what_it_did(
    family: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pico.EVERY_FAMILY, "phi", ("PhiConfig", PHI))
    tokenizer = save_model(family, tmp_path / "dense")
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    dense, small = opened(tmp_path / "dense"), opened(out)
    assert small.config.vocab_size == len(stay) < 0.6 * dense.config.vocab_size
    lines = kept_lines(tokenizer, stay)
    assert len(lines) > 100
    same_logits(dense, small, lines[::8], stay)

    embeddings, head = small.get_input_embeddings(), small.get_output_embeddings()
    assert torch.equal(embeddings.weight, dense.get_input_embeddings().weight[stay])
    assert (head.weight is embeddings.weight) == (family in TIED)
    assert (head.bias is not None) == (family == "phi")
    new = {old: position for position, old in enumerate(stay)} | {-1: -1}
    for file in ("config.json", "generation_config.json"):
        before = ids_of(tmp_path / "dense", file)
        assert {"bos_token_id", "eos_token_id"} < before.keys()
        assert ids_of(out, file) == {key: mapped(value, new) for key, value in before.items()}

    (parameters, size), (all_parameters, all_size) = stored(out), stored(tmp_path / "dense")
    planned = did("plan", "--pattern", "vocab", "--coverage", "0.98", "-w", tmp_path / "w", "--json").json
    assert (planned["parameters_before"], planned["parameters_after"]) == (all_parameters, parameters)
    assert planned["disk_bytes_before"] - planned["disk_bytes"] == all_size - size
    assert planned["axes"] == [
        {
            "pattern": "vocab",
            "unit": "tokens",
            "before": dense.config.vocab_size,
            "after": len(stay),
            "removed": pytest.approx(1 - len(stay) / dense.config.vocab_size),
        }
    ]
    prompt = torch.tensor([[new[i] for i in lines[0][:4]]])
    assert small.generate(prompt, max_new_tokens=3).shape[1] in {5, 6, 7}


def mapped(value: Any, new: dict[int, int]) -> Any:
    """Return ids in lists of any depth as the smaller model calls them."""
    return [mapped(each, new) for each in value] if isinstance(value, list) else new.get(value)


@pytest.mark.parametrize("make", [llama2_like, llama3_like, xlmr_like])
def test_every_kind_of_tokenizer(make: Callable[[], dict[str, Any]], tmp_path: Path, text: Path) -> None:
    tokenizer = save_model("llama", tmp_path / "dense", make, num_hidden_layers=1)
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    small = reopened(out)
    lines = kept_lines(tokenizer, stay, longest=10**6)
    assert len(lines) > 50
    for ids in lines:
        line = tokenizer.decode(ids, skip_special_tokens=True)
        assert [stay[i] for i in small(line)["input_ids"]] == ids
        assert small.decode(small(line)["input_ids"], skip_special_tokens=True) == line
    same_logits(opened(tmp_path / "dense"), opened(out), [ids[:40] for ids in lines[::10]], stay)


def test_chats_are_written_in_the_new_ids(tmp_path: Path, text: Path) -> None:
    tokenizer = save_model("llama", tmp_path / "dense", num_hidden_layers=1)
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    small, kept = reopened(out), set(stay)
    chat = [{"role": "user", "content": "The time of the year 305."}]
    for prompt in (True, False):
        options = {"add_generation_prompt": prompt, "return_dict": False}
        before, after = (each.apply_chat_template(chat, **options) for each in (tokenizer, small))
        assert kept.issuperset(before)
        assert [stay[i] for i in after] == before
    counted = {
        i
        for line in (text / "en.jsonl").read_text().splitlines()
        for i in tokenizer(json.loads(line)["text"])["input_ids"]
    }
    assert set(tokenizer("Скажи мені: ")["input_ids"]) - counted, (
        "the template's own words are to be none of the text's"
    )
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(small, name) == getattr(tokenizer, name)
        assert stay[getattr(small, f"{name}_id")] == getattr(tokenizer, f"{name}_id")
    assert {stay[i]: str(token) for i, token in small.added_tokens_decoder.items()} == {
        i: str(token) for i, token in tokenizer.added_tokens_decoder.items()
    }
    assert stay[small.convert_tokens_to_ids(USER)] == tokenizer.convert_tokens_to_ids(USER)


def test_a_decoder_that_counts_its_tokens_itself() -> None:
    """Marian's embeddings have decoder_vocab_size rows."""
    config = transformers.MarianConfig(vocab_size=97, d_model=32, decoder_layers=2, decoder_ffn_dim=48)
    fewer = with_vocab_size(config.to_dict(), config, 40)
    assert fewer["vocab_size"] == fewer["decoder_vocab_size"] == 40


def test_a_heads_bias_beside_the_head(tmp_path: Path) -> None:
    """Reformer's is the parameter of the module around it."""
    config = transformers.ReformerConfig(
        vocab_size=97, hidden_size=32, attn_layers=["local"] * 2, num_attention_heads=2, attention_head_size=16,
        feed_forward_size=48, axial_pos_shape=(8, 8), axial_pos_embds_dim=(16, 16), is_decoder=True, max_position_embeddings=64,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    names = VocabularyRows(StreamedModel(tmp_path), range(96)).names
    assert names == {"lm_head.bias", "lm_head.decoder.weight", "reformer.embeddings.word_embeddings.weight"}


FRESH = """
import json, sys
sys.modules["langprune_cli"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
ids = tokenizer("The first of the", return_tensors="pt")
with torch.no_grad():
    logits = model(**ids).logits
made = model.generate(**ids, max_new_tokens=4)
print(json.dumps({
    "ids": ids["input_ids"][0].tolist(), "vocabulary": len(tokenizer), "rows": logits.shape[-1],
    "sum": logits.double().sum().item(), "made": made.shape[1], "text": tokenizer.decode(made[0]),
    "problems": [str(each) for each in info.values() if each],
}))
"""


def test_a_fresh_process_without_langprune_opens_it(tmp_path: Path, text: Path) -> None:
    tokenizer = save_model("qwen2", tmp_path / "dense")
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    done = subprocess.run([sys.executable, "-c", FRESH, out], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    ids = tokenizer("The first of the")["input_ids"]
    assert [stay[i] for i in found["ids"]] == ids
    with torch.no_grad():
        expected = opened(tmp_path / "dense")(input_ids=torch.tensor([ids])).logits[..., stay]
    assert found["sum"] == expected.double().sum().item()
    assert found["rows"] == len(stay)
    assert found["vocabulary"] == len(stay) - 1  # the row beyond the tokenizer that the configuration names
    assert found["made"] > len(ids)
    assert found["text"].startswith("<s>The first of the")
    assert not found["problems"]


def test_files_and_dtype_stay_what_they_were(tmp_path: Path, text: Path) -> None:
    settings: dict[str, Any] = {"dtype": torch.bfloat16, "shard_size": "60KB"}
    save_model("gpt2", tmp_path / "dense", **settings)
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 2
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    shards = did("apply", "--max-shard-size", "60KB", "-w", tmp_path / "w", "--json").json
    before, after, again = (tensors(folder) for folder in (tmp_path / "dense", out, Path(shards["path"])))
    assert len(list(Path(shards["path"]).glob("*.safetensors"))) > 1
    assert before.keys() == after.keys() == again.keys()
    for name, tensor in before.items():
        expected = tensor[stay] if "wte" in name else tensor
        assert after[name].dtype == torch.bfloat16
        assert torch.equal(after[name], expected)
        assert torch.equal(again[name], expected)
    assert opened(Path(shards["path"])).config.vocab_size == len(stay)


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def test_a_tied_head_that_is_stored_as_well_is_cut_too(tmp_path: Path, text: Path) -> None:
    save_model("qwen2", tmp_path / "dense")
    file = tmp_path / "dense/model.safetensors"
    held = load_file(file)
    save_file(held | {"lm_head.weight": held["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    assert [tensors(out)[name].shape[0] for name in ("lm_head.weight", "model.embed_tokens.weight")] == [len(stay)] * 2
    small = opened(out)
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight


@pytest.mark.parametrize("rows", [1616, 1615])
def test_a_family_with_other_embeddings_of_tokens_is_refused(
    rows: int, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 4, "num_kv_shared_layers": 0}
    settings = PHI | small | {"head_dim": 8, "num_key_value_heads": 2, "activation_sparsity_pattern": None}
    monkeypatch.setitem(pico.EVERY_FAMILY, "gemma3n", ("Gemma3nTextConfig", settings | {"num_hidden_layers": 5}))
    save_model("gemma3n", tmp_path / "dense", vocab_size_per_layer_input=rows)
    words = ["-m", tmp_path / "dense", "-w", tmp_path / "w"]
    did("calibrate", *words, "--lang", "en", "--data", text / "en.jsonl", "--collect", "tokens")
    refused = langprune("mask", "--pattern", "vocab", "-w", tmp_path / "w")
    one_sentence(refused, 1, "holds model.embed_tokens_per_layer.weight with one row per token, beside embeddings")
    assert not (tmp_path / "w/masks").exists()


def test_rows_are_those_of_the_embeddings_alone(tmp_path: Path, text: Path) -> None:
    """Blocks that are as wide as the vocabulary is large keep their width."""
    tokenizer = save_model("llama", tmp_path / "dense", num_hidden_layers=1, intermediate_size=1616)
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    small = opened(out)
    assert small.config.intermediate_size == 1616
    assert [each.out_features for each in small.modules() if isinstance(each, nn.Linear)].count(1616) == 2
    same_logits(opened(tmp_path / "dense"), small, kept_lines(tokenizer, stay)[:4], stay)


def test_vocab_size_of_a_configuration_with_a_text_part() -> None:
    config = transformers.Gemma3Config(text_config={"vocab_size": 500, "hidden_size": 32})
    raw = {"model_type": "gemma3", "text_config": {"vocab_size": 500, "hidden_size": 32}, "eos_token_id": 1}
    expected = raw | {"text_config": {"vocab_size": 64, "hidden_size": 32}}
    assert with_vocab_size(raw, config, 64) == expected
    assert with_vocab_size(raw | {"vocab_size": 500}, config, 64) == expected | {"vocab_size": 64}
    assert with_vocab_size({"model_type": "gemma3"}, config, 64)["text_config"] == {"vocab_size": 64}
    assert raw["text_config"] == {"vocab_size": 500, "hidden_size": 32}
    flat = transformers.LlamaConfig(vocab_size=500)
    assert with_vocab_size({"vocab_size": 500, "a": 1}, flat, 64) == {"vocab_size": 64, "a": 1}


def test_gpt2_s_named_tokens_come_last_and_move(tmp_path: Path, text: Path) -> None:
    tokenizer = save_model("gpt2", tmp_path / "dense", gpt2_like, padding_rows=0, n_layer=1)
    out, stay = trimmed(tmp_path / "dense", text, tmp_path / "w")
    assert tokenizer.bos_token_id == len(tokenizer) - 4
    assert reopened(out).bos_token_id == len(stay) - 4 == opened(out).config.bos_token_id
    assert reopened(out).get_vocab() == {tokenizer.convert_ids_to_tokens(old): i for i, old in enumerate(stay)}


def test_ids_that_a_configuration_leaves_to_its_class() -> None:
    """A family's own default would name another token afterwards: it is stated, or none where it does not stay."""
    config = transformers.LlamaConfig(eos_token_id=250, bos_token_id=7)
    assert with_default_ids({"bos_token_id": 7}, config, {7, 250}) == {"bos_token_id": 7, "eos_token_id": 250}
    assert with_default_ids({"bos_token_id": 7}, config, {7}) == {"bos_token_id": 7, "eos_token_id": None}
    nested = transformers.Gemma3Config(text_config={"eos_token_id": 9, "bos_token_id": 2, "pad_token_id": 0})
    raw = {"text_config": {"bos_token_id": 2}}
    stated = with_default_ids(raw, nested, {0, 2})["text_config"]
    assert {key: stated[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 2, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
