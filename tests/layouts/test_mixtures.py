"""Mixtures of experts: an expert is three linears like any others, known by the names that the checkpoint gives them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.models.families import FAMILIES as CUTTABLE
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.manifest import read_manifest
from tests.support.command import did, langprune, one_sentence
from tests.support.narrowed import EXPERTS as LEFT
from tests.support.pico import MIXTURES, save_pico

EXPERTS, BLOCKS, TOKENS = 4, 3, 6 * 24
NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}
_USUAL = ("mlp", "gate_proj", "up_proj", "down_proj")


def some_windows(file: Path, count: int = 6, seqlen: int = 24) -> Path:
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (count, seqlen), dtype=torch.int32)}, file)
    return file


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_windows(tmp_path_factory.mktemp("windows") / "windows.safetensors")


def names_of(family: str, block: int, expert: int) -> tuple[str, str, str]:
    module, *linears = NAMES.get(family, _USUAL)
    gate, up, down = (f"model.layers.{block}.{module}.experts.{expert}.{each}.weight" for each in linears)
    return gate, up, down


def merged_experts(model: Any) -> Iterator[tuple[int, Any]]:
    """Yield the number and the merged experts of each block of a model of transformers that has some."""
    for index, block in enumerate(model.model.layers):
        if hasattr(block.mlp, "experts"):
            yield index, block.mlp.experts


def opened(folder: Path) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids.long()).logits
    return found


def read_by_experts(model: Any, ids: Tensor) -> dict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]]:
    """Run the model, and return what gate (and up) and what down of each (block, expert) read, token by token, in float64."""
    calls: dict[int, tuple[Tensor, Tensor]] = {}
    for index, experts in merged_experts(model):
        experts.register_forward_pre_hook(lambda _, args, index=index: calls.update({index: args[:2]}))
    logits(model, ids)
    found = {}
    for index, experts in merged_experts(model):
        hidden, chosen = calls[index]
        width = experts.down_proj.shape[2]
        for expert in range(EXPERTS):
            rows = [hidden[token] for token in range(len(hidden)) if expert in chosen[token].tolist()]
            gate, up = (experts.gate_up_proj[expert].double()[part] for part in (slice(width), slice(width, None)))
            x = torch.stack(rows).detach().double()
            made = experts.act_fn(x @ gate.T) * (x @ up.T)
            found[index, expert] = x.numpy(), made.detach().numpy()
    return found


@pytest.mark.parametrize("family", MIXTURES)
def test_statistics_of_each_expert_are_those_of_the_tokens_that_it_was_given(
    family: str, tmp_path: Path, windows: Path
) -> None:
    model = save_pico(family, tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "--collect", "hessian", "-w", tmp_path / "w"]
    done = did("calibrate", *words, "--json")
    folder = Path(done.json["path"])
    expected = read_by_experts(model, load_file(windows)["windows"])
    counts = read_manifest(folder).about["expert_tokens"]
    for (block, expert), inputs in expected.items():
        stats = load_file(folder / block_part(block))
        gate, up, down = names_of(family, block, expert)
        assert f"{up}/tokens" not in stats  # it reads what gate does
        for name, x in zip((gate, down), inputs, strict=True):
            assert int(stats[f"{name}/tokens"]) == len(x) == counts[str(block)][expert]
            np.testing.assert_allclose(stats[f"{name}/sum_sq"], (x * x).sum(0), rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(stats[f"{name}/sum_x"], x.sum(0), rtol=1e-4, atol=1e-5)
            rows, columns = np.triu_indices(x.shape[1])
            np.testing.assert_allclose(stats[f"{name}/hessian"], (x.T @ x)[rows, columns], rtol=1e-4, atol=1e-5)
    assert f"{len(expected)} experts in {len(counts)} blocks saw" in done.err
    assert sum(map(sum, counts.values())) == 2 * TOKENS * len(counts)  # each token goes to two


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("family", MIXTURES)
def test_every_linear_of_every_expert_is_pruned_and_the_model_opens(
    family: str, method: str, tmp_path: Path, windows: Path
) -> None:
    dense = save_pico(family, tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "--method", method, "--pattern", "2:4", "-w", tmp_path / "w"]
    done = did("prune", *words, "--min-expert-tokens", "5", "--json")
    folder = Path(done.json["path"])
    tensors = load_file(folder / "model.safetensors")
    for index, _ in merged_experts(dense):
        for expert in range(EXPERTS):
            for name in names_of(family, index, expert):
                assert (tensors[name].unflatten(1, (-1, 4)) != 0).sum(-1).eq(2).all(), name
                assert torch.isfinite(tensors[name]).all()
    before = load_file(tmp_path / "model" / "model.safetensors")
    routers = [name for name in before if name.endswith(("gate.weight", "router.weight", "shared_expert_gate.weight"))]
    assert len(routers) >= len(list(merged_experts(dense)))
    assert all(torch.equal(tensors[name], before[name]) for name in routers)
    ids = load_file(windows)["windows"]
    assert torch.isfinite(logits(opened(folder), ids)).all()
    rows = did("eval", "-m", folder, "--data", windows, "-w", tmp_path / "w", "--json").json["rows"]
    assert rows[-1]["nats"] == pytest.approx(float(loss(opened(folder), ids)), rel=1e-5)


def loss(model: Any, ids: Tensor) -> Tensor:
    found = logits(model, ids)[:, :-1]
    return torch.nn.functional.cross_entropy(found.flatten(0, 1), ids[:, 1:].flatten().long())


@pytest.mark.parametrize("method", ["osscar", "magnitude"])
@pytest.mark.parametrize("family", sorted(CUTTABLE.keys() & MIXTURES.keys()))
def test_channels_of_experts_leave(family: str, method: str, tmp_path: Path, windows: Path) -> None:
    """The smaller model computes what the dense one does without these columns, each expert having lost its own."""
    dense = save_pico(family, tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "--method", method, "--update", "none", "-w", tmp_path / "w"]
    patterns = ["--pattern", "channels:0.34", "--pattern", "kv-groups:0.5", "--round-to", "8"]
    made = did("prune", *words, *patterns, "--json").json
    smaller = opened(Path(made["path"]))
    for kind, left in LEFT[family].items():
        assert getattr(smaller.config, CUTTABLE[family].channels[kind].width_key) == left
    (masks,) = [each for each in made["artifacts"] if each["kind"] == "masks"]
    keep = {name: bits for part in Path(masks["path"]).glob("block-*") for name, bits in load_file(part).items()}
    chosen = set()
    with torch.no_grad():
        for index, experts in merged_experts(dense):
            for expert in range(EXPERTS):
                columns = unpacked(keep.pop(names_of(family, index, expert)[2]), experts.down_proj.shape[2])
                chosen.add(tuple(columns.tolist()))
                experts.down_proj[expert].mul_(columns)
        modules = {f"{name}.weight": module for name, module in dense.named_modules()}
        for name, bits in keep.items():
            modules[name].weight.mul_(unpacked(bits, modules[name].weight.shape[1]))
    assert len(chosen) >= EXPERTS
    ids = load_file(windows)["windows"]
    torch.testing.assert_close(logits(smaller, ids), logits(dense, ids), rtol=1e-4, atol=1e-5)
    generated = smaller.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > 3


def unpacked(bits: Tensor, width: int) -> Tensor:
    return torch.tensor([[byte >> bit & 1 for bit in range(8)] for byte in bits[0].tolist()]).flatten()[:width].bool()


@pytest.mark.parametrize("words", [[], ["--pattern", "channels:0.34"], ["--method", "wanda", "--allocation", "owl"]])
def test_experts_that_no_token_reached(words: list[str], tmp_path: Path) -> None:
    """Two tokens reach four of eight experts at the most: the others are pruned by magnitude, and keep their values."""
    model = tmp_path / "model"
    save_pico("mixtral", model, num_local_experts=8)
    few = some_windows(tmp_path / "few.safetensors", 1, 2)
    options = ["-m", model, "--data", few, "--min-expert-tokens", "1", "--propagation", "dense", "-w", tmp_path / "w"]
    done = did("prune", *options, *words, "--json")
    (masks,) = [each for each in done.json["artifacts"] if each["kind"] == "masks"]
    (stats,) = [each for each in done.json["artifacts"] if each["kind"] == "stats"]
    counts = read_manifest(Path(stats["path"])).about["expert_tokens"]
    about = read_manifest(Path(masks["path"])).about
    unseen = {block: [expert for expert, tokens in enumerate(seen) if not tokens] for block, seen in counts.items()}
    assert about["experts_by_magnitude"] == unseen
    assert all(4 <= len(experts) < 8 for experts in unseen.values())
    assert f"{sum(map(len, unseen.values()))} experts saw fewer than 1 tokens and are pruned by magnitude" in done.err
    tensors, before = (load_file(folder / "model.safetensors") for folder in (Path(done.json["path"]), model))
    for tensor in tensors.values():
        assert torch.isfinite(tensor).all()
    if "channels:0.34" in words:
        return
    for block, experts in unseen.items():
        for name in [name for expert in experts for name in names_of("mixtral", int(block), expert)]:
            keep = tensors[name] != 0
            assert torch.equal(tensors[name][keep], before[name][keep])
            assert 0 < keep.float().mean() < 1
            magnitudes = before[name].abs()
            assert all(
                magnitudes[row][keep[row]].min() >= magnitudes[row][~keep[row]].max() for row in [0] if "owl" in words
            )


def test_chained_stages_treat_the_same_experts_alike(tmp_path: Path, windows: Path) -> None:
    save_pico("qwen2_moe", tmp_path / "model")
    few = ["--min-expert-tokens", "70"]
    drawn = ["-m", tmp_path / "model", "--data", windows]
    words = ["--method", "sparsegpt", "--sparsity", "0.5", *few]
    once = did("prune", *drawn, *words, "--propagation", "dense", "-w", tmp_path / "a", "--json").json
    did("calibrate", *drawn, "--collect", "hessian", "-w", tmp_path / "b")
    masked = did("mask", *words, "-w", tmp_path / "b", "--json").json
    chained = did("apply", "-w", tmp_path / "b", "--json").json
    assert read_manifest(Path(masked["path"])).about["experts_by_magnitude"]
    assert read_manifest(Path(masked["path"])).params["min_expert_tokens"] == 70
    one, other = (Path(each["path"]) / "model.safetensors" for each in (once, chained))
    assert one.read_bytes() == other.read_bytes()


def test_every_token_shown_to_every_expert(tmp_path: Path, windows: Path) -> None:
    """Statistics are those of all tokens, and what goes on to the next block is what the router chose, as before."""
    model = tmp_path / "model"
    save_pico("qwen3_moe", model)
    words = ["-m", model, "--data", windows, "--collect", "hessian", "-w", tmp_path / "w", "--json"]
    routed, every = (
        did("calibrate", *words, *more).json for more in (["--name", "a"], ["--name", "b", "--all-experts"])
    )
    assert routed["key"] != every["key"]
    about = read_manifest(Path(every["path"])).about
    assert about["expert_tokens"] == {"1": [TOKENS] * EXPERTS, "2": [TOKENS] * EXPERTS}
    stats, others = (Artifact(Path(each["path"]), read_manifest(Path(each["path"]))) for each in (routed, every))
    for block in range(BLOCKS):
        a, b = (each.tensors(block_part(block)) for each in (stats, others))
        attention = [name for name in a if "self_attn" in name]
        assert attention
        assert all(torch.equal(a[name], b[name]) for name in attention)
    name = "model.layers.2.mlp.experts.0.gate_proj.weight"
    shared = others.tensors_and_record(block_part(2))[1]["sites"][name]
    assert len(shared) == 2 * EXPERTS  # all read the same
    done = did("prune", *words[:4], *words[6:], "--all-experts", "--pattern", "2:4").json
    assert torch.isfinite(logits(opened(Path(done["path"])), load_file(windows)["windows"])).all()


def test_options_about_experts_are_refused_where_there_are_none(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w"]
    one_sentence(
        langprune("calibrate", *words, "--all-experts"), 2, "--all-experts has no effect on model, which has no experts"
    )
    one_sentence(langprune("prune", *words, "--min-expert-tokens", 3), 2, "--min-expert-tokens has no effect")


def test_a_fine_tuned_mixture_saved_by_transformers_is_read_alike(tmp_path: Path, windows: Path) -> None:
    """save_pretrained takes the merged experts apart again, under the names of the original checkpoint."""
    save_pico("mixtral", tmp_path / "model")
    opened(tmp_path / "model").save_pretrained(tmp_path / "again")
    rows = [
        did("eval", "-m", tmp_path / name, "--data", windows, "-w", tmp_path / "w", "--json").json["rows"][0]["nats"]
        for name in ("model", "again")
    ]
    assert rows[0] == rows[1]


def test_statistics_of_texts_that_reached_other_experts_add_up(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_pico("mixtral", model, num_local_experts=8)
    few, more = (some_windows(tmp_path / f"{count}.safetensors", count, 2) for count in (1, 9))
    both = {"windows": torch.cat([load_file(file)["windows"] for file in (few, more)])}
    save_file(both, tmp_path / "both.safetensors")
    words = ["-m", model, "--collect", "hessian", "-w", tmp_path / "w", "--json"]
    for name in ("1", "9", "both"):
        did("calibrate", *words, "--data", tmp_path / f"{name}.safetensors", "--name", name)
    made = did("combine", "stats", "1", "9", "-w", tmp_path / "w", "--json").json
    found, expected = (Path(path) for path in (made["path"], tmp_path / "w" / "stats" / "both"))
    counts = read_manifest(found).about["expert_tokens"]
    assert counts == read_manifest(expected).about["expert_tokens"]
    assert 0 in read_manifest(tmp_path / "w" / "stats" / "1").about["expert_tokens"]["0"]
    for block in range(BLOCKS):
        sums, others = (load_file(folder / block_part(block)) for folder in (found, expected))
        assert sums.keys() == others.keys()
        for name, tensor in sums.items():
            torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-5)
    did("calibrate", *words, "--data", few, "--name", "every", "--all-experts")
    done = langprune("combine", "stats", "9", "every", "-w", tmp_path / "w")
    one_sentence(done, 1, "their experts' tokens differ")
