"""What a stage takes when its user leaves something out, and what it refuses because it would have no effect."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.command import DRAW, SEQLEN, did, langprune, one_sentence


def test_a_mask_takes_the_scores_that_are_newer_than_any_statistics(workspace: Path) -> None:
    assert did("score", "-w", workspace, "--method", "ria", "--stats", "uk").code == 0
    done = did("mask", "-w", workspace)
    assert "Using scores uk-ria." in done.err
    assert "masks/uk-ria-0.5:" in done.out


def test_a_mask_takes_statistics_that_are_newer_than_the_scores(
    workspace: Path, pico_model: Path, pico_text: Path
) -> None:
    did("calibrate", "-w", workspace, "--model", pico_model, "--data", pico_text / "en.jsonl", "--name", "late", *DRAW)
    done = did("mask", "-w", workspace)
    assert "Using statistics late." in done.err
    assert "masks/late-wanda-0.5:" in done.out


@pytest.mark.parametrize("named", [["--method", "wanda"], ["--stats", "uk"], ["--variant"]])
def test_a_mask_leaves_scores_aside_when_something_else_is_named(workspace: Path, named: list[str]) -> None:
    did("score", "-w", workspace, "--method", "ria", "--stats", "uk")
    assert "uk-ria" not in did("mask", "-w", workspace, *named).out


def test_eval_takes_what_is_newest_of_masks_and_models(workspace: Path, pico_text: Path) -> None:
    text = ["--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--max-windows", "2"]
    assert "Using model uk-wanda-2x4." in did("eval", "-w", workspace, *text).err
    did("mask", "-w", workspace, "--stats", "en", "--method", "ria")
    rows = did("eval", "-w", workspace, *text, "--json").json["rows"]
    assert [row["mask"] for row in rows] == [None, "en-ria-0.5"]


def test_eval_puts_a_mask_on_the_model_that_it_was_made_for(workspace: Path, pico_text: Path) -> None:
    text = ["--data", pico_text / "en.jsonl"]
    did("calibrate", "-w", workspace, "--model", "uk-wanda-2x4", *text, "--name", "again", *DRAW)
    did("mask", "-w", workspace, "--stats", "again", "--sparsity", "0.6", "--name", "second")
    words = ["eval", "-w", workspace, "--model", "uk-wanda-2x4", "--mask", "second", "--mask", "uk-wanda-2x4", "--json"]
    rows = did(*words, *text, "--seqlen", SEQLEN, "--max-windows", "3").json["rows"]
    assert [(row["model"], row["mask"]) for row in rows] == [
        ("pico", None), ("uk-wanda-2x4", None), ("uk-wanda-2x4", "second"), ("pico", "uk-wanda-2x4")
    ]  # fmt: skip
    assert rows[1]["nats"] == rows[3]["nats"]  # written and on the fly
    assert len({row["nats"] for row in rows}) == 3


def test_eval_remembers_the_model_that_it_was_given(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    text = ["-w", tmp_path / "new", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--max-windows", "2"]
    did("eval", "--model", pico_model, *text)
    assert "built-in" not in did("eval", *text).err


@pytest.mark.parametrize("collect", ["norms", "tokens"])
def test_one_name_for_several_texts(pico_model: Path, pico_text: Path, collect: str) -> None:
    texts = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", pico_text / "en.jsonl"]
    draw = DRAW if collect == "norms" else ()
    words = ["calibrate", "--model", pico_model, *texts, *draw, "--collect", collect, "--name", "both", "--json"]
    for cached in (False, True):
        made = did(*words).json["artifacts"]
        assert [(each["name"], each["cached"]) for each in made] == [("both-uk", cached), ("both-en", cached)]


def test_a_name_is_that_of_all_that_prune_makes(pico_model: Path, pico_text: Path) -> None:
    words = ["prune", "--model", pico_model, "--data", pico_text / "uk.jsonl", *DRAW, "--name", "mine", "--json"]
    for cached in (False, True):
        made = did(*words).json["artifacts"]
        kinds = {each["kind"]: each["name"] for each in made}
        assert kinds == {"stats": "mine", "masks": "mine", "models": "mine"}
        assert made[-1]["cached"] == cached


def test_all_texts_are_read_before_the_first_is_run(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    words = ["calibrate", "-w", tmp_path / "new", "--model", pico_model, *DRAW]
    words += ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", tmp_path / "nowhere.jsonl"]
    one_sentence(langprune(*words), 1, "nowhere.jsonl")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["calibrate", "eval"])
def test_given_windows_must_fit_the_context(pico_model: Path, tmp_path: Path, command: str) -> None:
    save_file({"windows": torch.ones(2, 65, dtype=torch.int32)}, tmp_path / "long.safetensors")
    words = [command, "-w", tmp_path / "new", "--model", pico_model, "--data", tmp_path / "long.safetensors"]
    one_sentence(langprune(*words), 1, "windows of 65 tokens, and the context of pico is 64")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["calibrate", "eval"])
def test_given_windows_are_not_measured_by_the_context(pico_model: Path, tmp_path: Path, command: str) -> None:
    save_file({"windows": torch.ones(2, 8, dtype=torch.int32)}, tmp_path / "w.SAFETENSORS")
    words = [command, "-w", tmp_path / "new", "--model", pico_model, "--data", tmp_path / "w.SAFETENSORS"]
    assert "all the context" not in did(*words).err


@pytest.mark.parametrize("command", ["score", "mask"])
def test_magnitude_says_that_statistics_do_not_count(workspace: Path, command: str) -> None:
    words = [command, "-w", workspace, "--method", "magnitude", "--json"]
    named = did(*words, "--stats", "uk")
    assert "reads only weights" in named.err
    assert did(*words).json["key"] == named.json["key"]


@pytest.mark.parametrize("named", [["--stats", "uk"], ["--method", "ria"], ["--variant"]])
def test_scores_go_alone(workspace: Path, named: list[str]) -> None:
    one_sentence(langprune("mask", "-w", workspace, "--scores", "uk-wanda", *named), 2, "--scores already fixes")


@pytest.mark.parametrize(
    "options", [["--pattern", "2:4"], ["--group", "row"], []], ids=["n:m", "row", "the method's own rows"]
)
def test_ties_are_refused_where_counts_are_exact(workspace: Path, options: list[str]) -> None:
    one_sentence(langprune("mask", "-w", workspace, "--ties", "together", *options), 2, "--ties together goes with")


def test_paths_in_json_are_absolute(workspace: Path) -> None:
    done = did("mask", "-w", workspace.name, "--stats", "uk", "--method", "ria", "--json")
    assert Path(done.json["path"]).is_absolute()
