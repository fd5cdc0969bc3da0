"""The Python API: what the commands do, without a word on stdout or stderr."""

import inspect
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

import langprune_cli
from langprune_cli.errors import LangpruneError, UsageError
from tests.support.command import DRAW, did, tree

FUNCTIONS = [name for name in langprune_cli.__all__ if not name.startswith("_")]


class Told:
    """Keeps the notes that it is told, and which passes were begun and ended."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.passes: list[str] = []
        self.ticks = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, what: str, blocks: int, tokens: int) -> None:  # noqa: ARG002 - a reporter's
        self.passes.append(what)

    def tick(self, block: int, tokens: int) -> None:  # noqa: ARG002 - as above
        self.ticks += 1

    def end(self) -> None:
        self.passes.append("end")


def test_the_package_is_imported_without_torch() -> None:
    script = (
        "import sys, langprune_cli; from langprune_cli import *; "
        "assert callable(calibrate) and not {'torch', 'transformers', 'typer'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_no_part_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'calibrated'"):
        langprune_cli.calibrated  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_show_their_options(name: str) -> None:
    function = getattr(langprune_cli, name)
    shown = inspect.signature(function)
    assert list(shown.parameters)[-2:] == ["workspace", "reporter"]
    assert "given" not in shown.parameters
    assert function.__name__ == name
    assert function.__doc__


def test_calibrate_does_what_the_command_does(
    pico_model: Path, pico_text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    made = langprune_cli.calibrate(
        lang=["uk", "en"], data=[pico_text / f"{tag}.jsonl" for tag in ("uk", "en")], model=pico_model,
        nsamples=6, seqlen=16, collect="hessian", workspace=tmp_path / "here", reporter=told,
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert told.passes == ["calibrate uk-hessian", "end", "calibrate en-hessian", "end"]
    assert told.ticks > 0
    assert [each.name for each in made.artifacts] == ["uk-hessian", "en-hessian"]
    assert (made.name, made.cached, made.folder) == ("uk-hessian", False, tmp_path / "here" / "stats" / "uk-hessian")
    langs = [word for tag in ("uk", "en") for word in ("--lang", tag, "--data", pico_text / f"{tag}.jsonl")]
    words = ["calibrate", *langs, "--model", pico_model, *DRAW, "--collect", "hessian"]
    did(*words, "-w", tmp_path / "there")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert all(each["cached"] for each in did(*words, "-w", tmp_path / "here", "--json").json["artifacts"])


def test_a_dry_run_says_what_would_be_made(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "lang": "uk", "data": str(pico_text / "uk.jsonl"), "model": str(pico_model), "nsamples": 6, "seqlen": 16,
    }  # fmt: skip
    planned = langprune_cli.calibrate(**options, dry_run=True)
    assert planned.planned is not None
    assert [(each.name, each.there) for each in planned.planned] == [("uk", False)]
    assert repr(planned) == "Made(stats/uk, to be made)"
    assert list(tmp_path.iterdir()) == []
    made = langprune_cli.calibrate(**options)
    assert made.artifact.key == planned.artifact.key
    assert repr(langprune_cli.calibrate(**options)) == "Made(stats/uk, already there)"


def test_the_workspace_is_that_of_the_environment(
    pico_model: Path, pico_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGPRUNE_WORKSPACE", str(tmp_path / "set"))
    made = langprune_cli.calibrate(data=pico_text / "uk.jsonl", model=str(pico_model), nsamples=6, seqlen=16)
    assert made.folder == tmp_path / "set" / "stats" / "uk"


def test_what_is_wrong_is_raised(pico_text: Path) -> None:
    with pytest.raises(UsageError, match="--lang uk:3 already sets the number of windows: leave out --nsamples"):
        langprune_cli.calibrate(lang="uk:3", nsamples=128)
    with pytest.raises(LangpruneError, match="nowhere"):
        langprune_cli.calibrate(data=str(pico_text / "nowhere.jsonl"))


def test_other_libraries_are_as_loud_as_before(pico_model: Path, pico_text: Path) -> None:
    transformers.logging.set_verbosity_info()
    before = (list(warnings.filters), logging.getLogger("datasets").level)
    try:
        langprune_cli.calibrate(data=str(pico_text / "uk.jsonl"), model=str(pico_model), nsamples=6, seqlen=16)
        assert transformers.logging.get_verbosity() == logging.INFO
        assert (list(warnings.filters), logging.getLogger("datasets").level) == before
    finally:
        transformers.logging.set_verbosity_warning()


def test_stages_one_after_the_other(
    pico_model: Path, pico_text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    calibrate, score, mask, apply = (getattr(langprune_cli, name) for name in ("calibrate", "score", "mask", "apply"))
    calibrate(data=pico_text / "uk.jsonl", model=pico_model, nsamples=6, seqlen=16, collect="hessian", workspace=here)
    score(method="ria", workspace=here)
    scored = mask(workspace=here)
    paired = mask(method="sparsegpt", pattern="2:4", workspace=here)
    narrow = mask(method="osscar", pattern=["channels:0.34"], workspace=here)
    models = [apply(mask=each.name, workspace=here) for each in (scored, paired, narrow)]
    assert capfd.readouterr() == ("", "")
    there = ["-w", tmp_path / "there"]
    did("calibrate", "--data", pico_text / "uk.jsonl", "--model", pico_model, *DRAW, "--collect", "hessian", *there)
    did("score", "--method", "ria", *there)
    did("mask", *there)
    did("mask", "--method", "sparsegpt", "--pattern", "2:4", *there)
    did("mask", "--method", "osscar", "--pattern", "channels:0.34", *there)
    for each in models:
        did("apply", "--mask", each.artifact.manifest.about["mask"]["name"], *there)
    assert tree(here) == tree(tmp_path / "there")


def test_prune_does_what_the_command_does(
    pico_model: Path, pico_text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = langprune_cli.prune(
        data=pico_text / "uk.jsonl", model=pico_model, nsamples=6, seqlen=16, pattern=["channels:0.34", "2:4"],
        method="wanda", out=tmp_path / "small", workspace=tmp_path / "here",
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert [each.manifest.kind for each in made.artifacts] == ["models", "stats", "masks", "models", "stats", "masks"]
    assert sorted(made.seconds) == [0, 1, 2]
    assert {each.block for each in made.linears} == {0, 1, 2}
    assert all(each.removed / each.weights == 0.5 for each in made.linears)
    assert made.folder.resolve() == tmp_path / "small"  # the workspace has a link to it
    words = ["prune", "--data", pico_text / "uk.jsonl", "--model", pico_model, *DRAW, "--method", "wanda", "--json"]
    words += ["--pattern", "channels:0.34", "--pattern", "2:4", "--out", tmp_path / "small", "-w", tmp_path / "here"]
    told = did(*words).json
    assert [(each["key"], each["cached"]) for each in told["artifacts"]] == [
        (each.key, True) for each in made.artifacts
    ]
    assert told["layers"] == [vars(each) for each in made.linears]


def test_plan_says_what_would_be_left(pico_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = langprune_cli.plan(model=pico_model, pattern=["channels:0.5", "blocks:0.34"], seqlen=16)
    assert capfd.readouterr() == ("", "")
    assert found.vocabulary is None
    document = did("plan", "--model", pico_model, "--pattern", "channels:0.5", "--pattern", "blocks:0.34", "--seqlen", 16,
                   "--json").json  # fmt: skip
    measured = {"flops_per_second", "seconds"}
    assert {key: value for key, value in found.document().items() if key not in measured} == {
        key: value for key, value in document.items() if key not in measured
    }


def test_evaluate_gives_the_figures_of_the_command(
    workspace: Path, pico_text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"lang": "uk", "data": pico_text / "uk.jsonl", "seqlen": 16, "max_windows": 3, "workspace": workspace}
    found = langprune_cli.evaluate(mask="uk-wanda-2x4", **options)
    assert capfd.readouterr() == ("", "")
    words = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", 16, "--max-windows", 3, "-w", workspace]
    told = did("eval", "--mask", "uk-wanda-2x4", *words, "--json").json
    assert told["cached"] is True
    assert (list(found.rows), list(found.compare)) == (told["rows"], told["compare"])
    assert (found.sizes, found.tasks, found.speed) == (None, None, None)


def test_speed_alone_makes_no_artifact(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = langprune_cli.evaluate(model="uk-wanda-2x4", speed=True, workspace=workspace)
    assert capfd.readouterr() == ("", "")
    assert (found.outcomes, found.rows) == ((), ())
    assert [row["model"] for row in found.speed or ()] == ["pico", "uk-wanda-2x4"]


def test_export_writes_what_the_command_writes(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = langprune_cli.export(out=tmp_path / "a" / "pico", dry_run=True, workspace=workspace)
    assert not (tmp_path / "a").exists()
    made = langprune_cli.export(out=tmp_path / "a" / "pico", workspace=workspace)
    assert capfd.readouterr() == ("", "")
    assert made.folder == tmp_path / "a" / "pico"
    assert set(made.files) == set(listed.files) == set(tree(made.folder))
    did("export", "--out", tmp_path / "b" / "pico", "-w", workspace)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_combine_compare_and_report_do_what_the_commands_do(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    both = langprune_cli.combine(kind="stats", names=["uk", "en"], weights="0.7,0.3", workspace=workspace)
    found = langprune_cli.compare(names=["uk", "en"], workspace=workspace)
    assert capfd.readouterr() == ("", "")
    told = did("combine", "stats", "uk", "en", "--weights", "0.7,0.3", "-w", workspace, "--json").json
    assert (told["key"], told["cached"]) == (both.artifact.key, True)
    pairs = did("compare", "uk", "en", "-w", workspace, "--json").json["pairs"]
    assert [each.record() for each in found.pairs] == pairs
    with pytest.raises(UsageError, match="combine stats has no use for --how: leave it out"):
        langprune_cli.combine(kind="stats", names=["uk", "en"], how="vote", workspace=workspace)
    written = langprune_cli.report(out=tmp_path / "a.md", form="md", workspace=workspace)
    did("report", "--out", tmp_path / "b.md", "--format", "md", "-w", workspace)
    assert written.place.read_bytes() == (tmp_path / "b.md").read_bytes()
    assert [each.dense for each in written.shown.matrices] == ["pico"]
