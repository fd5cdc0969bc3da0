"""Hostile files and values: an answer of one line, nothing written elsewhere, no unbounded reading, no escape sequences."""

import gzip
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langprune_cli.cli.display.console import ConsoleReporter, print_json, print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.errors import LangpruneError, printable, printable_json
from langprune_cli.text import files
from langprune_cli.text.sources import read_documents
from tests.harnesses.hostile import ESCAPES, attempt
from tests.harnesses.hostile_readers import TARGETS
from tests.support.command import did, langprune, one_sentence
from tests.support.paths import REPOSITORY

EXAMPLES = {"manifest": 60, "command line": 60, "tokenizer.json": 80}


@pytest.mark.parametrize("name", TARGETS)
def test_no_hostile_input_is_more_than_a_sentence(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES.get(name, 150), deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(example=target.examples)
    def feed(example: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            attempt(target, Path(folder), example)

    feed()


def test_a_small_file_that_unpacks_to_a_large_document_is_not_read_whole(tmp_path: Path) -> None:
    """A megabyte that unpacks to 1.1 GB, read with a bound of 64 MiB (the product's is 1 GiB) in a process of its own."""
    bomb = gzip.compress(bytes(11 * 10**7), 9)
    (tmp_path / "a.txt.gz").write_bytes(bomb * 10)
    (tmp_path / "b.jsonl.gz").write_bytes(bomb * 10)
    script = """
import resource, sys
from langprune_cli.errors import LangpruneError
from langprune_cli.store.files import document_digest, readable_json
from langprune_cli.text import files
files._MOST_DOCUMENT_BYTES = 2**26
from langprune_cli.text.sources import read_documents
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        print(sum(1 for _ in read_documents(name)))
    except LangpruneError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    names = [str(tmp_path / name) for name in ("a.txt.gz", "b.jsonl.gz")]
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    *said, kilobytes = done.stdout.splitlines()
    assert said == [
        f"{names[0]} is one document of more than 67,108,864 bytes: split it into several",
        f"{names[1]}:1 is one document of more than 67,108,864 bytes: split it into several",
    ]
    assert int(kilobytes) < 500_000


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_the_largest_document_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = json.dumps({"text": "word"}).encode()
    monkeypatch.setattr(files, "_MOST_DOCUMENT_BYTES", len(data))
    path.write_bytes(data)
    assert len(list(read_documents(str(path)))) == 1
    path.write_bytes(data + b" ")
    with pytest.raises(LangpruneError, match=r"is one document of more than 16 bytes: split it into several$"):
        list(read_documents(str(path)))


@given(st.text())
def test_what_is_shown_does_nothing_to_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not ESCAPES.search(shown)
    assert "\n" not in shown
    shown.encode()
    assert printable(shown) == shown
    if not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text):
        assert shown == text


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_shown_with_the_same_values(value: Any) -> None:
    for indent in (None, 2):
        shown = printable_json(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(shown) == value
        assert not ESCAPES.search(shown)
        shown.encode()


NASTY = "uk\x1b[2J\x1b]0;owned\x07\u202e\x9b1mх"


def test_notes_tables_lines_and_documents_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter()
    reporter.note(NASTY)
    reporter.begin(NASTY, 2, 0)
    reporter.end()
    print_table(["name", NASTY], [[NASTY, "1"], ["\ud800", NASTY]])
    print_line(NASTY)
    print_json({NASTY: NASTY})
    shown = capsys.readouterr()
    assert not ESCAPES.search(shown.out + shown.err)
    assert shown.out.count(r"uk\x1b[2J\x1b]0;owned\x07\u202e\x9b1mх") == 4
    assert r"\ud800" in shown.out
    assert r"uk\x1b[2J" in shown.err


def test_errors_of_every_kind_are_clean(tmp_path: Path) -> None:
    one_sentence(langprune("show", NASTY), 1, r"no artifact is called 'uk\\x1b")
    for words in (
        ["calibrate", "--data", f"{tmp_path}/{NASTY}.jsonl"],
        ["mask", "--patt\x1b[2Jern"],
        ["\x1b[2J"],
        ["ls", NASTY],
    ):
        done = langprune(*words)
        assert done.code in {1, 2}
        assert not ESCAPES.search(done.err), words
        assert r"\x1b[2J" in done.err


def test_a_hostile_text_names_itself_without_effect(workspace: Path, tmp_path: Path, pico_text: Path) -> None:
    """A file name with an escape sequence goes into names, notes, tables and manifests."""
    path = tmp_path / f"{NASTY.replace('/', '')}.jsonl"
    path.write_bytes((pico_text / "uk.jsonl").read_bytes())
    words = ["calibrate", "--data", path, "--nsamples", "4", "--seqlen", "16", "-w", workspace]
    made = did(*words)
    assert not ESCAPES.search(made.out + made.err)
    for command in (["ls"], ["verify", "--all"], ["ls", "--json"]):
        shown = did(*command, "-w", workspace)
        assert not ESCAPES.search(shown.out + shown.err)
    name = did(*words, "--json").json["name"]
    shown = did("show", f"stats/{name}", "-w", workspace)
    assert not ESCAPES.search(shown.out)
    assert r"\x1b[2J" in shown.out


def test_no_pickle_is_read_or_written() -> None:
    """Weights come as safetensors alone, and nothing in the package loads what could run code."""
    calls = re.compile(
        r"\bpickle\b|torch\.(load|save)\(|\b(eval|exec)\(|yaml\.load|marshal|shelve|joblib|allow_pickle=True"
    )
    for path in (REPOSITORY / "langprune_cli").rglob("*.py"):
        code = "\n".join(
            line for line in path.read_text().splitlines() if "pickle" not in line.lower() or "import" in line
        )
        found = [each for each in calls.finditer(code) if not code[: each.start()].endswith(".")]
        assert found == [], path


@pytest.mark.slow
def test_the_tally_of_the_fuzz_script() -> None:
    command = [sys.executable, "-m", "tests.harnesses.fuzz", "--seconds", "2", "--only", "index"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"\| index \| ([\d,]+) \| \d+ \| 0 \|", done.stdout)
    assert found
    assert int(found[1].replace(",", "")) > 20
    assert done.stderr == ""
