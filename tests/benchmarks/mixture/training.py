"""Trains a small mixture of experts on the languages of a dense llama, for the benchmark of whole experts.

The llama becomes a mixtral: each of its experts begins as a random part of the FFN's channels. Training then lets the experts
differ. A batch has the same number of windows of each text; the loss has the balance loss of each block's router (Fedus et al.,
arXiv 2101.03961, section 2.2). The result is one folder, with the tokenizer, that transformers opens.

    python -m tests.benchmarks.mixture.training --model DIR --text uk=calib.jsonl --text en=calib.jsonl --out DIR
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

SEQLEN = 256


@dataclass(frozen=True)
class Training:
    """Settings of the training."""

    steps: int = 600
    batch: int = 16  # windows
    rate: float = 1e-3
    warm_up: int = 30  # steps
    balance: float = 0.01  # weight of the balance loss
    experts: int = 8
    seed: int = 0


def upcycled(llama: Any, training: Training) -> Any:
    """Return a mixtral whose experts each have a random half of the llama's channels.

    Two experts of half the channels see each token, and the router's weights add up to 1, so down_proj is doubled: the expected
    output is the llama's.
    """
    config = llama.config
    kept = config.intermediate_size // 2
    same = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]
    same += ["hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"]
    same += ["bos_token_id", "eos_token_id", "pad_token_id"]
    mixtral = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **{name: getattr(config, name) for name in same},
            intermediate_size=kept,
            num_local_experts=training.experts,
            num_experts_per_tok=2,
        )
    )
    drawn = torch.Generator().manual_seed(training.seed)
    llama_state, state = llama.state_dict(), mixtral.state_dict()
    for name in state.keys() & llama_state.keys():
        state[name].copy_(llama_state[name])
    for dense, sparse in zip(llama.model.layers, mixtral.model.layers, strict=True):
        for expert in range(training.experts):
            some = torch.randperm(config.intermediate_size, generator=drawn)[:kept].sort().values
            gate, up = dense.mlp.gate_proj.weight[some], dense.mlp.up_proj.weight[some]
            sparse.mlp.experts.gate_up_proj.data[expert] = torch.cat([gate, up])
            sparse.mlp.experts.down_proj.data[expert] = 2 * dense.mlp.down_proj.weight[:, some]
        nn.init.normal_(sparse.mlp.gate.weight, std=0.02, generator=drawn)
    return mixtral


def windows_of(tokenizer: Any, file: str) -> Tensor:
    """Return all whole windows [n, t] of a file's documents, joined by the end of text."""
    ids: list[int] = []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        ids += [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(ids[: len(ids) // SEQLEN * SEQLEN]).view(-1, SEQLEN)


def batches(texts: dict[str, Tensor], training: Training) -> Iterator[Tensor]:
    """Yield batches [n, t] with as many windows of each text, each text in a new random order whenever it begins again."""
    drawn = torch.Generator().manual_seed(training.seed)
    share = training.batch // len(texts)
    queues: dict[str, list[int]] = {text: [] for text in texts}
    while True:
        rows = []
        for text, windows in texts.items():
            if len(queues[text]) < share:
                queues[text] += torch.randperm(len(windows), generator=drawn).tolist()
            rows += [windows[queues[text].pop()] for _ in range(share)]
        yield torch.stack(rows)


def balance_loss(
    logits: Tensor,  # [t, e], of one block's router
    chosen: int,
) -> Tensor:
    """Return experts x the sum over experts of share of tokens x mean probability: 1 if both are uniform."""
    probabilities = logits.float().softmax(-1)
    routed = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(chosen).indices, 1.0 / chosen)
    return logits.shape[-1] * (routed.mean(0) * probabilities.mean(0)).sum()


def routed_apart(router_logits: tuple[Tensor, ...], texts: int, chosen: int) -> float:
    """Return the mean over blocks of half the sum of differences of the first two texts' shares: 0 the same, 1 apart."""
    apart = []
    for logits in router_logits:
        routed = torch.zeros_like(logits).scatter_(-1, logits.topk(chosen).indices, 1.0 / chosen)
        one, other = routed.view(texts, -1, routed.shape[-1]).mean(1)[:2]
        apart.append(float((one - other).abs().sum() / 2))
    return sum(apart) / len(apart)


def train(mixtral: Any, texts: dict[str, Tensor], training: Training, dtype: torch.dtype) -> None:
    """Train all weights with AdamW, a linear warm-up and a cosine; products are computed in `dtype`."""
    optimizer = torch.optim.AdamW(mixtral.parameters(), lr=training.rate, betas=(0.9, 0.95), weight_decay=0.01)
    chosen, begun = mixtral.config.num_experts_per_tok, time.process_time()
    mixtral.train()
    mixtral.set_experts_implementation("eager")  # in bfloat16 a step takes 0.7 of the time of grouped_mm
    for step, ids in zip(range(training.steps), batches(texts, training), strict=False):
        rate = min(1, (step + 1) / training.warm_up) * (1 + math.cos(math.pi * step / training.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = training.rate * rate
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = mixtral(input_ids=ids, output_router_logits=True)
            loss = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
            balance = torch.stack([balance_loss(each, chosen) for each in out.router_logits]).mean()
        (loss + training.balance * balance).backward()
        nn.utils.clip_grad_norm_(mixtral.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == training.steps - 1:
            apart = routed_apart(out.router_logits, len(texts), chosen)
            sys.stderr.write(
                f"step {step}: {loss:.4f} nats, balance {balance:.3f}, routed apart {apart:.0%}, "
                f"{(time.process_time() - begun) / (step + 1):.2f} CPU seconds a step\n"
            )
    mixtral.eval()


def main() -> None:
    """Read the command line, train, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a dense llama")
    parser.add_argument("--text", action="append", required=True, help="language=JSON lines with a field text; twice")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of products")
    asked = parser.parse_args()
    training = Training(steps=asked.steps)
    torch.manual_seed(training.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.model)
    texts = {
        language: windows_of(tokenizer, file) for language, _, file in (each.partition("=") for each in asked.text)
    }
    sys.stderr.write(", ".join(f"{text}: {len(each)} windows" for text, each in texts.items()) + "\n")
    llama = transformers.AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    mixtral = upcycled(llama, training)
    train(mixtral, texts, training, getattr(torch, asked.dtype))
    mixtral.to(torch.bfloat16).save_pretrained(asked.out)
    for file in asked.model.glob("tokenizer*"):
        shutil.copy(file, asked.out)


if __name__ == "__main__":
    main()
