"""`--pattern vocab` on the command line: alone, before other patterns, tuned, interrupted, and what goes without it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from langprune_cli.location.location import locate_model
from langprune_cli.stages.apply.apply import apply
from langprune_cli.store.artifact import ArtifactWriter, open_artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.interrupting import Interrupting
from tests.support.text import vocabulary_trimming
from tests.support.text.vocabulary_trimming import english, opened

# Fixtures, under the names by which tests ask for them.
text, dense = vocabulary_trimming.text, vocabulary_trimming.dense
cut, here = vocabulary_trimming.cut, vocabulary_trimming.here

CHAIN = ["--pattern", "vocab", "--pattern", "blocks:0.34", "--pattern", "channels:0.34", "--pattern", "2:4"]
COVERED = ["--coverage", "0.98", "--round-to", "8"]


def same_files(one: Path, other: Path) -> None:
    """Compare everything that transformers reads, byte by byte."""
    names = [path.name for path in one.iterdir() if path.name not in {"manifest.json", "pruning.json"}]
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= set(names)
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_chain_is_its_stages_by_hand(dense: Path, text: Path, tmp_path: Path) -> None:
    words = ["-m", dense, *english(text), *DRAW, *CHAIN, *COVERED, "--propagation", "dense", "-w", tmp_path / "a"]
    once = did("prune", *words, "--name", "last", "--json").json
    assert once["name"] == "last"
    assert [each["name"] for each in once["artifacts"]][-2:] == ["en-tokens", "en-tokens-vocab"]
    where = ["-w", tmp_path / "b"]
    did("calibrate", "-m", dense, *english(text), "--collect", "tokens", *where)
    did("mask", "--pattern", "vocab", *COVERED, *where)
    made = did("apply", *where, "--json").json
    for collect, mask in (
        ("norms", ["--pattern", "blocks:0.34"]),
        ("hessian", ["--pattern", "channels:0.34", "--round-to", "8", "--method", "osscar"]),
        ("hessian", ["--pattern", "2:4", "--method", "admm"]),
    ):
        stats = did("calibrate", "-m", made["name"], *english(text), *DRAW, "--collect", collect, *where, "--json").json
        did("mask", *mask, "--stats", stats["name"], *where)
        made = did("apply", *where, "--json").json
    same_files(Path(once["path"]), Path(made["path"]))
    small = opened(Path(once["path"])).config
    assert (small.num_hidden_layers, small.intermediate_size, small.vocab_size % 8) == (2, 32, 0)
    assert small.vocab_size < 900
    planned = did("plan", "-m", dense, *CHAIN, *COVERED, *where, "--json").json
    weights = load_file(Path(once["path"]) / "model.safetensors")
    assert planned["parameters_after"] == sum(weight.numel() for weight in weights.values())
    pairs = [weight for name, weight in weights.items() if "_proj" in name]
    assert planned["zeros"] == sum(int((weight == 0).sum()) for weight in pairs)
    again = did("prune", *words, "--name", "last", "--json").json
    assert [each["cached"] for each in again["artifacts"]] == [True] * len(once["artifacts"])


def test_the_folder_that_was_asked_for_is_the_last_model_s(dense: Path, text: Path, tmp_path: Path) -> None:
    words = ["prune", "-m", dense, *english(text), *DRAW, *COVERED, "-w", tmp_path / "w", "--json"]
    for number, patterns in enumerate([CHAIN[:2], CHAIN[:4], CHAIN[:2] + CHAIN[4:6], CHAIN[:2] + CHAIN[6:]]):
        out = tmp_path / f"out{number}"
        made = did(*(words if number else [word for word in words if word not in DRAW]), *patterns, "--out", out).json
        assert Path(made["path"]).resolve() == out.resolve()
        assert opened(out).config.vocab_size < 900
        assert AutoTokenizer.from_pretrained(out)("The time")["input_ids"]
        assert made["kind"] == "models"
        assert sum(each["path"] == made["path"] for each in made["artifacts"]) == 1


def test_alone_it_is_mask_and_apply(cut: Path, dense: Path, text: Path, tmp_path: Path) -> None:
    words = ["prune", "-m", dense, *english(text), "--pattern", "vocab", "--coverage", "0.98", "-w", tmp_path / "w"]
    made = did(*words, "--json").json
    assert [(each["kind"], each["name"]) for each in made["artifacts"]] == [
        ("models", "en-tokens-vocab"), ("stats", "en-tokens"), ("masks", "en-tokens-vocab"),
    ]  # fmt: skip
    assert tree(tmp_path / "w/models") == tree(cut / "models")
    assert did(*words, "--json").json["cached"]
    shown = did(*words).out  # the table of a mask that is there already too
    rows = len(load_file(cut / "masks/en-tokens-vocab/vocabulary.safetensors")["stay"])
    assert f"{rows:,} of 1,616 rows stay ({1 - rows / 1616:.2%} removed)" in shown
    assert "already there, nothing to do" in shown


def test_a_number_of_tokens_is_planned_without_counts(here: Path, dense: Path) -> None:
    size = ["--pattern", "vocab", "--vocab-size", "700"]
    planned = did("plan", "-m", dense, *size, "-w", "new", "--json").json
    did("mask", *size, "-w", here)
    made = did("apply", "-w", here, "--json").json
    costs = planned["costs"]
    assert (planned["windows"], planned["seconds"], costs["flops"], costs["windows_bytes"]) == (0, 0, 0, 0)
    assert opened(Path(made["path"])).config.vocab_size == planned["axes"][0]["after"] == 704
    checked = made["about"]["checked"]
    assert (checked["parameters_before"], checked["parameters_after"]) == (
        planned["parameters_before"], planned["parameters_after"],
    )  # fmt: skip
    assert (planned["logits_bytes_before"], planned["logits_bytes"]) == (4 * 64 * 1616, 4 * 64 * 704)


def test_several_languages(dense: Path, text: Path, tmp_path: Path) -> None:
    words = ["-m", dense, "--lang", "uk", "--data", text / "uk.jsonl", *english(text), "-w", tmp_path / "w", "--json"]
    made = did("prune", *words, "--pattern", "vocab", "--coverage", "0.97", "--round-to", "1").json
    kinds = [each["kind"] for each in made["artifacts"]]
    assert kinds == ["models", "stats", "stats", "stats", "masks"]
    chosen = made["artifacts"][-1]["about"]["vocabulary"]
    assert [each["language"] for each in chosen["languages"]] == ["en", "uk"]
    assert all(each["covered"] >= 0.97 for each in chosen["languages"])
    stay = set(
        load_file(tmp_path / "w/masks" / made["artifacts"][-1]["name"] / "vocabulary.safetensors")["stay"].tolist()
    )
    for language in ("uk", "en"):
        alone = did("mask", "--pattern", "vocab", "--coverage", "0.97", "--round-to", "1", "--stats", f"{language}-tokens",
                    "-w", tmp_path / "w", "--json").json  # fmt: skip
        assert set(load_file(Path(alone["path"]) / "vocabulary.safetensors")["stay"].tolist()) < stay
    assert opened(Path(made["path"])).config.vocab_size == chosen["rows_after"] == len(stay)
    refused = langprune("prune", *words[:-1], *CHAIN[:2], "--pattern", "2:4")
    one_sentence(refused, 2, "prune takes one text at a time, and 2 were given")


@pytest.mark.parametrize(
    ("method", "patterns", "masks"),
    [
        ("flap", ["channels:0.34", "2:4"], {"frequency", "flap", "admm"}),
        ("wanda", ["channels:0.34", "2:4"], {"frequency", "osscar", "wanda"}),
        ("influence", ["blocks:0.34", "2:4"], {"frequency", "influence", "admm"}),
        ("ria", ["2:4"], {"frequency", "ria"}),
    ],
)
def test_methods_are_for_parts_or_weights(
    method: str, patterns: list[str], masks: set[str], dense: Path, text: Path, tmp_path: Path
) -> None:
    asked = [word for pattern in ["vocab", *patterns] for word in ("--pattern", pattern)]
    words = ["-m", dense, *english(text), *DRAW, *COVERED, *asked, "--method", method, "-w", tmp_path / "w", "--json"]
    made = did("prune", *words).json["artifacts"]
    found = [open_artifact(Path(each["path"]), "masks").manifest.params for each in made if each["kind"] == "masks"]
    assert {each["method"] for each in found} == masks


def test_a_chain_is_tuned_to_the_model_without_the_tokens(dense: Path, text: Path, tmp_path: Path) -> None:
    words = [
        "-m",
        dense,
        *english(text),
        *DRAW,
        *COVERED,
        *CHAIN[:6],
        "--name",
        "small",
        "-w",
        tmp_path / "w",
        "--json",
    ]
    made = did("prune", *words, "--tune", "--epochs", "4", "--learning-rate", "0.002").json
    assert made["name"] == "small"
    small, untuned = (open_artifact(Path(each["path"]), "models") for each in made["artifacts"][:2])
    assert small.manifest.about["tuned"]["epochs"] == 4
    assert small.manifest.about["model"]["name"].endswith("en-tokens-vocab")
    new, old = (load_file(each.folder / "model.safetensors") for each in (small, untuned))
    assert new.keys() == old.keys()
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert changed
    assert not changed & {"model.embed_tokens.weight", "lm_head.weight"}
    for name in ("config.json", "tokenizer.json"):
        assert (small.folder / name).read_bytes() == (untuned.folder / name).read_bytes()


@pytest.mark.parametrize(("size", "calls"), [([], (1, 2, 3, 6)), (["--max-shard-size", "60KB"], (2, 4, 7))])
def test_interrupted_and_run_again_it_is_byte_identical(
    size: list[str], calls: tuple[int, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the parts is saved at the start, then after each shard, each small file and at the end."""
    shutil.rmtree(here / "models")
    did("apply", *size, "-w", here)
    whole = tree(here / "models")
    assert (len([name for name in whole if name.endswith(".safetensors")]) > 3) == bool(size)
    real = ArtifactWriter._save_manifest
    for call in calls:
        shutil.rmtree(here / "models")
        saved: list[int] = []

        def strike(self: ArtifactWriter, saved: list[int] = saved, call: int = call) -> None:
            saved.append(1)
            if len(saved) == call:
                raise KeyboardInterrupt
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(ArtifactWriter, "_save_manifest", strike)
            assert langprune("apply", *size, "-w", here).code == 130
        assert did("apply", *size, "-w", here, "--json").json["cached"] is False
        assert tree(here / "models") == whole


def test_ctrl_c_between_blocks(here: Path, dense: Path, cut: Path) -> None:
    shutil.rmtree(here / "models")
    workspace, model = Workspace(here), OpenedModel(locate_model(str(dense)), Compute())
    for at in (1, 3, 2):
        with pytest.raises(KeyboardInterrupt):
            apply(workspace, model, workspace.find("masks", "en-tokens-vocab"), Interrupting(at))
    apply(workspace, model, workspace.find("masks", "en-tokens-vocab"), Interrupting())
    assert {name: each for name, each in tree(here / "models").items() if "manifest" not in name} == {
        name: each for name, each in tree(cut / "models").items() if "manifest" not in name
    }
