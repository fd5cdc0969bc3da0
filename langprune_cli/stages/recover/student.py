"""What `recover` trains: all weights, the norms alone, or matrices of low rank that are merged under the mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langprune_cli.defaults import Train
from langprune_cli.models.streamed import StreamedModel

RANK = 16


class Student:
    """A pruned model whose weights are all in memory, in float32, and what of them is trained.

    Zeros of the blocks' linears stay as they are, bit by bit: they get no gradient, so AdamW without weight decay leaves them.
    """

    def __init__(self, model: StreamedModel, parameters: Mapping[str, nn.Parameter], train: Train, seed: int) -> None:
        """Choose what to train. parameters: those of `model.whole()`, by checkpoint name."""
        self.model = model
        self._parameters = dict(parameters)
        self._removed: dict[str, Tensor] = {}  # bool [o, i] of linears with zeros, as the module holds them
        linears = [linear for index in range(len(model.blocks)) for linear in model.linears(index)]
        for linear in linears:
            removed = self._parameters[linear.name] == 0
            if removed.any():
                self._removed[linear.name] = removed
        self.trained: dict[str, nn.Parameter] = {}  # by checkpoint name, or with .lora_A and .lora_B after it
        self._low_rank: dict[str, tuple[nn.Module, Tensor]] = {}  # by name of a linear: its module and its weight
        if train == "lora":
            generator = torch.Generator().manual_seed(seed)
            for linear in linears:
                self._add_low_rank(linear.name, linear.module, generator)
        else:
            once = {id(parameter): name for name, parameter in reversed(self._parameters.items())}
            for name in reversed(once.values()):
                if train == "all" or self._parameters[name].dim() < 2:
                    self.trained[name] = self._parameters[name]
        for parameter in self.trained.values():
            parameter.requires_grad = True
        for name in self.trained.keys() & self._removed.keys():
            hold = partial(_without, removed=self._removed[name])
            self.trained[name].register_hook(hold)  # type: ignore[no-untyped-call] # torch's own

    def logits(self, ids: Tensor) -> Tensor:  # [b, t] -> [b, t, v]
        """Return the model's logits, with gradients to what is trained where they are enabled."""
        for name, (module, weight) in self._low_rank.items():
            module.__dict__["weight"] = weight + self._change(name)
        logits: Tensor = self.model.model(input_ids=ids, use_cache=False).logits
        return logits

    def rounded(self) -> dict[str, Tensor]:
        """Return what was trained in the checkpoint's dtype, by checkpoint name, on the CPU.

        What rounds to the value it had keeps its bits, zeros among them; no trained weight becomes a zero.
        """
        found: dict[str, Tensor] = {}
        names = self._low_rank or self.trained
        with torch.no_grad():
            for name in names:
                now = self._low_rank[name][1] + self._change(name) if self._low_rank else self.trained[name].detach()
                stored = self.model.checkpoint.read([name])[name]
                new = now.to(stored.dtype).cpu()
                new = torch.where(new == 0, stored, new)
                found |= dict.fromkeys(self._same_as(name), new)
        return found

    @property
    def state_bytes(self) -> int:
        """Return the bytes of what training goes on from: what is trained, its two averages, and the best tensors so far."""
        entries = self.model.checkpoint.entries
        kept = sum(entries[name].size * len(self._same_as(name)) for name in self._low_rank or self.trained)
        return 3 * sum(parameter.nbytes for parameter in self.trained.values()) + kept

    def _same_as(self, name: str) -> list[str]:
        """Return the checkpoint tensors that hold a parameter: several if it is tied and stored more than once."""
        parameter = self._parameters[name]
        return [each for each, other in self._parameters.items() if other is parameter]

    def release(self) -> None:
        """Leave the model's modules as they were."""
        for name, (module, _) in self._low_rank.items():
            module.__dict__.pop("weight", None)
            module._parameters["weight"] = self._parameters[name]  # noqa: SLF001 - see _add_low_rank

    @contextmanager
    def as_stored(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Compute with tensors of `rounded` meanwhile, as the written model will."""
        kept: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            parameter = self._parameters[name]
            kept[name] = parameter.data
            parameter.data = tensor.to(parameter.device, parameter.dtype)
        self.release()
        low_rank, self._low_rank = self._low_rank, {}
        try:
            yield
        finally:
            for name, data in kept.items():
                self._parameters[name].data = data
            self._low_rank = low_rank
            for module, _ in low_rank.values():
                del module._parameters["weight"]  # noqa: SLF001 - as above

    def _add_low_rank(self, name: str, module: nn.Module, generator: torch.Generator) -> None:
        """Train B A beside a linear's weight (LoRA, arXiv 2106.09685), under its mask: W + M * (B A)."""
        weight = self._parameters[name]
        rows, columns = weight.shape
        rank = min(RANK, rows, columns)
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.trained[f"{name}.lora_A"] = nn.Parameter(down.to(weight.device))
        self.trained[f"{name}.lora_B"] = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self._low_rank[name] = (module, weight.data)
        del module._parameters["weight"]  # noqa: SLF001 - torch refuses a tensor in a parameter's place

    def _change(self, name: str) -> Tensor:
        change = self.trained[f"{name}.lora_B"] @ self.trained[f"{name}.lora_A"]
        removed = self._removed.get(name)
        return change if removed is None else change.masked_fill(removed, 0.0)


class Replica(nn.Module):
    """A student as DistributedDataParallel takes it: a module whose parameters are what is trained, and nothing else."""

    def __init__(self, student: Student) -> None:
        """Share the student's parameters."""
        super().__init__()
        self._logits = student.logits
        self.trained = nn.ParameterList(student.trained.values())

    def forward(self, ids: Tensor) -> Tensor:  # [b, t] -> [b, t, v]
        """Return the student's logits."""
        return self._logits(ids)


@contextmanager
def checkpointed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Keep only what each block reads for its gradient meanwhile, and compute the rest of it again (arXiv 1604.06174).

    Gradients keep their bits. The mechanism of transformers needs blocks in training mode, where some of them drop values.
    """
    changed: list[nn.Module] = []
    try:
        for block in blocks:
            again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.__dict__["forward"] = again
            changed.append(block)
        yield
    finally:
        for block in changed:
            del block.__dict__["forward"]


def _without(gradient: Tensor, *, removed: Tensor) -> Tensor:
    return gradient.masked_fill(removed, 0.0)
