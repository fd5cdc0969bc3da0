"""Masks by texts: what `eval` says of each change, whether it is noise, and which mask is better on which text."""

import contextlib
import io
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from langprune_cli.cli.display.matrix import print_evaluation
from langprune_cli.numerics.bootstrap import mean_intervals
from tests.stages.evaluate.test_eval_and_export import PRUNED, texts
from tests.support.command import SEQLEN, did, langprune, one_sentence
from tests.support.pico import save_pico

CHANGE = ["change_nats", "change_low", "change_high", "significant"]
UNKNOWN = [None] * 4

Row = dict[str, Any]


@pytest.fixture
def masks(workspace: Path) -> list[str]:
    """Make masks that differ much and hardly: 2:4, 4:8, and one linear of which a weight in thirty leaves."""
    did("mask", "-w", workspace, "--stats", "en", "-p", "4:8", "--name", "en")
    few = ("--exclude", r"^(?!.*layers\.0\.mlp\.up_proj)", "--sparsity", "0.05")
    did("mask", "-w", workspace, "--stats", "uk", *few, "--name", "hardly")
    return [word for name in (PRUNED, "en", "hardly") for word in ("--mask", name)]


def figures(row: Row) -> list[Any]:
    return [row[name] for name in CHANGE]


def evaluation(workspace: Path, pico_text: Path, *words: object) -> Row:
    return did("eval", "-w", workspace, *texts(pico_text, "uk", "en"), "--seqlen", SEQLEN, *words, "--json").json


def losses(document: Row, row: Row) -> np.ndarray[Any, Any]:
    return load_file(Path(document["path"]) / f"nats-{row['cell']}.safetensors")["nats"].numpy()


def expected(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> list[Any]:
    """Return the fields of a change: window by window, over the tokens that a window predicts."""
    (found,) = mean_intervals((one - other)[:, None] / (int(SEQLEN) - 1))
    return [pytest.approx(found.mean), pytest.approx(found.low), pytest.approx(found.high), found.significant]


def test_changes_and_pairs_follow_from_the_losses(workspace: Path, pico_text: Path, masks: list[str]) -> None:
    document = evaluation(workspace, pico_text, *masks)
    rows, pairs = document["rows"], document["compare"]
    assert len(rows) == 8
    assert len(pairs) == 6
    for text, of_pairs in ((rows[:4], pairs[:3]), (rows[4:], pairs[3:])):
        dense, pruned = text[0], text[1:]
        assert figures(dense) == UNKNOWN
        for row in pruned:
            assert figures(row) == expected(losses(document, row), losses(document, dense))
            assert row["change_nats"] == pytest.approx(row["nats"] - dense["nats"], abs=1e-12)
            assert row["change_low"] < row["change_nats"] < row["change_high"]
            assert row["significant"] is not (row["change_low"] <= 0 <= row["change_high"])
        for pair, (one, other) in zip(of_pairs, itertools.combinations(pruned, 2), strict=True):
            names = [(each["model"], each["mask"]) for each in (one, other)]
            assert [(pair["model"], pair["mask"]), (pair["than_model"], pair["than_mask"])] == names
            assert (pair["text"], pair["language"]) == (one["text"], one["language"])
            assert figures(pair) == expected(losses(document, one), losses(document, other))
    on_disk = json.loads((Path(document["path"]) / "result.json").read_bytes())
    assert (on_disk["rows"], on_disk["compare"]) == (rows, pairs)


def test_a_cached_evaluation_says_the_same(workspace: Path, pico_text: Path, masks: list[str]) -> None:
    first = evaluation(workspace, pico_text, *masks)
    again = evaluation(workspace, pico_text, *masks)
    assert again["cached"] is True
    assert (again["rows"], again["compare"]) == (first["rows"], first["compare"])


def test_rows_of_earlier_evaluations_get_changes_of_their_own(workspace: Path, pico_text: Path) -> None:
    """A pruned model evaluated as it is, as the dense one is, has no change; beside what it was made from it has."""
    copy = shutil.copytree(workspace / "models" / PRUNED, workspace.parent / "a-model")
    (copy / "manifest.json").unlink()
    beside = evaluation(workspace, pico_text, "--model", PRUNED)
    alone = evaluation(workspace, pico_text, "--model", copy)
    assert [row["cell"] for row in alone["rows"]] == [row["cell"] for row in beside["rows"][1::2]]
    assert [figures(row) for row in alone["rows"]] == [UNKNOWN] * 2
    assert all(row["significant"] is not None for row in beside["rows"][1::2])


def test_a_model_and_its_own_mask_do_not_differ(workspace: Path, pico_text: Path) -> None:
    document = evaluation(workspace, pico_text, "--model", PRUNED, "--mask", PRUNED)
    assert [figures(pair) for pair in document["compare"]] == [[0.0, 0.0, 0.0, False]] * 2


@pytest.mark.parametrize(("windows", "known"), [("1", False), ("2", False), ("12", True)])
def test_too_few_windows_say_nothing(workspace: Path, pico_text: Path, windows: str, known: bool) -> None:  # noqa: FBT001
    rows = evaluation(workspace, pico_text, "--mask", PRUNED, "--max-windows", windows)["rows"]
    for dense, row in zip(rows[::2], rows[1::2], strict=True):
        assert row["change_nats"] == pytest.approx(row["nats"] - dense["nats"], abs=1e-12)
        assert [row[name] is not None for name in CHANGE[1:]] == [known] * 3


def cells(line: str) -> list[str]:
    """Return the cells of a table's line; those of the matrix have blanks inside."""
    return re.split(r" {2,}", line.strip())


def test_the_matrix(workspace: Path, pico_text: Path, masks: list[str]) -> None:
    document = evaluation(workspace, pico_text, *masks)
    out = did("eval", "-w", workspace, *texts(pico_text, "uk", "en"), "--seqlen", SEQLEN, *masks).out
    lines = out.splitlines()
    assert "noise" in lines[4]
    assert cells(lines[0]) == ["ppl", "uk", "en"]
    names = ["pico", f"mask {PRUNED}", "mask en", "mask hardly"]
    assert [cells(line)[0] for line in lines[1:5]] == names
    by_text = {text: [row for row in document["rows"] if row["text"] == text] for text in ("uk", "en")}
    for number, text in enumerate(("uk", "en"), start=1):
        column = [cells(line)[number] for line in lines[1:5]]
        rows = by_text[text]
        best = min(rows[1:], key=lambda row: row["ppl"])
        for shown, row in zip(column, rows, strict=True):
            assert shown.startswith(f"{row['ppl']:.3f}")
            if row is rows[0]:
                assert shown == f"{row['ppl']:.3f}"
                continue
            half = 50 * (math.exp(row["change_high"]) - math.exp(row["change_low"]))
            assert f" {row['ppl'] / rows[0]['ppl'] - 1:+.1%} ±{half:.1f}" in shown
            assert ("noise" in shown) is not row["significant"]
            assert shown.endswith("*") is (row is best)
    assert cells(lines[6])[0] == "bpb"
    assert [cells(line)[1:] for line in lines[7:11]] == [
        [f"{by_text[text][k]['bpb']:.4f}" for text in ("uk", "en")] for k in range(4)
    ]


def test_few_rows_stay_a_list(workspace: Path, pico_text: Path, masks: list[str]) -> None:
    one_mask = did("eval", "-w", workspace, *texts(pico_text, "uk", "en"), "--seqlen", SEQLEN, "--mask", "en").out
    one_text = did("eval", "-w", workspace, *texts(pico_text, "uk"), "--seqlen", SEQLEN, *masks).out
    for out, lines in ((one_mask, 4), (one_text, 4)):
        assert out.splitlines()[0].split() == ["text", "model", "ppl", "change", "bpb", "tokens", "seqlen"]
        assert out.splitlines()[lines + 1].startswith("Change of ppl")


def made_up(mask: str | None, text: str, ppl: float, *change: Any) -> Row:
    low, high, significant = change or (None, None, None)
    dense = 0.0 if low is None else math.log(ppl / 10)
    counts = {"tokens": 100, "seqlen": 11, "bpb": None, "nats": math.log(ppl)}
    fields = dict(zip(CHANGE, [dense if change else None, low, high, significant], strict=True))
    return {"model": "m", "mask": mask, "text": text, "ppl": ppl, **counts, **fields}


def pair(text: str, one: str, other: str, *, significant: bool | None) -> Row:
    names = {"model": "m", "mask": one, "than_model": "m", "than_mask": other}
    return {"text": text, **names, "significant": significant}


def test_marks_are_the_best_and_what_is_not_told_from_it() -> None:
    rows = [
        made_up(None, "uk", 10.0), made_up("a", "uk", 10.02, -0.002, 0.006, False), made_up("b", "uk", 10.03, 0.001, 0.005, True),
        made_up("c", "uk", 12.0, 0.17, 0.19, True),
        made_up(None, "en", 10.0), made_up("a", "en", 12.0, 0.17, 0.19, True), made_up("b", "en", 11.0, 0.09, 0.1, True),
        made_up("c", "en", 11.1, None, None, None),
    ]  # fmt: skip
    pairs = [
        pair("uk", "a", "b", significant=False), pair("uk", "a", "c", significant=True), pair("uk", "b", "c", significant=False),
        pair("en", "a", "b", significant=True), pair("en", "a", "c", significant=False), pair("en", "b", "c", significant=None),
    ]  # fmt: skip
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_evaluation(rows, pairs)
    assert [cells(line) for line in out.getvalue().splitlines()[:5]] == [
        ["ppl", "uk", "en"],
        ["m", "10.000", "10.000"],
        ["mask a", "10.020 +0.2% ±0.4, noise *", "12.000 +20.0% ±1.2"],
        ["mask b", "10.030 +0.3% ±0.2 =", "11.000 +10.0% ±0.5 *"],
        ["mask c", "12.000 +20.0% ±1.2", "11.100 +11.0%"],
    ]
    assert "bpb" not in out.getvalue()


def test_several_pruned_models_of_one(workspace: Path, pico_text: Path) -> None:
    did("mask", "-w", workspace, "--stats", "en", "-p", "2:4", "--name", "en")
    did("apply", "-w", workspace, "--mask", "en", "--name", "second")
    document = evaluation(workspace, pico_text, "--model", PRUNED, "--model", "second")
    order = [(row["text"], row["model"]) for row in document["rows"]]
    assert order == [(text, model) for text in ("uk", "en") for model in ("pico", PRUNED, "second")]
    on_the_fly = evaluation(workspace, pico_text, "--mask", PRUNED, "--mask", "en")
    assert [figures(row) for row in on_the_fly["rows"]] == [figures(row) for row in document["rows"]]
    assert [figures(row) for row in on_the_fly["compare"]] == [figures(row) for row in document["compare"]]


def test_models_that_have_no_dense_model_in_common(workspace: Path, pico_text: Path, tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "other", vocab_size=128, max_position_embeddings=64)
    words = ["eval", "-w", workspace, *texts(pico_text, "uk")]
    two = langprune(*words, "--model", tmp_path / "other", "--model", "demo")
    one_sentence(two, 2, "all but one must be pruned models of the workspace")
    did("mask", "-w", workspace, "--model", tmp_path / "other", "--method", "magnitude", "--name", "of-other")
    did("apply", "-w", workspace, "--mask", "of-other", "--name", "of-other")
    done = langprune(*words, "--model", PRUNED, "--model", "of-other")
    one_sentence(done, 2, f"{PRUNED} and of-other were made from different models: evaluate them one by one")


def test_another_vocabulary_is_compared_where_windows_pair_up(workspace: Path, pico_text: Path) -> None:
    """With the tokens of both texts kept, windows hold the same text; cut for one, the other falls into more tokens."""
    uk = ("--lang", "uk", "--data", pico_text / "uk.jsonl")
    did("prune", "-w", workspace, *uk, "--pattern", "vocab", "--coverage", "1.0", "--no-keep-chat", "--name", "smaller")
    rows = evaluation(workspace, pico_text, "--model", "smaller")["rows"]
    own = json.loads((workspace / "models/smaller/config.json").read_bytes())["vocab_size"]
    assert own < json.loads((workspace / "models" / PRUNED / "config.json").read_bytes())["vocab_size"]
    dense, smaller = rows[:2]
    assert smaller["fingerprint"] != dense["fingerprint"]
    assert smaller["windows"] == dense["windows"]
    # Fewer tokens share the probability: each of those that stay gets more.
    assert smaller["change_nats"] == pytest.approx(smaller["nats"] - dense["nats"])
    assert smaller["change_high"] < 0
    assert smaller["significant"] is True
    assert math.exp(smaller["change_nats"]) == pytest.approx(smaller["ppl_per_original_token"] / dense["ppl"])
    assert rows[3]["tokens"] > rows[2]["tokens"]
    assert figures(rows[3]) == UNKNOWN
