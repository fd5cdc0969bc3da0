"""What every peer prunes: one model, one file of windows; and the check that a peer did prune it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SPARSITY = 0.5
TOLERANCE = 0.002  # thresholds are inclusive: SparseGPT's loops remove one weight too many of every 128 columns


@dataclass(frozen=True)
class Setting:
    """The size of the task. The embedding is small and tied, so that nearly all the work lies in the blocks."""

    blocks: int = 16
    hidden: int = 1024
    ffn: int = 2816
    heads: int = 16
    kv_heads: int | None = None  # None: as many as heads
    vocabulary: int = 8192
    windows: int = 32
    seqlen: int = 512
    threads: int = 2

    def linears(self) -> list[tuple[int, int]]:
        """Return [out, in] of every linear of a block."""
        h, f = self.hidden, self.ffn
        kv = h * (self.kv_heads or self.heads) // self.heads
        return [(h, h), (kv, h), (kv, h), (h, h), (f, h), (f, h), (h, f)]

    def sites(self) -> list[int]:
        """Return the width of every input site of a block: q/k/v, o, gate/up, down."""
        return [self.hidden] * 3 + [self.ffn]

    def parameters(self) -> int:
        """Return how many weights the blocks' linears have."""
        return self.blocks * sum(o * i for o, i in self.linears())


def make(setting: Setting, folder: Path, device: torch.device | str = "cpu") -> tuple[Path, Path]:
    """Write the model, its weights drawn on a device, and the windows; return where they lie."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=setting.ffn,
        num_hidden_layers=setting.blocks,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.kv_heads or setting.heads,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "model")
    ids = torch.randint(0, setting.vocabulary, (setting.windows, setting.seqlen), dtype=torch.int32)
    save_file({"windows": ids}, folder / "windows.safetensors")
    return folder / "model", folder / "windows.safetensors"


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a checkpoint with its name."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping: it has no other way to list its names)
                yield name, opened.get_tensor(name)


def removed(model: Path, pruned: Path) -> float:
    """Return the sparsity of `pruned`; fail if a linear was left out, or anything else was touched.

    A peer that skips linears, or a tool that silently finds none, would win every comparison.
    """
    dense = dict(tensors(model))
    shares = []
    for name, tensor in tensors(pruned):
        if ".layers." in name and tensor.ndim == 2:
            share = (tensor == 0).double().mean().item()
            if tensor.dtype != torch.bfloat16 or abs(share - SPARSITY) > TOLERANCE:
                raise SystemExit(f"{pruned}: {name} is {tensor.dtype}, {share:.4f} of it zero")
            shares += [share] * (tensor.numel() // 1024)  # weighted by size
        elif name in dense and not torch.equal(tensor, dense[name]):
            raise SystemExit(f"{pruned}: {name} is no linear of a block, and was changed")
        dense.pop(name, None)
    if dense:
        raise SystemExit(f"{pruned}: without {', '.join(dense)}")
    return sum(shares) / len(shares)
