"""Block capture: stand-ins for blocks record how the model calls each block.

One forward pass over the stand-ins gives each block's own arguments (rotary embeddings, full or sliding masks: they differ
per block), computed by the model's own code. It stops there, since the logits of a whole micro-batch would cost more than a
block. In a second pass the last stand-in returns the final hidden states, and the model runs its own final norm, soft-caps
and head.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError


@dataclass(frozen=True)
class Call:
    """The arguments of one block, without the hidden states, which come first."""

    args: tuple[object, ...]
    kwargs: dict[str, object]

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run `block` on `hidden` [b, t, h] and return its new hidden states."""
        output = block(hidden, *self.args, **self.kwargs)
        return output if isinstance(output, Tensor) else output[0]

    def same_as(self, other: "Call") -> bool:
        """Return whether both calls hold equal values, so that one can replace the other."""
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


class _CapturedError(Exception):
    """Stops a forward pass once the calls are captured."""


class _StandIn(nn.Module):
    """Stands in for one block; its attributes (attention_type, ...) are the block's own."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = (block,)  # in a tuple, so that torch does not register its weights here
        self.hidden: Tensor | None = None  # what came in
        self.call = Call((), {})
        self.answer: Tensor | None = None  # what to return instead
        self.tuple_length = 0  # 0: the block returns a tensor
        self.ends = False  # whether the forward pass stops here

    def __getattr__(self, name: str) -> Tensor | nn.Module:  # as torch types it, though an attribute may be anything
        try:
            return super().__getattr__(name)
        except AttributeError:
            found: Tensor | nn.Module = getattr(self._block[0], name)
            return found

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor | tuple[Tensor | None, ...]:
        self.hidden, self.call = hidden_states, Call(args, kwargs)
        if self.ends:
            raise _CapturedError
        hidden = self.hidden if self.answer is None else self.answer
        return (hidden,) + (None,) * (self.tuple_length - 1) if self.tuple_length else hidden


class BlockCapture:
    """Replaces all blocks of a model by stand-ins while one of its forward passes runs."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList) -> None:
        self._model = model
        self._blocks = blocks
        self._stand_ins = [_StandIn(block) for block in blocks]
        self._returns_more = False  # whether blocks return tensors beside hidden states

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        real = list(self._blocks)
        try:
            for index, stand_in in enumerate(self._stand_ins):
                self._blocks[index] = stand_in
            yield
        finally:
            for index, block in enumerate(real):
                self._blocks[index] = block
            for stand_in in self._stand_ins:
                stand_in.hidden, stand_in.answer, stand_in.call, stand_in.ends = None, None, Call((), {}), False

    def learn_output_form(self, ids: Tensor) -> None:
        """Find out from block 0's real output whether blocks return a tensor or a tuple; annotations are not reliable.

        Needs block 0 and everything outside of the blocks loaded. ids: a small [1, t].
        """

        def look(_module: nn.Module, _args: object, output: Tensor | tuple[object, ...]) -> None:
            for stand_in in self._stand_ins:
                stand_in.tuple_length = 0 if isinstance(output, Tensor) else len(output)
            self._returns_more = not isinstance(output, Tensor) and any(isinstance(each, Tensor) for each in output[1:])
            raise _CapturedError

        handle = self._blocks[0].register_forward_hook(look)
        try:
            with suppress(_CapturedError):
                self._model(input_ids=ids, use_cache=False)
        finally:
            handle.remove()

    def handed_on(self, ids: Tensor) -> tuple[Tensor, Call] | None:
        """Return block 1's hidden states and call, None if the call is the one that `record` gives.

        They differ in what block 0 returns beside hidden states. Needs what `learn_output_form` does, after it.
        """
        if not self._returns_more or len(self._blocks) == 1:
            return None
        found: list[tuple[Tensor, Call]] = []

        def look(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
            found.append((args[0], Call(args[1:], kwargs)))
            raise _CapturedError

        handle = self._blocks[1].register_forward_pre_hook(look, with_kwargs=True)
        try:
            with suppress(_CapturedError):
                self._model(input_ids=ids, use_cache=False)
        finally:
            handle.remove()
        _, calls = self.record(ids)
        return None if not found or found[0][1].same_as(calls[1]) else found[0]

    def check_handed_on(self, ids: Tensor, hidden: Tensor, call: Call) -> None:
        """Raise LangpruneError if block 1, which has to be loaded, puts out something else with `handed_on` than without."""
        block, (_, calls) = self._blocks[1], self.record(ids)
        if not torch.equal(call(block, hidden), calls[1](block, hidden)):
            raise LangpruneError(
                f"each {type(block).__name__} needs more of the block before than its hidden states: this family is not supported"
            )

    def record(
        self,
        ids: Tensor,  # [b, t]
    ) -> tuple[Tensor, list[Call]]:
        """Return the input of block 0 [b, t, h] and each block's call for these ids."""
        with self._in_place():
            self._stand_ins[-1].ends = True
            with suppress(_CapturedError):
                self._model(input_ids=ids, use_cache=False)
            hidden = self._stand_ins[0].hidden
            calls = [stand_in.call for stand_in in self._stand_ins]
            missed = [index for index, stand_in in enumerate(self._stand_ins) if stand_in.hidden is None]
        if hidden is None or missed:
            raise RuntimeError(f"the model ran without calling its blocks {missed} before the last one")
        return hidden, calls

    def head(
        self,
        ids: Tensor,  # [b, t], only its shape matters
        hidden: Tensor,  # [b, t, h], output of the last block
    ) -> Tensor:  # [b, t, vocabulary]
        """Return the logits of the last block's output, computed by the model's own final norm and head."""
        with self._in_place():
            self._stand_ins[-1].answer = hidden
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        return logits
