"""The built-in text, and datasets of the hub as far as they can be tried without one."""

import builtins
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.text import hub, sources
from langprune_cli.text.hub import HubSource, parse_hub_source
from tests.support.text.text_reading import failure, read

# --- the built-in text


def test_builtin_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BUILTIN_FOLDER", tmp_path)
    assert "install langprune again" in failure("builtin:uk:calib")
    for part in ("calib", "test"):
        (tmp_path / f"uk.{part}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": part}).encode()))
    assert read("builtin:uk:calib") == ["calib"]
    assert read("builtin:uk:test") == ["test"]
    assert read(sources.source_for("builtin:uk", evaluation=True)) == ["test"]
    assert read(sources.source_for("builtin:uk", evaluation=False)) == ["calib"]
    assert "builtin:uk:test" in failure("builtin:uk")
    assert "no built-in text for 'ku'" in failure("builtin:ku:test")


# --- the Hub, without it


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("hf:o/n", HubSource("o/n", None, "train", "text")),
        ("hf:o/n:test", HubSource("o/n", None, "test", "text")),
        ("hf:o/n:Validation#body", HubSource("o/n", None, "Validation", "body")),
        ("hf:o/n:uk", HubSource("o/n", "uk", "train", "text")),
        ("hf:o/n:test:train", HubSource("o/n", "test", "train", "text")),
        ("hf:o/n#body", HubSource("o/n", None, "train", "body")),
        ("hf:o/n:train/evaluation", HubSource("o/n", None, "train", "text", "evaluation")),
        ("hf:o/n:uk:all/calibration#body", HubSource("o/n", "uk", "all", "body", "calibration")),
    ],
)
def test_hub_sources_are_taken_apart(source: object, parsed: HubSource) -> None:
    assert parse_hub_source(source) == parsed


@pytest.mark.parametrize(
    "source", ["hf:", "hf:name", "hf:o/n:", "hf:o/n::test", "hf:a/b/c", "hf:/n", "hf:o/n:a:b:c", "hf:o/n:test/a"]
)
def test_malformed_hub_sources(source: object) -> None:
    assert repr(source) in failure(source)


def with_rows(monkeypatch: pytest.MonkeyPatch, rows: list[Any] | Exception, asked: list[Any] | None = None) -> None:
    """Let `datasets` give `rows` of a dataset, or raise the exception that stands among them."""
    import datasets  # noqa: PLC0415
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    class Builder:
        name = "json"
        config = None

        def as_streaming_dataset(self, split: str) -> Iterator[Any]:
            if asked is not None:
                asked.append(split)
            for row in rows:
                if isinstance(row, BaseException):
                    raise row
                yield row

    def load(*args: object) -> Builder:
        if asked is not None:
            asked.append(args)
        if isinstance(rows, BaseException):
            raise rows
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_args, **_options: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the suite runs offline but for what asks a hub


def test_hub_dataset_is_streamed_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(hub, "MAX_HUB_DOCUMENTS", 5)
    rows = [{"text": text} for text in ("a", None, " ", "b", "c", "d")]
    with_rows(monkeypatch, rows, asked)
    assert read("hf:o/n:uk:test") == ["a", "b", "c"]
    assert asked == [("o/n", "uk"), "test"]


def test_long_documents_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_ENOUGH_BYTES", 100)
    monkeypatch.setattr(hub, "_ENOUGH_DOCUMENTS", 3)
    with_rows(monkeypatch, [{"text": text} for text in ["є" * 40] * 6])
    assert len(read("hf:o/n")) == 3  # 240 bytes; two have 160, and are too few
    with_rows(monkeypatch, [{"text": text} for text in ["e" * 24] * 6])
    assert len(read("hf:o/n")) == 5
    assert hub.read_to_its_bound(hub.MAX_HUB_DOCUMENTS, 0)
    assert not hub.read_to_its_bound(hub.MAX_HUB_DOCUMENTS - 1, 99)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"body": "x"}, "row 2 of hf:o/n (train) has no column 'text' (Known: body)"),
        ({"text": 3}, "row 2 of hf:o/n (train) holds a number, not a string"),
    ],
)
def test_hub_rows_that_are_no_text(monkeypatch: pytest.MonkeyPatch, row: dict[str, object], expected: str) -> None:
    with_rows(monkeypatch, [{"text": "fine"}, row])
    assert expected in failure("hf:o/n")


def hub_errors() -> None:
    import datasets  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    class Answer:
        headers: ClassVar[dict[str, str]] = {}
        request = None

        def __init__(self, status_code: int) -> None:
            self.status_code = status_code

    absent = datasets.exceptions.DatasetNotFoundError("Dataset 'o/n' doesn't exist on the Hub or cannot be accessed.")
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'o/n' is a gated dataset on the Hub.")
    available = "Available splits: ['train', 'test']"
    return {
        "there is no dataset hf:o/n": absent,
        "hf:o/n is gated: accept its terms at": gated,
        "there is no dataset hf:o/n, or": errors.RepositoryNotFoundError("404", response=Answer(404)),
        "hf:o/n is gated": errors.GatedRepoError("403", response=Answer(403)),
        "unset HF_HUB_OFFLINE": errors.OfflineModeIsEnabled("offline"),
        "may not be read (401)": errors.HfHubHTTPError("401", response=Answer(401)),
        "answered 503": errors.HfHubHTTPError("503", response=Answer(503)),
        "the Hub cannot be reached": builtins.ConnectionError("Couldn't reach 'o/n' on the Hub (ConnectError)"),
        "cannot be reached for hf:o/n": errors.HfHubHTTPError.__bases__[0]("timed out"),
        "no split 'train' (Known: train, test)": ValueError(f"Bad split: x. {available}"),
        "no config None (Known: en, uk)": ValueError("BuilderConfig 'x' not found. Available: ['en', 'uk']"),
        "a config must be named (Known: en, uk)": ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['en', 'uk']\nExample"
        ),
        "no code from the Hub is run": RuntimeError("Dataset scripts are no longer supported, but found n.py"),
        "no data files": datasets.exceptions.DataFilesNotFoundError("No (supported) data files found in o/n"),
        "cannot be read (something else": RuntimeError("something\nelse"),
    }


@pytest.mark.parametrize(("expected", "error"), hub_errors().items())
@pytest.mark.parametrize("late", [False, True], ids=["at once", "while streaming"])
def test_hub_failures_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, expected: str, error: Exception, *, late: bool
) -> None:
    with_rows(monkeypatch, [{"text": "fine"}, error] if late else error)
    message = failure("hf:o/n")
    assert expected in message
    assert re.search(r": .*(check|log in|give|write|choose|accept|unset|try)", message), message


def test_local_folder_does_not_stand_in_for_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "o" / "n").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "hides the dataset" in failure("hf:o/n")


def test_name_that_no_file_could_have() -> None:
    with pytest.raises(LangpruneError, match="there is no file or folder"):
        read("x" * 5000)
    with pytest.raises(LangpruneError, match="there is no file or folder"):
        read("a\0b")
