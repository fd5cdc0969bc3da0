"""Token windows of joined documents, of held-out text, and given as they are."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import DEMO_FOLDER
from langprune_cli.text import hub, sampling, sources, windows
from langprune_cli.text.sampling import RankedDocuments
from langprune_cli.text.windows import calibration_windows, evaluation_windows, fingerprint
from langprune_cli.types import TextSpec, Windows
from tests.support.paths import FIXTURES, GOLDENS, NO_FIXTURES
from tests.support.text import text_drawing
from tests.support.text.text_corpora import byte_level, documents, is_slice, write_jsonl
from tests.support.text.text_drawing import SEQLEN, TEXTS, calibrate, ids_of, one_sentence, spec_of

corpus = text_drawing.corpus  # a fixture, under the name by which tests ask for it


# --- calibration windows of joined documents


def test_concat_windows_are_slices_of_the_joined_documents(corpus: Path) -> None:
    drawn = calibrate(corpus, sampling="concat", nsamples=5, seqlen=300)
    ranked = [raw.decode() for _, raw in RankedDocuments(lambda: iter(TEXTS), 0)]
    ids = ids_of("\n\n".join(ranked))
    starts = [random.Random(0).randrange(len(ids) - 299)]
    assert drawn.ids[0].tolist() == ids[starts[0] : starts[0] + 300]
    assert all(is_slice(window, ids) for window in drawn.ids.tolist())
    assert (drawn.sampling, drawn.documents, drawn.notes) == ("concat", 24, ())


def test_concat_joins_what_document_cannot_use(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(30, sentences=1))
    with pytest.raises(LangpruneError, match="--sampling concat"):
        calibrate(path, seqlen=500)
    assert calibrate(path, seqlen=500, sampling="concat", nsamples=2).ids.shape == (2, 500)


def test_concat_with_overlapping_windows_says_so(corpus: Path) -> None:
    tokens = len(ids_of("\n\n".join(raw.decode() for _, raw in RankedDocuments(lambda: iter(TEXTS), 0))))
    (note,) = calibrate(corpus, sampling="concat", nsamples=100, seqlen=tokens // 50).notes
    assert str(tokens) in note
    assert "overlap" in note


def test_concat_with_too_little_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS[:1])
    length = len(ids_of(TEXTS[0]))
    assert calibrate(path, sampling="concat", seqlen=length - 1).count == 8
    with pytest.raises(LangpruneError) as caught:
        calibrate(path, sampling="concat", seqlen=length)
    assert f"{length} tokens in 1 documents" in one_sentence(caught.value)


def test_concat_takes_a_part_of_much_text(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_CONCAT_BYTES_LEAST", 2000)
    drawn = calibrate(corpus, sampling="concat", nsamples=1)
    assert drawn.documents == 24
    assert "a random part of the text" in drawn.notes[0]
    assert calibrate(corpus, sampling="concat", nsamples=1).fingerprint == drawn.fingerprint


def test_excerpts_of_one_long_document_are_whole_characters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampling, "_CONCAT_BYTES_LEAST", 2001)
    (tmp_path / "a.txt").write_text("Їжак " * 3000, encoding="utf-8")
    for seed in range(8):
        drawn = calibrate(tmp_path / "a.txt", sampling="concat", nsamples=1, seed=seed)
        assert is_slice(drawn.ids[0].tolist(), ids_of("Їжак " * 200))


# --- evaluation windows


def test_evaluation_keeps_blank_documents_as_the_published_join_does(tmp_path: Path) -> None:
    rows = ["", "= Heading =", "", TEXTS[0], " ", TEXTS[1], ""]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    cut = evaluation_windows(spec_of(path), byte_level(), seqlen=8)
    joined = ids_of("\n\n".join(rows))
    assert cut.ids.flatten().tolist() == joined[: len(joined) // 8 * 8]
    assert cut.documents == len(rows)


@settings(max_examples=25)
@given(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), seqlen=st.integers(2, 120))
def test_evaluation_windows_cover_the_text_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], seqlen: int
) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("corpus") / "a.jsonl", texts)
    cut = evaluation_windows(spec_of(path), byte_level(), seqlen=seqlen)
    ids = ids_of("\n\n".join(texts))
    assert cut.ids.flatten().tolist() == ids[: len(ids) // seqlen * seqlen]
    assert (cut.sampling, cut.seed, cut.documents, cut.seqlen) == ("contiguous", None, len(texts), seqlen)


@given(count=st.integers(1, 60), seqlen=st.integers(2, 120))
@settings(max_examples=40)
def test_fewer_windows_are_the_first_ones(corpus: Path, count: int, seqlen: int) -> None:
    everything = evaluation_windows(spec_of(corpus), byte_level(), seqlen=seqlen)
    some = evaluation_windows(spec_of(corpus), byte_level(), seqlen=seqlen, max_windows=count)
    assert torch.equal(some.ids, everything.ids[:count])


def test_a_few_windows_read_no_more_text_than_they_need(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*TEXTS, *TEXTS, *TEXTS])
    path.write_text(path.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    assert evaluation_windows(spec_of(path), byte_level(), seqlen=10, max_windows=2).count == 2


def test_evaluation_text_is_bounded(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_EVALUATION_BYTES", 3000)
    cut = evaluation_windows(spec_of(corpus), byte_level(), seqlen=10)
    assert cut.documents < 24
    assert f"only the first {cut.documents} documents" in cut.notes[0]
    most = evaluation_windows(spec_of(corpus), byte_level(), seqlen=10, max_windows=9999)
    assert (most.fingerprint, most.notes) == (cut.fingerprint, cut.notes)


def test_too_short_for_one_evaluation_window(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS[:1])
    length = len(ids_of(TEXTS[0]))
    assert evaluation_windows(spec_of(path), byte_level(), seqlen=length).count == 1
    with pytest.raises(LangpruneError) as caught:
        evaluation_windows(spec_of(path), byte_level(), seqlen=length + 1)
    assert f"has {length} tokens in 1 documents" in one_sentence(caught.value)


def test_long_texts_draw_no_warning(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(ids_of("\n\n".join(TEXTS))) > byte_level().model_max_length
    byte_level().deprecation_warnings.clear()  # the library warns once per tokenizer
    capfd.readouterr()
    evaluation_windows(spec_of(corpus), byte_level(), seqlen=SEQLEN)
    calibrate(corpus)
    calibrate(corpus, sampling="concat")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=NO_FIXTURES)
@pytest.mark.parametrize("language", ["uk", "en"])
def test_evaluation_windows_are_those_of_the_published_protocol(language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "model")
    path = FIXTURES / "corpora" / f"{language}.test.jsonl"
    published = load_file(FIXTURES / f"windows.{language}.test.safetensors")["windows"]
    cut = evaluation_windows(spec_of(path), tokenizer, seqlen=256)
    assert torch.equal(cut.ids[:240], published)
    first = evaluation_windows(spec_of(path), tokenizer, seqlen=256, max_windows=240)
    assert first.fingerprint == fingerprint(published)


# --- the built-in text and the Hub


@pytest.mark.parametrize("language", ["uk", "en"])
def test_windows_of_the_demos_text_are_the_goldens(language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    golden = load_file(GOLDENS / "demo.safetensors")[f"windows/{language}.test"]
    spec = TextSpec(language, f"builtin:{language}", language)
    cut = evaluation_windows(spec, tokenizer, seqlen=golden.shape[1], max_windows=len(golden))
    assert torch.equal(cut.ids, golden)
    assert cut.fingerprint == fingerprint(golden)


def test_builtin_text_has_two_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BUILTIN_FOLDER", tmp_path)
    for part, texts in (("calib", TEXTS[:12]), ("test", TEXTS[12:])):
        lines = write_jsonl(tmp_path / "plain.jsonl", texts).read_bytes()
        (tmp_path / f"uk.{part}.jsonl.gz").write_bytes(gzip.compress(lines))
    spec = TextSpec("uk", "builtin:uk", "uk")
    drawn = calibration_windows(spec, byte_level(), nsamples=12, seqlen=SEQLEN, seed=0, sampling="document")
    assert all(any(is_slice(w, ids_of(text)) for text in TEXTS[:12]) for w in drawn.ids.tolist())
    cut = evaluation_windows(spec, byte_level(), seqlen=SEQLEN)
    assert cut.ids[0].tolist() == ids_of("\n\n".join(TEXTS[12:]))[:SEQLEN]
    assert drawn.spec == cut.spec == spec


def test_bound_on_hub_documents_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_HUB_DOCUMENTS", 10)
    monkeypatch.setattr(hub, "_values", lambda _: iter(TEXTS))
    assert "the first 10 documents of hf:o/n" in calibrate("hf:o/n").notes[0]
    assert "the first 10 documents of hf:o/n" in evaluation_windows(spec_of("hf:o/n"), byte_level(), seqlen=9).notes[0]


# --- given windows


def given_file(folder: Path, ids: Tensor) -> Path:
    path = folder / "w.safetensors"
    save_file({"windows": ids}, path)
    return path


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16, torch.uint8])
def test_given_windows_are_used_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    ids = torch.arange(60).view(5, 12).to(dtype)
    spec = spec_of(given_file(tmp_path, ids))
    drawn = calibration_windows(spec, None, nsamples=2, seqlen=99, seed=0, sampling="document")
    assert torch.equal(drawn.ids, ids.to(torch.int32))
    assert (drawn.sampling, drawn.seed, drawn.documents) == ("given", None, 0)
    assert "5 windows of 12 tokens" in drawn.notes[0]
    cut = evaluation_windows(spec, byte_level(), seqlen=99, vocab_size=60)
    assert cut.fingerprint == drawn.fingerprint == fingerprint(ids)
    assert torch.equal(evaluation_windows(spec, None, seqlen=99, max_windows=3).ids, drawn.ids[:3])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (torch.zeros(2, 3), "holds float32, not integers"),
        (torch.zeros(2, 3, dtype=torch.bool), "holds bool, not integers"),
        (torch.zeros(6, dtype=torch.int32), "has the shape [6]"),
        (torch.zeros(0, 6, dtype=torch.int32), "has the shape [0, 6]"),
        (torch.zeros(6, 1, dtype=torch.int32), "has the shape [6, 1]"),
        (torch.tensor([[1, -7]]), "the token id -7 lies outside the vocabulary of 400"),
        (torch.tensor([[1, 400]]), "the token id 400 lies outside the vocabulary of 400"),
        (torch.tensor([[1, 2**40]]), f"the token id {2**40} lies outside the vocabulary"),
    ],
)
def test_given_windows_that_cannot_be_used(tmp_path: Path, ids: Tensor, expected: str) -> None:
    path = given_file(tmp_path, ids)
    with pytest.raises(LangpruneError) as caught:
        calibrate(path)
    assert expected in one_sentence(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(LangpruneError):
        evaluation_windows(spec_of(path), None, seqlen=4, vocab_size=400)


def test_given_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(LangpruneError, match="there is no file"):
        calibrate(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(LangpruneError, match="not a readable safetensors file"):
        calibrate(path)
    path.write_bytes(b"")
    with pytest.raises(LangpruneError, match="not a readable safetensors file"):
        calibrate(path)
    save_file({"window": torch.zeros(1, 2)}, path)
    with pytest.raises(LangpruneError, match=r"no tensor `windows`.*did you mean window\?"):
        calibrate(path)


def test_ids_of_a_foreign_tokenizer_are_refused(corpus: Path) -> None:
    with pytest.raises(LangpruneError, match="outside the vocabulary of 100"):
        calibrate(corpus, vocab_size=100)


# --- values out of range


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda path: calibrate(path, nsamples=0), "not 0 of 40"),
        (lambda path: calibrate(path, seqlen=1), "not 8 of 1"),
        (lambda path: calibrate(path, sampling="documents"), "did you mean document?"),
        (lambda path: evaluation_windows(spec_of(path), byte_level(), seqlen=1), "at least 2 tokens"),
        (
            lambda path: evaluation_windows(spec_of(path), byte_level(), seqlen=8, max_windows=0),
            "at least 1 window",
        ),
    ],
)
def test_values_out_of_range(corpus: Path, call: Callable[[Path], Windows], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(corpus)
    assert expected in one_sentence(caught.value)


def test_text_needs_a_tokenizer(corpus: Path) -> None:
    with pytest.raises(LangpruneError, match="there is no tokenizer"):
        evaluation_windows(spec_of(corpus), None, seqlen=8)


def test_errors_of_the_source_come_through(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 1}\n')
    for sampling_name in ("document", "concat"):
        with pytest.raises(LangpruneError, match=r"a\.jsonl:2: the column 'text' holds a number"):
            calibrate(path, sampling=sampling_name)
    path.write_text("")
    with pytest.raises(LangpruneError, match="holds no text"):
        evaluation_windows(spec_of(path), byte_level(), seqlen=8)
