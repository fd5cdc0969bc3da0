"""Peak memory of every stage on a checkpoint that is larger than it: one block and the hidden states, not the model.

Makes a Llama of 40 blocks x 1536 (random bf16 weights, 2.4 GB), runs calibrate, mask, apply and eval on it as a user
would, each in a process of its own, and writes the peak resident memory of each to docs/benchmarks.md.

    python -m tests.benchmarks.peak_memory [--folder DIR]

With --mixtures, prunes mixtures of 2 and of 8 blocks instead: the peak must not grow with the blocks.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, MixtralConfig, PretrainedConfig

from langprune_cli.models.model_files import INDEX
from langprune_cli.models.shards import index_json, plan_shards, write_shard
from langprune_cli.models.tensor_entry import TensorEntry
from tests.benchmarks.results import HEADINGS, save

BLOCKS, HIDDEN, FFN, VOCABULARY, HEADS = 40, 1536, 4096, 32000, 24
WINDOWS, SEQLEN = 16, 512
LIMIT_MB = 1200
MIXTURES, EXPERTS, NARROW, EXPERT_FFN, FEW_TOKENS = (2, 8), 8, 512, 2048, 1024
UNBOUNDED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}


def groups() -> list[dict[str, TensorEntry]]:
    """Return the tensors of the model: outside of the blocks, then block by block."""

    def entry(*shape: int) -> TensorEntry:
        return TensorEntry("", "BF16", shape, 0, 2 * torch.Size(shape).numel())

    outside = {
        "model.embed_tokens.weight": entry(VOCABULARY, HIDDEN),
        "model.norm.weight": entry(HIDDEN),
        "lm_head.weight": entry(VOCABULARY, HIDDEN),
    }
    block = {
        **{f"self_attn.{name}_proj.weight": entry(HIDDEN, HIDDEN) for name in "qkvo"},
        "mlp.gate_proj.weight": entry(FFN, HIDDEN),
        "mlp.up_proj.weight": entry(FFN, HIDDEN),
        "mlp.down_proj.weight": entry(HIDDEN, FFN),
        "input_layernorm.weight": entry(HIDDEN),
        "post_attention_layernorm.weight": entry(HIDDEN),
    }
    inside = [{f"model.layers.{i}.{name}": each for name, each in block.items()} for i in range(BLOCKS)]
    return [outside, *inside]


def mixture_groups(blocks: int) -> list[dict[str, TensorEntry]]:
    """Return the tensors of a mixtral, as `groups` does of the Llama."""

    def entry(*shape: int) -> TensorEntry:
        return TensorEntry("", "BF16", shape, 0, 2 * torch.Size(shape).numel())

    outside = {
        "model.embed_tokens.weight": entry(FEW_TOKENS, NARROW),
        "model.norm.weight": entry(NARROW),
        "lm_head.weight": entry(FEW_TOKENS, NARROW),
    }
    shapes = {"w1": (EXPERT_FFN, NARROW), "w2": (NARROW, EXPERT_FFN), "w3": (EXPERT_FFN, NARROW)}
    block = {
        **{f"self_attn.{name}_proj.weight": entry(NARROW, NARROW) for name in "qkvo"},
        "block_sparse_moe.gate.weight": entry(EXPERTS, NARROW),
        **{
            f"block_sparse_moe.experts.{number}.{name}.weight": entry(*shape)
            for number in range(EXPERTS)
            for name, shape in shapes.items()
        },
        "input_layernorm.weight": entry(NARROW),
        "post_attention_layernorm.weight": entry(NARROW),
    }
    return [outside, *({f"model.layers.{i}.{name}": each for name, each in block.items()} for i in range(blocks))]


def make_mixture(folder: Path, blocks: int) -> int:
    """Write a mixtral, and return its size in bytes."""
    config = MixtralConfig(
        vocab_size=FEW_TOKENS,
        hidden_size=NARROW,
        intermediate_size=EXPERT_FFN,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        dtype="bfloat16",
        architectures=["MixtralForCausalLM"],
    )
    return _write(folder, config, mixture_groups(blocks))


def make_model(folder: Path) -> int:
    """Write the checkpoint shard by shard, and return its size in bytes."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    return _write(folder, config, groups())


def _write(folder: Path, config: PretrainedConfig, parts: list[dict[str, TensorEntry]]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shards = plan_shards(parts, max_bytes=500_000_000)

    def values(group: int) -> Iterator[dict[str, torch.Tensor]]:
        for name, each in parts[group].items():
            noise = torch.randn(each.shape, generator=generator) * 0.02
            yield {name: (1 + noise if len(each.shape) == 1 else noise).bfloat16()}  # norms lie about 1

    for shard in shards:
        write_shard(folder / shard.file, shard, (each for group in shard.groups for each in values(group)))
    (folder / INDEX).write_bytes(index_json(shards))
    return sum(shard.size for shard in shards)


def measure(*words: str, **environment: str) -> tuple[float, float]:
    """Run one langprune command; return its wall time in seconds and its peak resident memory in MB."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "langprune_cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"langprune {' '.join(words)} failed")
    return time.monotonic() - begun, usage.ru_maxrss / 1024


def run(folder: Path) -> dict[str, object]:
    """Return the measurements."""
    size = make_model(folder / "model")
    ids = torch.randint(0, VOCABULARY, (WINDOWS, SEQLEN), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    save_file({"windows": ids}, folder / "windows.safetensors")
    common = ("-w", str(folder / "workspace"))
    text = ("--data", str(folder / "windows.safetensors"))
    steps = {
        "calibrate": ("calibrate", *common, "--model", str(folder / "model"), *text),
        "mask --pattern 2:4": ("mask", *common, "--pattern", "2:4"),
        "mask --sparsity 0.6": ("mask", *common, "--sparsity", "0.6"),
        "apply": ("apply", *common),
        "eval": ("eval", *common, *text, "--seqlen", str(SEQLEN)),
    }
    rows = {name: measure(*words) for name, words in steps.items()}
    return {
        "checkpoint_mb": size / 1e6,
        "blocks": BLOCKS,
        "block_mb": sum(entry.size for entry in groups()[1].values()) / 1e6,
        "windows": WINDOWS,
        "seqlen": SEQLEN,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": {name: {"seconds": seconds, "peak_mb": peak} for name, (seconds, peak) in rows.items()},
    }


def run_mixtures(folder: Path) -> dict[str, object]:
    """Return the measurements of mixtures."""
    ids = torch.randint(0, FEW_TOKENS, (WINDOWS, 256), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    save_file({"windows": ids}, folder / "windows.safetensors")
    rows = []
    for blocks in MIXTURES:
        size = make_mixture(folder / "mixture", blocks)
        words = ["prune", "--force", "-w", str(folder / "workspace"), "--model", str(folder / "mixture"), "--data"]
        words += [str(folder / "windows.safetensors"), "--pattern", "2:4", "--method", "sparsegpt"]
        peaks = [measure(*words, **environment)[1] for environment in ({}, UNBOUNDED)]
        rows.append({"blocks": blocks, "checkpoint_mb": size / 1e6, "peak_mb": peaks[0], "unbounded_mb": peaks[1]})
    return {"windows": WINDOWS, "seqlen": 256, "threads": torch.get_num_threads(), "rows": rows}


def mixtures_markdown(result: dict[str, object]) -> str:
    """Return the section of mixtures for docs/benchmarks.md."""
    lines = [
        HEADINGS["mixtures"],
        "",
        f"A mixtral of {EXPERTS} experts, {NARROW} x {EXPERT_FFN}, random bf16 weights; `prune --pattern 2:4 --method sparsegpt`",
        f"on {result['windows']} windows of {result['seqlen']} tokens. oneDNN keeps a compiled product of each shape that it has",
        "seen, and each expert sees another number of tokens in every block. langprune lets it keep 64; the default is 1,024.",
        "",
        "Made by `python -m tests.benchmarks.peak_memory --mixtures`.",
        "",
        "| blocks | checkpoint, MB | peak memory, MB | with oneDNN's own default, MB |",
        "|---|---|---|---|",
    ]
    rows = result["rows"]
    if not isinstance(rows, list):
        raise TypeError
    lines += [
        f"| {row['blocks']} | {row['checkpoint_mb']:.0f} | {row['peak_mb']:.0f} | {row['unbounded_mb']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def markdown(result: dict[str, object]) -> str:
    """Return the section for docs/benchmarks.md."""
    model = f"{result['blocks']} blocks x {HIDDEN} (random bf16 weights, {result['checkpoint_mb']:,.0f} MB"
    text = f"{WINDOWS} windows of {SEQLEN} tokens, {result['threads']} CPU threads, torch {result['torch']}"
    lines = [
        HEADINGS["peak_memory"],
        "",
        f"A Llama of {model}, {result['block_mb']:.0f} MB a block), {text}.",
        "Each stage is a process of its own; its peak resident memory includes Python, torch and transformers.",
        "`eval` evaluates the dense and the pruned model.",
        "",
        "Made by `nox -s bench` (`python -m tests.benchmarks.peak_memory`).",
        "",
        "| stage | seconds | peak memory, MB | share of the checkpoint |",
        "|---|---|---|---|",
    ]
    rows = result["rows"]
    if not isinstance(rows, dict):
        raise TypeError
    for name, row in rows.items():
        share = row["peak_mb"] * 1048576 / (float(str(result["checkpoint_mb"])) * 1e6)
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['peak_mb']:.0f} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write docs/benchmarks.md and the JSON beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to put the model, 6 GB; a temporary folder if left out")
    parser.add_argument("--mixtures", action="store_true", help="of mixtures, by the number of their blocks")
    options = parser.parse_args()
    folder = options.folder
    with tempfile.TemporaryDirectory() as temporary:
        if options.mixtures:
            mixtures = run_mixtures(folder or Path(temporary))
            save("mixtures", mixtures, mixtures_markdown(mixtures))
            sys.stdout.write(mixtures_markdown(mixtures))
            return
        result = run(folder or Path(temporary))
    text = markdown(result)
    save("peak_memory", result, text)
    sys.stdout.write(text)
    rows = result["rows"]
    if isinstance(rows, dict) and max(row["peak_mb"] for row in rows.values()) > LIMIT_MB:
        raise SystemExit(f"a stage took more than {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
