"""Reading documents of hub datasets, through `datasets` and over real HTTP against the loopback hub."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import hub_fixtures
from tests.hub_fixtures import HubSite
from tests.loopback_hub import TOKEN

hub = hub_fixtures.hub

ENGLISH = [f"An English text, number {i}." for i in range(5)]
UKRAINIAN = [f"Український текст, номер {i}." for i in range(5)]

READ = """
import json, sys
from langprune_cli.errors import LangpruneError
from langprune_cli.text.sources import read_documents
answers = []
for source in sys.argv[1:]:
    try:
        answers.append(list(read_documents(source)))
    except LangpruneError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def read(hub: HubSite, *sources: str, **env: str) -> list[Any]:
    """Return what each source gives in one subprocess: the list of its documents, or the error's sentence."""
    done = hub.run(READ, *sources, cwd=hub.home, **env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    answers: list[Any] = json.loads(done.stdout)
    assert not any("\n" in answer for answer in answers if isinstance(answer, str))
    return answers


def lines(texts: Sequence[str | None], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts: list[str], path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make the folder of an empty dataset repository."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    return folder


def add_jsonl(hub: HubSite, folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(lines(ENGLISH))
    (folder / "test.jsonl").write_bytes(lines(UKRAINIAN))
    hub.add_dataset("owner/texts", folder)


def test_jsonl_by_split_and_column(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    train, test, split, column = read(
        hub, "hf:owner/texts", "hf:owner/texts:test", "hf:owner/texts:dev", "hf:owner/texts#content"
    )
    assert (train, test) == (ENGLISH, UKRAINIAN)
    assert "no split 'dev'" in split
    assert "train" in split
    assert "test" in split
    assert "owner/texts" in column
    assert "content" in column
    assert "text" in column  # the columns that there are


def test_gzipped_jsonl_in_folders_named_by_split(hub: HubSite, repository: Path) -> None:
    for split, texts in {"train": ENGLISH, "validation": UKRAINIAN}.items():
        (repository / "data").mkdir(exist_ok=True)
        (repository / "data" / f"{split}-00000-of-00001.jsonl.gz").write_bytes(gzip.compress(lines(texts, "content")))
    hub.add_dataset("owner/zipped", repository)
    source = "hf:owner/zipped"
    assert read(hub, f"{source}#content", f"{source}:validation#content") == [ENGLISH, UKRAINIAN]


def test_parquet_by_configs_that_the_card_names(hub: HubSite, repository: Path) -> None:
    configs = []
    for language, texts in {"en": ENGLISH, "uk": UKRAINIAN}.items():
        (repository / language).mkdir()
        parquet(texts, repository / language / "part-0.parquet")
        configs.append(f"- config_name: {language}\n  data_files:\n  - split: train\n    path: {language}/*.parquet\n")
    (repository / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    hub.add_dataset("owner/many", repository)
    ukrainian, both, unknown, unnamed = read(
        hub, "hf:owner/many:uk", "hf:owner/many:en:train", "hf:owner/many:de", "hf:owner/many"
    )
    assert ukrainian == UKRAINIAN
    assert both == ENGLISH
    assert "config 'de'" in unknown
    assert "uk" in unknown
    assert "config" in unnamed
    assert "en" in unnamed
    assert not any(name.startswith("de/") for name in hub.fetched())


def test_blank_and_null_rows_are_left_out(hub: HubSite, repository: Path) -> None:
    (repository / "train.jsonl").write_bytes(lines(["  ", None, *ENGLISH]))
    hub.add_dataset("owner/texts", repository)
    assert read(hub, "hf:owner/texts") == [ENGLISH]


def test_missing_private_and_gated_datasets(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    hub.add_dataset("owner/secret", repository)
    hub.add_dataset("owner/gated", repository)
    hub.restrict("owner/secret", private=True)
    hub.restrict("owner/gated", gated=True)
    sources = ("hf:owner/none", "hf:owner/secret", "hf:owner/gated")
    none, secret, gated = read(hub, *sources)
    for source, error in {sources[0]: none, sources[1]: secret, sources[2]: gated}.items():
        assert source.removeprefix("hf:") in error
        assert "hf auth login" in error
    assert "gated" in gated
    assert f"{hub.url}/datasets/owner/gated" in gated
    none, secret, gated = read(hub, *sources, HF_TOKEN=TOKEN)
    assert "there is no dataset hf:owner/none" in none
    assert secret == ENGLISH
    assert "gated" in gated
    assert "owner/texts" in read(hub, "hf:owner/texts", HF_TOKEN="hf_wrong")[0]  # noqa: S106 - no secret


def test_offline_mode_reaches_for_nothing(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    offline = read(hub, "hf:owner/texts", HF_HUB_OFFLINE="1")[0]
    assert "offline" in offline
    assert "HF_HUB_OFFLINE" in offline
    assert hub.requests == []


def test_a_hub_that_limits_requests(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    hub.fail("/api/datasets/owner/texts", 429)
    limited = read(hub, "hf:owner/texts")[0]
    assert "owner/texts" in limited
    assert "429" in limited


def test_a_hub_that_is_down(hub: HubSite) -> None:
    hub.stop()
    down = read(hub, "hf:owner/texts")[0]
    assert "owner/texts" in down
    assert "cannot be reached" in down


def test_data_that_is_no_text(hub: HubSite, repository: Path) -> None:
    (repository / "train.jsonl").write_text("{broken\n")
    hub.add_dataset("owner/broken", repository)
    (repository / "train.jsonl").write_text('{"text": 7}\n')
    hub.add_dataset("owner/numbers", repository)
    (repository / "train.jsonl").unlink()
    (repository / "notes.md").write_text("no data here")
    hub.add_dataset("owner/empty", repository)
    for answer, name in zip(
        read(hub, "hf:owner/broken", "hf:owner/numbers", "hf:owner/empty"),
        ("owner/broken", "owner/numbers", "owner/empty"),
        strict=True,
    ):
        assert isinstance(answer, str)
        assert name in answer


def test_a_connection_that_is_cut_while_streaming(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    hub.cut("train.jsonl", after_bytes=60)
    assert read(hub, "hf:owner/texts") == [ENGLISH]
