"""What a first try meets: a text that is one document, a run that was ended early, a window that is too long."""

import json
import shutil
from pathlib import Path

import pytest

from langprune_cli.cli.display.console import ConsoleReporter
from tests.support.command import did, langprune, one_sentence


def test_one_document_is_cut_by_concat(tmp_path: Path, pico_model: Path) -> None:
    text = tmp_path / "wiki.txt"
    text.write_text("The river runs past the house every morning. " * 40)
    draw = ["--model", pico_model, "--data", text, "--nsamples", "6", "--seqlen", "16"]
    done = did("calibrate", *draw, "--json")
    assert "wiki.txt has 1 document" in done.err.replace("\n", " ")
    assert done.json["about"]["text"]["sampling"] == "concat"
    again = did("calibrate", *draw, "--sampling", "concat", "--json")
    assert (again.json["key"], again.json["cached"]) == (done.json["key"], True)
    one_sentence(langprune("calibrate", *draw, "--sampling", "document"), 1, "--sampling concat joins documents")


def test_a_model_is_recorded_when_its_run_starts(
    workspace: Path, pico_model: Path, pico_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command goes on with the model of an interrupted one, though the workspace was about another."""
    shutil.copytree(pico_model, tmp_path / "other")
    text = ["-w", workspace, "--data", pico_text / "uk.jsonl", "--nsamples", "5", "--seqlen", "16"]

    def interrupt(_self: object, _block: int, _tokens: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleReporter, "tick", interrupt)
        assert langprune("prune", "--model", tmp_path / "other", *text).code == 130
    about = did("calibrate", *text, "--json").json["about"]
    assert about["model"]["name"] == str(tmp_path / "other")


def test_a_refused_model_is_not_recorded(workspace: Path, pico_text: Path, tmp_path: Path) -> None:
    before = (workspace / "workspace.json").read_bytes()
    text = ["-w", workspace, "--data", pico_text / "uk.jsonl", "--nsamples", "5", "--seqlen", "16"]
    one_sentence(langprune("calibrate", "--model", tmp_path / "nowhere", *text), 1, "nowhere")
    assert (workspace / "workspace.json").read_bytes() == before


def test_the_demo_does_not_step_in_beside_another_model(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    (workspace / "workspace.json").unlink()  # as after a first run that was ended before it was done
    manifest = next((workspace / "stats").glob("uk/manifest.json"))
    assert json.loads(manifest.read_bytes())["about"]["model"]["name"] == str(pico_model)
    done = did(
        "calibrate", "-w", workspace, "--data", pico_text / "en.jsonl", "--nsamples", "4", "--seqlen", "16", "--json"
    )
    assert done.json["about"]["model"]["name"] == str(pico_model)
    assert "the model of this workspace's artifacts" in done.err


def test_plan_refuses_the_length_that_calibrate_refuses(pico_model: Path, pico_text: Path) -> None:
    says = r"--seqlen 4096 is longer than the context of pico, 64 tokens"
    one_sentence(langprune("plan", "--model", pico_model, "--seqlen", "4096"), 1, says)
    data = pico_text / "en.jsonl"
    one_sentence(langprune("calibrate", "--model", pico_model, "--data", data, "--seqlen", "4096"), 1, says)
