"""Memory that is kept: compiled products of few shapes, in a process that the command line sets up."""

import os
import re
import subprocess
import sys

import pytest

# Multiplies bfloat16 matrices of 100 shapes after the command line ran, then of the last and of the first shape once more.
MANY_SHAPES = """
from langprune_cli.__main__ import main
main(["--version"])
import torch

linear = torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)
with torch.no_grad():
    inputs = torch.ones(800, 256, dtype=torch.bfloat16)
    for tokens in [*range(700, 800), 799, 700]:
        linear(inputs[:tokens])
"""


def looked_up(**environment: str) -> list[str]:
    """Return whether oneDNN had each product compiled ("hit") or had to compile it ("miss"), in order, as it says itself."""
    words = [sys.executable, "-c", MANY_SHAPES]
    made = subprocess.run(
        words, env=os.environ | {"ONEDNN_VERBOSE": "2"} | environment, capture_output=True, text=True, check=True
    )
    return re.findall(r"create:cache_(hit|miss),cpu,(?:matmul|inner_product)", made.stdout)


def test_products_of_many_shapes_are_not_all_kept() -> None:
    """An expert of a mixture sees another number of tokens in each block: oneDNN would keep 0.6 MB for each."""
    unbounded = looked_up(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024")
    if len(unbounded) != 102:
        pytest.skip("on this CPU, oneDNN does not compile a product of bfloat16 matrices for every shape")
    assert unbounded == ["miss"] * 100 + ["hit", "hit"]
    assert looked_up() == ["miss"] * 100 + ["hit", "miss"]
