"""Which text is read, and what is said of a text that cannot be."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.text.corpora import resolve_texts
from langprune_cli.text.sources import read_documents
from langprune_cli.types import TextSpec
from tests.support.text.text_corpora import write_jsonl
from tests.support.text.text_reading import TEXTS, failure, read

# --- what is given on the command line


def test_languages_and_data_are_paired_by_order() -> None:
    specs = resolve_texts(["ukr", "German"], ["b.jsonl", "a.txt"], evaluation=False, builtin=True)
    assert specs == [TextSpec("uk", "b.jsonl", "uk"), TextSpec("de", "a.txt", "de")]


def test_unequal_counts_of_languages_and_data() -> None:
    with pytest.raises(UsageError, match=r"--lang was given 2 times and --data 1 time:"):
        resolve_texts(["uk", "en"], ["a.txt"], evaluation=False, builtin=False)


def test_nothing_named() -> None:
    with pytest.raises(UsageError, match="name a language with --lang or a text with --data"):
        resolve_texts([], [], evaluation=False, builtin=True)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("texts/news.jsonl.gz", "news"),
        ("texts/news.2024.jsonl#body", "news.2024"),
        ("новини.txt", "новини"),
        ("my texts/", "my-texts"),
        ("windows.uk.safetensors", "windows.uk"),
        ("hf:owner/some-set:config:test#body", "some-set"),
        ("builtin:uk:test", "uk"),
        ("texts/*.txt", "text"),
    ],
)
def test_text_without_a_language_is_named_after_its_source(source: object, name: str) -> None:
    assert resolve_texts([], [source], evaluation=True, builtin=True) == [TextSpec(None, source, name)]


def test_current_folder_gets_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path / "corpus")
    assert resolve_texts([], ["."], evaluation=False, builtin=False)[0].name == "corpus"


def test_equal_names_are_numbered() -> None:
    specs = resolve_texts([], ["a/x.txt", "b/x.txt", "c/x-2.txt", "d/x.txt"], evaluation=False, builtin=False)
    assert [spec.name for spec in specs] == ["x", "x-2", "x-2-2", "x-3"]


# --- local files


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_jsonl_comes_back_without_blank_documents(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("texts") / "a.jsonl", [*texts, "last"])
    assert read(path) == [text for text in [*texts, "last"] if text.strip()]


def test_every_supported_kind_of_file(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    pq.write_table(pa.table({"text": [TEXTS[0], None, *TEXTS[1:]], "n": [1, 2, 3, 4]}), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert read(tmp_path / name) == TEXTS
    (tmp_path / "d.txt").write_text(TEXTS[1], encoding="utf-8")
    (tmp_path / "e.TXT.gz").write_bytes(gzip.compress(TEXTS[1].encode()))
    assert read(tmp_path / "d.txt") == read(tmp_path / "e.TXT.gz") == [TEXTS[1]]


def test_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x", "text": "y"}\n\n{"body": "z"}\n')
    assert read(f"{path}#body") == ["x", "z"]
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    assert read(f"{tmp_path / 'a.parquet'}#body") == ["x"]
    odd = tmp_path / "no#1.txt"
    odd.write_text("found")
    assert read(odd) == ["found"]


def test_folder_is_read_recursively_by_relative_path(tmp_path: Path) -> None:
    for name in ("b/one.txt", "a.txt", "b.txt", "c/d/two.txt", ".hidden/no.txt", "c/.no.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path) == ["a.txt", "b.txt", "b/one.txt", "c/d/two.txt"]
    assert read(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert read(tmp_path / "**" / "*o.txt") == ["c/d/two.txt"]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "abc"}\r\n{"text": "\xef\xbb\xbfkept"}\n')
    assert read(tmp_path / "a.txt") == ["abc"]
    assert read(tmp_path / "a.jsonl") == ["abc", "\ufeffkept"]


def test_documents_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nnot json\n')
    documents = read_documents(str(path))
    assert next(documents) == "good"
    with pytest.raises(LangpruneError, match=r"a\.jsonl:2 is not valid JSON"):
        next(documents)


def test_no_such_file(tmp_path: Path) -> None:
    assert "check the name" in failure(tmp_path / "absent.jsonl")
    assert "hf:owner/name" in failure("owner/name")
    assert "there is no file" in failure(tmp_path / "*.jsonl")


def test_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    assert ".parquet" in failure(tmp_path)


def test_unsupported_kind(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    assert "a.json is of no known kind" in failure(tmp_path / "a.json")


@pytest.mark.parametrize("packed", [False, True])
def test_not_utf8(tmp_path: Path, *, packed: bool) -> None:
    raw = b'{"text": "fine"}\n{"text": "caf\xe9"}\n'
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert f"{path} is not UTF-8 at byte {raw.index(0xE9)} (0xe9)" in failure(path)


def test_not_utf8_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Привіт".encode("cp1251"))
    assert "not UTF-8 at byte 0" in failure(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "x"', "a.jsonl:2 is not valid JSON"),
        ("[" * 200_000, "a.jsonl:2 is not valid JSON"),
        ("9" * 5000, "a.jsonl:2 is not valid JSON"),
        ('"text"', 'a.jsonl:2 is a string, not a JSON object: write {"text": "..."}'),
        ("[1]", "a.jsonl:2 is a list"),
        ('{"txet": 1, "id": 2}', "has no column 'text' (did you mean txet? Known: id, txet)"),
        ("{}", "has no column 'text' (it has none)"),
        ('{"text": 5}', "a.jsonl:2: the column 'text' holds a number, not a string"),
        ('{"text": null}', "holds null, not a string"),
        ('{"text": ["a"]}', "holds a list, not a string"),
        ('{"text": true}', "holds a boolean, not a string"),
        ('{"text": "ab\\ud83d"}', "half of a surrogate pair at character 2"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    assert expected in failure(path)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-6], lambda raw: raw[:20], lambda _: b"no gzip", lambda _: b"\x1f\x8b\x08"]
)
def test_corrupt_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(json.dumps({"text": "x" * 500}).encode())))
    assert f"{path} is not a complete gzip file" in failure(path)


def test_damaged_gzip_body(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(bytes(range(256)) * 20))
    raw[30] ^= 0xFF
    (tmp_path / "a.txt.gz").write_bytes(bytes(raw))
    assert "a.txt.gz" in failure(tmp_path / "a.txt.gz")


def test_corrupt_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} is not a readable Parquet file" in failure(path)
    path.write_bytes(b"")
    assert f"{path} is not a readable Parquet file" in failure(path)


def test_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1], "body": ["x"], "tags": [["x"]]}), path)
    assert "no column 'text' (Known: body, n, tags)" in failure(path)
    assert "'n' holds int64, not strings" in failure(f"{path}#n")
    assert "'tags' holds list" in failure(f"{path}#tags")
    categories = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"text": categories}), path)
    assert read(path) == ["x", "y", "x"]


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert failure(path) == f"{path} cannot be read: Permission denied"


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n{"text": " \\n\\u00a0"}\n'])
def test_empty_corpus(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert "holds no text" in failure(path)
