"""Memory that is kept: compiled products of few shapes, in a process that the command line sets up."""

import os
import subprocess
import sys

import pytest

# Multiplies bfloat16 matrices of 300 shapes after the command line ran, and prints how much anonymous memory that took.
MANY_SHAPES = """
import sys
from langprune_cli.__main__ import main
main(["--version"])
import torch

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

linear = torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)
with torch.no_grad():
    inputs = torch.ones(1100, 256, dtype=torch.bfloat16)
    linear(inputs)
    before = anonymous()
    for tokens in range(700, 1000):
        linear(inputs[:tokens])
    print((anonymous() - before) // 1024)
"""


def grown(**environment: str) -> int:
    """Return the megabytes that products of 300 shapes leave behind."""
    words = [sys.executable, "-c", MANY_SHAPES]
    made = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=True)
    return int(made.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_products_of_many_shapes_take_bounded_memory() -> None:
    """An expert of a mixture sees another number of tokens in each block: oneDNN would keep a product for each."""
    unbounded = grown(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024")
    if unbounded < 60:
        pytest.skip("this CPU has no bfloat16 products that oneDNN compiles for every shape")
    assert grown() < unbounded / 2
