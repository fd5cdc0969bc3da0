"""Experts of a mixture as separate linears.

transformers keeps a block's experts in three-dimensional parameters. Here they are separate, so that pruning treats each
expert's linears like any others: hooks see their inputs, and artifacts name each. A linear is a checkpoint tensor of its own, or
a part of the tensor of all experts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LAST = "down_proj"  # the linear of an expert after the activation
# Is told of an expert's number, its outputs [t, h] for the tokens routed to it, and the router's weights [t] for these outputs.
Watch = Callable[[int, Tensor, Tensor], None]


class _Merged(Protocol):
    """An experts module of transformers."""

    act_fn: Callable[[Tensor], Tensor]
    _apply_gate: Callable[[Tensor], Tensor]


class TransposedLinear(Conv1D):  # type: ignore[misc] # transformers is untyped
    """A linear with a weight [in, out] and an optional bias."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.nx, self.nf = inputs, outputs
        self.weight = nn.Parameter(torch.empty(inputs, outputs, device="meta", dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, device="meta", dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the weight, plus the bias."""
        made: Tensor = x @ self.weight
        return made if self.bias is None else made + self.bias


@dataclass(frozen=True)
class Form:
    """The layout of an experts module of transformers."""

    first: str  # the parameter applied to the hidden states
    count: int  # of experts
    routed: int  # how many the router chooses from
    transposed: bool
    biased: bool
    gated: bool
    passes_on: bool  # experts beyond `count` return their input (longcat_flash)
    takes_sorted: bool  # the input has all tokens for each expert, zero where a token is not routed to it (llama4)


class Expert(nn.Module):
    """The linears of one expert."""

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, linear in linears.items():
            self.add_module(name, linear)


class Experts(nn.ModuleList):
    """Replaces a family's experts module, and computes the same with the family's own activation."""

    def __init__(self, merged: nn.Module, form: Form, first: Sequence[str], order: Tensor | None = None) -> None:
        """Take the place of `merged`, whose parameters are on meta.

        first: an expert's linears before the activation; order: the checkpoint's row that each of their outputs is, if it stores
        them in another order than transformers.
        """
        self.form = form
        shapes = {name: tuple(parameter.shape[1:]) for name, parameter in merged.named_parameters()}
        dtype = next(merged.parameters()).dtype
        self.first = tuple(first)
        self.order = order
        super().__init__(_expert(form, shapes, self.first, dtype) for _ in range(form.count))
        self._merged = (cast("_Merged", merged),)  # in a tuple, so that torch does not register its parameters here
        self.every_token = False  # whether each expert sees every token; only those routed to it count
        self.watch: Watch | None = None

    def paths(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each parameter that a checkpoint may store for all experts in one tensor, and its path in each expert."""
        for linear in (self.form.first, LAST):
            if linear == LAST or self.first == (linear,):
                yield linear, [f"{number}.{linear}.weight" for number in range(len(self))]
                if self.form.biased:
                    yield f"{linear}_bias", [f"{number}.{linear}.bias" for number in range(len(self))]

    def linears_of(self, parameter: str) -> tuple[str, ...]:
        """Return the linears of an expert that transformers merges into a parameter."""
        return self.first if parameter == self.form.first else (parameter,)

    def forward(
        self,
        hidden_states: Tensor,  # [t, h]; [e t, h] where it is sorted
        top_k_index: Tensor | None = None,  # [t, k], the experts of each token
        top_k_weights: Tensor | None = None,  # [t, k]
    ) -> Tensor:  # as hidden_states
        """Return the sum of each token's expert outputs, weighted by the router."""
        if top_k_index is None or top_k_weights is None:
            return self._sorted(hidden_states)
        total = torch.zeros_like(hidden_states)
        for index, expert in enumerate(self):
            tokens, choice = (top_k_index == index).nonzero(as_tuple=True)
            if self.every_token:
                made = self._run(expert, hidden_states)[tokens]
            elif len(tokens):
                made = self._run(expert, hidden_states[tokens])
            else:
                continue
            weights = top_k_weights[tokens, choice]
            if self.watch:
                self.watch(index, made, weights)
            total.index_add_(0, tokens, (made * weights[:, None]).to(total.dtype))
        if self.form.passes_on:
            passed = (top_k_weights * (top_k_index >= len(self))).sum(-1, keepdim=True)
            total += (hidden_states * passed).to(total.dtype)
        return total

    def _sorted(
        self,
        hidden_states: Tensor,  # [e t, h]
    ) -> Tensor:  # [e t, h]
        """Return each expert's output for its tokens, zero for the others."""
        made = torch.zeros_like(hidden_states).view(len(self), -1, hidden_states.shape[-1])
        for index, (expert, x) in enumerate(zip(self, hidden_states.chunk(len(self)), strict=True)):
            tokens = x.any(-1).nonzero()[:, 0]
            if len(tokens):
                made[index, tokens] = self._run(expert, x[tokens]).to(made.dtype)
                if self.watch:  # the router's weights are in the inputs
                    self.watch(index, made[index, tokens], torch.ones_like(made[index, tokens, 0]))
        return made.view_as(hidden_states)

    def _run(self, expert: nn.Module, x: Tensor) -> Tensor:
        read = [getattr(expert, name)(x) for name in self.first]
        up = torch.cat(read, -1) if len(read) > 1 else read[0]
        up = up if self.order is None else up[..., self.order]
        made: Tensor = getattr(expert, LAST)(self._activated(up))
        return made

    def _activated(self, up: Tensor) -> Tensor:
        merged = self._merged[0]
        if not self.form.gated:
            return merged.act_fn(up)
        if hasattr(merged, "_apply_gate"):
            return merged._apply_gate(up)  # noqa: SLF001 - the family's own activation
        gate, up = up.chunk(2, dim=-1)
        return merged.act_fn(gate) * up


class ParallelExperts(nn.ModuleList):
    """Replaces a module with one linear for each expert (jetmoe); its input has the tokens of each expert in turn."""

    def __init__(self, merged: nn.Module) -> None:
        count, outputs, inputs = cast("Tensor", merged.weight).shape
        dtype = cast("Tensor", merged.weight).dtype
        linears = (nn.Linear(inputs, outputs, bias=False, device="meta", dtype=dtype) for _ in range(count))
        super().__init__(Expert({"linear": linear}) for linear in linears)
        self.every_token = False

    def paths(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the parameter of all experts, and its path in each expert."""
        yield "weight", [f"{number}.linear.weight" for number in range(len(self))]

    def linears_of(self, _parameter: str) -> tuple[str, ...]:
        """Return none: transformers merges nothing here."""
        return ()

    def forward(
        self,
        inputs: Tensor,  # [n, i]
        expert_size: list[int],  # tokens of each expert
    ) -> Tensor:  # [n, o]
        """Return the output of each expert's linear for its tokens."""
        parts = torch.split(inputs, expert_size)
        made = [expert.get_submodule("linear")(part) for expert, part in zip(self, parts, strict=True) if len(part)]
        return torch.cat(made)


class SharedExperts(nn.ModuleList):
    """Replaces a module of experts that see every token (inkling): its linears are like any others."""

    FIRST = ("gate_proj", "up_proj")

    def __init__(self, merged: nn.Module) -> None:
        """Take the place of `merged`, whose parameters [e, o, i] are on meta."""
        held = dict(merged.named_parameters())
        super().__init__(
            Expert({name: _empty_linear(held[name].shape[1:], held[name].dtype) for name in (*self.FIRST, LAST)})
            for _ in range(len(held[LAST]))
        )
        self._merged = (cast("_Merged", merged),)  # as in `Experts`

    def paths(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each parameter of all experts, and its path in each expert."""
        for linear in (*self.FIRST, LAST):
            yield linear, [f"{number}.{linear}.weight" for number in range(len(self))]

    def forward(
        self,
        hidden_states: Tensor,  # [*, h]
        gammas: Tensor,  # [*, e], the weight of each expert
    ) -> Tensor:  # [*, h]
        """Return the sum of all experts' outputs, in float32, weighted before their last linear."""
        total = torch.zeros_like(hidden_states, dtype=torch.float32)
        weights = gammas.reshape(*hidden_states.shape[:-1], len(self))
        for number, expert in enumerate(self):
            gate, up = (expert.get_submodule(name)(hidden_states) for name in self.FIRST)
            activated = self._merged[0].act_fn(gate) * up * weights[..., number, None]
            total += expert.get_submodule(LAST)(activated).float()
        return total.to(hidden_states.dtype)


def _empty_linear(shape: Sequence[int], dtype: torch.dtype) -> nn.Linear:
    return nn.Linear(shape[1], shape[0], bias=False, device="meta", dtype=dtype)


AnyExperts = Experts | ParallelExperts  # either has `paths`, `linears_of` and `every_token`


def _expert(form: Form, shapes: Mapping[str, tuple[int, ...]], first: Sequence[str], dtype: torch.dtype) -> "Expert":
    """Return one expert. shapes: those of the merged parameters, without the first dimension."""
    linears: dict[str, nn.Module] = {}
    for name in (*first, LAST):
        rows, columns = shapes[LAST if name == LAST else form.first]
        if form.transposed:
            linears[name] = TransposedLinear(rows, columns, bias=form.biased, dtype=dtype)
        else:
            outputs = rows if name == LAST else rows // len(first)
            linears[name] = nn.Linear(columns, outputs, bias=form.biased, device="meta", dtype=dtype)
    return Expert(linears)
