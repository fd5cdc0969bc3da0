"""Best paths through a trimmed Unigram vocabulary: ties, unknown characters, bytes."""

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from langprune_cli.tokens.trimmed_tokenizer import trimmed
from langprune_cli.tokens.vocabulary import Vocabulary
from tests.support.text.tokenizer_training import BYTES, xlmr_like


def _tiny_unigram(vocab: list[tuple[str, float]]) -> dict[str, Any]:
    described = copy.deepcopy(xlmr_like())
    described["model"]["vocab"] = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["<|user|>", 0.0]]
    described["model"]["vocab"] += [["<|end|>", 0.0], *map(list, vocab)]
    return described | {"pre_tokenizer": None, "decoder": None}


def test_ties_of_a_unigram_are_cut_as_before() -> None:
    letters = [(c, -5.0) for c in "abc"]
    described = _tiny_unigram([*letters, ("ab", -3.0), ("bc", -3.0), ("ca", -3.0), ("abc", -8.0), ("cab", -8.0)])
    whole = Tokenizer.from_str(json.dumps(described))
    vocabulary = Vocabulary.of(described)
    longer = [vocabulary.pieces[piece] for piece in ("ab", "bc", "ca", "abc", "cab")]
    texts = ["abc", "cab", "abcabc", "bcab", "cabab", "aabbcc", "abcab"]
    checked = 0
    for chosen in range(2 ** len(longer)):
        stay = sorted(vocabulary.required([i for k, i in enumerate(longer) if chosen >> k & 1]))
        small = Tokenizer.from_str(json.dumps(trimmed(described, stay)))
        for text in texts:
            ids = whole.encode(text).ids
            if set(ids) <= set(stay):
                assert [stay[i] for i in small.encode(text).ids] == ids
                checked += 1
    assert checked > 50


_pieces = st.text("abc", min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(
    scores=st.dictionaries(_pieces, st.integers(-4, -1), min_size=3),
    chosen=st.sets(_pieces),
    texts=st.lists(st.text("abc☔", min_size=1, max_size=8), min_size=5, max_size=5),
    falls_back=st.booleans(),
)
def test_best_paths_of_any_unigram(
    scores: dict[str, int], chosen: set[str], texts: list[str], *, falls_back: bool
) -> None:
    """Letters may lack a piece of their own, before or only after: unknown and written as bytes, or as unknown."""
    described = _tiny_unigram([(piece, float(score)) for piece, score in scores.items()])
    if falls_back:
        described["model"]["vocab"] += [[piece, 0.0] for piece in BYTES]
        described["model"]["byte_fallback"] = True
        described["decoder"] = {"type": "ByteFallback"}
    vocabulary = Vocabulary.of(described)
    assert vocabulary.falls_back is falls_back
    whole = Tokenizer.from_str(json.dumps(described))
    stay = sorted(vocabulary.required([vocabulary.pieces[piece] for piece in chosen & scores.keys()]))
    small = Tokenizer.from_str(json.dumps(trimmed(described, stay)))
    for text in texts:
        before, after = whole.encode(text).ids, small.encode(text).ids
        if set(before) <= set(stay):
            assert [stay[i] for i in after] == before
        assert small.decode(after) == whole.decode(before) or not falls_back


def test_unknown_characters_weigh_what_they_did() -> None:
    """The unknown piece's score is the lowest one less 10: without "zz", unknown + "abc" would beat "☔a" + "b" + "c"."""
    described = _tiny_unigram([*((c, -12.0) for c in "abcz"), ("☔a", -12.0), ("abc", -1.0), ("zz", -40.0)])
    whole = Tokenizer.from_str(json.dumps(described))
    vocabulary = Vocabulary.of(described)
    text = "☔abc"
    assert whole.encode(text).tokens == ["<s>", "☔a", "b", "c", "</s>"]
    stay = sorted(vocabulary.required([vocabulary.pieces["abc"]]))
    small = Tokenizer.from_str(json.dumps(trimmed(described, stay)))
    assert small.encode(text).tokens == whole.encode(text).tokens
    weighty = [piece for piece in described["model"]["vocab"] if piece[0] != "zz"]
    described["model"]["vocab"] = weighty  # the test is one: this piece alone makes the difference
    assert Tokenizer.from_str(json.dumps(described)).encode(text).tokens == ["<s>", "☔", "abc", "</s>"]
