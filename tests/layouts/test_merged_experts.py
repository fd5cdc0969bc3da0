"""Experts that a checkpoint keeps in one tensor: each is pruned by itself, and the tensor is written as it was laid out."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.apply import model_writing
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.manifest import read_manifest
from tests.layouts.test_mixtures import logits, loss, opened, some_windows, unpacked
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import MERGED, save_pico

EXPERTS = 4


@dataclass(frozen=True)
class Stored:
    """How checkpoints of a family hold the experts of a block."""

    first: str  # the tensor of the matrices that read the hidden states
    last: str
    inputs: int  # dimension of a tensor that runs along what an expert reads

    def names(self, tensors: dict[str, Tensor]) -> list[str]:
        return [name for name in tensors if name.endswith((f".{self.first}", f".{self.last}"))]


_GRANITE = Stored("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight", 2)
STORED = {
    "gpt_oss": Stored("mlp.experts.gate_up_proj", "mlp.experts.down_proj", 1),
    "granitemoe": _GRANITE,
    "granitemoeshared": _GRANITE,
    "llama4_text": Stored("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", 1),
    "aria_text": Stored("mlp.experts.fc1.weight", "mlp.experts.fc2.weight", 1),
    "granitemoehybrid": _GRANITE,
    "minimax_m3_vl_text": Stored("mlp.experts.gate_up_proj", "mlp.experts.down_proj", 2),
    "hy_v4": Stored("mlp.experts.gate_up_proj", "mlp.experts.down_proj", 2),
    "inkling2_text": Stored("mlp.experts.w13_weight", "mlp.experts.w2_weight", 2),
    "jetmoe": Stored("input_linear.weight", "output_linear.weight", 2),
}
_PREFIX = {"inkling2_text": "model.llm.layers"}  # what tensors of blocks are called


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_windows(tmp_path_factory.mktemp("windows") / "windows.safetensors")


def ids_of(windows: Path) -> Tensor:
    return load_file(windows)["windows"]


# Two families take as long as all others together.
FAMILIES = [
    pytest.param(each, marks=pytest.mark.slow if each in ("inkling2_text", "minimax_m3_vl_text") else ())
    for each in MERGED
]


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_in_the_layout_of_the_checkpoint(family: str, tmp_path: Path, windows: Path) -> None:
    """2:4 runs along the inputs however a tensor is stored; all else is as it was; stock transformers computes the same."""
    model = tmp_path / "model"
    save_pico(family, model)
    words = ["-m", model, "--data", windows, "--pattern", "2:4", "--min-expert-tokens", "5", "-w", tmp_path / "w"]
    folder = Path(did("prune", *words, "--json").json["path"])
    before, after = (load_file(each / "model.safetensors") for each in (model, folder))
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in after.items()
    }
    merged = STORED[family].names(before)
    assert len(merged) >= 4
    for name in merged:
        groups = after[name].movedim(STORED[family].inputs, -1).unflatten(-1, (-1, 4))
        assert (groups != 0).sum(-1).eq(2).all(), name
    pruned = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(before[name].dim() == 2 for name in set(pruned) - set(merged))
    assert not any("router" in name or "bias" in name or "norm" in name for name in pruned)
    words = ["--data", windows, "-w", tmp_path / "w", "--json"]
    for each in (model, folder):
        (row,) = did("eval", "-m", each, *words).json["rows"][-1:]
        assert row["nats"] == pytest.approx(float(loss(opened(each), ids_of(windows))), abs=1e-6)


def test_a_process_without_langprune_opens_what_was_written(tmp_path: Path, windows: Path) -> None:
    code = "import sys; sys.modules['langprune_cli'] = None; from transformers import AutoModelForCausalLM as A\n"
    for family in MERGED:
        save_pico(family, tmp_path / family)
        words = ["-m", tmp_path / family, "--data", windows, "--method", "magnitude", "-w", tmp_path / "w"]
        did("prune", *words, "--out", tmp_path / f"{family}-out")
        code += f"model, info = A.from_pretrained({str(tmp_path / f'{family}-out')!r}, output_loading_info=True)\n"
        code += "assert not any(info.values()), info\n"
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)


def read_by_experts(model: Any, ids: Tensor, inputs: int) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Run the model, and return what the first and the last matrix of each (block, expert) read, in float64."""
    calls: dict[int, tuple[Tensor, ...]] = {}
    modules = dict(merged_modules(model))
    for index, experts in modules.items():
        experts.register_forward_pre_hook(lambda _, args, index=index: calls.update({index: args}))
    logits(model, ids)
    found = {}
    for index, experts in modules.items():
        for expert in range(EXPERTS):
            if len(calls[index]) == 1:  # sorted, and zero where a token does not go
                x = calls[index][0].unflatten(0, (EXPERTS, -1))[expert]
                x = x[x.abs().sum(-1) > 0].double()
            else:
                hidden, chosen = calls[index][:2]
                x = hidden[(chosen == expert).any(-1)].double()
            weight = experts.gate_up_proj[expert].double()
            made = x @ (weight if inputs == 1 else weight.T)
            if getattr(experts, "has_bias", False):
                made = made + experts.gate_up_proj_bias[expert].double()
            if hasattr(experts, "_apply_gate"):
                made = experts._apply_gate(made)
            else:
                gate, up = made.chunk(2, dim=-1)
                made = experts.act_fn(gate) * up
            found[index, expert] = x.detach(), made.detach()
    return found


def merged_modules(model: Any) -> Iterator[tuple[int, Any]]:
    for index, block in enumerate(model.model.layers):
        yield from ((index, each) for each in block.modules() if type(each).__name__.endswith("Experts"))


@pytest.mark.parametrize("family", sorted(MERGED.keys() - {"jetmoe", "inkling2_text"}))
def test_statistics_of_each_expert_are_those_of_the_tokens_that_it_was_given(
    family: str, tmp_path: Path, windows: Path
) -> None:
    model, stored = save_pico(family, tmp_path / "model"), STORED[family]
    words = ["-m", tmp_path / "model", "--data", windows, "--collect", "hessian", "-w", tmp_path / "w", "--json"]
    folder = Path(did("calibrate", *words).json["path"])
    counts = read_manifest(folder).about["expert_tokens"]
    expected = read_by_experts(model, ids_of(windows), stored.inputs)
    assert len(expected) == EXPERTS * len(counts) >= 2 * EXPERTS
    for (block, expert), inputs in expected.items():
        stats = load_file(folder / block_part(block))
        for place, x in zip((stored.first, stored.last), inputs, strict=True):
            name = f"model.layers.{block}.{place}[{expert}]"
            assert int(stats[f"{name}/tokens"]) == len(x) == counts[str(block)][expert]
            torch.testing.assert_close(stats[f"{name}/sum_sq"].double(), x.square().sum(0), rtol=1e-5, atol=1e-7)
            rows, columns = np.triu_indices(x.shape[1])
            hessian = (x.T @ x)[rows, columns]
            torch.testing.assert_close(stats[f"{name}/hessian"].double(), hessian, rtol=1e-4, atol=1e-4)


def test_statistics_of_experts_that_are_given_their_tokens_one_after_the_other(tmp_path: Path, windows: Path) -> None:
    model = save_pico("jetmoe", tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w", "--json"]
    stats = load_file(Path(did("calibrate", *words).json["path"]) / block_part(1))
    seen: dict[str, tuple[Tensor, list[int]]] = {}
    for path, module in model.model.layers[1].named_modules():
        if type(module).__name__ == "JetMoeParallelExperts":
            module.register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args}))
    logits(model, ids_of(windows))
    assert len(seen) == 4
    for path, (inputs, sizes) in seen.items():
        for expert, x in enumerate(torch.split(inputs.double(), sizes)):
            found = stats[f"model.layers.1.{path}.weight[{expert}]/sum_sq"].double()
            torch.testing.assert_close(found, x.detach().square().sum(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.values != ("jetmoe",)])
def test_channels_of_each_expert_leave(family: str, tmp_path: Path, windows: Path) -> None:
    """The smaller model computes what the dense one does without these channels, each expert having lost its own."""
    dense, stored = save_pico(family, tmp_path / "model"), STORED[family]
    words = ["-m", tmp_path / "model", "--data", windows, "--update", "none", "-w", tmp_path / "w", "--json"]
    made = did("prune", *words, "--pattern", "channels:0.34", "--round-to", "8").json
    smaller = opened(Path(made["path"]))
    (masks,) = [each for each in made["artifacts"] if each["kind"] == "masks"]
    keep = {name: bits for part in Path(masks["path"]).glob("block-*") for name, bits in load_file(part).items()}
    chosen = set()
    with torch.no_grad():
        for index, experts in merged_modules(dense):
            for expert in range(EXPERTS):
                prefix = _PREFIX.get(family, "model.layers")
                columns = unpacked(
                    keep.pop(f"{prefix}.{index}.{stored.last}[{expert}]"), experts.down_proj.shape[stored.inputs]
                )
                chosen.add(tuple(columns.tolist()))
                experts.down_proj[expert].mul_(columns if stored.inputs == 2 else columns[:, None])
        modules = {f"{name}.weight": module for name, module in dense.named_modules()}
        for name, bits in keep.items():
            modules[name].weight.mul_(unpacked(bits, modules[name].weight.shape[1]))
    assert len(chosen) > EXPERTS
    torch.testing.assert_close(logits(smaller, ids_of(windows)), logits(dense, ids_of(windows)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt_oss", "granitemoe"])
def test_a_run_that_was_killed_in_a_shard_goes_on(
    family: str, tmp_path: Path, windows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pico(family, tmp_path / "model")
    shards = ["--max-shard-size", "60KB"]
    words = ["prune", "-m", tmp_path / "model", "--data", windows, "--pattern", "2:4", *shards, "--json"]
    whole = Path(did(*words, "-w", tmp_path / "a").json["path"])
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(files) > 2
    write, written = model_writing.write_shard, []

    def killed(path: Path, shard: Any, tensors: Any) -> None:
        written.append(shard.file)
        if len(written) == 2:
            next(iter(tensors))
            raise KeyboardInterrupt
        write(path, shard, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(model_writing, "write_shard", killed)
        assert langprune(*words, "-w", tmp_path / "b").code == 130
    again = Path(did(*words, "-w", tmp_path / "b").json["path"])
    assert all(
        (whole / name).read_bytes() == (again / name).read_bytes() for name in [*files, "model.safetensors.index.json"]
    )
    with safe_open(again / files[1], "pt") as shard:
        assert not any("[" in name for name in shard.keys())  # noqa: SIM118 - no mapping
    torch.testing.assert_close(logits(opened(whole), ids_of(windows)), logits(opened(again), ids_of(windows)))


@pytest.mark.parametrize("family", ["gpt_oss", "granitemoe", "aria_text"])
def test_blocks_leave(family: str, tmp_path: Path, windows: Path) -> None:
    save_pico(family, tmp_path / "model")
    words = ["-m", tmp_path / "model", "--data", windows, "--pattern", "blocks:0.34", "-w", tmp_path / "w", "--json"]
    folder = Path(did("prune", *words).json["path"])
    before, after = (load_file(each / "model.safetensors") for each in (tmp_path / "model", folder))
    assert opened(folder).config.num_hidden_layers == 2
    for name in STORED[family].names(after):
        kept = [
            block
            for block in range(3)
            if torch.equal(before[name.replace(name.split(".")[2], str(block), 1)], after[name])
        ]
        assert len(kept) == 1, name


def test_masks_made_one_after_the_other_are_combined_and_verified(tmp_path: Path, windows: Path) -> None:
    save_pico("granitemoe", tmp_path / "model")
    did("calibrate", "-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w")
    for name, sparsity in (("a", 0.5), ("b", 0.6)):
        did("mask", "--method", "wanda", "--sparsity", sparsity, "--name", name, "-w", tmp_path / "w")
    did("combine", "masks", "a", "b", "--name", "both", "-w", tmp_path / "w")
    did("compare", "a", "b", "-w", tmp_path / "w")
    folder = Path(did("apply", "--mask", "both", "-w", tmp_path / "w", "--json").json["path"])
    did("verify", "--all", "-w", tmp_path / "w")
    did("eval", "-m", folder, "--data", windows, "-w", tmp_path / "w")
    did("report", "-w", tmp_path / "w", "--out", tmp_path / "report.html")
    did("export", "--out", tmp_path / "out", "--with-mask", "-w", tmp_path / "w")
    part = "model.layers.1.block_sparse_moe.input_linear.weight"
    with safe_open(folder / "model.safetensors", "pt") as written:
        tensor = written.get_tensor(part)
    model = StreamedModel(folder)
    assert torch.equal(model.checkpoint.read([f"{part}[2]"])[f"{part}[2]"], tensor[2])
    assert 0.45 < float((tensor == 0).float().mean()) < 0.65


def test_reading_one_expert_reads_no_other(tmp_path: Path) -> None:
    save_pico("gpt_oss", tmp_path)
    model, tensors = StreamedModel(tmp_path), load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    for expert in range(EXPERTS):
        entry = model.checkpoint.entries[f"{name}[{expert}]"]
        assert entry.size == tensors[name][expert].nbytes
        assert torch.equal(model.checkpoint.read([f"{name}[{expert}]"])[f"{name}[{expert}]"], tensors[name][expert])
    assert name not in model.checkpoint.entries
    assert model.checkpoint.size() == Checkpoint(tmp_path).size()
    assert model.checkpoint.parameters() == Checkpoint(tmp_path).parameters()
    assert model.checkpoint.digest() == Checkpoint(tmp_path).digest()


def test_experts_that_read_only_their_own_tokens_are_not_shown_others(tmp_path: Path, windows: Path) -> None:
    save_pico("llama4_text", tmp_path / "model")
    words = ["calibrate", "-m", tmp_path / "model", "--data", windows, "--all-experts", "-w", tmp_path / "w"]
    one_sentence(langprune(*words), 1, "hands each expert its own tokens alone, so that --all-experts has no use")


def test_parts_that_do_not_make_up_their_tensor_are_refused(tmp_path: Path) -> None:
    save_pico("granitemoe", tmp_path)
    checkpoint = Checkpoint(tmp_path)
    name = "model.layers.0.block_sparse_moe.input_linear.weight"
    parts = {f"{name}[{number}]": checkpoint.entries[name].matrix(number) for number in range(EXPERTS - 1)}
    with pytest.raises(LangpruneError, match=f"{name} is larger than its parts"):
        checkpoint.in_parts(parts)
    del parts[f"{name}[1]"]
    with pytest.raises(LangpruneError, match=rf"{name} does not hold {name}\[2\]".replace("[0]", "")):
        checkpoint.in_parts(parts)
