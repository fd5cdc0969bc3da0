"""What tests of windows share: a corpus, and drawing from it."""

from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.text.windows import calibration_windows
from langprune_cli.types import TextSpec, Windows
from tests.support.text.text_corpora import byte_level, documents, write_jsonl

SEQLEN = 40
TEXTS = documents(24)


def spec_of(path: Path | str) -> TextSpec:
    return TextSpec(None, str(path), "name")


def calibrate(path: Path | str, **options: object) -> Windows:
    settings = {"nsamples": 8, "seqlen": SEQLEN, "seed": 0, "sampling": "document"} | options
    return calibration_windows(spec_of(path), byte_level(), **settings)


def ids_of(text: str) -> list[int]:
    return byte_level()(text)["input_ids"]


def one_sentence(error: LangpruneError) -> str:
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    return str(error)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "a.jsonl", TEXTS)
