"""eval, export, ls, show and rm on a pico model: figures against literal ones, and what leaves the machine."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.stages.evaluate.subjects import Losses
from langprune_cli.store.artifact import Artifact
from tests.support.artifact_making import sign
from tests.support.command import SEQLEN, did, langprune, snapshot, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level

Open = Callable[[str, str], Artifact]
ROW = {"model", "mask", "text", "language", "seqlen", "windows", "tokens", "nats", "ppl", "bpb"}
PRUNED = "uk-wanda-2x4"


def texts(folder: Path, *tags: str) -> list[str]:
    return [word for tag in tags for word in ("--lang", tag, "--data", str(folder / f"{tag}.jsonl"))]


def literal_windows(folder: Path, file: Path, seqlen: int) -> torch.Tensor:
    """Join the documents by blank lines, tokenise them as a whole, cut them, drop the rest."""
    joined = "\n\n".join(json.loads(line)["text"] for line in file.read_text().splitlines())
    ids = AutoTokenizer.from_pretrained(folder)(joined, verbose=False).input_ids
    return torch.tensor(ids[: len(ids) // seqlen * seqlen]).view(-1, seqlen)


def literal_nats(folder: Path, windows: torch.Tensor) -> float:
    """Return the summed loss, window by window."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return sum(float(cross_entropy(model(w[None]).logits[0, :-1], w[1:], reduction="sum")) for w in windows)


def test_figures_equal_literal_ones(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    rows = did("eval", "-w", workspace, *texts(pico_text, "uk"), "--seqlen", "24", "--json").json["rows"]
    windows = literal_windows(pico_model, pico_text / "uk.jsonl", 24)
    pieces = AutoTokenizer.from_pretrained(pico_model).convert_ids_to_tokens(windows[:, 1:].flatten().tolist())
    for row, folder in zip(rows, (pico_model, workspace / "models" / PRUNED), strict=True):
        nats, tokens = literal_nats(folder, windows), len(windows) * 23
        assert (row["windows"], row["seqlen"], row["tokens"]) == (len(windows), 24, tokens)
        assert row["nats"] == pytest.approx(nats / tokens, rel=1e-6)
        assert row["ppl"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)
        # Byte-level tokens are spelled with one character a byte.
        assert row["bpb"] == pytest.approx(nats / math.log(2) / sum(map(len, pieces)), rel=1e-6)


def test_rows_come_dense_first_for_each_text(workspace: Path, pico_text: Path) -> None:
    did("mask", "-w", workspace, "--stats", "en", "-p", "4:8", "--name", "en-mask")
    masks = ["--mask", PRUNED, "--mask", "en-mask"]
    document = did("eval", "-w", workspace, *masks, *texts(pico_text, "uk", "en"), "--seqlen", SEQLEN, "--json").json
    rows = document["rows"]
    assert document["schema"] == 1
    assert [(row["text"], row["mask"]) for row in rows] == [
        (tag, mask) for tag in ("uk", "en") for mask in (None, PRUNED, "en-mask")
    ]
    assert all(row.keys() >= ROW for row in rows)
    assert {row["model"] for row in rows} == {"pico"}
    assert [row["language"] for row in rows] == ["uk"] * 3 + ["en"] * 3
    for text in (rows[:3], rows[3:]):
        assert len({row["fingerprint"] for row in text}) == 1
        assert len({row["ppl"] for row in text}) == 3


def test_text_without_a_language(workspace: Path, pico_text: Path) -> None:
    words = ["eval", "-w", workspace, "--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--max-windows", "3"]
    rows = did(*words, "--json").json["rows"]
    assert [(row["text"], row["language"], row["windows"]) for row in rows] == [("uk", None, 3)] * 2


def test_rows_of_an_earlier_evaluation_are_not_computed_again(
    workspace: Path, pico_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    losses = Losses.on

    def watched(self: Losses, windows: Any, folder: Path) -> torch.Tensor:
        computed.append((self.subject.mask.name if self.subject.mask else None, windows.spec.name))
        return losses(self, windows, folder)

    monkeypatch.setattr(Losses, "on", watched)
    words = ["eval", "-w", workspace, *texts(pico_text, "en"), "--seqlen", SEQLEN, "--max-windows", "5", "--json"]
    earlier = json.loads((workspace / "evals/uk-wanda-2x4-uk-en/result.json").read_bytes())["rows"]
    assert did(*words).json["rows"] == earlier[2:]
    assert computed == []
    rows = did(*words, "--mask", PRUNED).json["rows"]
    assert rows[0] == earlier[2]
    assert computed == [(PRUNED, "en")]
    assert rows[1]["nats"] == earlier[3]["nats"]  # a mask on the fly is the model that was written
    assert did(*words, "--force").json["rows"] == earlier[2:]
    assert computed[1:] == [(None, "en")] * 2


def test_kept_windows_repeat_an_evaluation(workspace: Path) -> None:
    folder = workspace / "evals/uk-wanda-2x4-uk-en"
    earlier = json.loads((folder / "result.json").read_bytes())["rows"]
    given = ["--lang", "uk", "--data", folder / "windows-0.safetensors", "--lang", "en"]
    document = did("eval", "-w", workspace, *given, "--data", folder / "windows-1.safetensors", "--json").json
    assert document["cached"] is True
    assert document["rows"] == earlier


def test_the_table_shows_the_change(workspace: Path, pico_text: Path) -> None:
    table = did("eval", "-w", workspace, *texts(pico_text, "uk"), "--seqlen", SEQLEN).out.splitlines()
    rows = json.loads(max((workspace / "evals").glob("*/result.json"), key=lambda p: p.stat().st_mtime_ns).read_bytes())
    dense, pruned = rows["rows"]
    assert table[0].split() == ["text", "model", "ppl", "change", "bpb", "tokens", "seqlen"]
    assert table[1].split()[:3] == ["uk", "pico", f"{dense['ppl']:.3f}"]
    change = f"{pruned['ppl'] / dense['ppl'] - 1:+.1%}"
    assert table[2].split()[:4] == ["uk", PRUNED, f"{pruned['ppl']:.3f}", change]


@pytest.fixture
def exported(workspace: Path, tmp_path: Path) -> Path:
    done = did("export", "-w", workspace, "--out", tmp_path / "shared/my-model", "--with-mask", "--json").json
    assert {"schema", "kind", "model", "path", "files"} <= done.keys()
    assert done["files"] == sorted(tree(tmp_path / "shared/my-model"))
    return tmp_path / "shared/my-model"


def test_card_says_what_was_done(exported: Path, workspace: Path, opened: Open) -> None:
    card = (exported / "README.md").read_text()
    rows = read_rows(opened("evals", "uk-wanda-2x4-uk-en"))
    front = card.split("---\n")[1]
    assert yaml.safe_load(front)["language"] == ["en", "uk"]
    assert "base_model" not in front  # a folder of mine means nothing to others
    assert "# my-model\n" in card
    assert "pico with 50.0% of the weights" in card
    assert "| method | wanda |" in card
    assert "| pattern | 2:4 (of every 4 inputs, 2 stay) |" in card
    windows = load_file(workspace / "stats/uk/windows.safetensors")["windows"]
    assert f"uk, uk.jsonl: {windows.shape[0]} windows of {windows.shape[1]} tokens (document, seed 0)" in card
    for dense, pruned in (rows[:2], rows[2:]):
        tag, figures = dense["language"], [f"{row[key]:.4g}" for key in ("ppl", "bpb") for row in (dense, pruned)]
        assert f"| {tag}.jsonl ({tag}) | float32 | {SEQLEN} | {dense['tokens']} | {' | '.join(figures)} |" in card


def test_nothing_local_leaves_the_machine(exported: Path, workspace: Path, pico_model: Path, pico_text: Path) -> None:
    local = {str(path.resolve()) for path in (workspace, pico_model, pico_text, Path.home())} | {str(workspace.parent)}
    for name in tree(exported):
        content = (exported / name).read_bytes()
        assert not [path for path in local if path.encode() in content and path != "/"], name


def test_exported_weights_and_provenance(exported: Path, workspace: Path) -> None:
    source = workspace / "models" / PRUNED
    beside = {"README.md", "langprune.json", "mask/keep_masks.safetensors"}
    assert tree(exported).keys() == (tree(source).keys() - {"manifest.json"}) | beside
    provenance = json.loads((exported / "langprune.json").read_bytes())
    manifest = json.loads((source / "manifest.json").read_bytes())
    for name, part in manifest["parts"].items():
        assert tree(exported)[name] == part["sha256"] == provenance["parts"][name]["sha256"]
    assert (provenance["key"], provenance["inputs"]) == (manifest["key"], manifest["inputs"])
    AutoModelForCausalLM.from_pretrained(exported)


def test_mask_sidecar_holds_the_masks(exported: Path, opened: Open) -> None:
    found = load_file(exported / "mask/keep_masks.safetensors")
    mask = opened("masks", PRUNED)
    kept = {name: bits for part in mask.manifest.parts for name, bits in mask.tensors(part).items()}
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_export_without_mask_and_without_evaluation(workspace: Path, tmp_path: Path) -> None:
    did("rm", "-w", workspace, "masks/uk-wanda-2x4", "uk-wanda-2x4-uk-en")
    assert "leave out --with-mask" in langprune("export", "-w", workspace, "-o", "out", "--with-mask").err
    did("export", "-w", workspace, "--out", tmp_path / "out")
    assert "Not evaluated." in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/mask").exists()


def test_export_refuses_a_damaged_model(workspace: Path, tmp_path: Path) -> None:
    path = workspace / "models" / PRUNED / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    done = langprune("export", "-w", workspace, "--out", tmp_path / "out")
    assert done.code == 1
    assert f"{path} is damaged" in done.err
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_export_refuses_what_is_there(workspace: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "mine"
    (out if kind == "file" else out / "notes.txt").parent.mkdir(exist_ok=True)
    (out if kind == "file" else out / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    done = langprune("export", "-w", workspace, "--out", out)
    assert (done.code, done.err.splitlines()[-1]) == (1, f"error: {out} exists and is not an empty folder: choose another --out")  # fmt: skip # noqa: E501
    assert snapshot(tmp_path) == before


def test_export_into_the_folder_one_stands_in(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    did("export", "-w", workspace, "--out", ".")
    assert "# here\n" in Path("README.md").read_text()  # read from where the shell stands
    before = snapshot(Path())
    assert ". is an export of uk-wanda-2x4 already" in did("export", "-w", workspace, "--out", ".").out
    assert snapshot(Path()) == before
    done = langprune("export", "-w", workspace, "--out", ".", "--with-mask")
    assert "exists and is not an empty folder" in done.err
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_export_through_a_link(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "usual").mkdir()
    (tmp_path / "link").symlink_to("real")
    done = did("export", "-w", workspace, "--out", "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/model.safetensors").is_file()
    assert (tmp_path / "real").stat().st_mode == tmp_path.joinpath("usual").stat().st_mode  # others may read it
    assert "copied" not in done.err


def test_a_failed_export_leaves_no_parents(workspace: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    (workspace / "models" / PRUNED / "config.json").write_text("{}")
    assert "config.json is damaged" in langprune("export", "-w", workspace, "--out", "new/folders/out").err
    assert sorted(tmp_path.rglob("*")) == before
    (workspace / "models" / PRUNED / "config.json").unlink()
    assert f"{PRUNED} is damaged" in langprune("export", "-w", workspace, "--out", "new/folders/out").err


def test_a_damaged_evaluation_is_skipped(workspace: Path, pico_text: Path) -> None:
    did("eval", "-w", workspace, *texts(pico_text, "uk"), "--seqlen", SEQLEN, "--max-windows", "2", "--name", "bad")
    (workspace / "evals/bad/result.json").write_text("{}")
    assert "skipped damaged evaluation bad" in did("export", "-w", workspace, "--out", "out").err
    assert "| uk.jsonl (uk) |" in Path("out/README.md").read_text()  # from the other one
    did("eval", "-w", workspace, *texts(pico_text, "uk"), "--seqlen", SEQLEN, "--max-windows", "3")  # nor eval's way


def test_ls_show_and_rm(workspace: Path) -> None:
    rows = did("ls", "-w", workspace, "--json").json["artifacts"]
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("stats", "uk"), ("stats", "en"), ("scores", "uk-wanda"), ("masks", PRUNED), ("models", PRUNED),
        ("evals", "uk-wanda-2x4-uk-en"),
    ]  # fmt: skip
    assert all(row["complete"] for row in rows)
    assert [row["name"] for row in did("ls", "stats", "-w", workspace, "--json").json["artifacts"]] == ["uk", "en"]
    table = did("ls", "-w", workspace).out
    assert len(table.splitlines()) == 1 + len(rows)
    assert "wanda 2:4 from uk, 50.00% of 23,040 weights removed" in table
    shown = did("show", "-w", workspace, f"masks/{PRUNED}", "--json").json
    assert shown == json.loads((workspace / "masks" / PRUNED / "manifest.json").read_bytes()) | {
        "name": PRUNED, "path": str(workspace / "masks" / PRUNED)
    }  # fmt: skip
    assert shown["key"] in did("show", "-w", workspace, f"masks/{PRUNED}").out
    assert (
        "masks and models have 'uk-wanda-2x4': write masks/uk-wanda-2x4"
        in langprune("show", PRUNED, "-w", workspace).err
    )
    did("rm", "-w", workspace, "uk", f"masks/{PRUNED}")
    assert not (workspace / "stats/uk").exists()
    assert (workspace / "stats/en").exists()
    assert (workspace / "models" / PRUNED).exists()


@pytest.mark.parametrize("name", ["my model", "моя (модель) №1"])
def test_a_folder_of_any_name_is_a_model(workspace: Path, pico_text: Path, name: str) -> None:
    asked = [*texts(pico_text, "uk"), "--seqlen", SEQLEN, "--max-windows", "3", "-w", workspace, "--json"]
    linked = did("apply", "-w", workspace, "--out", name, "--json").json["name"]
    assert linked != name
    for each in (name, Path(name).absolute(), linked):
        rows = did("eval", "--model", each, *asked).json["rows"]
        assert [row["model"] for row in rows] == ["pico", name]  # a label: later ones find the evaluation made
    did("export", "-w", workspace, "--model", name, "--out", f"{name} to share")
    did("verify", "-w", workspace, f"{name} to share")


def test_ls_of_an_empty_workspace(tmp_path: Path) -> None:
    assert "has no artifacts yet" in did("ls").out
    assert did("ls", "--json").json == {"schema": 1, "artifacts": []}
    assert not list(tmp_path.iterdir())


def test_an_incomplete_artifact_is_listed_as_such(workspace: Path) -> None:
    path = workspace / "stats/uk/manifest.json"
    sign(path, json.loads(path.read_bytes()) | {"complete": False})
    assert [
        line for line in did("ls", "-w", workspace).out.splitlines() if "not complete: run its command again" in line
    ]


def test_a_loss_too_large_for_a_figure(tmp_path: Path, pico_text: Path) -> None:
    """A ruined model's ppl may be infinite, which JSON has no word for."""
    model = save_pico("llama", tmp_path / "ruined", vocab_size=len(byte_level()))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    model.save_pretrained(tmp_path / "ruined")
    byte_level().save_pretrained(tmp_path / "ruined")
    words = ["--data", pico_text / "uk.jsonl", "--seqlen", SEQLEN, "--max-windows", "2", "--json"]
    rows = did("eval", "--model", tmp_path / "ruined", *words).json["rows"]
    assert rows[0]["nats"] > 710
    assert rows[0]["ppl"] is None
    shutil.rmtree(tmp_path / "langprune-workspace")
    did("eval", "--model", tmp_path / "ruined", *words[:-1])
