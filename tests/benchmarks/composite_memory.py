"""Peak memory of pruning a model that reads images: one block of its text tower, and one tensor of what is only copied.

Makes a llava of 2 GB (random bf16 weights in files of 500 MB): a llama of 8 blocks x 1536 with 131,072 tokens, and a vision
tower of 20 blocks x 1280. Runs stages on it as a user would, each in a process of its own, and prints the peak resident memory
of each. docs/large-models.md has the figures.

    python -m tests.benchmarks.composite_memory [--folder DIR]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from langprune_cli.models.model_files import INDEX
from langprune_cli.models.shards import index_json, plan_shards, write_shard
from langprune_cli.models.tensor_entry import TensorEntry
from tests.benchmarks.peak_memory import measure

BLOCKS, HIDDEN, FFN, TOKENS, HEADS = 8, 1536, 4096, 131_072, 12
WINDOWS, SEQLEN = 8, 256
_WIDE = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
_TALL = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 20}


def configuration() -> LlavaConfig:
    """Return the configuration of the model."""
    text = {"model_type": "llama", "vocab_size": TOKENS, "num_hidden_layers": BLOCKS, **_WIDE}
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **_TALL}
    return LlavaConfig(
        text_config=text, vision_config=vision, image_token_id=TOKENS - 1, dtype="bfloat16",
        architectures=["LlavaForConditionalGeneration"],
    )  # fmt: skip


def entries_of_model() -> dict[str, TensorEntry]:
    """Return the tensors of the model."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(configuration())
    return {
        name: TensorEntry("", "BF16", tuple(each.shape), 0, 2 * each.numel()) for name, each in model.named_parameters()
    }


def make_model(folder: Path) -> None:
    """Write the checkpoint tensor by tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration().save_pretrained(folder)
    entries = entries_of_model()
    generator = torch.Generator().manual_seed(0)
    shards = plan_shards([{name: each} for name, each in entries.items()], max_bytes=500_000_000)
    names = list(entries)

    def values(name: str) -> Iterator[dict[str, torch.Tensor]]:
        made = torch.randn(entries[name].shape, generator=generator, dtype=torch.bfloat16)
        yield {name: made.mul_(0.02).add_(1 if made.dim() == 1 else 0)}  # norms lie about 1

    for shard in shards:
        write_shard(folder / shard.file, shard, (each for group in shard.groups for each in values(names[group])))
    (folder / INDEX).write_bytes(index_json(shards))


def run(folder: Path) -> Iterator[str]:
    """Yield the lines of the measurements, each when it is known."""
    # In a process of its own: the memory of this one counts for those that it starts.
    subprocess.run([sys.executable, "-m", __spec__.name, "--make", folder / "model"], check=True)
    entries = entries_of_model()
    ids = torch.randint(0, TOKENS, (WINDOWS, SEQLEN), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    save_file({"windows": ids}, folder / "windows.safetensors")
    common = ("-w", str(folder / "workspace"))
    model, text = ("--model", str(folder / "model")), ("--data", str(folder / "windows.safetensors"))
    steps = {
        "`calibrate`": ("calibrate", *common, *model, *text),
        "`mask --pattern 2:4`": ("mask", *common, *model, "--pattern", "2:4"),
        "`apply`": ("apply", *common, "--out", str(folder / "applied")),
        "`apply --text-only`": ("apply", *common, "--text-only", "--out", str(folder / "alone")),
        "`prune --pattern 2:4 --method wanda`": (
            "prune",
            *common,
            *model,
            *text,
            "--pattern",
            "2:4",
            "--method",
            "wanda",
            "--out",
            str(folder / "pruned"),
        ),
        "`prune --pattern 2:4`": ("prune", *common, *model, *text, "--pattern", "2:4", "--out", str(folder / "pruned")),
    }
    block = sum(each.size for name, each in entries.items() if ".layers.0." in name and "language_model" in name)
    largest = max(entries.values(), key=lambda each: each.size)
    whole = sum(each.size for each in entries.values())
    yield f"A checkpoint of {whole / 1e6:,.0f} MB, a block {block / 1e6:.0f} MB, the largest tensor {largest.size / 1e6:.0f} MB."
    yield "\n| stage | peak memory, MB |\n|---|---|"
    for name, words in steps.items():
        yield f"| {name} | {measure(*words)[1] * 1.048576:,.0f} |"
        for made in ("applied", "alone", "pruned"):
            shutil.rmtree(folder / made, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to put the model, 5 GB; a temporary folder if left out")
    parser.add_argument("--make", type=Path, help="only make the model, in this folder")
    asked = parser.parse_args()
    if asked.make:
        make_model(asked.make)
        return
    folder = asked.folder
    with tempfile.TemporaryDirectory() as temporary:
        for line in run(folder or Path(temporary)):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
