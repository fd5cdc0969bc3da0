"""Tokens of a text counted batch by batch, and what identifies texts and tokenizers before any is counted."""

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import tokenizer_digest
from langprune_cli.text.sources import source_fingerprint
from langprune_cli.tokens import counting
from langprune_cli.tokens.counting import TokenCounts, batches, count_batch
from tests.support.text import text_corpora
from tests.support.text.token_literals import demo_documents, dense, literal

SCRIPTS = (
    "Ой у лузі червона калина похилилася.", "The quick brown fox jumps.", "吾輩は猫である。名前はまだ無い。",
    "كان يا ما كان في قديم الزمان", "सत्यमेव जयते नानृतम्", "👩‍👩‍👧‍👦 🇺🇦 na\u0308ive\u200b\n\n\ttabs  and   blanks ",
)  # fmt: skip
KINDS: dict[str, Callable[[], Any]] = {
    "byte level": text_corpora.byte_level,
    "with bos": lambda: text_corpora.byte_level(bos=True),
    "byte fallback": text_corpora.with_byte_fallback,
    "unigram": text_corpora.unigram,
    "word piece": text_corpora.word_piece,
    "slow": ByT5Tokenizer,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_bytes", [1, 5000, 2**21])
def test_counts_are_those_of_a_loop_over_documents(
    kind: str, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = KINDS[kind]()
    documents = [*SCRIPTS, *(text[:600] for text in demo_documents("uk")[:15] + demo_documents("en")[:15])]
    monkeypatch.setattr(counting, "_BATCH_BYTES", batch_bytes)
    size = len(tokenizer) + 5
    found = TokenCounts.zeros(size)
    for batch in batches(iter(documents)):
        found += count_batch(tokenizer, batch, size, 10**9)
    expected = literal(tokenizer, documents)
    assert torch.equal(found.counts, dense(expected, size))
    assert found.tokens == expected.total()
    assert found.bytes == sum(len(document.encode()) for document in documents)
    assert found.documents == len(documents)


def test_truncation_and_padding_of_the_file_do_not_count() -> None:
    tokenizer = text_corpora.byte_level()
    documents = demo_documents("en")[:5]
    (batch,) = batches(iter(documents))
    expected = count_batch(tokenizer, batch, 400, 10**9)
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding(length=5000)
    found = count_batch(tokenizer, batch, 400, 10**9)
    assert torch.equal(found.counts, expected.counts)
    assert expected.tokens == literal(tokenizer, documents).total() > 35


@pytest.mark.parametrize("end", ["\n", " ", "х", " \n"])
def test_long_documents_are_cut_where_words_and_lines_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_PIECE", 50)
    monkeypatch.setattr(counting, "_BATCH_BYTES", 300)
    draw = random.Random(0)
    long = "".join(draw.choice(["калина", "river", "吾輩"]) * draw.randrange(1, 4) + end for _ in range(100))
    found = list(batches(iter(["short", long, "last"])))
    texts = [text for batch in found for text in batch.texts]
    assert "".join(texts) == f"short{long}last"
    assert [each for batch in found for each in batch.sizes] == [len(text.encode()) for text in texts]
    assert [text for batch in found for text, first in zip(batch.texts, batch.first, strict=True) if first] == [
        "short", texts[1], "last",
    ]  # fmt: skip
    pieces = texts[1:-1]
    assert max(map(len, pieces)) <= 50
    assert min(map(len, pieces)) > 0
    if "\n" in end:
        assert all(piece.endswith("\n") for piece in pieces)
    elif end == " ":
        assert all(piece.startswith(" ") for piece in pieces[1:])
    else:
        assert all(len(piece) == 50 for piece in pieces[:-1])


def test_parts_grow_with_the_text_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_BATCH_BYTES", 10)
    monkeypatch.setattr(counting, "_PART_BYTES", 100)
    sizes = Counter(batch.part for batch in batches(iter(["0123456789"] * 5000)))
    assert list(sizes) == list(range(len(sizes)))
    before = 0
    for part in range(len(sizes) - 1):
        assert 10 * sizes[part] == max(100, -(-(before // 8) // 10) * 10)
        before += 10 * sizes[part]


def test_the_key_follows_the_content_not_the_place(pico_text: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    shutil.copy(pico_text / "uk.jsonl", tmp_path / "folder/other.jsonl")
    data = (pico_text / "uk.jsonl").read_bytes()
    one = source_fingerprint(str(pico_text / "uk.jsonl"), 10**6)
    assert one == source_fingerprint(str(tmp_path / "folder"), 10**6)
    for changed in (data[:-1] + b" ", data + b"\n", data[1:]):
        (tmp_path / "folder/other.jsonl").write_bytes(changed)
        assert source_fingerprint(str(tmp_path / "folder"), 10**6) != one
    (tmp_path / "folder/other.jsonl").write_bytes(data[:-1] + b" ")  # behind what is looked at, and as long as before
    assert source_fingerprint(str(tmp_path / "folder"), 100) == source_fingerprint(str(pico_text / "uk.jsonl"), 100)
    assert source_fingerprint(str(tmp_path / "folder#title"), 10**6) != source_fingerprint(
        str(tmp_path / "folder"), 10**6
    )
    (tmp_path / "folder/other.jsonl").rename(tmp_path / "folder/other.txt")
    assert source_fingerprint(str(tmp_path / "folder"), 100) != source_fingerprint(str(pico_text / "uk.jsonl"), 100)
    with pytest.raises(LangpruneError, match="there is no file or folder nothing"):
        source_fingerprint("nothing", 10**6)


def test_a_tokenizer_is_told_from_others_by_what_it_says(pico_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico_model, folder)
    own = tokenizer_digest(pico_model)
    record, config = (json.loads((folder / name).read_bytes()) for name in ("tokenizer.json", "tokenizer_config.json"))
    same = record | {"truncation": {"max_length": 5, "strategy": "LongestFirst", "direction": "Right", "stride": 0}}
    (folder / "tokenizer.json").write_text(json.dumps(dict(reversed(same.items())), ensure_ascii=False, indent=3))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    assert tokenizer_digest(folder) == own
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_prefix_space": True}))
    assert tokenizer_digest(folder) != own
    shutil.copy(pico_model / "tokenizer_config.json", folder)
    record["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(record))
    assert tokenizer_digest(folder) != own
    (folder / "tokenizer.json").write_text("[1]")
    with pytest.raises(LangpruneError, match="not a JSON object: get the model again"):
        tokenizer_digest(folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    slow = tokenizer_digest(folder)
    (folder / "tokenizer.model").write_bytes(b"[2]")
    assert tokenizer_digest(folder) != slow
    (folder / "tokenizer.model").unlink()
    with pytest.raises(LangpruneError, match="has no tokenizer: add"):
        tokenizer_digest(folder)


def test_identities_are_as_specified(pico_model: Path, tmp_path: Path) -> None:
    """Compute both anew, from what docs/format.md says."""

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    (tmp_path / "b.jsonl").write_bytes(b'{"body": "one"}\n')
    (tmp_path / "a.txt").write_bytes(b"a text of 23 bytes here")
    heads = [canonical(["body"]), canonical([".txt", 23]), canonical([".jsonl", 16])]
    for most in (0, 10, 30, 100):
        text = b"".join(
            (heads[1], b"a text of 23 bytes here"[:most], heads[2], b'{"body": "one"}\n'[: max(0, most - 23)])
        )
        expected = hashlib.sha256(b"langprune source v1" + heads[0] + text).hexdigest()
        assert source_fingerprint(f"{tmp_path}#body", most) == expected
    record, config = (
        json.loads((pico_model / f"{name}.json").read_bytes()) for name in ("tokenizer", "tokenizer_config")
    )
    described = [{name: value for name, value in record.items() if name not in {"truncation", "padding"}}, config]
    assert tokenizer_digest(pico_model) == hashlib.sha256(canonical(described)).hexdigest()


@pytest.mark.parametrize("text", ["[]", "{", '{"added_tokens": [], "x": NaN}', '{"x": 1e999}'])
def test_a_tokenizer_file_that_is_no_json_object_has_no_digest(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(LangpruneError, match=r"tokenizer\.json is not a JSON object: get the model again"):
        tokenizer_digest(tmp_path)
