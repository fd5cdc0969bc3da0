"""A long text is encoded in pieces: the tokens are those of the whole, and memory follows the piece, not the text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens import pieces
from langprune_cli.tokens.encoding import encode, encode_batch
from tests.support.text.text_corpora import SENTENCES, byte_level, unigram, with_byte_fallback

TOKENIZERS = {"bytes": byte_level(bos=True), "fallback": with_byte_fallback(), "unigram": unigram()}


class Measuring:
    """A tokenizer that keeps the length of the longest text given to it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.longest = tokenizer, 0
        self.backend_tokenizer = tokenizer.backend_tokenizer

    def __call__(self, text: Any, **options: Any) -> Any:
        self.longest = max(self.longest, *map(len, [text] if isinstance(text, str) else text), 0)
        return self.tokenizer(text, **options)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 400)
    monkeypatch.setattr(pieces, "_OVERLAP", 120)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.usefixtures("_small")
@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from([*SENTENCES, "\n\n", " " * 9, "😀👍🏽", "<eos>", "1234567890", "ї", "a" * 40, "\t", "日本語"])
        | st.text(max_size=30),
        min_size=30,
        max_size=150,
    )
)
def test_pieces_give_the_tokens_of_the_whole(kind: str, parts: list[str]) -> None:
    text = " ".join(parts).encode(errors="ignore").decode()
    whole = TOKENIZERS[kind](text)["input_ids"]
    assert list(encode(TOKENIZERS[kind], text)) == whole
    assert [list(ids) for ids in encode_batch(TOKENIZERS[kind], ["ab", text])] == [
        TOKENIZERS[kind]("ab")["input_ids"],
        whole,
    ]


@pytest.mark.usefixtures("_small")
def test_no_more_than_a_piece_is_encoded_at_once() -> None:
    text = " ".join(SENTENCES) * 40
    measuring = Measuring(byte_level())
    assert list(encode(measuring, text)) == byte_level()(text)["input_ids"]
    assert measuring.longest == pieces.PIECE < len(text) / 30


@pytest.mark.usefixtures("_small")
def test_a_run_without_words_is_cut_too() -> None:
    text = "a" * 5000
    assert list(encode(byte_level(), text)) == byte_level()(text)["input_ids"]


def test_text_that_cannot_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 50)
    monkeypatch.setattr(pieces, "_OVERLAP", 3)
    monkeypatch.setattr(pieces, "_MOST", 1)
    with pytest.raises(LangpruneError, match="no place to cut"):
        encode(byte_level(), "x y " * 100)
