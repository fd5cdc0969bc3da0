"""`recover --log-to`: what a tracker of experiments is told, with the real TensorBoard where it is installed."""

import json
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.defaults import TRACKERS
from langprune_cli.stages.recover import distilling, tracking
from langprune_cli.store.artifact import Artifact
from tests.stages.recover import recovering
from tests.stages.recover.recovering import looks, pruned, recovered
from tests.support.command import langprune, one_sentence, tree
from tests.support.interrupting import Interrupting

data = recovering.data  # a fixture

# A library of that name: writes each call as a line, and fails at the step that a file names.
LIBRARY = """
import json
from pathlib import Path

class Run:
    def log(self, values, step):
        if Path("fails").exists() and step == int(Path("fails").read_text()):
            raise ConnectionError("nobody listens")
        told("log", values | {"step": step})

    def finish(self):
        told("finish", {})

def told(what, values):
    with Path("calls.jsonl").open("a") as file:
        file.write(json.dumps([what, values], default=str) + "\\n")

def init(**options):
    print("hello from the library")
    if Path("locked").exists():
        raise PermissionError("no key")
    told("init", options)
    return Run()
"""


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put that library where Python finds it."""
    (folder / f"{name}.py").write_text(LIBRARY)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)


def calls(what: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]
    return [values for name, values in found if name == what]


def interrupt(data: Path, log_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a training in its 20th step, with the state of the 11th on disk."""
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)

    class Twelfth(Interrupting):
        def tick(self, block: int, tokens: int) -> None:
            super().tick(block, tokens)
            if self.ticks == 12:
                monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 1e9)

    with pytest.raises(KeyboardInterrupt):
        recovered(data, name="told", log_to=log_to, online=True, reporter=Twelfth(20))


def check_values(model: Artifact, logged: list[dict[str, Any]]) -> None:
    """Check losses, rates and tokens of every step, and what every look found."""
    steps, found = [each for each in logged if "loss" in each], looks(model)
    assert [each["step"] for each in steps] == list(range(1, found[-1]["tokens"] // 64 + 1))
    assert [each["tokens"] for each in steps] == [64 * each["step"] for each in steps]
    rates = [each["learning_rate"] for each in steps]
    assert rates[2:] == sorted(rates[2:], reverse=True)  # after three steps of warm-up
    assert max(rates) == pytest.approx(3e-3)
    held = {each["step"]: each["held_out_loss"] for each in logged if "held_out_loss" in each}
    assert held == pytest.approx({look["tokens"] // 64: look["held_out"] for look in found})
    for before, look in pairwise(found):
        between = [each["loss"] for each in steps if before["tokens"] < each["tokens"] <= look["tokens"]]
        assert sum(between) / len(between) == pytest.approx(look["loss"])


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_library_is_told_of_every_step(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned("llama", "2:4", data)
    alone = recovered(data, name="alone")
    (tmp_path / "library").mkdir()
    install(name, tmp_path / "library", monkeypatch)
    model = recovered(data, name="told", log_to=name)
    assert model.key == alone.key
    assert tree(model.folder) == tree(alone.folder)
    assert "hello" not in capsys.readouterr().out  # which is for results
    (begun,) = calls("init")
    assert (begun["project"], begun["name"]) == ("langprune", "told")
    assert begun["config"]["tokens"] == 4000
    check_values(model, calls("log"))
    assert calls("finish") == [{}]


@pytest.mark.parametrize(("name", "fresh"), [("trackio", "never"), ("wandb", None)])
def test_a_run_that_goes_on_has_the_same_log(
    name: str, fresh: str | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned("llama", "2:4", data)
    (tmp_path / "library").mkdir()
    install(name, tmp_path / "library", monkeypatch)
    interrupt(data, name, monkeypatch)
    model = recovered(data, name="told", log_to=name, online=True)
    first, second = calls("init")
    assert (first.pop("resume"), second.pop("resume")) == (fresh, "allow")
    assert first == second
    logged = calls("log")
    again = [each for each in logged if "loss" in each and 12 <= each["step"] < 20]
    assert len(again) == 16  # steps that were logged after the state was last saved, and then once more
    assert again[:8] == again[8:]
    check_values(model, [each for number, each in enumerate(logged) if each not in logged[:number]])
    assert calls("finish") == [{}, {}]


def test_a_log_that_fails_ends_and_training_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned("llama", "2:4", data)
    alone = recovered(data, name="alone")
    (tmp_path / "library").mkdir()
    install("trackio", tmp_path / "library", monkeypatch)
    Path("fails").write_text("9")
    reporter = Interrupting()
    model = recovered(data, name="told", log_to="trackio", reporter=reporter)
    assert tree(model.folder) == tree(alone.folder)
    assert [note for note in reporter.notes if "took no more" in note] == [
        "The log took no more values at step 9 (nobody listens); training goes on."
    ]
    assert max(each["step"] for each in calls("log")) == 8


def test_a_log_that_cannot_begin_is_said_in_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned("llama", "2:4", data)
    (tmp_path / "library").mkdir()
    install("wandb", tmp_path / "library", monkeypatch)
    Path("locked").touch()
    refused = langprune("recover", "-m", "cut", "--data", data, "--tokens", "4k", "--log-to", "wandb")
    one_sentence(refused, 1, r"--log-to wandb cannot begin \(no key\): put that right, or leave out --log-to")
    assert not Path("langprune-workspace/models/cut-recovered").exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_library_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything else: there is no model to train, either."""

    def missing(_name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(tracking, "version", missing)
    one_sentence(
        langprune("recover", "--log-to", name), 1, f"--log-to {name} needs .*: pip install {name}, or leave out"
    )
    one_sentence(langprune("recover", "--log-to", "paper"), 2, "--log-to 'paper' is unknown")


def _is_installed() -> bool:
    try:
        return bool(version("tensorboard"))
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not _is_installed(), reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own
def test_tensorboard_shows_an_interrupted_run_whole(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    alone = recovered(data, name="alone", online=True)
    interrupt(data, "tensorboard", monkeypatch)
    model = recovered(data, name="told", log_to="tensorboard", online=True)
    assert tree(model.folder) == tree(alone.folder)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    shown = EventAccumulator("langprune-workspace/runs/told").Reload()
    steps: dict[int, dict[str, Any]] = {}
    for tag in shown.Tags()["scalars"]:
        for each in shown.Scalars(tag):
            assert tag not in steps.setdefault(each.step, {"step": each.step})  # no step twice
            steps[each.step][tag] = pytest.approx(each.value, rel=1e-5)  # which is float32
    logged = [steps[step] for step in sorted(steps)]
    last = looks(model)[-1]["tokens"] // 64
    assert [each["step"] for each in logged] == list(range(last + 1))
    held = {step: values["held_out_loss"] for step, values in steps.items() if "held_out_loss" in values}
    assert {look["tokens"] // 64: look["held_out"] for look in looks(model)} == held
    assert [each["tokens"] for each in logged[1:]] == [64 * step for step in range(1, last + 1)]
