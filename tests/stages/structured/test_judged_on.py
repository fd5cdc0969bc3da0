"""Blocks leave without a pass for norms: what runs, what is found again, and what is said of statistics that nobody gathered."""

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from langprune_cli.stages.report.commands import commands
from langprune_cli.store.artifact import Artifact, Recipe
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.walk import HiddenStates
from tests.support.command import did, langprune, one_sentence, tree
from tests.support.pico import save_pico

WINDOWS, BLOCKS = 6, 4
CUT = ["--pattern", "blocks:0.5"]  # two of four


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    save_pico("llama", folder / "dense", num_hidden_layers=BLOCKS)
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (WINDOWS, 24), dtype=torch.int32)}, folder / "ids.safetensors")
    return folder


def through_statistics(here: Path, place: Path, method: str) -> dict[str, Any]:
    """Choose blocks as the stages do one by one, and return the document of `apply`."""
    where = ["-w", place]
    did("calibrate", "-m", here / "dense", "--data", here / "ids.safetensors", *where)
    did("mask", *CUT, "--method", method, *where)
    return did("apply", *where, "--json").json  # type: ignore[no-any-return]


def at_once(here: Path, place: Path, method: str, *more: object) -> dict[str, Any]:
    words = ["-m", here / "dense", "--data", here / "ids.safetensors", *CUT, "--method", method, "-w", place]
    return did("prune", *words, *more, "--json").json  # type: ignore[no-any-return]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, int]]]:
    """Count windows of calibration text that pass a block: by "kept" or "watched", and the block's index."""
    counts: Counter[tuple[str, int]] = Counter()
    forward: Callable[..., None] = HiddenStates.forward

    def counting(self: HiddenStates, block: Any, *, keep: bool = True, **more: Any) -> None:
        if self.ids[0].shape[1] == 24 and sum(map(len, self.ids)) == WINDOWS:  # not the 24 tokens of `check_without`
            counts["kept" if keep else "watched", block.index] += WINDOWS
        forward(self, block, keep=keep, **more)

    monkeypatch.setattr(HiddenStates, "forward", counting)
    return counts


def search_passes() -> dict[tuple[str, int], int]:
    """Return the windows that pass each block in a search for two blocks of four: the dense model, and every run left out.

    Runs begin at blocks 0, 1 and 2; a model without blocks 0 and 1 runs 2 and 3, one without 1 and 2 runs 3 alone beside the
    dense model, whose block 0 it shares.
    """
    return {("kept", 0): WINDOWS, ("kept", 1): WINDOWS, ("kept", 2): 2 * WINDOWS, ("kept", 3): 3 * WINDOWS}


@pytest.mark.parametrize("method", ["search", "influence"])
def test_every_forward_pass_is_the_method_s_own(
    method: str, here: Path, tmp_path: Path, passed: Counter[tuple[str, int]]
) -> None:
    own = search_passes() if method == "search" else {("kept", index): WINDOWS for index in range(BLOCKS)}
    at_once(here, tmp_path / "a", method)
    assert passed == own
    passed.clear()
    through_statistics(here, tmp_path / "b", method)
    # Norms are summed in a pass that watches each block, and needs no output of the last.
    norms = Counter({("kept", index): WINDOWS for index in range(BLOCKS - 1)}) + Counter(
        {("watched", BLOCKS - 1): WINDOWS}
    )
    assert passed == norms + Counter(own)


def keys(place: Path, *kinds: str) -> dict[str, dict[str, Any]]:
    """Return the parts of artifacts by their keys."""
    entries = [each for kind in kinds for each in Workspace(place).entries(kind)]
    return {each.manifest.key: dict(each.manifest.parts) for each in entries}


@pytest.mark.parametrize("method", ["search", "influence"])
def test_what_was_made_through_statistics_is_found_without(method: str, here: Path, tmp_path: Path) -> None:
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    through_statistics(here, old, method)
    shutil.rmtree(old / "stats")
    before = tree(old / "masks") | tree(old / "models")
    found = at_once(here, old, method)
    assert [(each["kind"], each["cached"]) for each in found["artifacts"]] == [("models", True), ("masks", True)]
    assert tree(old / "masks") | tree(old / "models") == before
    assert not (old / "stats").exists()
    at_once(here, fresh, method)
    assert keys(fresh, "masks", "models") == keys(old, "masks", "models")
    assert not (fresh / "stats").exists()
    # And the other way round: the stages find what `prune` has made.
    again = through_statistics(here, fresh, method)
    assert again["cached"]
    assert len(keys(fresh, "masks", "models")) == 2


def test_the_key_follows_from_what_the_manifest_says(here: Path, tmp_path: Path) -> None:
    at_once(here, tmp_path, "search", "--dtype", "bfloat16")
    (mask,) = Workspace(tmp_path).entries("masks")
    inputs, about = mask.manifest.inputs, mask.manifest.about
    judged_on: dict[str, Any] = {**about["judged_on"]}
    assert judged_on.pop("name") == "ids"
    assert about["stats"] is None
    identity = {name: (about["text"] or {}).get(name) for name in ("language", "fingerprint", "windows", "seqlen")}
    assert identity["windows"] == WINDOWS
    assert Recipe("stats", {"model": inputs["model"], "text": identity}, judged_on).key == inputs["stats"]
    made = did(
        "calibrate", "-m", here / "dense", "--data", here / "ids.safetensors", "-w", tmp_path, "--dtype", "bfloat16",
        "--json",
    ).json  # fmt: skip
    assert made["key"] == inputs["stats"]


def test_nothing_speaks_of_statistics_that_are_not_there(here: Path, tmp_path: Path) -> None:
    place = tmp_path / "w"
    made = at_once(here, place, "search")
    where = ["-w", place]
    assert "search blocks:0.5 from ids, 50.00% of" in did("ls", *where).out
    assert did("verify", "--all", *where).code == 0
    did("apply", "--mask", "ids-search-blocks-0.5", "--name", "again", *where)
    assert tree(place / "models" / "again") == tree(Path(made["path"]))
    one_sentence(langprune("apply", "--tune", *where), 2, "has none of this mask: name some with --stats")
    did("calibrate", "-m", here / "dense", "--data", here / "ids.safetensors", *where)
    did("apply", "--tune", "--epochs", "1", "--mask", "ids-search-blocks-0.5", "--name", "tuned", *where)
    did("rm", "stats/ids", *where)
    did("export", "--model", "again", "--out", tmp_path / "shared", *where)
    assert (
        "| calibration text | ids.safetensors: 6 windows of 24 tokens"
        in (tmp_path / "shared" / "README.md").read_text()
    )
    did("rm", "masks/ids-search-blocks-0.5", *where)
    assert did("verify", "--all", *where).code == 0


def artifacts(place: Path, *kinds: str) -> list[Artifact]:
    return [Artifact(each.folder, each.manifest) for kind in kinds for each in Workspace(place).entries(kind)]


def ran(steps: str, here: Path, place: Path) -> list[dict[str, Any]]:
    """Run printed commands, and return their documents."""
    found = []
    for step in steps.split(" && "):
        words = [word.replace("FOLDER", str(here)) for word in shlex.split(step)]
        found.append(did(*words[1:], "-w", place, "--json").json)
    return found


def test_a_report_s_commands_make_the_same(here: Path, tmp_path: Path) -> None:
    made = at_once(here, tmp_path / "a", "influence", "--tune", "--epochs", "1", "--dtype", "bfloat16")
    whole = artifacts(tmp_path / "a", "masks", "models")
    printed = dict(commands(whole))
    (mask, small, tuned) = whole if whole[1].name < whole[2].name else (whole[0], whole[2], whole[1])
    assert printed[f"masks/{mask.name}"] == ""
    assert printed[f"models/{small.name}"].startswith("langprune prune")
    assert ran(printed[f"models/{small.name}"], here, tmp_path / "b")[-1]["key"] == small.key
    assert ran(printed[f"models/{tuned.name}"], here, tmp_path / "b")[-1]["key"] == tuned.key == made["key"]
    assert keys(tmp_path / "b", "masks", "models") == keys(tmp_path / "a", "masks", "models")
    # The mask alone: statistics of its windows stand for the windows.
    steps = dict(commands([mask]))[f"masks/{mask.name}"]
    assert ran(steps, here, tmp_path / "c")[-1]["key"] == mask.key


def test_a_report_names_what_a_model_was_made_from(here: Path, tmp_path: Path) -> None:
    at_once(here, tmp_path, "search", "--name", "small")
    did("eval", "--model", "small", "--data", here / "ids.safetensors", "-w", tmp_path)
    did("report", "-w", tmp_path, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "masks/ids-search-blocks-0.5" in page
    assert "stats/" not in page
