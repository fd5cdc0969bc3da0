"""The loop that streams a model's blocks over windows of text: one block and the hidden states in memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from langprune_cli.machine.team import Team
from langprune_cli.models.block_capture import Call
from langprune_cli.models.checkpoint import DTYPES, TensorEntry
from langprune_cli.models.fast_attention import fast_attention
from langprune_cli.models.own_code import own_code
from langprune_cli.models.shards import plan_shards, write_shard
from langprune_cli.models.streamed import Block, StreamedModel
from langprune_cli.streaming.tensor_file import TensorFile

Tick = Callable[[int, int], None]  # (block index, tokens that have just passed through it)
Observe = Callable[[Block], AbstractContextManager[object] | None]  # None: there is nothing to be seen in that block
Edit = Callable[[Block], None]

# Logits are made in pieces of about this size: a vocabulary of 256k tokens in float32 is 1 MB a token.
_LOGITS_BYTES = 64 << 20
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class EnoughSeen(Exception):  # noqa: N818 - not an error: it ends a forward whose output nobody needs
    """Raised inside a block's forward by who watches it, once all that was to be seen has been."""


class HiddenStates:
    """The hidden states of all windows between two blocks, in micro-batches, and each block's call."""

    def __init__(
        self, model: StreamedModel, ids: Tensor, batch_tokens: int, spill: Path | None = None, *, fast: bool = False
    ) -> None:
        """Embed `ids` [n, t]; a micro-batch is as many windows as `batch_tokens` holds, one at least.

        spill: a folder in a file of which hidden states are kept, where they are not to be in memory. fast: with
        `fast_attention`, which differs from torch's own in the last bits; without, logits are those of stock transformers.
        """
        self.model = model
        self._fast = fast
        self.ids = torch.split(ids.long(), max(1, batch_tokens // ids.shape[1]))  # per micro-batch [b, t]
        self.hidden: list[Tensor] | TensorFile = TensorFile(spill) if spill else []  # per micro-batch [b, t, h]
        self._calls: list[list[Call]] = []  # per micro-batch, per block
        with torch.no_grad(), model.outside(), self._own_code():
            with model.block(0):
                model.capture.learn_output_form(self.ids[0][:1, :2].to(model.device))
            for part in self.ids:
                hidden, calls = model.capture.record(part.to(model.device))
                self.hidden.append(hidden)
                self._calls.append(self._shared(calls))

    def _own_code(self) -> AbstractContextManager[None]:
        return own_code(self.model.folder, type(self.model.model).__name__)

    def _shared(self, calls: list[Call]) -> list[Call]:
        """Return an earlier micro-batch's equal calls, so that masks and rotary embeddings are held once."""
        for earlier in self._calls[:1] + self._calls[-1:]:
            if all(a.same_as(b) for a, b in zip(earlier, calls, strict=True)):
                return earlier
        return calls

    def forward(self, block: Block, *, keep: bool = True, tick: Tick | None = None) -> None:
        """Run every micro-batch through a loaded block; with `keep` the outputs become the hidden states.

        Without, a forward may end early with EnoughSeen.
        """
        with torch.no_grad(), self._own_code(), fast_attention(block.module) if self._fast else nullcontext():
            for number in range(len(self.ids)):
                hidden, call = self.hidden[number], self._calls[number][block.index]
                if keep:
                    self.hidden[number] = call(block.module, hidden)
                else:
                    with suppress(EnoughSeen):
                        call(block.module, hidden)
                if tick:
                    tick(block.index, hidden.shape[0] * hidden.shape[1])

    def logits(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (micro-batch, first position, logits [b, p, vocabulary]) for pieces of p positions, in order.

        Call it when the hidden states are the last block's output. Norm and head treat each token by itself, so that a
        piece of a window gives the logits that the whole would.
        """
        vocabulary = self.model.config.get_text_config().vocab_size
        with self.model.outside(), self._own_code():
            for number, ids in enumerate(self.ids):
                hidden = self.hidden[number]
                piece = max(1, _LOGITS_BYTES // (4 * vocabulary * hidden.shape[0]))
                for start in range(0, hidden.shape[1], piece):
                    part = ids[:, start : start + piece].to(self.model.device)
                    with torch.no_grad():  # not around what is yielded: two of these at once would leave it on for good
                        made = self.model.capture.head(part, hidden[:, start : start + piece])
                    yield number, start, made

    def save(self, path: Path, after: int) -> None:
        """Write the hidden states as block `after` put them out, so that an interrupted walk can go on from there."""
        shapes = [(len(ids), *self.hidden[0].shape[1:]) for ids in self.ids]
        dtype, item = _DTYPE_NAMES[self.hidden[0].dtype], self.hidden[0].itemsize
        entries = {
            f"{number:05d}": TensorEntry("", dtype, shape, 0, item * math.prod(shape))
            for number, shape in enumerate(shapes)
        }
        (shard,) = plan_shards([entries | {"after": TensorEntry("", "I64", (), 0, 8)}])
        numbered = ({f"{number:05d}": self.hidden[number].cpu()} for number in range(len(self.ids)))
        write_shard(path, shard, chain(numbered, [{"after": torch.tensor(after)}]))

    def restore(self, path: Path) -> int:
        """Read what `save` wrote, in micro-batches of whatever size; return the index of the block after which it was."""
        with safe_open(path, "pt") as saved:
            after = int(saved.get_tensor("after"))
            parts = (saved.get_tensor(name) for name in sorted(saved.keys()) if name != "after")
            waiting = next(parts)
            for number, ids in enumerate(self.ids):
                while len(waiting) < len(ids):
                    waiting = torch.cat([waiting, next(parts)])
                self.hidden[number] = waiting[: len(ids)].to(self.model.device)
                waiting = waiting[len(ids) :]
        return after


def tick_of_all(team: Team, tick: Tick) -> Tick:
    """Return what counts the tokens of all processes, of which this one passes every `team.size`-th."""
    return lambda index, tokens: tick(index, tokens * team.size)


def walk(
    states: HiddenStates,
    *,
    first: int = 0,
    observe: Observe | None = None,
    edit: Edit | None = None,
    tick: Tick | None = None,
    last_output: bool = True,
) -> Iterator[Block]:
    """Stream the blocks from `first` on, and yield each while it is loaded and the hidden states are its output.

    Without `last_output` those of the last block are not computed: who wants no logits has no use for them.

    observe: gives a context in which the block's inputs are watched, as it was loaded. edit: changes its weights; what
    goes on to the next block is then the edited block's output (propagation `pruned`).
    """
    model = states.model
    for index in range(first, len(model.blocks)):
        with model.block(index) as block:
            if index + 1 < len(model.blocks):
                model.expect(index + 1)
            watched = observe(block) if observe else None
            if edit is not None and watched is not None:
                with watched:
                    states.forward(block, keep=False, tick=tick)
                watched = None
            if edit is not None:
                edit(block)
            keep = last_output or index + 1 < len(model.blocks)
            if keep or watched is not None:
                with watched or nullcontext():
                    states.forward(block, keep=keep, tick=tick)
            yield block
