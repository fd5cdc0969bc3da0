"""Tokens counted in the plainest way, for tests to compare with."""

from collections import Counter
from typing import Any

import torch

from langprune_cli.text.sources import read_documents


def demo_documents(language: str) -> list[str]:
    return list(read_documents(f"builtin:{language}:calib"))


def literal(tokenizer: Any, documents: list[str]) -> Counter[int]:
    """Count one document after the other, through the tokenizer's own interface."""
    counts: Counter[int] = Counter()
    for document in documents:
        counts.update(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
    return counts


def dense(counts: Counter[int], size: int) -> torch.Tensor:
    return torch.tensor([counts[i] for i in range(size)])
