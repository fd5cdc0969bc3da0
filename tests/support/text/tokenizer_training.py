"""Tokenizers of each kind whose vocabulary can be trimmed, trained on real text of several scripts."""

import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.trainers import BpeTrainer, UnigramTrainer

import langprune_cli
from tests.support.text.text_corpora import UNKNOWN

_DEMO = Path(langprune_cli.__file__).parent / "demo_data"

# The first article of the Universal Declaration of Human Rights and plain sentences beside it.
SCRIPTS = (
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。今天天气很好,我们去公园散步。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。今日は天気がいいです。",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلًا وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। आज मौसम बहुत अच्छा है।",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Où êtes-vous ? Près de la forêt, à côté.",
    "Good morning 😀 see you at 12:30 👨‍👩‍👧‍👦 on the 24th of August 1991 🇺🇦 in 2024, room 305 👍🏽 ok ❤️",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x ** 2}  # comment\n\n\tfor i in range(10):\n        print(i)",
)
SPECIAL = ("<s>", "</s>", "<|user|>", "<|end|>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_GPT4_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@functools.cache
def lines() -> tuple[str, ...]:
    """Return lines of English, Ukrainian and the other scripts: sentences and short runs of words."""
    found = []
    for language in ("en", "uk"):
        with gzip.open(_DEMO / f"{language}.calib.jsonl.gz", "rt", encoding="utf-8") as file:
            text = "\n".join(json.loads(line)["text"] for line in file)
        found += [piece for piece in text[:25_000].replace("\n", ". ").split(". ") if piece]
    for text in SCRIPTS:
        words = text.split(" ")
        found += [text, *(" ".join(words[k : k + 4]) for k in range(0, len(words), 4))]
    return tuple(found)


def _described(backend: Tokenizer) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(backend.to_str())
    return described


def _byte_level_trainer(size: int) -> BpeTrainer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)


@functools.cache
def gpt2_like() -> dict[str, Any]:
    """Return a byte-level BPE with merges as strings, RoBERTa's frame, padding, and specials that come last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(lines(), _byte_level_trainer(1600))
    backend.add_special_tokens(list(SPECIAL))
    first, last, _, padding = (backend.token_to_id(token) for token in SPECIAL)
    backend.post_processor = processors.RobertaProcessing(("</s>", last), ("<s>", first), add_prefix_space=False)
    backend.enable_padding(pad_id=padding, pad_token=SPECIAL[3])
    described = _described(backend)
    described["model"]["merges"] = [" ".join(pair) for pair in described["model"]["merges"]]
    return described


@functools.cache
def llama3_like() -> dict[str, Any]:
    """Return a byte-level BPE that looks whole words up first, with words that no merge makes; specials come last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GPT4_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(lines(), _byte_level_trainer(1500))
    words = {word for line in lines() for word, _ in backend.pre_tokenizer.pre_tokenize_str(line)}
    described = _described(backend)
    vocab = described["model"]["vocab"]
    for word in sorted(words)[::5]:
        vocab.setdefault(word, len(vocab))
    described["model"]["ignore_merges"] = True
    backend = Tokenizer.from_str(json.dumps(described))
    backend.add_special_tokens(list(SPECIAL))
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", len(vocab))]),
        ]
    )
    return _described(backend)


def _sentencepiece_bpe(*, byte_fallback: bool) -> dict[str, Any]:
    """Train on characters, with every split of a piece into two others as a merge, as converted files have them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=1700, show_progress=False))
    learned = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda entry: entry[1])]
    pieces = [UNKNOWN, *SPECIAL, *(BYTES if byte_fallback else ()), *learned]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:k], piece[k:])
        for piece in learned
        for k in range(1, len(piece))
        if piece[:k] in vocab and piece[k:] in vocab
    ]
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, byte_fallback=byte_fallback, fuse_unk=True)
    )
    backend.normalizer = trained.normalizer
    after = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), *after])
    backend.add_special_tokens([UNKNOWN, *SPECIAL])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _described(backend)


@functools.cache
def llama2_like() -> dict[str, Any]:
    """Return a BPE that writes a space as ▁ and an unknown character as bytes."""
    return _sentencepiece_bpe(byte_fallback=True)


@functools.cache
def without_fallback() -> dict[str, Any]:
    """Return a BPE whose unknown characters are unknown, neighbours as one."""
    return _sentencepiece_bpe(byte_fallback=False)


def _unigram() -> dict[str, Any]:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer: UnigramTrainer = trainers.UnigramTrainer(
        vocab_size=1200,
        special_tokens=["<s>", "<pad>", "</s>", UNKNOWN, "<|user|>", "<|end|>"],
        unk_token=UNKNOWN,
        show_progress=False,
    )
    backend.train_from_iterator(lines(), trainer)
    return _described(backend)


@functools.cache
def xlmr_like() -> dict[str, Any]:
    """Return a Unigram model with XLM-R's frame and first ids."""
    backend = Tokenizer.from_str(json.dumps(_unigram()))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _described(backend)


@functools.cache
def unigram_with_fallback() -> dict[str, Any]:
    """Return a Unigram model that writes unknown characters as bytes."""
    described = _unigram()
    model = described["model"]
    model["vocab"] += [[piece, 0.0] for piece in BYTES]
    model["byte_fallback"] = True
    backend = Tokenizer.from_str(json.dumps(described))
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    return _described(backend)


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    make.__name__: make
    for make in (gpt2_like, llama3_like, llama2_like, without_fallback, xlmr_like, unigram_with_fallback)
}
