"""A head that the configuration ties and the checkpoint holds: langprune computes what stock transformers computes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from langprune_cli.depth_methods.search import search_windows
from langprune_cli.errors import LangpruneError
from langprune_cli.models import checkpoint
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.store.building import Silent
from tests.methods.test_depth_methods import opened, some_ids
from tests.support.command import did
from tests.support.pico import save_pico
from tests.support.text.vocabulary_trimming import english, save_model, write_texts

HEADS = ["equal", "other", "embeddings alone", "head alone"]
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save(folder: Path, head: str, *, tie: bool = True) -> None:
    """Save a pico model with its head as told, whatever its configuration says."""
    save_pico("llama", folder, tie_word_embeddings=False)
    change(folder, head, tie=tie)


def change(folder: Path, head: str, *, tie: bool = True) -> None:
    tensors = load_file(folder / "model.safetensors")
    if head == "equal":
        tensors[HEAD] = tensors[EMBEDDINGS].clone()
    elif head == "embeddings alone":
        del tensors[HEAD]
    elif head == "head alone":
        del tensors[EMBEDDINGS]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tie}))


def stock_nats(folder: Path, ids: Tensor) -> float:
    """Return the mean loss per predicted token, by stock transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=ids.long()).logits[:, :-1]
    return float(cross_entropy(logits.reshape(-1, logits.shape[-1]).double(), ids[:, 1:].reshape(-1).long()))


@pytest.fixture
def ids(tmp_path: Path) -> Tensor:
    save_file({"windows": some_ids()}, tmp_path / "ids.safetensors")
    return some_ids()


@pytest.mark.parametrize("head", HEADS)
def test_dense_and_pruned_are_those_of_stock_transformers(
    head: str, ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_PIECE", 1000)  # the values are compared seven rows at a time
    save(tmp_path / "model", head)
    here, text = ["-w", tmp_path / "w"], ["--data", tmp_path / "ids.safetensors"]
    did("calibrate", *here, "--model", tmp_path / "model", *text)
    did("mask", *here)
    pruned = Path(did("apply", *here, "--json").json["path"])
    rows = did("eval", *here, *text, "--json").json["rows"]
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", pruned))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() & {EMBEDDINGS, HEAD})
    for row, folder in zip(rows, (tmp_path / "model", pruned), strict=True):
        assert row["nats"] == pytest.approx(stock_nats(folder, ids), rel=1e-6)
        assert row.get("untied", False) is (head == "other")  # not in the way of rows that were right before


@pytest.mark.parametrize("head", ["equal", "other"])
def test_both_tensors_lose_the_same_tokens(head: str, tmp_path: Path) -> None:
    model, here = tmp_path / "model", ["-w", tmp_path / "w"]
    save_model("llama", model, tie_word_embeddings=False)
    change(model, head)
    text = english(write_texts(tmp_path / "text"))
    small = Path(did("prune", "--model", model, *text, "--pattern", "vocab", *here, "--json").json["path"])
    row = did("eval", *here, *text, "--seqlen", "24", "--max-windows", "4", "--json").json["rows"][-1]
    (windows,) = [load_file(file)["windows"] for file in (tmp_path / "w" / "evals").glob("*/windows-0-1.safetensors")]
    assert row["nats"] == pytest.approx(stock_nats(small, windows), rel=1e-6)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, small))
    (stay,) = [load_file(file)["stay"] for file in (tmp_path / "w" / "masks").glob("*/vocabulary.safetensors")]
    assert len(stay) < len(before[HEAD])
    assert all(torch.equal(before[name][stay], after[name]) for name in (EMBEDDINGS, HEAD))


@pytest.mark.parametrize("head", ["equal", "other"])
def test_the_search_of_blocks_looks_at_the_own_head(head: str, ids: Tensor, tmp_path: Path) -> None:
    save(tmp_path / "model", head)
    found = search_windows(opened(tmp_path / "model"), ids, 1, Silent())
    assert found.dense == pytest.approx(stock_nats(tmp_path / "model", ids), rel=1e-6)


def test_a_head_that_is_nowhere_is_not_made_up(tmp_path: Path) -> None:
    save(tmp_path, "embeddings alone", tie=False)
    with pytest.raises(LangpruneError, match=r"has no head \(lm_head.weight\), .* or set tie_word_embeddings to true"):
        StreamedModel(tmp_path)


def test_equal_in_the_dtype_of_the_model(tmp_path: Path) -> None:
    """What was loaded is compared: float32 values that are equal as bfloat16 are tied in a bfloat16 model."""
    save(tmp_path, "equal")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[EMBEDDINGS] = tensors[EMBEDDINGS].bfloat16().float()
    tensors[HEAD] = tensors[EMBEDDINGS] * (1 + 2**-12)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert StreamedModel(tmp_path).untied
    assert not StreamedModel(tmp_path, dtype=torch.bfloat16).untied
