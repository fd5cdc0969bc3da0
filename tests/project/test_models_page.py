"""docs/models.md: it is made from docs/models.json, and that says what a survey finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from tests.support.paths import REPOSITORY
from tests.survey.checks import CHECKS
from tests.survey.kinds import every_kind
from tests.survey.page import DATA, PAGE, WRONG, Survey

REFRESH = "run python -m tests.survey --write, look at what it changes in docs/models.md, and commit it"


def committed() -> Survey:
    return Survey.read(DATA.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_data() -> None:
    survey = committed()
    assert survey.written() == DATA.read_text(encoding="utf-8"), REFRESH
    assert survey.page() == PAGE.read_text(encoding="utf-8"), REFRESH
    assert survey.columns == tuple(CHECKS), REFRESH
    assert WRONG not in {text for cells in survey.cells.values() for text in cells.values()}


def test_all_types_of_the_installed_transformers_are_in_it() -> None:
    survey, here = committed(), set(every_kind())
    new = here - survey.cells.keys() - survey.not_built.keys()
    assert not new, f"transformers {transformers.__version__} has {sorted(map(str, new))}: {REFRESH}"


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["1/4", "2/4", "3/4", "4/4"])  # all types; in parts, which run beside other tests
def test_the_table_says_what_is_found(shard: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.survey",
        "--shard",
        shard,
        "--processes",
        "1",
        "--out",
        tmp_path / "found.json",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    survey, found = committed(), Survey.read((tmp_path / "found.json").read_text(encoding="utf-8"))
    both = found.cells.keys() & survey.cells.keys()  # what is built depends on what else is installed
    assert both
    changed = {
        f"{kind.name}, {column}": (survey.cells[kind].get(column), text)
        for kind in both
        for column, text in found.cells[kind].items()
        if survey.cells[kind].get(column) != text
    }
    assert not changed, f"transformers {transformers.__version__}, committed with {survey.version}: {REFRESH}"
    if lacking := survey.cells.keys() - set(every_kind()):
        pytest.skip(f"{len(both)} types are as they were; not in this transformers: {sorted(map(str, lacking))}")
