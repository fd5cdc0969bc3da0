"""Ids that a model's configurations name and its chat template writes: all are found, and replaced by new ones."""

import copy
from typing import Any

import pytest

from langprune_cli.tokens.choice import ids_in, replace_ids
from langprune_cli.tokens.kept_text import frame_ids
from tests.support.text.vocabulary_trimming import tokenizer_of

FRAME = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<|end|>' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ 'Quoi ? ' }}{% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
NO_ANSWER = "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('ends with an answer') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (FRAME + PROMPT, ["[system]<|end|>[user]<|end|>[assistant]<|end|>", "[user]<|end|>Quoi ? "]),
        (NO_SYSTEM + FRAME + PROMPT, ["[user]<|end|>[assistant]<|end|>Quoi ? ", "[user]<|end|>"]),
        (NO_SYSTEM + NO_ANSWER + FRAME + PROMPT, ["[user]<|end|>Quoi ? ", "[user]<|end|>"]),
        ("{{ raise_exception('never') }}", []),
        ("{{ nothing.of.the.kind }}", []),
        ("{% if %}", []),
        (None, []),
    ],
)
def test_ids_that_a_chat_template_writes(template: str | None, written: list[str]) -> None:
    tokenizer = tokenizer_of()
    tokenizer.chat_template = template
    expected = {i for text in written for i in tokenizer(text, add_special_tokens=False)["input_ids"]}
    found = frame_ids(tokenizer)
    assert found >= expected
    assert bool(found) == bool(written)
    if "[system]" not in "".join(written) and written:
        assert tokenizer.convert_tokens_to_ids(["<|end|>"])[0] in found
        assert not found & set(tokenizer("system", add_special_tokens=False)["input_ids"]) - expected


def test_a_tokenizer_without_templates_writes_none() -> None:
    assert frame_ids(object()) == set()


CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"], "bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": None,
    "image_token_index": 90, "image_token_id": 91, "boi_token_index": 92, "tie_word_embeddings": True, "vocab_size": 120,
    "mm_tokens_per_image": 50, "num_hidden_layers": 3, "torch_dtype": "bfloat16", "sep_token_id": -1, "bos_token": "<s>",
    "text_config": {"pad_token_id": 0, "hidden_size": 32, "decoder_start_token_id": 5, "vocab_size": 120},
    "vision_config": {"hidden_size": 16, "patch_size": 14},
}  # fmt: skip
GENERATION: dict[str, Any] = {
    "bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "suppress_tokens": [-1], "begin_suppress_tokens": [20, 107],
    "bad_words_ids": [[30], [31, 32]], "force_words_ids": [[[33, 34]], [[35]]],
    "forced_decoder_ids": [[1, 40], [2, None], [3, 41]],
    "forced_bos_token_id": 42, "forced_eos_token_id": [43], "no_timestamps_token_id": 44, "lang_to_id": {"<|en|>": 45},
    "max_new_tokens": 46, "top_k": 47, "do_sample": True, "temperature": 0.6, "max_length": 48, "watermarking_config": None,
}  # fmt: skip


def test_ids_in_configurations() -> None:
    assert ids_in(CONFIG) == {2, 1, 106, 90, 91, 92, 0, 5}
    assert ids_in(GENERATION) == {2, 1, 106, 0, 20, 107, 30, 31, 32, 33, 34, 35, 40, 41, 42, 43, 44}
    assert ids_in({}) == set()


def test_ids_in_configurations_are_replaced_and_nothing_else() -> None:
    config, generation = copy.deepcopy(CONFIG), copy.deepcopy(GENERATION)
    new = {i: 1000 + i for i in ids_in(config) | ids_in(generation)}
    replace_ids(config, new)
    assert config == CONFIG | {
        "bos_token_id": 1002, "eos_token_id": [1001, 1106], "image_token_index": 1090, "image_token_id": 1091,
        "boi_token_index": 1092,
        "text_config": CONFIG["text_config"] | {"pad_token_id": 1000, "decoder_start_token_id": 1005},
    }  # fmt: skip
    replace_ids(generation, new)
    assert generation == GENERATION | {
        "bos_token_id": 1002, "eos_token_id": [1001, 1106], "pad_token_id": 1000, "begin_suppress_tokens": [1020, 1107],
        "bad_words_ids": [[1030], [1031, 1032]], "force_words_ids": [[[1033, 1034]], [[1035]]],
        "forced_decoder_ids": [[1, 1040], [2, None], [3, 1041]], "forced_bos_token_id": 1042, "forced_eos_token_id": [1043],
        "no_timestamps_token_id": 1044,
    }  # fmt: skip
    with pytest.raises(KeyError, match="106"):
        replace_ids(copy.deepcopy(CONFIG), {2: 0, 1: 1, 90: 2, 91: 3, 92: 4, 0: 5, 5: 6})
