"""The models and windows that the goldens are of: one made of drawn numbers, and the built-in demo model."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.reference.llama import Llama, Matrix, Shape, Tokens

DEMO = Path(__file__).parents[2] / "langprune_cli" / "demo_data"
LANGUAGES = ("uk", "en")

# Found by trying seeds from 0: the first whose choices are all clearer than `make.CLEAR`.
SEED = 30
PICO = Shape(blocks=2, heads=2, kv_heads=1, head_dim=8)
_HIDDEN, _FFN, _VOCABULARY = 16, 136, 64  # more than 128 inputs: SparseGPT's second block of columns


@dataclass(frozen=True)
class Windows:
    """Token ids, [windows, tokens]."""

    calibration: Tokens
    test: Tokens


class Numbers:
    """Numbers that are the same on every machine and exact in float32: Python promises its random() for good."""

    def __init__(self, seed: int) -> None:
        self.next: Callable[[], float] = random.Random(seed).random

    def matrix(self, *shape: int, scale: float, around: float = 0.0) -> NDArray[np.float32]:
        """Return multiples of 2^-20, of about `scale`: the sum of four uniform numbers is bell-shaped enough."""
        drawn = [around + scale * (sum(self.next() for _ in range(4)) - 2) for _ in range(int(np.prod(shape)))]
        return np.array([round(value * 2**20) / 2**20 for value in drawn], dtype=np.float32).reshape(shape)

    def tokens(self, windows: int, length: int) -> Tokens:
        """Return windows in which each token depends on the one before, as in a language."""
        ids = np.zeros((windows, length), dtype=np.int64)
        for row in ids:
            row[0] = int(self.next() * _VOCABULARY)
            for place in range(1, length):
                row[place] = (row[place - 1] * 5 + int(self.next() ** 2 * 12)) % _VOCABULARY
        return ids


def pico(seed: int = SEED) -> tuple[dict[str, NDArray[np.float32]], Windows]:
    """Draw a Llama of two blocks, norms that are not 1 included, and its windows."""
    numbers = Numbers(seed)
    narrow, shared = PICO.heads * PICO.head_dim, PICO.kv_heads * PICO.head_dim
    linears = {
        "self_attn.q_proj": (narrow, _HIDDEN),
        "self_attn.k_proj": (shared, _HIDDEN),
        "self_attn.v_proj": (shared, _HIDDEN),
        "self_attn.o_proj": (_HIDDEN, narrow),
        "mlp.gate_proj": (_FFN, _HIDDEN),
        "mlp.up_proj": (_FFN, _HIDDEN),
        "mlp.down_proj": (_HIDDEN, _FFN),
    }
    weights = {"model.embed_tokens.weight": numbers.matrix(_VOCABULARY, _HIDDEN, scale=1.0)}
    for index in range(PICO.blocks):
        block = f"model.layers.{index}"
        for name, (rows, columns) in linears.items():
            weights[f"{block}.{name}.weight"] = numbers.matrix(rows, columns, scale=1.5 * columns**-0.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{block}.{norm}.weight"] = numbers.matrix(_HIDDEN, scale=0.5, around=1.0)
    weights["model.norm.weight"] = numbers.matrix(_HIDDEN, scale=0.5, around=1.0)
    weights["lm_head.weight"] = numbers.matrix(_VOCABULARY, _HIDDEN, scale=0.5)
    return weights, Windows(numbers.tokens(32, 24), numbers.tokens(16, 24))


def save_pico(folder: Path) -> Windows:
    """Write the drawn model as a folder that transformers opens, float32, and return its windows."""
    weights, windows = pico()
    folder.mkdir(parents=True)
    save_file(
        {name: torch.from_numpy(each) for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_size": _HIDDEN,
        "intermediate_size": _FFN,
        "num_hidden_layers": PICO.blocks,
        "num_attention_heads": PICO.heads,
        "num_key_value_heads": PICO.kv_heads,
        "head_dim": PICO.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": PICO.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": PICO.theta},
        "max_position_embeddings": 64,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return windows


def literal_pico(seed: int = SEED) -> tuple[Llama, Windows]:
    """Return the drawn model as the reference computes it."""
    weights, windows = pico(seed)
    return Llama(PICO, dict(weights)), windows


def literal_demo() -> Llama:
    """Return the demo model as the reference computes it."""
    config = json.loads((DEMO / "model" / "config.json").read_text())
    weights: dict[str, Matrix] = {}
    for shard in sorted((DEMO / "model").glob("*.safetensors")):
        weights |= {name: tensor.double().numpy() for name, tensor in load_file(shard).items()}
    shape = Shape(
        blocks=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        theta=config["rope_parameters"]["rope_theta"],
        eps=config["rms_norm_eps"],
    )
    return Llama(shape, weights)


def demo_windows(language: str, part: str, count: int, length: int = 128) -> Tokens:
    """Return the first windows of the demo's text: its documents with an empty line between, encoded as one and cut."""
    with gzip.open(DEMO / f"{language}.{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        text = "\n\n".join(json.loads(line)["text"] for line in lines)
    tokenizer = Tokenizer.from_file(str(DEMO / "model" / "tokenizer.json"))
    ids = tokenizer.encode(text).ids[: count * length]
    return np.array(ids, dtype=np.int64).reshape(count, length)
