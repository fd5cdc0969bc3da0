"""The files of a trimmed tokenizer: AutoTokenizer opens them in the class as before, with everything trimmed."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.tokenizer_files import ids_named_in, trim_files
from langprune_cli.tokens.trimmed_tokenizer import id_map, trimmed
from langprune_cli.tokens.vocabulary import Vocabulary
from tests.support.text.tokenizer_training import (
    SPECIAL,
    gpt2_like,
    lines,
    llama2_like,
    llama3_like,
    unigram_with_fallback,
    without_fallback,
    xlmr_like,
)

Make = Callable[[], dict[str, Any]]
CHAT = "{{ '<s>' }}{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
UNKNOWN = {"unk_token": "<unk>"}
# name in tokenizer_config.json, the class that opens, what else the file says
CLASSES: dict[str, tuple[str, Make, dict[str, Any]]] = {
    "LlamaTokenizer": ("LlamaTokenizer", llama2_like, UNKNOWN),
    "LlamaTokenizerFast": ("LlamaTokenizer", llama2_like, UNKNOWN),
    "GemmaTokenizer": ("GemmaTokenizer", llama2_like, UNKNOWN | {"pad_token": "</s>", "mask_token": "<|user|>"}),
    "GPT2Tokenizer": ("GPT2Tokenizer", gpt2_like, {"unk_token": "</s>"}),
    "Qwen2Tokenizer": ("Qwen2Tokenizer", gpt2_like, {"unk_token": "</s>", "pad_token": "<|end|>"}),
    "PreTrainedTokenizerFast": ("TokenizersBackend", llama3_like, {}),
    "TokenizersBackend": ("TokenizersBackend", without_fallback, UNKNOWN),
    "XLMRobertaTokenizer": ("XLMRobertaTokenizer", xlmr_like, UNKNOWN | {"mask_token": "<|user|>"}),
    "T5Tokenizer": ("T5Tokenizer", xlmr_like, UNKNOWN | {"extra_ids": 0}),
    "T5TokenizerFast": ("T5Tokenizer", unigram_with_fallback, UNKNOWN | {"extra_ids": 0}),
}
every_class = pytest.mark.parametrize("name", CLASSES)


def saved(folder: Path, name: str) -> Path:
    """Write a tokenizer's folder as models on the hub have them, with the ids in every file that may hold some."""
    _, make, settings = CLASSES[name]
    described = make()
    added = described["added_tokens"]
    config = {
        "tokenizer_class": name,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "eos_token_id": next(token["id"] for token in added if token["content"] == "</s>"),
        "extra_special_tokens": {"user_token": "<|user|>"},
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "tokenizer.json": described,
        "tokenizer_config.json": config | settings,
        "added_tokens.json": {token["content"]: token["id"] for token in added},
        "special_tokens_map.json": {"bos_token": {"content": "<s>", "special": True}, "eos_token": "</s>"},
    }
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


def rewritten(folder: Path, stay: list[int]) -> Path:
    """Return a copy of a folder with its files as `trim_files` says."""
    to = folder.with_name("trimmed")
    shutil.copytree(folder, to)
    for name, content in trim_files(folder, stay).items():
        if content is None:
            (to / name).unlink()
        else:
            (to / name).write_bytes(content)
    return to


def staying(folder: Path) -> list[int]:
    """Return what has to stay, with every second piece."""
    vocabulary = Vocabulary.opened(AutoTokenizer.from_pretrained(folder))
    return sorted(vocabulary.required(ids_named_in(folder) | set(range(0, vocabulary.size, 2))))


def backend(tokenizer: Any) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return described


@every_class
def test_opened_it_is_the_opened_tokenizer_trimmed(name: str, tmp_path: Path) -> None:
    """Some classes build a tokenizer of their own from vocabulary and merges, and add to it: all of it agrees."""
    folder = saved(tmp_path / "whole", name)
    whole = AutoTokenizer.from_pretrained(folder)
    stay = staying(folder)
    small = AutoTokenizer.from_pretrained(rewritten(folder, stay))
    assert type(whole).__name__ == CLASSES[name][0]
    assert type(small) is type(whole)
    assert len(whole) == Vocabulary.of(CLASSES[name][1]()).size  # opening added nothing
    assert len(small) == len(stay)
    assert backend(small) == trimmed(backend(whole), stay)
    assert small.special_tokens_map == whole.special_tokens_map
    assert [stay[i] for i in small.all_special_ids] == whole.all_special_ids
    assert {stay[i]: token for i, token in small.added_tokens_decoder.items()} == whole.added_tokens_decoder


@every_class
def test_texts_and_chats_have_the_mapped_ids(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", name)
    whole = AutoTokenizer.from_pretrained(folder)
    stay = staying(folder)
    small = AutoTokenizer.from_pretrained(rewritten(folder, stay))
    new = id_map(stay, len(whole)).tolist()
    texts = [" ".join(line.split(" ")[:2]) for line in lines()]
    checked = 0
    for text in texts:
        ids = whole(text)["input_ids"]
        mapped = [new[i] for i in ids]
        if -1 not in mapped:
            assert small(text)["input_ids"] == mapped
            checked += 1
        assert small.decode(small(text)["input_ids"]) == whole.decode(ids)
        chat = [{"role": "user", "content": text}]
        old = [new[i] for i in whole.apply_chat_template(chat)["input_ids"]]
        if -1 not in old:
            assert small.apply_chat_template(chat)["input_ids"] == old
    assert checked > 20


def test_tokens_that_opening_adds_come_after_what_stays(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "GPT2Tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["unk_token"]  # the class's own is no token of this vocabulary
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    whole = AutoTokenizer.from_pretrained(folder)
    size = Vocabulary.of(gpt2_like()).size
    assert len(whole) == size + 1
    stay = staying(folder)
    assert stay[-1] == size
    small = AutoTokenizer.from_pretrained(rewritten(folder, stay))
    assert small.unk_token_id == len(stay) - 1
    assert backend(small) == trimmed(backend(whole), stay)


def test_lookup_of_whole_words_and_bytes_survive_opening(tmp_path: Path) -> None:
    for name, setting in (("PreTrainedTokenizerFast", "ignore_merges"), ("LlamaTokenizer", "byte_fallback")):
        folder = saved(tmp_path / setting, name)
        small = AutoTokenizer.from_pretrained(rewritten(folder, staying(folder)))
        assert backend(small)["model"][setting] is True
        shutil.rmtree(tmp_path / "trimmed")


@every_class
def test_keeping_everything_changes_no_content(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", name)
    files = trim_files(folder, range(Vocabulary.of(CLASSES[name][1]()).size))
    assert files.keys() == {"tokenizer.json", "tokenizer_config.json", "added_tokens.json"}
    for file, content in files.items():
        assert content is not None
        assert json.loads(content) == json.loads((folder / file).read_text(encoding="utf-8"))


def test_ids_in_every_file_are_rewritten(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "PreTrainedTokenizerFast")
    stay = staying(folder)
    small = rewritten(folder, stay)
    first = len(stay) - len(SPECIAL)  # its special tokens come last
    assert json.loads((small / "added_tokens.json").read_text()) == {t: first + k for k, t in enumerate(SPECIAL)}
    config = json.loads((small / "tokenizer_config.json").read_text())
    assert {int(i): token["content"] for i, token in config["added_tokens_decoder"].items()} == {
        first + k: token for k, token in enumerate(SPECIAL)
    }
    assert config["eos_token_id"] == first + 1
    assert (small / "special_tokens_map.json").read_bytes() == (folder / "special_tokens_map.json").read_bytes()
    assert (small / "chat_template.jinja").read_text() == CHAT


def test_pieces_and_merges_beside_are_rewritten_and_other_formats_leave(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "GPT2Tokenizer")
    model = gpt2_like()["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(model["merges"]) + "\n", encoding="utf-8")
    foreign = ("tokenizer.model", "tokenizer.model.v3", "spiece.model", "qwen.tiktoken", "tekken.json")
    for name in (*foreign, "model.safetensors", "modeling.py"):
        (folder / name).write_bytes(b"x")
    stay = staying(folder)
    files = trim_files(folder, stay)
    assert {name for name, content in files.items() if content is None} == set(foreign)
    assert files.keys().isdisjoint({"model.safetensors", "modeling.py", "chat_template.jinja"})
    small = rewritten(folder, stay)
    (small / "tokenizer.json").rename(small / "another.json")
    rebuilt = AutoTokenizer.from_pretrained(small)  # from vocab.json and merges.txt alone
    described = json.loads((small / "another.json").read_text(encoding="utf-8"))["model"]
    assert backend(rebuilt)["model"]["vocab"] == described["vocab"]
    assert [" ".join(pair) for pair in backend(rebuilt)["model"]["merges"]] == described["merges"]


def test_merges_that_a_text_file_cannot_say_leave(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "LlamaTokenizer")
    described = copy.deepcopy(llama2_like())
    model = described["model"]
    model["vocab"]["a b"] = len(model["vocab"])
    model["vocab"][" b"] = len(model["vocab"])
    model["vocab"][" "] = len(model["vocab"])
    model["merges"] += [[" ", "b"], ["a", " b"]]
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}", encoding="utf-8")
    everything = range(Vocabulary.of(described).size)
    files = trim_files(folder, everything)
    assert (files["vocab.json"], files["merges.txt"]) == (None, None)


def test_token_that_only_the_config_names_stays(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "PreTrainedTokenizerFast")
    vocabulary = Vocabulary.of(llama3_like())
    word = max((piece for piece in vocabulary.pieces if piece.isalpha()), key=len)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"pad_token": {"content": word}, "sep_token": "[neither here nor there]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    named = ids_named_in(folder)
    assert vocabulary.pieces[word] in named
    assert vocabulary.pieces[word] not in vocabulary.required()
    with pytest.raises(ValueError, match="has to stay: files in"):
        trim_files(folder, sorted(vocabulary.required()))
    trim_files(folder, sorted(vocabulary.required(named)))


def test_files_that_contradict_or_are_missing_are_said_in_a_sentence(tmp_path: Path) -> None:
    folder = saved(tmp_path / "whole", "PreTrainedTokenizerFast")
    stay = range(Vocabulary.of(llama3_like()).size)
    (folder / "added_tokens.json").write_text('{"<tool>": 17}', encoding="utf-8")
    with pytest.raises(LangpruneError, match=r"added_tokens.json gives the token '<tool>' the id 17, and tokenizer"):
        trim_files(folder, stay)
    (folder / "added_tokens.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(LangpruneError, match=r"added_tokens.json holds no JSON object"):
        trim_files(folder, stay)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(LangpruneError, match=r"tokenizer.json is no readable JSON"):
        trim_files(folder, stay)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LangpruneError, match=r"has no tokenizer.json, without which"):
        trim_files(folder, stay)
