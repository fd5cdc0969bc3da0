"""Detours: stand-ins for blocks that record how the model calls each block, and hand back what they are given.

One forward over detours yields every block's own arguments (rotary embeddings, full or sliding masks: they differ per
block), computed by the model's own code, and ends there: logits of a whole micro-batch would cost more than a block.
Another, in which the last detour returns the final hidden states, runs the model's own final norm, soft-caps and head.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """The arguments of one block but its hidden states, which come first."""

    args: tuple[object, ...]
    kwargs: dict[str, object]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run `block` on `hidden` [b, t, h] and return its new hidden states."""
        output = block(hidden, *self.args, **self.kwargs)
        return output if isinstance(output, Tensor) else output[0]

    def same_as(self, other: "Call") -> bool:
        """Return whether both calls hold equal values, so that one can stand for the other."""
        return _equal(self.args, other.args) and _equal(self.kwargs, other.kwargs)


def _equal(a: object, b: object) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


class _SeenError(Exception):
    """Ends a forward once it has shown what it was run for."""


class _Detour(nn.Module):
    """Stands for one block; answers attribute look-ups (attention_type, ...) with the block's own."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = (block,)  # in a tuple, so that its weights do not become the detour's
        self.hidden: Tensor | None = None  # what came in
        self.call = Call((), {})
        self.answer: Tensor | None = None  # what to return instead
        self.tuple_length = 0  # 0: the block returns a tensor
        self.ends = False  # whether the forward ends here

    def __getattr__(self, name: str) -> Tensor | nn.Module:  # as torch has it, though it may be anything
        try:
            return super().__getattr__(name)
        except AttributeError:
            found: Tensor | nn.Module = getattr(self._block[0], name)
            return found

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor | None, ...]:
        self.hidden, self.call = hidden_states, Call(args, kwargs)
        if self.ends:
            raise _SeenError
        hidden = self.hidden if self.answer is None else self.answer
        return (hidden,) + (None,) * (self.tuple_length - 1) if self.tuple_length else hidden


class Detours:
    """All blocks of a model replaced by stand-ins, while a forward of this class runs."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList) -> None:
        self._model = model
        self._blocks = blocks
        self._detours = [_Detour(block) for block in blocks]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        real = list(self._blocks)
        try:
            for index, detour in enumerate(self._detours):
                self._blocks[index] = detour
            yield
        finally:
            for index, block in enumerate(real):
                self._blocks[index] = block
            for detour in self._detours:
                detour.hidden, detour.answer, detour.call, detour.ends = None, None, Call((), {}), False

    def learn_output_form(self, ids: Tensor) -> None:
        """Learn from block 0's real output whether blocks return a tensor or a tuple; annotations are not reliable.

        Block 0 and everything outside of the blocks must be loaded. `ids` is a small [1, t].
        """

        def look(_module: nn.Module, _args: object, output: Tensor | tuple[object, ...]) -> None:
            for detour in self._detours:
                detour.tuple_length = 0 if isinstance(output, Tensor) else len(output)
            raise _SeenError

        handle = self._blocks[0].register_forward_hook(look)
        try:
            with suppress(_SeenError):
                self._model(input_ids=ids, use_cache=False)
        finally:
            handle.remove()

    def record(
        self,
        ids: Tensor,  # [b, t]
    ) -> tuple[Tensor, list[Call]]:
        """Return the input of block 0 [b, t, h] and each block's call for these ids."""
        with self._in_place():
            self._detours[-1].ends = True
            with suppress(_SeenError):
                self._model(input_ids=ids, use_cache=False)
            hidden = self._detours[0].hidden
            calls = [detour.call for detour in self._detours]
            missed = [index for index, detour in enumerate(self._detours) if detour.hidden is None]
        if hidden is None or missed:
            raise RuntimeError(f"the model ran without calling its blocks {missed} before the last one")
        return hidden, calls

    def head(
        self,
        ids: Tensor,  # [b, t], only its shape matters
        hidden: Tensor,  # [b, t, h], output of the last block
    ) -> Tensor:  # [b, t, vocabulary]
        """Return the logits that the model's own final norm and head make of the last block's output."""
        with self._in_place():
            self._detours[-1].answer = hidden
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        return logits
