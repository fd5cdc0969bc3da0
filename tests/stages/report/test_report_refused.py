"""What `report` refuses, and what it does without."""

import json
from pathlib import Path

from tests.support import reporting
from tests.support.artifact_making import sign
from tests.support.command import did, langprune, one_sentence
from tests.support.reporting import parsed, table

reported = reporting.reported  # a fixture


def test_what_is_there_is_not_written_over(reported: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    one_sentence(langprune("report", "-w", reported, "--out", "mine.html"), 1, "mine.html exists: choose another --out")
    (tmp_path / "folder").mkdir()
    one_sentence(
        langprune("report", "-w", reported, "--out", "folder", "--force"), 1, "folder is a folder: name a file"
    )
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert "wrote mine.html: 6 figures" in did("report", "-w", reported, "--out", "mine.html", "--force").out
    did("report", "-w", reported, "--out", "new/folder/report.html")


def test_what_is_not_there(workspace: Path, tmp_path: Path) -> None:
    one_sentence(langprune("report", "-w", tmp_path / "none"), 1, "has no evals: run langprune eval first")
    for words, code, says in (
        (("--eval", "nothing"), 1, "no evals artifact is called 'nothing'"),
        (("--model", "nothing"), 1, "no models artifact is called 'nothing'"),
        (("--compare", "uk", "nothing"), 1, "artifact is called 'nothing'"),
        (("--compare", "uk", "uk"), 2, "names one artifact twice"),
        (("--format", "pdf"), 2, "--format 'pdf' is unknown"),
    ):
        done = langprune("report", "-w", workspace, *words)
        assert done.code == code
        assert says in done.err.splitlines()[-1]
        assert not (tmp_path / "report.html").exists()


def test_a_model_that_is_gone_costs_its_comparison_only(reported: Path, tmp_path: Path) -> None:
    for kind in ("stats", "masks"):
        for path in (reported / kind).glob("*/manifest.json"):
            record = json.loads(path.read_bytes())
            record["about"]["model"]["name"] = str(tmp_path / "gone")
            sign(path, record)
    done = did("report", "-w", reported)
    assert "No comparison of masks: " in done.err
    assert len(table(parsed(Path("report.html").read_text(encoding="utf-8")), "Common to stats")) == 2
