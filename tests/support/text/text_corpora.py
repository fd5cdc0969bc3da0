"""Small texts and real tokenizers trained on them, for the tests of the text layer."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
SENTENCES = (
    "Ой у лузі червона калина похилилася, чогось наша славна Україна зажурилася.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Реве та стогне Дніпр широкий, сердитий вітер завива.",
    "It was a bright cold day in April, and the clocks were striking thirteen.",
    "Мені тринадцятий минало, я пас ягнята за селом.",
)


def documents(count: int, sentences: int = 6) -> list[str]:
    """Return `count` different documents of about `sentences` sentences each."""
    return [
        f"Document {i}. " + " ".join(SENTENCES[(i + k) % len(SENTENCES)] for k in range(sentences + i % 3))
        for i in range(count)
    ]


def write_jsonl(path: Path, texts: Iterable[str]) -> Path:
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@functools.cache
def byte_level(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE as GPT-2's, of 400 tokens; with `bos`, one that starts texts with <bos>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<bos>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
        )
    return _wrapped(backend, {"bos_token": "<bos>", "eos_token": "<eos>"})


@functools.cache
def with_byte_fallback() -> PreTrainedTokenizerFast:
    """Return a BPE that writes spaces as ▁ and unknown characters as <0xNN>, as Llama 2's and Gemma's do."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "<s>"])
    return _wrapped(backend, {"bos_token": "<s>", "unk_token": UNKNOWN})


@functools.cache
def unigram() -> PreTrainedTokenizerFast:
    """Return a Unigram model with Metaspace, as T5's, which puts a space before the first word."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token=UNKNOWN, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return _wrapped(backend, {"unk_token": UNKNOWN})


@functools.cache
def word_piece() -> PreTrainedTokenizerFast:
    """Return a WordPiece as BERT's, whose tokens do not say how many bytes of text they stand for."""
    backend = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=[UNKNOWN], show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return _wrapped(backend, {"unk_token": UNKNOWN})


def _wrapped(backend: Tokenizer, special: dict[str, str]) -> PreTrainedTokenizerFast:
    # A context of 64 tokens: longer texts would draw the library's warning, which is not to reach a user.
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special)


def is_slice(window: Sequence[int], ids: Sequence[int]) -> bool:
    """Say whether `window` lies somewhere in `ids` in one piece."""
    return any(list(ids[k : k + len(window)]) == list(window) for k in range(len(ids) - len(window) + 1))
