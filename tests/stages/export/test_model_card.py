"""The model card: figures that count what they say, words that mean one thing, and YAML that reads as it was meant."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from langprune_cli.stages.apply.apply import apply
from langprune_cli.stages.evaluate.subjects import Losses
from langprune_cli.stages.export.model_card import model_card
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Silent
from langprune_cli.store.locks import being_made
from langprune_cli.store.manifest import Manifest
from langprune_cli.store.target import Target
from langprune_cli.store.temporary import TEMPORARY
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice
from langprune_cli.streaming.opened import open_model
from tests.support.artifact_making import sign
from tests.support.command import SEQLEN, did, langprune, one_sentence

Open = Callable[[str, str], Artifact]
PRUNED = "uk-wanda-2x4"
LINEARS = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)  # q and o, k and v, gate, up and down of three blocks


def card_of(workspace: Path, *words: object) -> str:
    did("export", "-w", workspace, "--out", "card", *words)
    return Path("card/README.md").read_text()


def bare_card(rows: list[dict[str, Any]] | None = None, **about: Any) -> str:
    manifest = Manifest(
        "models", "0" * 64, {"model": "1", "mask": "2"}, {"update": "none"}, about, {}, {}, complete=True
    )
    return model_card(Artifact(Path("m"), manifest), rows or [], "title")


def row_of(**fields: Any) -> dict[str, Any]:
    known = {
        "source": "a.jsonl",
        "language": None,
        "dtype": "float32",
        "seqlen": 16,
        "tokens": 75,
        "ppl": 2.0,
        "bpb": 1.0,
    }
    return known | fields


def test_share_counts_the_linears_that_were_excluded(workspace: Path, opened: Open) -> None:
    did("mask", "-w", workspace, "--stats", "uk", "-p", "2:4", "--exclude", "mlp|q_proj", "--name", "few")
    did("apply", "-w", workspace, "--mask", "few")
    checked = opened("models", "few").manifest.about["checked"]
    assert checked["linear_weights"] == LINEARS
    assert checked["zeros"] == 3 * (32 * 32 + 2 * 16 * 32) // 2
    card = card_of(workspace)
    assert f"pico with {checked['zeros'] / LINEARS:.1%} of the weights of its blocks' linears set to zero" in card
    assert "| left dense | linears whose name matches `mlp\\|q_proj` |" in card  # a bare bar would end the cell


def test_dense_tail_columns_are_told(workspace: Path, opened: Open) -> None:
    did("mask", "-w", workspace, "--stats", "uk", "-p", "3:5", "--name", "tails")
    did("apply", "-w", workspace, "--mask", "tails")
    tails = opened("masks", "tails").manifest.about["dense_tail_columns"]
    assert opened("models", "tails").manifest.about["dense_tail_columns"] == tails
    assert f"| left dense | the last columns (2 to 3) of {len(tails)} linears" in card_of(workspace)


def test_nothing_is_left_dense(workspace: Path) -> None:
    card = card_of(workspace)
    assert "left dense" not in card
    assert "itself pruned" not in card


def test_base_that_was_pruned_itself(workspace: Path) -> None:
    model = ["--model", PRUNED]
    did("mask", "-w", workspace, *model, "-p", "1:4", "--method", "magnitude", "--name", "again")
    did("apply", "-w", workspace, *model, "--mask", "again", "--name", "again")
    card = card_of(workspace, "--model", "again")
    assert "| base was itself pruned | wanda, 2:4 (of every 4 inputs, 2 stay) |" in card
    assert "| calibration text | none, the method needs no text |" in card
    # An exported folder has no manifest, and says it in langprune.json.
    did("mask", "-w", "other", "--model", "card", "-p", "1:8", "--method", "magnitude", "--name", "third")
    did("apply", "-w", "other", "--model", "card", "--mask", "third")
    did("export", "-w", "other", "--out", "card-3")
    assert "| base was itself pruned | magnitude, 1:4" in Path("card-3/README.md").read_text()


def test_columns_are_base_and_pruned() -> None:
    card = bare_card([{"pruned": row_of(), "base": row_of(ppl=1.0)}])
    assert "| ppl base | ppl pruned | bpb base | bpb pruned |" in card


def test_rows_of_two_dtypes_differ() -> None:
    rows = [{"pruned": row_of(dtype=dtype), "base": None} for dtype in ("float32", "bfloat16")]
    lines = [line for line in bare_card(rows).splitlines() if line.startswith("| a.jsonl")]
    assert [line.split(" | ")[1] for line in lines] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"stats": None, "text": None}, "none, the method needs no text"),
        ({"stats": "uk", "text": None}, "not recorded"),
        ({"text": None}, "not recorded"),
        ({}, "not recorded"),
        ({"stats": "uk", "text": {"source": "a/b.jsonl"}}, "b.jsonl"),
    ],
)
def test_no_text_and_text_that_is_not_known(about: dict[str, Any], says: str) -> None:
    assert f"| calibration text | {says} |" in bare_card(**about)


def test_a_card_of_an_artifact_that_says_nothing() -> None:
    card = bare_card()
    assert "| base model | not recorded |" in card
    assert "| pattern | not recorded |" in card


def test_an_older_artifact_does_not_claim_a_share_of_all_linears() -> None:
    checked = {"zeros": 50, "pruned_weights": 100}
    assert "50.0% of the weights of its blocks' linears" in bare_card(checked=checked, mask={"exclude": None})
    assert "50.0% of the weights of the pruned linears" in bare_card(checked=checked, mask={"exclude": "mlp"})


def test_front_matter_reads_as_strings() -> None:
    """Norwegian is no boolean, and a repository of figures is no number."""
    about = {"model": {"name": "1e3", "revision": "0123abc"}, "text": {"language": "no", "source": "t"}}
    rows = [{"pruned": row_of(language="on"), "base": None}]
    front = yaml.safe_load(bare_card(rows, **about).split("---\n")[1])
    assert front["language"] == ["no", "on"]
    assert front["base_model"] == "1e3"
    assert front["tags"] == ["pruning", "langprune"]


def test_card_says_how_the_masks_are_stored(workspace: Path) -> None:
    card = card_of(workspace, "--with-mask")
    assert "`mask/keep_masks.safetensors` holds the masks" in card
    assert "column 8k + b" in card
    did("export", "-w", workspace, "--out", "without")
    assert "keep_masks" not in Path("without/README.md").read_text()


def test_what_is_for_people_may_be_missing(workspace: Path) -> None:
    """An older artifact's `about` says less; apply and export do without."""
    for path in (workspace / "masks" / PRUNED / "manifest.json", workspace / "models" / PRUNED / "manifest.json"):
        record = json.loads(path.read_bytes())
        record["about"] = {"mask": record["about"]["mask"]} if "models" in str(path) else {"weights": 1, "removed": 0}
        sign(path, record)
    card = card_of(workspace, "--model", PRUNED)
    assert "A model with weights of its blocks' linears set to zero" in card
    made = Workspace(workspace)
    model = open_model(made, ModelChoice(pico_folder(workspace)), Compute(), Silent())
    outcome = apply(made, model, made.find("masks", PRUNED), Silent(), to=Target("new", force=True))
    stats = json.loads((workspace / "stats/uk/manifest.json").read_bytes())["key"]
    assert outcome.artifact.manifest.about["text"] is None
    assert outcome.artifact.manifest.about["stats"] == stats  # not null: that means that none were needed
    assert "| calibration text | not recorded |" in model_card(outcome.artifact, [], "title")


def pico_folder(workspace: Path) -> str:
    return str(json.loads((workspace / "workspace.json").read_bytes())["model"]["name"])


class Counting(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int]] = []
        self.ticks: list[int] = []

    def begin(self, what: str, blocks: int, tokens: int) -> None:  # noqa: ARG002 - not kept
        self.passes.append((what, blocks))
        self.ticks.append(0)

    def tick(self, block: int, tokens: int) -> None:  # noqa: ARG002 - as above
        self.ticks[-1] += 1


def test_reading_back_shows_its_progress(workspace: Path) -> None:
    made, reporter = Workspace(workspace), Counting()
    model = open_model(made, ModelChoice(pico_folder(workspace)), Compute(), reporter)
    apply(made, model, made.find("masks", PRUNED), reporter, to=Target("new"))
    assert reporter.passes == [("apply new", 3), ("check new", 3)]
    assert reporter.ticks == [3, 3]


def test_given_windows_are_checked_against_the_context(workspace: Path) -> None:
    ids = load_file(workspace / "stats/uk/windows.safetensors")["windows"].flatten()[:80]
    save_file({"windows": ids.view(1, 80).contiguous()}, "long.safetensors")
    one_sentence(langprune("eval", "-w", workspace, "--data", "long.safetensors"), 1, "context of pico is 64")


def test_given_windows_need_no_length(workspace: Path) -> None:
    """The note about windows as long as the context would be about nothing."""
    windows = load_file(workspace / "stats/uk/windows.safetensors")["windows"]
    save_file({"windows": windows}, "given.SAFETENSORS")
    done = did("eval", "-w", workspace, "--data", "given.SAFETENSORS")
    assert "all the context" not in done.err


def test_bpb_comes_with_the_tokenizer(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without bpb, kept from a time without a tokenizer, get theirs and are not computed again."""
    folder = workspace / "stats/uk"
    model, spare = Path("mine"), Path("spare")
    for place in (model, spare):
        place.mkdir()
    for path in Path(pico_folder(workspace)).iterdir():
        ((spare if "token" in path.name else model) / path.name).write_bytes(path.read_bytes())
    words = ["eval", "-w", "other", "--model", model, "--data", folder / "windows.safetensors", "--json"]
    first = did(*words).json
    assert first["rows"][0]["bpb"] is None
    assert did(*words).json["cached"] is True
    for path in spare.iterdir():
        path.rename(model / path.name)
    monkeypatch.setattr(Losses, "on", lambda *_: pytest.fail("computed again"))
    second = did(*words).json
    assert second["rows"][0]["bpb"] > 0
    assert second["rows"][0] | {"bpb": None} == first["rows"][0]
    assert did(*words).json["cached"] is True


def test_masks_are_checked_before_anything_is_computed(
    workspace: Path, pico_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("mask", "-w", workspace, "--model", PRUNED, "-p", "1:4", "--method", "magnitude", "--name", "again")
    monkeypatch.setattr(Losses, "on", lambda *_: pytest.fail("computed"))
    model = pico_folder(workspace)
    words = [
        "--model",
        model,
        "--mask",
        PRUNED,
        "--mask",
        "again",
        "--data",
        pico_text / "uk.jsonl",
        "--seqlen",
        SEQLEN,
    ]
    one_sentence(langprune("eval", "-w", workspace, *words, "--force"), 1, "again was made for another model")


def test_card_of_a_hub_model_names_it(workspace: Path, tmp_path: Path) -> None:
    path = workspace / "models" / PRUNED / "manifest.json"
    record = json.loads(path.read_bytes())
    record["about"]["model"] = {"name": "owner/base", "revision": "0123abc"}
    record["about"]["text"]["source"] = "hf:owner/texts:train"
    sign(path, record)
    did("export", "-w", workspace, "--out", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "owner/base"
    assert "| base model | owner/base at 0123abc |" in card
    assert "hf:owner/texts:train: 6 windows" in card


def test_two_exports_do_not_share_a_staging_folder(workspace: Path, tmp_path: Path) -> None:
    """One that is being made is left alone; what a killed one left is removed."""
    other = tmp_path / f".out{TEMPORARY}"
    other.mkdir()
    (other / "of-another-run").touch()
    words = ["export", "-w", workspace, "--out", "out"]
    with being_made(tmp_path / "out", "models", Workspace(workspace)):
        one_sentence(langprune(*words), 1, r"another langprune \(process \d+ on .+\) is making .*out: wait for it")
        assert (other / "of-another-run").exists()
    did(*words)
    assert not other.exists()
    assert not (tmp_path / "out/of-another-run").exists()
