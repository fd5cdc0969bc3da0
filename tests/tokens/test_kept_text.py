"""Chats, Markdown and code are cut into the same tokens by a vocabulary that was chosen from plain text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from langprune_cli.tokens.choice import VocabularyTarget, choose_vocabulary
from langprune_cli.tokens.kept_text import frame_ids, kept_ids
from langprune_cli.tokens.trimmed_tokenizer import trimmed
from langprune_cli.tokens.vocabulary import Vocabulary
from tests.support.command import did, langprune, one_sentence
from tests.support.text import vocabulary_trimming
from tests.support.text.tokenizer_training import gpt2_like, llama2_like, llama3_like, xlmr_like
from tests.support.text.vocabulary_trimming import english, tokenizer_of
from tests.tokens.test_vocabulary_choice import counted

# Fixtures, under the names by which tests ask for them.
text, dense = vocabulary_trimming.text, vocabulary_trimming.dense
cut, here = vocabulary_trimming.cut, vocabulary_trimming.here

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|user|>system\nYou are a good neighbour.<|end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if tools %}{{ '\n\n# Tools\n\nUse these: ' + tools | tojson }}{% endif %}"
    "{% if never %}{{ 'людський розум' }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
MARKDOWN = (
    "# Note:\n\n**note**\n\n- user\n\n"
    "```python\nprint(x)\n\n        return None\n\tfor i in range\n```\n\n `JSON` JSON Hello"
)
CHATS = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Hello"}, {"role": "user", "content": MARKDOWN}],
    [{"role": "user", "content": "JSON"}, {"role": "assistant", "content": "Hello"}, {"role": "tool", "content": "{}"}],
)
kinds = pytest.mark.parametrize("make", [gpt2_like, llama3_like, llama2_like, xlmr_like])


def smaller(tokenizer: Any, stay: tuple[int, ...]) -> PreTrainedTokenizerFast:
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(trimmed(described, stay))))


@kinds
def test_chats_markdown_and_code_are_cut_as_before(make: Callable[[], dict[str, Any]]) -> None:
    tokenizer = tokenizer_of(make)
    tokenizer.chat_template = TEMPLATE
    vocabulary = Vocabulary.opened(tokenizer)
    word = tokenizer("people", add_special_tokens=False)["input_ids"][-1]
    counts = {"en": counted([int(i == word) for i in range(vocabulary.size)])}  # a text without any of it
    chat, frame = kept_ids(tokenizer, vocabulary), frame_ids(tokenizer)
    target = VocabularyTarget(1.0, round_to=1)
    with_chat = choose_vocabulary(vocabulary, counts, target, always=frame, chat=chat, rows=vocabulary.size)
    without = choose_vocabulary(vocabulary, counts, target, always=frame, rows=vocabulary.size)
    assert len(with_chat.stay) == len(without.stay) + (with_chat.chat or 0) < vocabulary.size
    assert "chat" not in without.record()
    texts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        for messages in CHATS
        for prompt in (True, False)
    ]
    texts += [MARKDOWN, "\n\n", "```", "    \n\n\n\t\t", " людський розум".strip(), '{"name": null}', "(self, *args)"]
    for kept, same in ((with_chat, True), (without, False)):
        cut_by = smaller(tokenizer, kept.stay)
        tokens = [
            (
                tokenizer.convert_ids_to_tokens(tokenizer(each, add_special_tokens=False)["input_ids"]),
                cut_by.convert_ids_to_tokens(cut_by(each, add_special_tokens=False)["input_ids"]),
            )
            for each in texts
        ]
        assert all(before == after for before, after in tokens) == same


def test_a_model_without_a_template_keeps_the_same_words_and_marks() -> None:
    tokenizer = tokenizer_of()
    vocabulary = Vocabulary.opened(tokenizer)
    tokenizer.chat_template = None
    base = kept_ids(tokenizer, vocabulary)
    assert frame_ids(tokenizer) == set()
    assert set(tokenizer(MARKDOWN, add_special_tokens=False)["input_ids"]) <= base
    tokenizer.chat_template = "{% generation %}{{ 'народ' }}{% endgeneration %}{% if %}"  # no template at all
    assert kept_ids(tokenizer, vocabulary) == base
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{% generation %}{{ 'народ' }}{% endgeneration %}"}
    assert kept_ids(tokenizer, vocabulary) >= base | set(tokenizer("народ", add_special_tokens=False)["input_ids"])


def test_without_it_a_mask_is_the_one_that_was_made_before(here: Path) -> None:
    """The key of a mask that keeps nothing for chats has nothing new in it."""
    kept = did("mask", "--pattern", "vocab", "--coverage", "0.98", "-w", here, "--json").json
    assert kept["cached"]
    less = did(
        "mask", "--pattern", "vocab", "--coverage", "0.98", "--no-keep-chat", "--name", "less", "-w", here, "--json"
    ).json
    assert not less["cached"]
    params = json.loads((Path(less["path"]) / "manifest.json").read_bytes())["params"]
    assert sorted(params) == ["coverage", "exclude", "method", "pattern", "round_to", "sparsity"]
    kept, less = (each["about"]["vocabulary"] for each in (kept, less))
    assert less["required"] < kept["required"]
    assert kept["chat"] > 0
    assert "chat" not in less
    again = did("mask", "--pattern", "vocab", "--coverage", "0.98", "--no-keep-chat", "-w", here)
    assert "already there" in again.out
    assert "of them for any text" in again.out
    assert "chats, Markdown" not in again.out


def test_a_plan_says_what_it_costs(here: Path, dense: Path) -> None:
    words = ["plan", "-m", dense, "--pattern", "vocab", "--coverage", "0.98", "--round-to", "1", "-w", here]
    kept, less = (did(*words, *more, "--json").json for more in ([], ["--no-keep-chat"]))
    assert kept["parameters_after"] - less["parameters_after"] == kept["chat_bytes"] // 4  # float32
    assert kept["axes"][0]["after"] - less["axes"][0]["after"] == kept["chat_tokens"] > 0
    assert "chat_tokens" not in less
    shown = did(*words)
    assert f"{kept['chat_tokens']:,} tokens stay only for chats, Markdown and code" in shown.out
    assert "of other text in en needs pruned tokens, as" in " ".join(shown.err.split())  # a short text


def test_a_size_that_has_no_room_for_it_says_both_least_sizes(here: Path) -> None:
    words = ["mask", "--pattern", "vocab", "--vocab-size", "300", "--round-to", "1", "-w", here]
    one_sentence(langprune(*words), 2, "those of chats, Markdown and code")
    one_sentence(langprune(*words), 2, "or more with --no-keep-chat")


def test_it_goes_with_tokens_only(text: Path) -> None:
    for option in ("--keep-chat", "--no-keep-chat"):
        one_sentence(
            langprune("prune", *english(text), option, "-w", "w"),
            2,
            f"{option} goes with --pattern vocab only: leave it out",
        )
