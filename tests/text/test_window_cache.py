"""Windows of hub datasets that are kept: the very same ones after a restart, offline, and with files in another order."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.text.window_cache import cache_folder
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite
from tests.support.text.text_corpora import documents, write_jsonl
from tests.support.text.text_drawing import calibrate

hub = hub_fixtures.hub

SOURCE = "hf:owner/texts:train"
TEXTS = documents(40)
DRAW = {"nsamples": 8, "seqlen": 40, "seed": 0, "sampling": "document"}
CUT = {"seqlen": 24, "max_windows": 5}

# Draws what each of its arguments, [source, settings, cache folder or null], asks for.
SCRIPT = """
import json, os, sys
from functools import partial
from langprune_cli.errors import LangpruneError
from langprune_cli.text.window_cache import kept_windows
from langprune_cli.text.windows import calibration_windows, evaluation_windows
from langprune_cli.types import TextSpec
from tests.support.text.text_corpora import byte_level

class Notes(list):
    note = list.append

for source, settings, folder in map(json.loads, sys.argv[1:]):
    os.environ["LANGPRUNE_CACHE"] = folder or os.environ["LANGPRUNE_CACHE"]
    spec, notes = TextSpec("uk", source, "uk"), Notes()
    asked = {key: value for key, value in settings.items() if key != "tokenizer"}
    draw = partial(calibration_windows if "nsamples" in settings else evaluation_windows, spec, byte_level(), **asked)
    try:
        windows = kept_windows(spec, {"tokenizer": "byte level", **settings}, draw, notes)
        print(json.dumps([windows.fingerprint, windows.ids.tolist(), windows.documents, windows.seed, notes]))
    except LangpruneError as error:
        print(json.dumps([str(error), None, None, None, notes]))
"""


class Drawn:
    """What one request of the script came to."""

    def __init__(self, line: str) -> None:
        self.fingerprint, self.ids, self.documents, self.seed, self.notes = json.loads(line)

    @property
    def windows(self) -> tuple[Any, ...]:
        """All that is to be the same."""
        return self.fingerprint, self.ids, self.documents, self.seed

    def says(self, part: str) -> bool:
        """Say whether a note says that."""
        return any(part in note for note in self.notes)


def draw(
    hub: HubSite, *requests: dict[str, Any], source: str = SOURCE, folders: Sequence[Path] = (), **env: str
) -> list[Drawn]:
    """Ask for windows in a process of its own; in a cache folder each, where some are given."""
    places = [str(folder) for folder in folders] or [None] * len(requests)
    words = [json.dumps([source, request, place]) for request, place in zip(requests, places, strict=True)]
    done = hub.run(SCRIPT, *words, cwd=hub.home, **env)
    assert done.returncode == 0, done.stderr
    return [Drawn(line) for line in done.stdout.splitlines()]


@pytest.fixture
def texts(hub: HubSite, tmp_path: Path) -> Path:
    """Serve a dataset of two files and return its folder."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for part in range(2):
        write_jsonl(folder / f"train-{part}.jsonl", TEXTS[part::2])
    hub.add_dataset("owner/texts", folder)
    return folder


def entries(hub: HubSite) -> list[str]:
    """Return the names of what lies in the cache."""
    return sorted(path.name for path in (hub.home / "langprune").rglob("*") if path.is_file())


def test_the_same_windows_after_a_restart_and_offline(hub: HubSite, texts: Path) -> None:
    others = [DRAW | {"seed": 1}, DRAW | {"nsamples": 7}, DRAW | {"seqlen": 39}, DRAW | {"sampling": "concat"}]
    first, *different, cut = draw(hub, DRAW, *others, CUT)
    assert not first.notes
    assert first.ids == calibrate(texts, **DRAW).ids.tolist()
    assert len({each.fingerprint for each in (first, *different, cut)}) == 6
    assert len(entries(hub)) == 12

    fetched = len(hub.fetched())
    again, cut_again = draw(hub, DRAW, CUT)
    assert [again.windows, cut_again.windows] == [first.windows, cut.windows]
    assert again.says("those of an earlier run")
    assert len(hub.fetched()) == fetched

    hub.stop()
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        same, cut_same, unknown, other_vocabulary = draw(
            hub, DRAW, CUT, DRAW | {"seed": 2}, DRAW | {"tokenizer": "another"}, **env
        )
        assert [same.windows, cut_same.windows] == [first.windows, cut.windows]
        assert same.says("offline" if env else "cannot be reached")
        for missing in (unknown, other_vocabulary):
            assert missing.ids is None
            assert "hf:owner/texts" in missing.fingerprint
    assert len(entries(hub)) == 12


def test_files_in_another_order_and_text_that_changes(hub: HubSite, texts: Path) -> None:
    (first,) = draw(hub, DRAW)
    for name, kept in (("train-0.jsonl", TEXTS[1::2]), ("train-1.jsonl", TEXTS[::2])):
        write_jsonl(texts / name, kept[::-1])
    hub.add_dataset("owner/texts", texts)
    (other_order,) = draw(hub, DRAW)  # another commit: drawn again, from the same documents
    assert not other_order.says("earlier run")
    assert other_order.windows == first.windows

    write_jsonl(texts / "train-1.jsonl", TEXTS[1:20:2])
    hub.add_dataset("owner/texts", texts)
    (changed,) = draw(hub, DRAW)
    assert changed.fingerprint != first.fingerprint
    assert len(entries(hub)) == 2
    (offline,) = draw(hub, DRAW, HF_HUB_OFFLINE="1")
    assert offline.windows == changed.windows


def cut_short(entry: Path) -> None:
    file = entry.with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:-4])


def another_id(entry: Path) -> None:
    file = entry.with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\1\0\0\0")


def no_record(entry: Path) -> None:
    entry.unlink()


def half_a_record(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:100])


def record_of_another_request(entry: Path) -> None:
    entry.write_text(entry.read_text().replace('"nsamples": 8', '"nsamples": 9'))


def record_without_a_field(entry: Path) -> None:
    entry.write_text(entry.read_text().replace('"commit"', '"comet"'))


def record_that_is_a_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def windows_that_are_a_pipe(entry: Path) -> None:
    entry.with_suffix(".safetensors").unlink()
    os.mkfifo(entry.with_suffix(".safetensors"))


DAMAGES: list[Callable[[Path], None]] = [
    cut_short, another_id, no_record, half_a_record, record_of_another_request, record_without_a_field,
    record_that_is_a_pipe, windows_that_are_a_pipe,
]  # fmt: skip


@pytest.mark.usefixtures("texts")
def test_damaged_entries_are_drawn_again(hub: HubSite, tmp_path: Path) -> None:
    (first,) = draw(hub, DRAW)
    folders = []
    for damage in DAMAGES:
        folders.append(tmp_path / damage.__name__)
        shutil.copytree(hub.home / "langprune", folders[-1])
        (entry,) = folders[-1].glob("windows/*.json")
        damage(entry)
    for damage, again in zip(DAMAGES, draw(hub, *[DRAW] * len(DAMAGES), folders=folders), strict=True):
        assert again.windows == first.windows, damage
        assert again.says("and are drawn again") == (damage is not no_record)
    for again in draw(hub, *[DRAW] * len(DAMAGES), folders=folders, HF_HUB_OFFLINE="1"):
        assert again.windows == first.windows
        assert not again.says("drawn again")


@pytest.mark.usefixtures("texts")
def test_nothing_is_kept_of_a_download_that_ended(hub: HubSite, tmp_path: Path) -> None:
    hub.fail("train-1.jsonl", 404, code="EntryNotFound")
    (broken,) = draw(hub, DRAW)
    assert broken.ids is None
    assert entries(hub) == []
    hub.faults.clear()
    (tmp_path / "file").write_text("no folder")
    whole, not_kept = draw(hub, DRAW, DRAW, folders=[hub.home / "langprune", tmp_path / "file"])
    assert whole.windows == not_kept.windows
    assert not_kept.says("not kept for another run")
    assert len(entries(hub)) == 2


def test_local_files_are_not_kept(hub: HubSite, texts: Path) -> None:
    (drawn,) = draw(hub, DRAW, source=str(texts / "train-*.jsonl"))
    assert drawn.windows[:2] == (calibrate(texts, **DRAW).fingerprint, calibrate(texts, **DRAW).ids.tolist())
    assert entries(hub) == []


def test_files_of_a_pattern_in_any_order(tmp_path: Path) -> None:
    drawn = []
    for number, order in enumerate((TEXTS, TEXTS[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for part in range(3):
            write_jsonl(folder / f"{'abc'[part]}.jsonl", order[part::3])
        (folder / "notes.md").write_text("no text file")
        drawn += [calibrate(folder), calibrate(folder / "*.jsonl"), calibrate(folder / "[a-c].jsonl")]
    assert len({each.fingerprint for each in drawn}) == 1
    assert drawn[0].documents == len(TEXTS)


def test_where_windows_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANGPRUNE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LANGPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "cache" / "langprune"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "langprune"
