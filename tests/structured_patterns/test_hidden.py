"""A smaller hidden size: the dense model with a projected stream, computed in float64, is what the smaller model computes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from langprune_cli.units.hidden import found_stream
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

FAMILIES: dict[str, tuple[str, ...]] = {  # norms by which what is written goes; others are before what they norm is read
    "llama": (), "qwen2": (), "qwen3": (), "mistral": (), "phi3": (), "qwen3_moe": (),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
}  # fmt: skip
ONE_MORE = ("gemma2", "gemma3_text")  # norms multiply by one more than their weights


def some_windows(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, 97, (count, 24), generator=generator, dtype=torch.int32)


@dataclass
class Made:
    """A dense model, the mask of its hidden size, and the smaller model."""

    family: str
    dense: Any  # float64
    parts: dict[str, Tensor]
    smaller: Path

    @property
    def turn(self) -> Tensor:
        return self.parts["turn"].double()

    @property
    def scale(self) -> Tensor:
        return self.parts["scale"].double()

    def gain(self, norm: nn.Module) -> Tensor:
        weight: Tensor = norm.weight.detach()
        return weight + (self.family in ONE_MORE)


def made(family: str, folder: Path, share: float = 0.25, **settings: Any) -> Made:
    """Prune a model to a smaller hidden size."""
    save_pico(family, folder / "dense", **settings)
    return pruned(family, folder, share)


def pruned(family: str, folder: Path, share: float = 0.25) -> Made:
    save_file({"windows": some_windows()}, folder / "windows.safetensors")
    place = ["-w", folder / "w", "--model", folder / "dense", "--data", folder / "windows.safetensors"]
    found = did("prune", *place, "--pattern", f"hidden:{share}", "--dtype", "float32", "--json").json["artifacts"]
    paths = {each["kind"]: Path(each["path"]) for each in found}
    return Made(family, opened(folder / "dense"), load_file(paths["masks"] / "hidden.safetensors"), paths["models"])


def opened(folder: Path) -> Any:
    """Return a model in float64, in which experts cannot be computed together."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager")
    return model.eval()


@contextmanager
def projected(it: Made) -> Iterator[None]:
    """Let the dense model's stream have only what the smaller one keeps of it, and its norms the smaller one's factors."""
    turn, scale, width = it.turn, it.scale, it.turn.shape[1]
    into, back = (
        scale[:, None] * turn,
        (turn / scale[:, None]).T,
    )  # x @ into: the new coordinates; z @ back: the stream again

    def root(z: Tensor) -> Tensor:
        return (z.square().sum(-1, keepdim=True) / width + model.config.rms_norm_eps).sqrt()

    def before(norm: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return it.gain(norm) * args[0] * it.parts[names[norm]] / root(args[0] @ into)

    def behind(norm: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        z = (it.gain(norm) * args[0]) @ into
        return z @ back * it.parts[names[norm]] / root(z)

    def last(norm: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        z = args[0] @ into
        if not tied:
            return it.gain(norm) * args[0] * it.parts[names[norm]] / root(z)
        embedded = (len(scale) / width) ** 0.5 if it.family.startswith("gemma") else 1.0
        return scale * (z @ turn.T) * it.parts[names[norm]] * embedded / root(z)

    model = it.dense
    tied = model.config.tie_word_embeddings and not bool(it.parts["parted"])
    names = {model.model.norm: "constant/-1/model.norm"}
    with ExitStack() as hooks:
        hooks.enter_context(model.model.norm.register_forward_hook(last))
        hooks.enter_context(model.model.embed_tokens.register_forward_hook(lambda *each: each[-1] @ into @ back))
        for index, block in enumerate(model.model.layers):
            for path, module in block.named_modules():
                if name := next((each for each in it.parts if each == f"constant/{index}/{path}"), ""):
                    names[module] = name
                    hooks.enter_context(module.register_forward_hook(behind if path in FAMILIES[it.family] else before))
                elif not FAMILIES[it.family] and path.rpartition(".")[2] in {"o_proj", "mlp"}:
                    hooks.enter_context(module.register_forward_hook(lambda *each: each[-1] @ into @ back))
        yield


def check_logits(it: Made) -> None:
    """Check that stock transformers computes with the smaller model what the dense one does with a projected stream."""
    ids = some_windows().long()
    smaller = opened(it.smaller)
    assert smaller.config.hidden_size == it.turn.shape[1] < it.dense.config.hidden_size
    with torch.no_grad():
        found = smaller(ids).logits
        with projected(it):
            expected = it.dense(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("head", ["own", "embeddings"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_model_computes_with_a_projected_stream(family: str, head: str, tmp_path: Path) -> None:
    tied = head == "embeddings"
    it = made(family, tmp_path, tie_word_embeddings=tied)
    check_logits(it)
    torch.testing.assert_close(it.turn.T @ it.turn, torch.eye(24, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not it.parts["parted"]
    written = load_file(it.smaller / "model.safetensors")
    assert ("lm_head.weight" in written) == (not tied)
    gain = it.gain(it.dense.model.norm)
    torch.testing.assert_close(it.scale, (gain / gain.mean()).sqrt() if tied else torch.ones(32, dtype=torch.float64))


@pytest.mark.parametrize("head", ["own", "embeddings"])
def test_coordinates_are_the_principal_components_and_norms_keep_their_size(head: str, tmp_path: Path) -> None:
    tied = head == "embeddings"
    it = made("llama", tmp_path, tie_word_embeddings=tied)
    read: dict[str, Tensor] = {}

    def keep(name: str, _norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        read[name] = args[0].flatten(0, 1)

    model = it.dense.model
    norms = {f"constant/{number}/{name}": getattr(block, name) for number, block in enumerate(model.layers)
             for name in ("input_layernorm", "post_attention_layernorm")} | {"constant/-1/model.norm": model.norm}  # fmt: skip
    with ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(partial(keep, name)))
        with torch.no_grad():
            it.dense(some_windows().long())
    total = torch.zeros(32, 32, dtype=torch.float64)
    for name, x in read.items():
        t = it.scale * x / x.square().mean(-1, keepdim=True).sqrt()
        total += t.T @ t / t.square().sum() * (4 if name == "constant/-1/model.norm" else 1)
        size = (t @ it.turn).square().mean().sqrt()  # over the tokens and the coordinates that stay
        if tied and name == "constant/-1/model.norm":
            size = size * it.gain(model.norm).mean()
        torch.testing.assert_close(it.parts[name], size, rtol=1e-5, atol=0)
    most = torch.linalg.eigvalsh(total)[-24:].sum()
    torch.testing.assert_close((it.turn.T @ total @ it.turn).trace(), most, rtol=1e-6, atol=0)


def test_a_head_that_cannot_be_the_embeddings_is_parted_from_them(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense", tie_word_embeddings=True)
    file = tmp_path / "dense" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][5] *= -1
    save_file(tensors, file, {"format": "pt"})
    it = pruned("llama", tmp_path)
    check_logits(it)
    assert it.parts["parted"]
    assert torch.equal(it.scale, torch.ones(32, dtype=torch.float64))
    assert json.loads((it.smaller / "config.json").read_text())["tie_word_embeddings"] is False
    assert load_file(it.smaller / "model.safetensors")["lm_head.weight"].shape == (97, 24)
    assert langprune("verify", "--all", "-w", tmp_path / "w").code == 0


def test_a_token_much_larger_than_others_parts_the_head(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense", tie_word_embeddings=True)
    file = tmp_path / "dense" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][int(some_windows()[0, 0]), 7] = 10.0
    tensors["model.norm.weight"][7] = 0.1
    save_file(tensors, file, {"format": "pt"})
    it = pruned("llama", tmp_path)
    check_logits(it)
    assert it.parts["parted"]


def test_plan_says_what_is_left(tmp_path: Path) -> None:
    it = made("qwen3", tmp_path, share=0.3)
    plan = did("plan", "--model", tmp_path / "dense", "--pattern", "hidden:0.3", "--json").json
    manifest = json.loads((it.smaller / "manifest.json").read_text())
    assert plan["parameters_after"] == manifest["about"]["checked"]["parameters_after"]
    assert plan["axes"][0]["after"] == it.turn.shape[1] == 24  # a multiple of 8 that removes no more
    shown = did("ls", "-w", tmp_path / "w").out
    assert "hidden size 32 -> 24" in " ".join(shown.split())


def test_a_smaller_stream_with_fewer_channels_and_blocks_trains(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    save_file({"windows": some_windows()}, tmp_path / "windows.safetensors")
    patterns = ["--pattern", "hidden:0.25", "--pattern", "channels:0.34", "--pattern", "blocks:0.34"]
    place = ["-w", tmp_path / "w", "--model", tmp_path / "dense", "--data", tmp_path / "windows.safetensors"]
    found = did("prune", *place, *patterns, "--recover", "2k", "--json").json["artifacts"][0]
    config = json.loads((Path(found["path"]) / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (24, 2)
    assert config["intermediate_size"] < 48


@pytest.mark.parametrize("words", [["prune", "--pattern", "hidden:0.25"], ["apply", "--mask", "smaller"]])
def test_tuning_by_blocks_is_refused(words: list[str], tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    save_file({"windows": some_windows()}, tmp_path / "windows.safetensors")
    place = ["-w", tmp_path / "w", "--model", tmp_path / "dense", "--data", tmp_path / "windows.safetensors"]
    if words[0] == "apply":
        did("prune", *place, "--pattern", "hidden:0.25", "--name", "smaller")
        mask = next((tmp_path / "w" / "masks").iterdir()).name
        words, place = ["apply", "--mask", mask], place[:2]
    one_sentence(langprune(*words, *place, "--tune"), 2, "--tune compares hidden states")


@pytest.mark.parametrize("family", ["gemma", "glm4", "granite", "mixtral", "olmo3", "smollm3"])
def test_streams_of_more_families_are_found_and_measured(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path / "dense")
    found = found_stream(AutoConfig.from_pretrained(tmp_path / "dense"))
    assert {each.role for each in found.blocks.values()} == {"reads", "writes", "scales"}
    assert bool(found.behind) == (family in {"glm4", "olmo3"})


@pytest.mark.parametrize(("family", "share", "why"), [
    ("gpt2", 0.25, "hidden size of this gpt2 cannot be changed"),
    ("llama", 0.001, "hidden:0.001 removes nothing|can state no hidden size"),
])  # fmt: skip
def test_what_cannot_be_made_smaller_is_refused(family: str, share: float, why: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path / "dense")
    save_file({"windows": some_windows()}, tmp_path / "windows.safetensors")
    place = ["-w", tmp_path / "w", "--model", tmp_path / "dense", "--data", tmp_path / "windows.safetensors"]
    one_sentence(langprune("prune", *place, "--pattern", f"hidden:{share}"), 1, why)
    one_sentence(langprune("plan", "--model", tmp_path / "dense", "--pattern", f"hidden:{share}"), 1, why)
    assert not list((tmp_path / "w").glob("m*/*"))
