"""Model folders that langprune wrote: bytes that are not as they were written are not computed with, nor copied."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.model_files import weight_map
from langprune_cli.store.workspace import Workspace
from langprune_cli.store.written import Written
from tests.harnesses.flips import run_flips
from tests.support.artifact_making import sign
from tests.support.command import DRAW, SEQLEN, did, langprune, one_sentence, tree

MODEL = "models/uk-wanda-2x4"


def flip(path: Path, part: float) -> None:
    """Flip a bit of a file, so far in, and away from the samples that a checkpoint's digest has."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * part)] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("exported", [False, True], ids=["artifact", "export"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_bit_of_a_model_is_refused(workspace: Path, pico_text: Path, file: str, *, exported: bool) -> None:
    folder = workspace / MODEL
    if exported:
        did("export", "-w", workspace, "--out", "mine", "--with-mask")
        folder = Path("mine")
    whole = (folder / file).read_bytes()
    flip(folder / file, 0.93)
    before = tree(workspace)
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    says = rf"{file} is damaged \(its sha256 is another one\): .*(again with --force|remove .*langprune\.json)"
    commands = [["eval", "--model", folder, *text, "--seqlen", SEQLEN], ["calibrate", "--model", folder, *text, *DRAW]]
    for words in [*commands, ["mask", "--model", folder, "--method", "magnitude", "--name", "new"]][
        : 3 - (file[0] == "t")
    ]:
        one_sentence(langprune(*words, "-w", workspace), 1, says)
    new = [workspace / name for name in tree(workspace).keys() - before if name.endswith("manifest.json")]
    assert not any(json.loads(path.read_bytes())["complete"] for path in new)  # the dense model's rows may be kept
    (folder / file).write_bytes(whole)
    did(*commands[0], "-w", workspace)


def test_a_file_that_a_stage_does_not_read_counts_as_well(workspace: Path) -> None:
    """The digest has samples of it, and what was made would be of a model that there is not."""
    did("apply", "--mask", "uk-wanda-2x4", "--max-shard-size", "70KB", "--name", "sharded", "-w", workspace)
    path = workspace / "models/sharded" / weight_map(workspace / "models/sharded")["model.embed_tokens.weight"]
    flip(path, 0.99)
    words = ["mask", "--model", "sharded", "--method", "magnitude", "--name", "new", "-w", workspace]
    one_sentence(langprune(*words), 1, rf"{path.name} is damaged \(its sha256 is another one\)")


def test_an_exported_model_that_was_changed_on_purpose(workspace: Path, pico_text: Path) -> None:
    did("export", "-w", workspace, "--out", "mine")
    tensors = load_file("mine/model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, "mine/model.safetensors", {"format": "pt"})
    words = ["eval", "--model", "mine", "--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN]
    one_sentence(langprune(*words, "-w", workspace), 1, r"if you changed it on purpose, remove mine/langprune\.json$")
    Path("mine/langprune.json").unlink()
    did(*words, "-w", workspace)


def test_an_edited_record_of_an_exported_model(workspace: Path, pico_text: Path) -> None:
    did("export", "-w", workspace, "--out", "mine")
    flip(Path("mine/langprune.json"), 0.5)
    words = ["eval", "--model", "mine", "--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN]
    one_sentence(langprune(*words, "-w", workspace), 1, r"langprune\.json is damaged")


def test_a_file_is_looked_at_again_when_it_changes(workspace: Path) -> None:
    """Within one process as well, and though its size is the same."""
    written = Written(workspace / MODEL)
    written.check("model.safetensors", "README.md")
    flip(workspace / MODEL / "model.safetensors", 0.7)
    with pytest.raises(LangpruneError, match=r"model\.safetensors is damaged"):
        written.check("model.safetensors")
    (workspace / MODEL / "config.json").unlink()
    with pytest.raises(LangpruneError, match=r"config\.json is missing"):
        written.check_all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.1.input_layernorm.weight"]
)
def test_what_no_pruning_touches_is_finite_as_well(
    workspace: Path, pico_model: Path, pico_text: Path, tmp_path: Path, name: str, value: float
) -> None:
    shutil.copytree(pico_model, tmp_path / "bad")
    tensors = load_file(tmp_path / "bad/model.safetensors")
    tensors[name].view(-1)[1500 % tensors[name].numel()] = value
    save_file(tensors, tmp_path / "bad/model.safetensors", {"format": "pt"})
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    draw = [*text, *DRAW]
    did(
        "mask", "--model", tmp_path / "bad", "--method", "magnitude", "--name", "m", "-w", workspace
    )  # reads linears alone
    for words in (
        ["calibrate", *draw, "--name", "new"],
        ["prune", *draw, "--name", "new"],
        ["apply", "--mask", "m", "--update", "none", "--name", "new"],
        ["eval", *text, "--seqlen", SEQLEN],
    ):
        done = langprune(*words, "--model", tmp_path / "bad", "-w", workspace)
        one_sentence(done, 1, rf"bad: {name} holds values that are not finite: get the checkpoint again$")


def change_unseen(path: Path) -> None:
    """Change a weight of embeddings and head that no sample of the checkpoint's digest holds."""
    before = Checkpoint(path.parent)
    data = bytearray(path.read_bytes())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for row in range(40, 60):
            data[before.entries[name].start + 128 * row + 3] ^= 4
    digest = before.digest()
    path.write_bytes(data)
    assert Checkpoint(path.parent).digest() == digest


def test_rows_of_other_bytes_are_not_taken_again(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    """A byte that the digest does not look at: no key changes by it, and no row outlives it."""
    shutil.copytree(pico_model, tmp_path / "mine")
    path = tmp_path / "mine/model.safetensors"
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    words = ["eval", "--model", tmp_path / "mine", *text, "--seqlen", SEQLEN, "-w", tmp_path / "ws", "--json"]
    whole = did(*words).json
    assert did(*words).json["cached"]
    data = path.read_bytes()
    change_unseen(path)
    damaged = did(*words, "--max-windows", "3").json
    again = did(*words).json
    assert not again["cached"]
    assert again["key"] == whole["key"]
    assert again["rows"][0]["nats"] != whole["rows"][0]["nats"]
    path.write_bytes(data)
    for given, before in ((words, whole), ([*words, "--max-windows", "3"], damaged)):
        repaired = did(*given).json
        assert (repaired["cached"], repaired["key"]) == (False, before["key"])
        assert (repaired["rows"] == before["rows"]) is (before is whole)
    did("verify", "--all", "-w", tmp_path / "ws")


def test_statistics_of_other_bytes_are_made_again(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    shutil.copytree(pico_model, tmp_path / "mine")
    path = tmp_path / "mine/model.safetensors"
    words = [
        "calibrate",
        "--model",
        tmp_path / "mine",
        "--lang",
        "uk",
        "--data",
        pico_text / "uk.jsonl",
        *DRAW,
        "--json",
    ]
    data = path.read_bytes()
    whole = did(*words).json
    before = tree(Path(whole["path"]))
    change_unseen(path)
    assert not did(*words).json["cached"]
    assert tree(Path(whole["path"])) != before
    path.write_bytes(data)
    assert not did(*words).json["cached"]
    assert tree(Path(whole["path"])) == before
    assert did(*words).json["cached"]
    # Statistics of before this was noted are taken for what they are by their key.
    manifest = Path(whole["path"]) / "manifest.json"
    record = json.loads(manifest.read_bytes())
    del record["about"]["weights_sha256"]
    sign(manifest, record)
    assert did(*words).json["cached"]


def test_a_card_has_no_rows_of_other_bytes(workspace: Path) -> None:
    """Not even where an evaluation has been edited, or was made before it was noted on which bytes."""
    assert "left out evaluation" not in did("export", "-w", workspace, "--out", "one").err
    (manifest,) = workspace.glob("evals/*/manifest.json")
    record = json.loads(manifest.read_bytes())
    record["about"]["weights_sha256"] = dict.fromkeys(record["about"]["weights_sha256"], "0" * 64)
    sign(manifest, record)
    assert "left out evaluation uk-wanda-2x4-uk-en" in did("export", "-w", workspace, "--out", "two").err
    assert "Perplexity over" in Path("one/README.md").read_text()
    assert "Perplexity over" not in Path("two/README.md").read_text()


def test_a_flipped_bit_of_workspace_json(workspace: Path, pico_text: Path) -> None:
    """Another name might be that of another model; a file of before it had a digest is read as it is."""
    path = workspace / "workspace.json"
    whole = path.read_bytes()
    words = ["calibrate", "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW, "-w", workspace]
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        with pytest.raises(LangpruneError, match=r"workspace\.json is damaged: remove it and name the model again"):
            Workspace(workspace).model()
    one_sentence(langprune(*words), 1, r"workspace\.json is damaged")
    record = json.loads(whole)
    del record["digest"]
    path.write_text(json.dumps(record))
    assert did(*words, "--json").json["cached"]


def test_windows_of_an_artifact_given_as_text_are_checked(workspace: Path) -> None:
    flip(workspace / "stats/uk/windows.safetensors", 0.9)
    words = ["--data", workspace / "stats/uk/windows.safetensors", "-w", workspace]
    for command in ("calibrate", "eval"):
        one_sentence(langprune(command, *words), 1, r"windows\.safetensors is damaged \(its sha256 is another one\)")


def test_flipped_bits_are_not_used(tmp_path: Path) -> None:
    """Of random files; `python -m tests.harnesses.flips` flips more of them."""
    tally = run_flips(tmp_path / "flips", 12, 1)
    assert tally.failures == []
    assert tally.flips().total() == 12
