"""What a report says beyond figures: which pruned one is best on a text, what is as good, and results of benchmark tasks."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.stages.evaluate import tasks
from langprune_cli.stages.evaluate.earlier import read_result
from langprune_cli.stages.evaluate.rows import MARKS
from langprune_cli.store.artifact import open_artifact
from tests.stages.evaluate.test_eval_and_export import texts
from tests.support import reporting
from tests.support.artifact_making import sign
from tests.support.command import SEQLEN, did
from tests.support.reporting import EVALUATION, NAMESPACES, PRUNED, escaped, page, replace_part, table

reported = reporting.reported  # a fixture
MATRIX = "Perplexity and bits per byte: "


def test_what_is_as_good_as_the_best_is_marked(workspace: Path, pico_text: Path) -> None:
    """A pruned model and its own mask on the fly are one and the same; a third mask may be either."""
    did("mask", "-w", workspace, "--stats", "uk", "--sparsity", "0.9", "--name", "ruin")
    subjects = ("--model", PRUNED, "--mask", PRUNED, "--mask", "ruin")
    evaluation = (
        "eval",
        "-w",
        workspace,
        *subjects,
        *texts(pico_text, "uk", "en"),
        "--seqlen",
        SEQLEN,
        "--name",
        "all",
    )
    done = did(*evaluation, "--json").json
    terminal = did(*evaluation).out
    root = page(workspace, "--eval", "all")
    lines = table(root, f"{MATRIX}all")[2:]
    cells = [each.text or "" for each in root.iterfind(".//h:section[@id='languages']//s:text", NAMESPACES)]
    for column, text in ((3, "uk"), (6, "en")):
        rows = [row for row in done["rows"] if row["text"] == text][1:]
        pairs = [pair["significant"] for pair in done["compare"] if pair["text"] == text]
        noise = {frozenset(ends) for ends, each in zip(((0, 1), (0, 2), (1, 2)), pairs, strict=True) if each is False}
        assert frozenset((0, 1)) in noise
        ppl = [row["ppl"] for row in rows]
        best = ppl.index(min(ppl))
        marks = ["*" if k == best else "=" if frozenset((k, best)) in noise else "" for k in range(3)]
        assert [line[column][-1].strip("0123456789%)e") for line in lines] == marks  # after a figure, ")" or "noise"
        assert all(f"{each:.3f} {mark}".strip() in cells for each, mark in zip(ppl, marks, strict=True))
        if best == 0:
            assert f"On {text}, best: {PRUNED}, ppl " in "".join(root.itertext())
            assert f"not distinguishable from {PRUNED}" in "".join(root.itertext())
    assert MARKS in "".join(root.itertext())
    assert MARKS in terminal
    did("report", "-w", workspace, "--eval", "all", "--format", "md")
    document = Path("report.md").read_text(encoding="utf-8")
    assert escaped(MARKS) in document


def test_one_pruned_model_is_not_the_best_of_any(workspace: Path) -> None:
    root = page(workspace)
    assert MARKS not in "".join(root.itertext())
    assert not [cell for line in table(root, f"{MATRIX}{PRUNED}-uk-en") for cell in line if "*" in cell]


# What lm-evaluation-harness, an optional extra, answers; tests/stages/evaluate/test_tasks.py runs it where it is installed.
ANSWER = {
    "results": {
        "arc_uk": {
            "alias": "arc_uk", "acc,none": 0.25, "acc_stderr,none": 0.0125, "acc_norm,none": 0.5, "acc_norm_stderr,none": "N/A",
        },
        "<b>|own|</b>": {"exact_match,strict-match": float("nan")},
    },
    "n-samples": {"arc_uk": {"original": 1200, "effective": 1172}},
    "n-shot": {"arc_uk": 0},
    "higher_is_better": {"arc_uk": {"acc": True, "acc_norm": True}},
}  # fmt: skip
HEAD = ["task", "metric", "model", "value", "stderr", "examples"]


def add_tasks(folder: Path, *, rows_too: bool) -> None:
    """Put results of tasks, of the dense and the pruned model, into an evaluation."""
    result = read_result(open_artifact(folder, "evals"))
    found = [row for name in ("pico", PRUNED) for row in tasks._rows(cast("Any", SimpleNamespace(label=name)), ANSWER)]
    if not rows_too:
        result = {"rows": [], "compare": []}
    replace_part(folder, "result.json", json.dumps({**result, "tasks": found}))
    path = folder / "manifest.json"
    record = json.loads(path.read_bytes())
    digests = [Checkpoint(folder.parent.parent / "models" / PRUNED).digest()]
    models = [{"model_digest": each, "tokenizer": "0" * 64, "dtype": "float32"} for each in ("0" * 64, *digests)]
    record["inputs"]["tasks"] = {"models": models, "names": ["arc_uk", "ab" * 32], "harness": "0.4.13"}
    sign(path, record)


EXPECTED = [
    HEAD,
    ["<b>|own|</b>", "exact_match", "pico", "", "", ""],
    ["<b>|own|</b>", "exact_match", PRUNED, "", "", ""],
    ["arc_uk", "acc", "pico", "0.2500", "0.0125", "1,172"],
    ["arc_uk", "acc", PRUNED, "0.2500", "0.0125", "1,172"],
    ["arc_uk", "acc_norm", "pico", "0.5000", "", "1,172"],
    ["arc_uk", "acc_norm", PRUNED, "0.5000", "", "1,172"],
]


def test_tasks_are_shown_beside_texts(reported: Path) -> None:
    add_tasks(reported / "evals" / EVALUATION, rows_too=True)
    root = page(reported)
    assert table(root, f"Benchmark tasks: {EVALUATION}") == EXPECTED
    assert [each.text for each in root.iterfind(".//h:nav/h:a", NAMESPACES)][:2] == ["Languages", "Benchmark tasks"]
    lines = ["".join(each.itertext()) for each in root.iterfind(".//h:pre/h:code", NAMESPACES)]
    (evaluation,) = [line for line in lines if line.startswith("langprune eval")]
    assert f" --tasks arc_uk,FOLDER/{'ab' * 8}.yaml " in evaluation
    did("report", "-w", reported, "--format", "md")
    after = Path("report.md").read_text(encoding="utf-8").partition("## Benchmark tasks\n\n")[2]
    shown = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in shown]
    assert cells[:1] + cells[2:] == [[escaped(cell) for cell in line] for line in EXPECTED]


def test_an_evaluation_of_tasks_alone(reported: Path) -> None:
    add_tasks(reported / "evals" / EVALUATION, rows_too=False)
    done = did("report", "-w", reported, "--force")
    assert "wrote report.html: 6 results of tasks, 1 pruned models" in done.out
    root = page(reported)
    assert root.findtext(".//h:h1", namespaces=NAMESPACES) == "pico, pruned"
    assert table(root, f"Benchmark tasks: {EVALUATION}") == EXPECTED
    assert root.find(".//h:section[@id='languages']", NAMESPACES) is None
    assert len(table(root, f"Blocks of {PRUNED}")) == 1 + 3
    did("report", "-w", reported, "--format", "md")
    assert "## Languages" not in Path("report.md").read_text(encoding="utf-8")
