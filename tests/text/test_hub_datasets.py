"""Reading documents of hub datasets, through `datasets` and over real HTTP against the loopback hub."""

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite
from tests.support.hub.loopback_hub import TOKEN

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
    (repository / "train.jsonl").write_bytes(lines(UKRAINIAN) + '{"text": "Привіт"}\n'.encode("cp1251"))
    hub.add_dataset("owner/mixed", repository)
    (repository / "train.jsonl").unlink()
    (repository / "train.parquet").write_bytes(b"PAR1 no table PAR1")
    hub.add_dataset("owner/no-table", repository)
    (repository / "train.parquet").unlink()
    (repository / "notes.md").write_text("no data here")
    hub.add_dataset("owner/empty", repository)
    names = ("owner/broken", "owner/numbers", "owner/mixed", "owner/no-table", "owner/empty")
    for answer, name in zip(read(hub, *(f"hf:{name}" for name in names)), names, strict=True):
        assert isinstance(answer, str)
        assert name in answer


def test_a_connection_that_is_cut_while_streaming(hub: HubSite, repository: Path) -> None:
    add_jsonl(hub, repository)
    hub.cut("train.jsonl", after_bytes=60)
    assert read(hub, "hf:owner/texts") == [ENGLISH]


def test_halves_of_a_split_share_nothing(hub: HubSite, repository: Path) -> None:
    texts = [f"Текст {i}, який у одній з двох половин." for i in range(60)]
    (repository / "train.jsonl").write_bytes(lines([*texts, *texts[:5]]))  # documents with the same text stay together
    hub.add_dataset("owner/one-split", repository)
    (repository / "train.jsonl").write_bytes(lines(texts[::-1]))
    hub.add_dataset("owner/reversed", repository)
    source = "hf:owner/one-split:train"
    calibration, evaluation, reversed_, wrong = read(
        hub, f"{source}/calibration", f"{source}/evaluation", "hf:owner/reversed:train/evaluation", f"{source}/half"
    )
    assert set(calibration) | set(evaluation) == set(texts)
    assert not set(calibration) & set(evaluation)
    assert min(len(calibration), len(evaluation)) > 15
    assert set(reversed_) == set(evaluation)  # whatever stands before a document
    assert "names no half of 'train': write calibration or evaluation" in wrong


def test_zstd_as_the_pile_has_it(hub: HubSite, repository: Path) -> None:
    (repository / "val.jsonl.zst").write_bytes(zstandard.compress(lines(ENGLISH)))
    hub.add_dataset("owner/pile", repository)
    assert read(hub, "hf:owner/pile:validation") == [ENGLISH]


def test_no_more_is_fetched_than_is_read(hub: HubSite, repository: Path) -> None:
    """A column that is not asked for, and rows behind the last that is, stay where they are, and the program ends well."""
    draw = random.Random(0)
    texts = [draw.randbytes(1500).hex() for _ in range(4000)]
    table = pa.table({"waste": [draw.randbytes(1500).hex() for _ in texts], "text": texts})
    pq.write_table(
        table, repository / "train.parquet", row_group_size=4000
    )  # one group: no part of it is to be fetched whole
    hub.add_dataset("owner/large", repository)
    size = (repository / "train.parquet").stat().st_size
    script = f"from langprune_cli.text import hub\nhub.MAX_HUB_DOCUMENTS = 300\n{READ}"
    done = hub.run(script, "hf:owner/large", cwd=hub.home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [texts[:300]]
    assert 300 * 1500 < hub.sent < size * 0.6


def test_a_split_or_config_among_thousands(hub: HubSite, repository: Path) -> None:
    names = [f"{a}{b}x_Latn" for a in "abcdefgh" for b in "klmnop"] + ["ukr_Cyrl"]
    (repository / "data.jsonl").write_bytes(lines(UKRAINIAN))
    configs = [f"- config_name: {name}\n  data_files:\n  - split: train\n    path: data.jsonl\n" for name in names]
    (repository / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    hub.add_dataset("owner/many", repository)
    known, near, unnamed = read(hub, "hf:owner/many:ukr_Cyrl", "hf:owner/many:ukr_Cyr", "hf:owner/many")
    assert known == UKRAINIAN
    assert "no config 'ukr_Cyr' (did you mean ukr_Cyrl" in near
    assert "It has 49" in near
    assert "a config must be named (it has 49, such as" in unnamed


def test_missing_column_of_parquet_and_of_json(hub: HubSite, repository: Path) -> None:
    parquet(ENGLISH, repository / "train.parquet")
    hub.add_dataset("owner/table", repository)
    (repository / "train.parquet").unlink()
    (repository / "train.jsonl").write_bytes(lines(ENGLISH, "content"))
    hub.add_dataset("owner/lines", repository)
    table, rows = read(hub, "hf:owner/table#body", "hf:owner/lines")
    assert "hf:owner/table (train) has no column 'body' (Known: id, text): append #COLUMN" in table
    assert "row 1 of hf:owner/lines (train) has no column 'text' (did you mean content? Known: content, id)" in rows


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_download_that_stalls_or_is_reset_goes_on(hub: HubSite, repository: Path, kind: str) -> None:
    if kind == "parquet":
        parquet(ENGLISH, repository / "train.parquet")
    else:
        (repository / "train.jsonl").write_bytes(lines(ENGLISH))
    hub.add_dataset("owner/texts", repository)
    hub.stall(f"train.{kind}", after_bytes=50)
    hub.cut(f"train.{kind}", after_bytes=40, reset=True)
    assert read(hub, "hf:owner/texts", HF_HUB_DOWNLOAD_TIMEOUT="1") == [ENGLISH]
    assert [fault.times for fault in hub.faults] == [0, 0]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_download_that_would_never_end_is_given_up(hub: HubSite, repository: Path, kind: str) -> None:
    if kind == "parquet":
        parquet(ENGLISH * 100, repository / "train.parquet")
    else:
        (repository / "train.jsonl").write_bytes(lines(ENGLISH * 100))
    hub.add_dataset("owner/texts", repository)
    hub.trickle(f"train.{kind}", after_bytes=10, times=1_000)
    hurried = "from langprune_cli.text import hub_pace\nhub_pace._SECONDS = 0.5\n"
    (answer,) = json.loads(hub.run(hurried + READ, "hf:owner/texts", cwd=hub.home).stdout)
    assert re.search("the hub sent [0-9,]+ bytes in [0-9]+ seconds, too little ever to end", answer)


@pytest.mark.parametrize(
    ("status", "says"),
    [(429, "answered 429 for hf:owner/texts, too many requests"), (503, "answered 503"), (0, "reached")],
)
def test_a_hub_that_fails_for_good_while_it_is_read(hub: HubSite, repository: Path, status: int, says: str) -> None:
    parquet(ENGLISH, repository / "train.parquet")
    hub.add_dataset("owner/texts", repository)
    if status:
        hub.fail("resolve", status)
    else:
        hub.cut("train.parquet", after_bytes=10, times=1_000)
    impatient = "import time\ntime.sleep = lambda seconds: None\n"  # the libraries wait half a minute in all
    done = hub.run(impatient + READ, "hf:owner/texts", cwd=hub.home)
    (answer,) = json.loads(done.stdout)
    assert "\n" not in answer
    assert "owner/texts" in answer
    assert says in answer
