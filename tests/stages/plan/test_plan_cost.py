"""What `plan` says of disk and operations, against what a run writes and against counts by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from langprune_cli.solvers import admm, conjugate_gradient
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico


def parts(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("block-*.safetensors"))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 512}),
        ("gemma2", {"hidden_size": 192, "intermediate_size": 512, "head_dim": 48}),
        ("qwen3_moe", {"hidden_size": 128, "moe_intermediate_size": 192, "head_dim": 32}),
    ],
)
def test_disk_is_what_is_written(family: str, settings: dict[str, int], tmp_path: Path) -> None:
    save_pico(family, tmp_path / "model", **settings)
    torch.manual_seed(0)
    save_file({"windows": torch.randint(3, 97, (16, 32), dtype=torch.int32)}, tmp_path / "windows.safetensors")
    words = ["-m", tmp_path / "model", "-w", tmp_path / "w", "--json"]
    plan = did("plan", *words[:2], "-p", "2:4", "--nsamples", 16, "--seqlen", 32, "--json").json["costs"]
    made = did("prune", *words, "--data", tmp_path / "windows.safetensors", "--pattern", "2:4").json
    folders = {each["kind"]: Path(each["path"]) for each in made["artifacts"]}
    drifts = 0 if family == "gemma2" else plan["drift_bytes"]  # a norm stands between its linears and the stream
    assert parts(folders["stats"]) == pytest.approx(plan["hessian_bytes"] + drifts, rel=0.01)
    assert parts(folders["masks"]) == pytest.approx(plan["mask_bytes"], rel=0.05)  # headers, in so small a mask
    assert (folders["models"] / "model.safetensors").stat().st_size == pytest.approx(plan["model_bytes"], rel=0.01)
    windows = folders["stats"] / "windows.safetensors"
    assert windows.stat().st_size == pytest.approx(plan["windows_bytes"], rel=0.05)


def test_operations_are_those_counted_by_hand(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model")
    plan = did("plan", "-m", tmp_path / "model", "-p", "2:4", "--nsamples", 4, "--seqlen", 10, "--json").json
    tokens, hidden, ffn, blocks = 40, 32, 48, 3
    linears = (32 + 16 + 16) * hidden + hidden * 32 + 2 * ffn * hidden + hidden * ffn
    attention = 2 * tokens * 10 * hidden
    assert plan["costs"]["forward_flops"] == 3 * blocks * (2 * tokens * linears + attention)
    products = 3 * hidden * (hidden + 1) + ffn * (ffn + 1)
    assert plan["costs"]["hessian_flops"] == blocks * tokens * products
    sites = [(64, hidden), (32, hidden), (96, hidden), (32, ffn)]
    steps = admm.STEPS + conjugate_gradient.STEPS
    assert plan["costs"]["solving_flops"] == blocks * sum(i**3 + 2 * steps * r * i * i for r, i in sites)
    assert plan["seconds"] == pytest.approx(plan["costs"]["flops"] / plan["flops_per_second"])


def test_divergences_take_the_operations_counted_by_hand_and_the_statistics_of_the_dense_model(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["plan", "-m", tmp_path / "model", "-p", "unstructured", "--nsamples", 4, "--seqlen", 10, "--json"]
    plain = did(*words).json
    found = did(*words, "--allocation", "fisher").json
    hidden, ffn, blocks, vocabulary, pieces, tokens, sparsities, steps = 32, 48, 3, 97, 4, 40, 4, 8
    sites = [(64, hidden), (32, hidden), (96, hidden), (32, ffn)]
    linears = blocks * sum(2 * r * i for r, i in sites)
    passes = tokens * (4 * linears + 4 * blocks * 2 * 10 * hidden + 2 * 2 * hidden * vocabulary)
    trials = blocks * sum(2 * sparsities * r * i * (pieces + steps * i) for r, i in sites)
    assert plain["costs"]["divergence_flops"] == 0
    assert found["costs"]["divergence_flops"] == passes + trials
    assert found["costs"]["hessian_flops"] == 2 * plain["costs"]["hessian_flops"]
    assert found["costs"]["forward_flops"] == pytest.approx(4 / 3 * plain["costs"]["forward_flops"])
    assert found["costs"]["flops"] == sum(found["costs"][name] for name in found["costs"] if name.endswith("_flops"))
    search = did(*words, "--allocation", "search").json
    assert search["costs"]["solving_flops"] == 6 * plain["costs"]["solving_flops"]


@pytest.mark.parametrize(("pattern", "why"), [
    ("2:4", "does not go with --pattern 2:4"), ("channels", "spreads single weights, and --pattern names none"),
])  # fmt: skip
def test_allocations_of_what_is_not_spread_are_refused(pattern: str, why: str, tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model")
    one_sentence(langprune("plan", "-m", tmp_path / "model", "-p", pattern, "--allocation", "fisher"), 2, why)


def test_experts_see_the_tokens_that_are_routed_to_them(tmp_path: Path) -> None:
    for name, chosen in (("two", 2), ("four", 4)):
        save_pico("mixtral", tmp_path / name, num_experts_per_tok=chosen)
    two, four = (did("plan", "-m", tmp_path / name, "-p", "2:4", "--json").json["costs"] for name in ("two", "four"))
    assert four["hessian_bytes"] == two["hessian_bytes"]
    assert two["forward_flops"] < four["forward_flops"] < 2 * two["forward_flops"]
