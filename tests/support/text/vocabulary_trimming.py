"""What tests of trimmed models share: pico models with real tokenizers, texts of several scripts, and the three commands."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import langprune_cli
from tests.support.command import did
from tests.support.pico import save_pico
from tests.support.text.text_corpora import write_jsonl
from tests.support.text.tokenizer_training import SCRIPTS, SPECIAL, gpt2_like, llama2_like

START, END, USER, PAD = SPECIAL
CHAT = (
    "{% for message in messages %}{{ '<|user|>' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Скажи мені: ' }}{% endif %}"
)
_DEMO = Path(langprune_cli.__file__).parent / "demo_data"


def texts(language: str, split: str = "calib", characters: int = 12_000) -> list[str]:
    """Return documents of the built-in text, about so many characters of them."""
    found, size = [], 0
    with gzip.open(_DEMO / f"{language}.{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            if size >= characters:
                break
            found.append(json.loads(line)["text"][: characters - size])
            size += len(found[-1])
    return found


def write_texts(folder: Path) -> Path:
    """Write uk.jsonl and en.jsonl to count and calibrate on, and uk.test.jsonl, en.test.jsonl to evaluate on."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in ("uk", "en"):
        write_jsonl(folder / f"{language}.jsonl", texts(language))
        write_jsonl(folder / f"{language}.test.jsonl", [*texts(language, "test", 3000), SCRIPTS[0]])
    return folder


def tokenizer_of(make: Callable[[], dict[str, Any]] = gpt2_like) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a chat template, which writes ordinary tokens too."""
    described = dict(make()) | {"padding": None}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), bos_token=START, eos_token=END, pad_token=PAD
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def save_model(
    family: str,
    folder: Path,
    make: Callable[[], dict[str, Any]] = gpt2_like,
    *,
    padding_rows: int = 12,
    **settings: Any,
) -> PreTrainedTokenizerFast:
    """Save a pico model whose embeddings have rows beyond the tokenizer's, the last but one named by its configuration."""
    tokenizer = tokenizer_of(make)
    rows = len(tokenizer) + padding_rows
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    save_pico(family, folder, vocab_size=rows, pad_token_id=rows - 2 if padding_rows else None, **ids, **settings)
    tokenizer.save_pretrained(folder)
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(USER)],
        "suppress_tokens": [tokenizer.convert_tokens_to_ids("Ġthe"), -1] if make is not llama2_like else None,
        "bad_words_ids": [[rows - 2, tokenizer.bos_token_id]] if padding_rows else None,
        "do_sample": False,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return tokenizer


def trimmed(model: Path, text: Path, workspace: Path, *words: object) -> tuple[Path, list[int]]:
    """Count, choose and cut on the command line; return the smaller model's folder and the old ids of its rows."""
    where = ["-w", workspace]
    did("calibrate", "-m", model, "--lang", "en", "--data", text / "en.jsonl", "--collect", "tokens", *where)
    mask = did("mask", "--pattern", "vocab", *(words or ("--coverage", "0.98")), *where, "--json").json
    made = did("apply", *where, "--json").json
    return Path(made["path"]), load_file(Path(mask["path"]) / "vocabulary.safetensors")["stay"].tolist()


def opened(folder: Path) -> Any:
    """Open a folder as anyone would, in float32, and make sure that transformers found exactly what it wanted."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def kept_lines(tokenizer: Any, stay: list[int], longest: int = 40) -> list[list[int]]:
    """Return the ids of the lines of the text that was counted whose tokens all stay."""
    kept = set(stay)
    lines = [line for text in texts("en") for line in text.replace(". ", ".\n").splitlines() if len(line) > 20]
    found = [tokenizer(line)["input_ids"][:longest] for line in lines]
    return [ids for ids in found if kept.issuperset(ids)]


def reopened(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "dense"
    save_model("llama", folder)
    return folder


@pytest.fixture(scope="module")
def cut(dense: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a workspace with counts en-tokens, and mask and model en-tokens-vocab; tests that write use a copy, `here`."""
    folder = tmp_path_factory.mktemp("cut") / "w"
    trimmed(dense, text, folder)
    return folder


@pytest.fixture
def here(cut: Path, tmp_path: Path) -> Path:
    shutil.copytree(cut, tmp_path / "w")
    return tmp_path / "w"


def english(text: Path) -> list[object]:
    return ["--lang", "en", "--data", text / "en.jsonl"]
