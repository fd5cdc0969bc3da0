# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""Train the demo's tokenizer and model on the demo's text, and write all of `langprune_cli/demo_data`.

    python scripts/demo/train.py

Training took 16 minutes on two cores with AVX-512 BF16 that other programs kept busy too (5.1 million tokens), and
ended at a test perplexity of 3.195 (uk) and 3.211 (en).

The feed-forward layers hold most of the weights and the model is small for the vocabulary of two languages, so that
they compete for it: the choice of the calibration language shows after pruning. Everything is seeded, but another
processor, thread count or version of torch may round differently.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from make_text import documents, refuse_shared, write_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
WINDOW = 256
BATCH = 8  # windows, half of them in each language
PEAK_RATE = 2e-3
WARMUP = 200  # steps


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that, like Llama's, puts `<s>` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=WINDOW, **names)


def windows_of(
    texts: list[str],
    tokenizer: PreTrainedTokenizerFast,
    group: int,  # documents that are joined by blank lines behind one <s>
) -> Tensor:  # [n, WINDOW]
    """Return the consecutive windows of the joined texts; the rest at the end is left out."""
    joined = ["\n\n".join(texts[i : i + group]) for i in range(0, len(texts), group)]
    # The inner tokenizer: the outer one warns that the joined text is longer than the model's context.
    encoded = tokenizer.backend_tokenizer.encode_batch(joined)
    ids = [token for text in encoded for token in text.ids]
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def new_model() -> LlamaForCausalLM:
    """Return the untrained model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=640,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=32,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def train(model: LlamaForCausalLM, windows: Tensor) -> None:
    """Train for one pass over the windows `[n, WINDOW]`, in their order."""
    steps = len(windows) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    start, mean = time.monotonic(), 0.0
    for step, batch in enumerate(windows[: steps * BATCH].view(steps, BATCH, WINDOW)):
        warm = min(1.0, (step + 1) / WARMUP)
        for settings in optimizer.param_groups:
            settings["lr"] = PEAK_RATE * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = 0.98 * mean + 0.02 * loss.item() if step else loss.item()
        if step % 200 == 0:
            print(f"step {step}/{steps}  loss {mean:.3f}  {time.monotonic() - start:.0f} s", flush=True)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, windows: Tensor) -> float:  # windows: [n, WINDOW]
    """Return exp of the mean loss per predicted token; every window predicts all its tokens but the first."""
    total = 0.0
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH]
        total += len(batch) * model(input_ids=batch, labels=batch).loss.item()
    return math.exp(total / len(windows))


def main() -> None:
    """Make the text, train the tokenizer and the model, and write everything."""
    parser = argparse.ArgumentParser(description="Train the demo model and write its data.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "langprune_cli" / "demo_data")
    parser.add_argument("--documents", type=int, default=3600, help="training documents of each language")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    write_text(options.out)

    training = {language: documents(language, "train", options.documents) for language in ("uk", "en")}
    for language, texts in training.items():
        refuse_shared(documents(language, "test"), texts)
    tokenizer = train_tokenizer([text for texts in training.values() for text in texts[:3000]])
    per_language = {language: windows_of(texts, tokenizer, 8) for language, texts in training.items()}
    fewest = min(map(len, per_language.values()))
    print({language: len(windows) for language, windows in per_language.items()}, "training windows")
    pairs = torch.stack([windows[torch.randperm(len(windows))[:fewest]] for windows in per_language.values()], dim=1)

    model = new_model()
    print(f"{model.num_parameters()} parameters, {pairs.numel()} tokens")
    train(model, pairs.flatten(0, 1))
    model = model.to(torch.bfloat16)
    model.save_pretrained(options.out / "model", max_shard_size="2200KB")
    tokenizer.save_pretrained(options.out / "model")
    for shard in (options.out / "model").glob("*.safetensors"):
        shard.chmod(0o644)  # they are written for their owner alone, and a wheel keeps the mode
    for language in ("uk", "en"):
        test = documents(language, "test")
        windows = windows_of(test, tokenizer, group=len(test))
        print(f"{language}: test ppl {perplexity(model, windows):.4f} over {len(windows)} windows")


if __name__ == "__main__":
    main()
