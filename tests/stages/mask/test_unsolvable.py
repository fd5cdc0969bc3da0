"""Inputs that are too small to compute with end in a sentence that names the linear, and never in torch's own error."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.statistics.sites import named
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose embeddings are so small that the squares of what its linears read are next to nothing in float32."""
    folder = tmp_path_factory.mktemp("tiny")
    save_pico("llama", folder / "model")
    weights = load_file(folder / "model" / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 1e-20
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (4, 24), dtype=torch.int32)}, folder / "windows.safetensors")
    return folder


@pytest.mark.parametrize("words", [[], ["--method", "sparsegpt"], ["--pattern", "channels:0.3", "--round-to", "2"]])
def test_inputs_too_small_for_float32(tiny: Path, words: list[str]) -> None:
    done = langprune("prune", "-m", tiny / "model", "--data", tiny / "windows.safetensors", *words)
    one_sentence(
        done, 1, r"error: model\.layers\.\d\.\S+\.weight: what it reads is so small .*--method wanda --update none"
    )
    assert not list(Path("langprune-workspace").glob("models/*/*.safetensors"))


def test_what_the_sentence_says_to_do_works(tiny: Path) -> None:
    words = ["--method", "wanda", "--update", "none", "--allocation", "alpha"]
    did("prune", "-m", tiny / "model", "--data", tiny / "windows.safetensors", *words)


def test_what_linear_algebra_raises_names_the_linear() -> None:
    with pytest.raises(LangpruneError, match=r"^q_proj: its matrix cannot be factored \("), named("q_proj"):
        torch.linalg.cholesky(-torch.eye(2))
