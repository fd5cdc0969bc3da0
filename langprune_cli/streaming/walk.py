"""Streams a model's blocks over windows of text, with one block and the hidden states in memory."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

from langprune_cli.machine.team import Team
from langprune_cli.models.block_capture import Call
from langprune_cli.models.fast_attention import fast_attention
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.shards import plan_shards, write_shard
from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.models.tensor_entry import DTYPE_NAMES, TensorEntry
from langprune_cli.streaming.own_code import own_code
from langprune_cli.streaming.tensor_file import TensorFile

Tick = Callable[[int, int], None]  # (block index, tokens that just passed through it)
Observe = Callable[[Block], AbstractContextManager[object] | None]  # None: nothing to observe in that block
Edit = Callable[[Block], None]

# Logits are computed in pieces of about this size: with 256k tokens in the vocabulary, float32 takes 1 MB per token.
_LOGITS_BYTES = 64 << 20
_FEW = 2  # tokens by which blocks' outputs are looked at


def logits_piece(config: Configuration, windows: int) -> int:
    """Return how many positions of so many windows give logits of about `_LOGITS_BYTES` in float32."""
    return max(1, _LOGITS_BYTES // (4 * config.get_text_config().vocab_size * windows))


class EnoughSeen(Exception):  # noqa: N818 - not an error: it stops a forward pass early
    """Stops a forward pass after the last observed input."""


class HiddenStates:
    """The hidden states of all windows between two blocks, in micro-batches, and the call of each block."""

    def __init__(
        self, model: StreamedModel, ids: Tensor, batch_tokens: int, spill: Path | None = None, *, fast: bool = False
    ) -> None:
        """Embed `ids` [n, t]; a micro-batch has as many windows as fit into `batch_tokens`, at least one.

        spill: keep hidden states in a file in this folder instead of in memory. fast: use `fast_attention`, which differs from
        torch's own in the last bits; without it, logits equal those of stock transformers.
        """
        self.model = model
        self._fast = fast
        self.ids = torch.split(ids.long(), max(1, batch_tokens // ids.shape[1]))  # per micro-batch [b, t]
        self.hidden: list[Tensor] | TensorFile = TensorFile(spill) if spill else []  # per micro-batch [b, t, h]
        self._calls: list[list[Call]] = []  # per micro-batch, per block
        # No pass below reaches the head: each ends in a block.
        with torch.no_grad(), model.outside(head=False), self._own_code():
            with model.block(0):
                few = self.ids[0][:1, :_FEW].to(model.device)
                model.capture.learn_output_form(few)
                if handed_on := model.capture.handed_on(few):
                    with model.block(1):
                        model.capture.check_handed_on(few, *handed_on)
            for part in self.ids:
                hidden, calls = model.capture.record(part.to(model.device))
                self.hidden.append(hidden)
                self._calls.append(self._shared(calls))

    def _own_code(self) -> AbstractContextManager[None]:
        return own_code(self.model.folder, type(self.model.model).__name__)

    def _shared(self, calls: list[Call]) -> list[Call]:
        """Return an earlier micro-batch's equal calls, so that masks and rotary embeddings are in memory once."""
        for earlier in self._calls[:1] + self._calls[-1:]:
            if all(a.same_as(b) for a, b in zip(earlier, calls, strict=True)):
                return earlier
        return calls

    def twin(self, spill: Path | None = None) -> Self:
        """Return the same hidden states, to go another way; the calls of the blocks are in memory once. spill: see `__init__`."""
        other = copy(self)
        other.hidden = TensorFile(spill) if spill else []
        for number in range(len(self.ids)):
            other.hidden.append(self.hidden[number])
        return other

    def forward(
        self, block: Block, *, keep: bool = True, tick: Tick | None = None, beside: "Beside | None" = None
    ) -> None:
        """Run every micro-batch through a loaded block; with `keep` the outputs become the hidden states.

        Without `keep`, EnoughSeen may stop a forward pass early. beside: other hidden states, of which each micro-batch passes
        the block before that of these.
        """
        with torch.no_grad(), self._own_code(), fast_attention(block.module) if self._fast else nullcontext():
            for number in range(len(self.ids)):
                call = self._calls[number][block.index]
                if beside:
                    with beside.watch():
                        beside.states.hidden[number] = call(block.module, beside.states.hidden[number])
                hidden = self.hidden[number]
                if keep:
                    self.hidden[number] = call(block.module, hidden)
                else:
                    with suppress(EnoughSeen):
                        call(block.module, hidden)
                if tick:
                    tick(block.index, hidden.shape[0] * hidden.shape[1])

    def logits(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (micro-batch, first position, logits [b, p, vocabulary]) for pieces of p positions, in order.

        The hidden states must be the last block's output. Norm and head treat each token separately, so a piece of a window
        gives the same logits as the whole.
        """
        with self.model.outside(), self._own_code():
            for number, ids in enumerate(self.ids):
                hidden = self.hidden[number]
                piece = logits_piece(self.model.config, len(ids))
                for start in range(0, hidden.shape[1], piece):
                    part = ids[:, start : start + piece].to(self.model.device)
                    with (
                        torch.no_grad()
                    ):  # not around the yield: two of these generators at once would leave it on for good
                        made = self.model.capture.head(part, hidden[:, start : start + piece])
                    yield number, start, made

    def entries(self, before: str = "") -> dict[str, TensorEntry]:
        """Return the entries of a file with the hidden states, by `before` and the number of the micro-batch."""
        first = self.hidden[0]
        shapes = [(len(ids), *first.shape[1:]) for ids in self.ids]
        return {
            f"{before}{number:05d}": TensorEntry(
                "", DTYPE_NAMES[first.dtype], shape, 0, first.itemsize * math.prod(shape)
            )
            for number, shape in enumerate(shapes)
        }

    def take(self, parts: Iterator[Tensor]) -> None:
        """Replace the hidden states by saved ones, in order, whatever their micro-batches; raises StopIteration for too few."""
        waiting = next(parts)
        for number, ids in enumerate(self.ids):
            while len(waiting) < len(ids):
                waiting = torch.cat([waiting, next(parts)])
            self.hidden[number] = waiting[: len(ids)].to(self.model.device)
            waiting = waiting[len(ids) :]


def save_states(path: Path, states: Sequence[HiddenStates], after: int) -> None:
    """Write hidden states, the outputs of block `after`, so that an interrupted walk resumes there."""
    entries = {name: entry for before, each in _named(states) for name, entry in each.entries(before).items()}
    (shard,) = plan_shards([entries | {"after": TensorEntry("", "I64", (), 0, 8)}])
    parts = (
        {f"{before}{number:05d}": each.hidden[number].cpu()}
        for before, each in _named(states)
        for number in range(len(each.ids))
    )
    write_shard(path, shard, chain(parts, [{"after": torch.tensor(after)}]))


def restore_states(path: Path, states: Sequence[HiddenStates]) -> int:
    """Read saved hidden states; return the block whose output they are."""
    with safe_open(path, "pt") as saved:
        after = int(saved.get_tensor("after"))
        for before, each in _named(states):
            mine = (name for name in sorted(saved.keys()) if re.fullmatch(rf"{before}\d+", name))
            each.take(saved.get_tensor(name) for name in mine)
    return after


def _named(states: Sequence[HiddenStates]) -> Iterator[tuple[str, HiddenStates]]:
    """Yield what the names of each hidden states' tensors begin with: nothing for the first."""
    yield from ((f"{number}-" if number else "", each) for number, each in enumerate(states))


@dataclass(frozen=True)
class Beside:
    """The dense model's hidden states, a `twin`, which pass each block before it is edited."""

    states: HiddenStates
    watch: Callable[[], AbstractContextManager[object]]  # entered for each of their micro-batches


def tick_of_all(team: Team, tick: Tick) -> Tick:
    """Return a tick that counts the tokens of all processes; this one passes every `team.size`-th."""
    return lambda index, tokens: tick(index, tokens * team.size)


def walk(
    states: HiddenStates,
    *,
    first: int = 0,
    observe: Observe | None = None,
    edit: Edit | None = None,
    tick: Tick | None = None,
    last_output: bool = True,
    beside: Beside | None = None,
) -> Iterator[Block]:
    """Stream the blocks from `first` on; yield each while it is loaded and the hidden states are its output.

    last_output: whether to compute the last block's output; skip it when no logits are needed.
    observe: returns a context that observes the unchanged block's inputs. edit: changes its weights; the next block then reads
    the edited block's output (propagation `pruned`). beside: hidden states that pass the unchanged blocks meanwhile.
    """
    model = states.model
    for index in range(first, len(model.blocks)):
        with model.block(index) as block:
            if index + 1 < len(model.blocks):
                model.expect(index + 1)
            watched = observe(block) if observe else None
            if edit is not None and watched is not None:
                with watched:
                    states.forward(block, keep=False, tick=tick, beside=beside)
                watched = None
            elif beside:
                beside.states.forward(block)
            if edit is not None:
                edit(block)
            keep = last_output or index + 1 < len(model.blocks)
            if keep or watched is not None:
                with watched or nullcontext():
                    states.forward(block, keep=keep, tick=tick)
            yield block
