"""Token windows: drawn reproducibly from any arrangement of the same documents, or cut in order."""

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.text.sampling import RankedDocuments, document_windows
from langprune_cli.text.windows import evaluation_windows, fingerprint
from tests.support.text import text_drawing
from tests.support.text.text_corpora import byte_level, is_slice, write_jsonl
from tests.support.text.text_drawing import SEQLEN, TEXTS, calibrate, ids_of, one_sentence, spec_of

corpus = text_drawing.corpus  # a fixture, under the name by which tests ask for it


# --- fingerprints


def test_fingerprint_is_specified_to_the_byte() -> None:
    ids = torch.tensor([[1, 2, 70000], [0, 5, 9]], dtype=torch.int32)
    stated = b"langprune windows v1" + struct.pack("<qq", 2, 3) + struct.pack("<6i", 1, 2, 70000, 0, 5, 9)
    assert fingerprint(ids) == hashlib.sha256(stated).hexdigest()
    assert fingerprint(ids.to(torch.int64)) == fingerprint(ids.t().contiguous().t()) == fingerprint(ids)


def test_fingerprint_tells_shapes_apart() -> None:
    ids = torch.arange(12)
    assert fingerprint(ids.view(3, 4)) != fingerprint(ids.view(4, 3))


# --- calibration windows of single documents


def test_each_window_is_a_slice_of_one_document_and_no_document_is_used_twice(corpus: Path) -> None:
    drawn = calibrate(corpus, nsamples=20)
    assert drawn.ids.shape == (20, SEQLEN)
    assert drawn.ids.dtype == torch.int32
    assert (drawn.sampling, drawn.seed, drawn.documents, drawn.notes) == ("document", 0, 24, ())
    assert drawn.fingerprint == fingerprint(drawn.ids)
    origins = [[i for i, text in enumerate(TEXTS) if is_slice(window, ids_of(text))] for window in drawn.ids.tolist()]
    assert all(origins)
    # Documents share sentences, so a window may fit several; a matching shows that 20 different ones suffice.
    assert can_be_distinct(origins)


def can_be_distinct(choices: list[list[int]]) -> bool:
    """Say whether one can be chosen of each list, all different (augmenting paths)."""
    taken: dict[int, int] = {}

    def place(k: int, seen: set[int]) -> bool:
        for choice in choices[k]:
            if choice not in seen:
                seen.add(choice)
                if choice not in taken or place(taken[choice], seen):
                    taken[choice] = k
                    return True
        return False

    return all(place(k, set()) for k in range(len(choices)))


@settings(max_examples=25)
@given(
    order=st.permutations(TEXTS),
    seed=st.integers(0, 2**40),
    files=st.integers(1, 4),
    how=st.sampled_from(["document", "concat"]),
)
def test_windows_do_not_depend_on_order_or_files(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], seed: int, files: int, how: str
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    one = write_jsonl(folder / "one.jsonl", TEXTS)
    (folder / "many").mkdir()
    for k in range(files):
        write_jsonl(folder / "many" / f"{k}.jsonl", order[k::files])
    expected = calibrate(one, seed=seed, sampling=how)
    assert torch.equal(calibrate(folder / "many", seed=seed, sampling=how).ids, expected.ids)
    assert calibrate(one, seed=seed, sampling=how).fingerprint == expected.fingerprint


@given(held_bytes=st.integers(1, 20_000), nsamples=st.integers(1, 24))
@settings(max_examples=30)
def test_windows_do_not_depend_on_how_much_text_memory_holds(held_bytes: int, nsamples: int) -> None:
    def draw(ranked: RankedDocuments) -> Tensor:
        return document_windows(ranked, byte_level(), nsamples, SEQLEN)

    bounded = RankedDocuments(lambda: iter(TEXTS), 3, held_bytes=held_bytes)
    assert torch.equal(draw(bounded), draw(RankedDocuments(lambda: iter(TEXTS), 3)))


def test_memory_holds_no_more_than_its_bound() -> None:
    ranked = RankedDocuments(lambda: iter(TEXTS), 0, held_bytes=5000)
    held, more = ranked.lowest()
    assert more
    assert sum(len(raw) for _, raw in held) <= 5000
    assert [rank for rank, _ in ranked] == sorted(rank for rank, _ in RankedDocuments(lambda: iter(TEXTS), 0))
    assert ranked.documents == len(TEXTS)


def test_a_documents_window_does_not_depend_on_the_others(corpus: Path, tmp_path: Path) -> None:
    everything = {tuple(row) for row in calibrate(corpus, nsamples=24).ids.tolist()}
    half = calibrate(write_jsonl(tmp_path / "half.jsonl", TEXTS[::2]), nsamples=12)
    assert {tuple(row) for row in half.ids.tolist()} <= everything


def test_more_samples_extend_fewer(corpus: Path) -> None:
    assert torch.equal(calibrate(corpus, nsamples=20).ids[:7], calibrate(corpus, nsamples=7).ids)


def test_seeds_differ(corpus: Path) -> None:
    assert calibrate(corpus, seed=0).fingerprint != calibrate(corpus, seed=1).fingerprint


def test_same_document_counts_once(corpus: Path, tmp_path: Path) -> None:
    twice = write_jsonl(tmp_path / "twice.jsonl", [*TEXTS, *TEXTS])
    drawn = calibrate(twice, nsamples=20)
    assert torch.equal(drawn.ids, calibrate(corpus, nsamples=20).ids)
    assert drawn.documents == 48
    with pytest.raises(LangpruneError, match=r"of 48 documents \(24 of them distinct\) 24 are longer"):
        calibrate(twice, nsamples=25)


def test_every_legal_offset_is_drawn() -> None:
    # 4 legal offsets, 200 seeds: that one of them never comes up has a chance below 1e-24.
    text = TEXTS[0]
    ids = ids_of(text)
    width = len(ids) - 3
    starts = set()
    for seed in range(200):
        ranked = RankedDocuments(lambda: iter([text]), seed)
        window = document_windows(ranked, byte_level(), 1, width)[0].tolist()
        starts |= {k for k in range(4) if ids[k : k + width] == window}
    assert starts == {0, 1, 2, 3}


def test_document_must_be_longer_than_the_window(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS[:1])
    length = len(ids_of(TEXTS[0]))
    assert calibrate(path, nsamples=1, seqlen=length - 1).count == 1
    with pytest.raises(LangpruneError) as caught:
        calibrate(path, nsamples=1, seqlen=length)
    message = one_sentence(caught.value)
    assert f"the longest has {length} tokens" in message
    assert f"--seqlen {length - 1}" in message
    assert "--sampling concat" in message


def test_special_tokens_are_the_tokenizers_defaults(corpus: Path) -> None:
    tokenizer = byte_level(bos=True)
    drawn = evaluation_windows(spec_of(corpus), tokenizer, seqlen=SEQLEN)
    assert (drawn.ids == tokenizer.bos_token_id).nonzero().tolist() == [[0, 0]]


def test_too_few_long_documents_gives_the_numbers(corpus: Path) -> None:
    lengths = [len(ids_of(text)) for text in TEXTS]
    cut = sorted(lengths)[12]
    longer = sum(length > cut for length in lengths)
    with pytest.raises(LangpruneError) as caught:
        calibrate(corpus, nsamples=24, seqlen=cut)
    message = one_sentence(caught.value)
    for stated in (
        f"{corpus}: 24 windows",
        f"of 24 documents {longer} are",
        str(max(lengths)),
        f"--nsamples {longer}",
    ):
        assert stated in message
