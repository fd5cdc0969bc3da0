"""Trimmed models evaluated beside the original: figures per byte and per original token, against sums made by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.support.command import DRAW, did, tree
from tests.support.text import vocabulary_trimming
from tests.support.text.text_corpora import write_jsonl
from tests.support.text.vocabulary_trimming import english, opened, reopened, texts

# Fixtures, under the names by which tests ask for them.
text, dense = vocabulary_trimming.text, vocabulary_trimming.dense
cut, here = vocabulary_trimming.cut, vocabulary_trimming.here

NAME = "en-tokens-vocab"


def joined(file: Path) -> str:
    return "\n\n".join(json.loads(line)["text"] for line in file.read_text().splitlines())


def windows_of(tokenizer: Any, content: str, seqlen: int) -> Tensor:
    ids = tokenizer(content, verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // seqlen * seqlen]).view(-1, seqlen)


def by_hand(folder: Path, windows: Tensor) -> tuple[float, int, int]:
    """Return the nats, tokens and bytes of what is predicted, by stock transformers, window by window."""
    model, tokenizer = opened(folder), reopened(folder)
    nats = 0.0
    for window in windows:
        with torch.no_grad():
            logits = model(input_ids=window[None]).logits[0, :-1]
        nats += float(cross_entropy(logits.double(), window[1:], reduction="sum"))
    predicted = windows[:, 1:].flatten().tolist()
    # In a byte-level vocabulary each character of a token is a byte; special tokens are no text.
    size = sum(len(tokenizer.convert_ids_to_tokens(i)) for i in predicted if i not in tokenizer.all_special_ids)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert special == set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids("<|user|>")}
    return nats, len(predicted), size


def check(row: dict[str, Any], nats: float, tokens: int, size: int) -> None:
    assert row["tokens"] == tokens
    assert row["nats"] == pytest.approx(nats / tokens, rel=1e-6)
    assert row["ppl"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert row["bpb"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_figures_are_those_of_stock_transformers(here: Path, dense: Path, text: Path) -> None:
    tests = [word for name in ("uk", "en") for word in ("--lang", name, "--data", text / f"{name}.test.jsonl")]
    done = did("eval", "-m", NAME, *tests, "--seqlen", "32", "-w", here, "--json").json
    assert [(row["model"], row["text"]) for row in done["rows"]] == [
        ("dense", "uk"), (NAME, "uk"), ("dense", "en"), (NAME, "en"),
    ]  # fmt: skip
    for whole, small in (done["rows"][:2], done["rows"][2:]):
        content = joined(text / f"{whole['text']}.test.jsonl")
        windows = [windows_of(reopened(folder), content, 32) for folder in (dense, here / "models" / NAME)]
        assert (whole["windows"], small["windows"]) == (len(windows[0]), len(windows[1]))
        assert small["windows"] >= whole["windows"]
        sums = [by_hand(folder, each) for folder, each in zip((dense, here / "models" / NAME), windows, strict=True)]
        for row, each in zip((whole, small), sums, strict=True):
            check(row, *each)
        (_, tokens, size), (nats, _, own_size) = sums
        assert "ppl_per_original_token" not in whole
        expected = math.exp(nats / own_size * size / tokens)  # nats a byte x bytes a token of the original's
        assert small["ppl_per_original_token"] == pytest.approx(expected, rel=1e-6)
        size_row = next(each for each in done["sizes"] if each["text"] == whole["text"])
        assert (size_row["ppl_before"], size_row["ppl_after"]) == (whole["ppl"], small["ppl_per_original_token"])
    assert done["rows"][1]["tokens"] > 1.5 * done["rows"][0]["tokens"]  # Ukrainian falls into bytes
    counts = [
        sum(each.numel() for each in load_file(folder / "model.safetensors").values())
        for folder in (dense, here / "models" / NAME)
    ]
    for each in done["sizes"]:
        assert (each["parameters_before"], each["parameters_after"]) == tuple(counts)
        assert each["pruning_rate"] == 1 - counts[1] / counts[0]
    assert did("eval", "-m", NAME, *tests, "--seqlen", "32", "-w", here, "--json").json["cached"]
    table = did("eval", "-m", NAME, *tests, "--seqlen", "32", "-w", here).out
    assert "ppl per original token" in " ".join(table.split())
    alone = did("eval", "-m", dense, *tests, "--seqlen", "32", "-w", "alone", "--json").json["rows"]
    assert [row | {"source": ""} for row in alone] == [row | {"source": ""} for row in done["rows"][::2]]


def test_windows_of_every_vocabulary_are_kept(here: Path, dense: Path, text: Path) -> None:
    test = ["--lang", "en", "--data", text / "en.test.jsonl", "--seqlen", "32"]
    done = did("eval", "-m", NAME, *test, "-w", here, "--json").json
    for name, folder in (("windows-0", dense), ("windows-0-1", here / "models" / NAME)):
        kept = load_file(Path(done["path"]) / f"{name}.safetensors")["windows"].long()
        assert torch.equal(kept, windows_of(reopened(folder), joined(text / "en.test.jsonl"), 32))
    before = tree(Path(done["path"]))
    assert tree(Path(did("eval", "-m", NAME, *test, "-w", here, "--force", "--json").json["path"])) == before


def test_the_exported_folder_alone_has_the_same_figures(here: Path, text: Path) -> None:
    test = ["--lang", "uk", "--data", text / "uk.test.jsonl", "--seqlen", "32"]
    beside = did("eval", "-m", NAME, *test, "-w", here, "--json").json["rows"][1]
    did("export", "--model", NAME, "--out", "out", "-w", here)
    del beside["ppl_per_original_token"]  # alone it has no original, in the workspace that knows the row neither
    for workspace in ("new", here):
        (row,) = did("eval", "-m", "out", *test, "-w", workspace, "--json").json["rows"]
        assert row | {"model": NAME} == beside
    assert "per original token" not in did("eval", "-m", "out", *test, "-w", here).out


def test_windows_that_were_given_are_the_original_s(here: Path, dense: Path, text: Path) -> None:
    ids = windows_of(reopened(dense), joined(text / "uk.test.jsonl"), 24)[2:12]
    save_file({"windows": ids.int()}, "given.safetensors")
    whole, small = did("eval", "-m", NAME, "--data", "given.safetensors", "-w", here, "--json").json["rows"]
    sums = by_hand(dense, ids)
    check(whole, *sums)
    content = reopened(dense).decode(ids.flatten().tolist(), skip_special_tokens=True)
    windows = windows_of(reopened(here / "models" / NAME), content, 24)
    own = by_hand(here / "models" / NAME, windows)
    check(small, *own)
    assert (whole["windows"], small["windows"]) == (10, len(windows))
    assert small["ppl_per_original_token"] == pytest.approx(math.exp(own[0] / own[2] * sums[2] / sums[1]), rel=1e-6)


def test_where_the_text_is_cut_the_same_both_perplexities_are_one(dense: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "text.jsonl", ["\n\n".join(texts("en", characters=4000))])
    source = ["--lang", "en", "--data", tmp_path / "text.jsonl", "-w", tmp_path / "w", "--json"]
    made = did("prune", "-m", dense, "--pattern", "vocab", "--coverage", "1", *source).json
    assert made["about"]["checked"]["parameters_after"] < made["about"]["checked"]["parameters_before"]
    whole, small = did("eval", "-m", made["name"], "--seqlen", "32", *source).json["rows"]
    assert (whole["tokens"], whole["windows"]) == (small["tokens"], small["windows"])
    assert small["ppl_per_original_token"] == pytest.approx(small["ppl"], rel=1e-12)
    assert small["nats"] < whole["nats"]  # nothing is given to tokens that left


def test_models_pruned_after_it_and_masks_of_them(here: Path, dense: Path, text: Path) -> None:
    chain = ["prune", "-m", NAME, *english(text), *DRAW, "-w", here, "--json"]
    last = did(*chain, "--pattern", "channels:0.34", "--round-to", "8", "--name", "last").json
    did("mask", "-m", NAME, "--method", "magnitude", "--pattern", "2:4", "--name", "pairs", "-w", here)
    test = ["--lang", "en", "--data", text / "en.test.jsonl", "--seqlen", "32", "-w", here, "--json"]
    done = did("eval", "-m", "last", *test).json
    assert [row["model"] for row in done["rows"]] == ["dense", "last"]
    assert done["rows"][1]["ppl_per_original_token"]
    (size,) = done["sizes"]
    assert size["parameters_after"] == last["about"]["checked"]["parameters_after"]
    assert size["parameters_before"] == sum(each.numel() for each in load_file(dense / "model.safetensors").values())
    rows = did("eval", "-m", NAME, "--mask", "pairs", *test).json["rows"]
    assert [(row["model"], row["mask"]) for row in rows] == [("dense", None), (NAME, None), (NAME, "pairs")]
    assert rows[2]["windows"] == rows[1]["windows"]
    assert rows[2]["ppl_per_original_token"] != rows[1]["ppl_per_original_token"]


def test_the_card_compares_it_with_the_original(here: Path, text: Path) -> None:
    test = ["--lang", "uk", "--data", text / "uk.test.jsonl", "--seqlen", "32"]
    whole, small = did("eval", "-m", NAME, *test, "-w", here, "--json").json["rows"]
    did("export", "--model", NAME, "--out", "out", "-w", here)
    card = Path("out/README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("| uk.test.jsonl")]
    ppl, bpb = (whole["ppl"], small["ppl_per_original_token"]), (whole["bpb"], small["bpb"])
    assert line.endswith(" ".join(f"| {figure:.4g}" for figure in (*ppl, *bpb)) + " |")
    assert "Both perplexities are per token of the base model" in card
    assert "head are unchanged" not in card
    assert "Removed tokens lost their rows of embeddings and head" in card
    assert "| calibration text | en, en.jsonl, fingerprint " in card
    assert '- "en"' in card
