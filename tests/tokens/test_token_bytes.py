"""Bytes per token: sums over a text's tokens are the text's own size, for every kind of tokenizer."""

import gzip
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from langprune_cli.location.location import DEMO_FOLDER
from langprune_cli.tokens.token_bytes import decoded_bytes, predicted_bytes, token_byte_lengths
from tests.support.text.text_corpora import SENTENCES, byte_level, unigram, with_byte_fallback, word_piece

# Text as people and machines write it, without the special tokens' own spellings.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")).filter(bool)


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)


@pytest.mark.parametrize("make", [byte_level, with_byte_fallback])
@given(text=texts)
def test_sum_over_a_text_is_its_utf8_length(make: Callable[[], PreTrainedTokenizerFast], text: str) -> None:
    lengths = token_byte_lengths(make())
    assert int(lengths[ids_of(make(), text)].sum()) == len(text.encode())


@given(st.lists(st.sampled_from(SENTENCES), min_size=1).map(" ".join))
def test_unigram_counts_the_space_before_the_first_word(text: str) -> None:
    lengths = token_byte_lengths(unigram())
    assert int(lengths[ids_of(unigram(), text)].sum()) == len(text.encode()) + 1


@pytest.mark.parametrize("make", [byte_level, with_byte_fallback, unigram])
def test_table_covers_the_vocabulary_and_special_tokens_are_no_text(
    make: Callable[[], PreTrainedTokenizerFast],
) -> None:
    lengths = token_byte_lengths(make())
    assert lengths.dtype == torch.int32
    assert lengths.shape == (len(make()),)
    for special in make().all_special_ids:
        assert lengths[special] == 0
    ordinary = [i for i in range(len(make())) if i not in make().all_special_ids]
    assert bool((lengths[ordinary] > 0).all())


def test_byte_tokens_count_one() -> None:
    tokenizer = with_byte_fallback()
    lengths = token_byte_lengths(tokenizer)
    ids = ids_of(tokenizer, "字")  # in no sentence, so it falls back to its three bytes
    assert tokenizer.convert_ids_to_tokens(ids) == ["<0xE5>", "<0xAD>", "<0x97>"]
    assert lengths[ids].tolist() == [1, 1, 1]


def test_added_token_that_is_text_counts_its_own_bytes() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    )
    tokenizer.add_tokens([AddedToken("é їжак", special=False), AddedToken("<tool>", special=True)])
    lengths = token_byte_lengths(tokenizer)
    text = "Це é їжак тут"
    assert int(lengths[ids_of(tokenizer, text)].sum()) == len(text.encode())
    assert lengths[tokenizer.convert_tokens_to_ids("<tool>")] == 0


def test_predicted_bytes_leave_out_each_windows_first_token() -> None:
    tokenizer = byte_level()
    ids = ids_of(tokenizer, " ".join(SENTENCES))[:60].view(3, 20)
    lengths = token_byte_lengths(tokenizer)
    assert predicted_bytes(tokenizer, ids) == int(lengths[ids].sum()) - int(lengths[ids[:, 0]].sum())
    rows = sum(predicted_bytes(tokenizer, ids[k : k + 1]) for k in range(3))
    assert rows == predicted_bytes(tokenizer, ids)


def test_ids_beyond_the_tokenizer_are_no_text() -> None:
    ids = torch.tensor([[5, 6, len(byte_level()) + 7]], dtype=torch.int32)
    assert predicted_bytes(byte_level(), ids) == predicted_bytes(byte_level(), ids[:, :2])


def test_unknown_kinds_fall_back_to_decoding() -> None:
    tokenizer = word_piece()
    assert token_byte_lengths(tokenizer) is None
    ids = ids_of(tokenizer, "the quick brown fox").view(1, -1)
    assert decoded_bytes(tokenizer, ids) == len("the quick brown fox")
    first = decoded_bytes(tokenizer, ids[:, :1])
    assert predicted_bytes(tokenizer, ids) == len("the quick brown fox") - first


def test_tokenizer_without_a_fast_backend_is_unknown() -> None:
    class Slow:
        def __len__(self) -> int:
            return 3

        def __call__(self, text: str, **options: object) -> None:
            raise NotImplementedError  # lengths of tokens are not to be had by encoding

        def decode(self, token_ids: list[int], **_options: object) -> None:
            return "a" * len(token_ids)

    assert token_byte_lengths(Slow()) is None
    assert predicted_bytes(Slow(), torch.ones(2, 5, dtype=torch.int64)) == 8


def test_the_demo_tokenizer_is_byte_exact() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    lengths = token_byte_lengths(tokenizer)
    with gzip.open(DEMO_FOLDER.parent / "uk.test.jsonl.gz", "rt", encoding="utf-8") as lines:
        text = lines.read(50_000)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    assert int(lengths[ids].sum()) == len(text.encode())
