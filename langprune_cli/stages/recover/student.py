"""What `recover` trains: all weights, the norms alone, or matrices of low rank that are merged under the mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

from langprune_cli.defaults import Train
from langprune_cli.machine.memory import give_back_freed
from langprune_cli.machine.sharding import gathered, is_sharded, joined, own, part, sharding
from langprune_cli.machine.team import Team
from langprune_cli.models.streamed import StreamedModel

RANK = 16


@contextmanager
def in_memory(model: StreamedModel, team: Team, *, sharded: bool) -> Iterator[dict[str, nn.Parameter]]:
    """Load a whole model, or this process's share of its matrices; yield what `StreamedModel.whole` does."""
    with ExitStack() as loaded:
        if not sharded:
            yield loaded.enter_context(model.whole())
        else:
            shard = loaded.enter_context(sharding(model.model, team.size, model.device))
            yield loaded.enter_context(model.whole(shard))


class Student:
    """A pruned model whose weights are in memory, in float32, and what of them is trained.

    Its matrices may be sharded over processes, which then all make the same calls. Zeros of the blocks' linears stay as they are,
    bit by bit: they get no gradient, so AdamW without weight decay leaves them.
    """

    def __init__(self, model: StreamedModel, parameters: Mapping[str, nn.Parameter], train: Train, seed: int) -> None:
        """Choose what to train. parameters: those of `in_memory`, by checkpoint name."""
        self.model = model
        self._parameters = dict(parameters)
        self._hooks = ExitStack()
        self.sharded = any(map(is_sharded, self._parameters.values()))
        # What the optimizer trains, by checkpoint name, or with .lora_A and .lora_B after it; of what is sharded, its own share.
        self.trained: dict[str, nn.Parameter] = {}
        self._sharded: dict[str, nn.Parameter] = {}  # those that are sharded, as the model has them
        self._removed: dict[str, Tensor] = {}  # bool, as `trained`: the zeros of linears
        self._low_rank: list[str] = []  # linears by name, empty while they are stored ones
        self._watched: set[str] = set()  # of `_sharded`, those of blocks
        self._reached: set[str] = set()  # of these, since the last step
        linears = [[(each.name, each.module) for each in model.linears(index)] for index in range(len(model.blocks))]
        if train == "lora":
            generator = torch.Generator().manual_seed(seed)
            for block, held in zip(model.blocks, linears, strict=True):
                for name, _ in held:
                    self._add_low_rank(name, generator)
                self._hooks.enter_context(_around([block], partial(self._merging, dict(held))))
        else:
            once = {id(parameter): name for name, parameter in reversed(self._parameters.items())}
            for name in reversed(once.values()):
                if train == "all" or self._parameters[name].dim() < 2:
                    self._add(name)
            for name in {name for held in linears for name, _ in held} & self.trained.keys():
                removed = own(self._parameters[name]) == 0
                if removed.any():
                    self._removed[name] = removed
        if self._sharded:
            self._watch()

    def logits(self, ids: Tensor) -> Tensor:  # [b, t] -> [b, t, v]
        """Return the model's logits, with gradients to what is trained where they are enabled."""
        if self.sharded:
            give_back_freed()  # blocks that were gathered in the last pass leave holes that do not fit others
        logits: Tensor = self.model.model(input_ids=ids, use_cache=False).logits
        return logits

    def clip(self, most: float, team: Team) -> None:
        """Finish the gradients of a step: those of removed weights become zero, and the norm of all at most `most`."""
        if self.sharded:
            self._collect(team)
        for name, removed in self._removed.items():
            gradient = self.trained[name].grad
            if gradient is not None:
                gradient.masked_fill_(removed, 0.0)
        gradients = {name: each.grad for name, each in self.trained.items() if each.grad is not None}
        norm = get_total_norm([each for name, each in gradients.items() if name not in self._sharded])
        if self.sharded:
            squares = get_total_norm([each for name, each in gradients.items() if name in self._sharded]).square()
            team.all_reduce([squares])
            norm = (norm.square() + squares).sqrt()
        clip_grads_with_norm_(list(self.trained.values()), most, norm)

    def rounded(self) -> dict[str, Tensor]:
        """Return what was trained in the checkpoint's dtype, by checkpoint name, on the CPU; if sharded, this process's share.

        What rounds to the value it had keeps its bits, zeros among them; no trained weight becomes a zero.
        """
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for name in self._low_rank or self.trained:
                parameter = self._parameters[name]
                now = own(parameter)
                if self._low_rank:
                    now = now + self._change(name, now, part(self.trained[f"{name}.lora_B"], parameter))
                stored = part(self.model.checkpoint.read([name])[name], parameter)
                new = now.to(stored.dtype).cpu()
                found[name] = torch.where(new == 0, stored, new)
        return found

    def whole(self, rounded: Mapping[str, Tensor], team: Team) -> dict[str, Tensor]:
        """Return, in the first process, all of what `rounded` gave, for each checkpoint tensor: several of one stored twice."""
        found: dict[str, Tensor] = {}
        for name, mine in rounded.items():
            tensor = gathered(self.joined(name, mine))
            if team.leads:  # it writes them
                found |= dict.fromkeys(self._same_as(name), tensor)
        return found

    def joined(self, name: str, mine: Tensor) -> Tensor:
        """Return a tensor with the shape of one that is trained, from what this process has of it."""
        return joined(mine, self._parameters[name]) if name in self._parameters else mine

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Return what this process has of a tensor with the shape of one that is trained."""
        return part(whole, self._parameters[name]) if name in self._parameters else whole

    @property
    def state_bytes(self) -> int:
        """Return the bytes of what training goes on from: what is trained, its two averages, and the best tensors so far."""
        entries = self.model.checkpoint.entries
        kept = sum(entries[name].size * len(self._same_as(name)) for name in self._low_rank or self.trained)
        return 3 * sum(self._sharded.get(name, each).nbytes for name, each in self.trained.items()) + kept

    def _same_as(self, name: str) -> list[str]:
        """Return the checkpoint tensors that hold a parameter: several if it is tied and stored more than once."""
        parameter = self._parameters[name]
        return [each for each, other in self._parameters.items() if other is parameter]

    def release(self) -> None:
        """Leave the model's modules as they were."""
        self._hooks.close()

    @contextmanager
    def as_stored(self, rounded: Mapping[str, Tensor]) -> Iterator[None]:
        """Compute with tensors of `rounded` meanwhile, as the written model will."""
        kept: dict[str, Tensor] = {}
        low_rank, self._low_rank = self._low_rank, []
        for name, tensor in rounded.items():
            mine = own(self._parameters[name])
            kept[name] = mine.clone()
            mine.copy_(tensor)
        try:
            yield
        finally:
            for name, data in kept.items():
                own(self._parameters[name]).copy_(data)
            self._low_rank = low_rank

    def _add(self, name: str) -> None:
        """Train a parameter, or this process's share of it."""
        parameter = self._parameters[name]
        parameter.requires_grad = True
        self.trained[name] = parameter
        if is_sharded(parameter):
            self._sharded[name] = parameter
            self.trained[name] = nn.Parameter(own(parameter))

    def _add_low_rank(self, name: str, generator: torch.Generator) -> None:
        """Train B A beside a linear's weight (LoRA, arXiv 2106.09685), under its mask: W + M * (B A)."""
        weight = self._parameters[name]
        rows, columns = weight.shape
        rank = min(RANK, rows, columns)
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.trained[f"{name}.lora_A"] = nn.Parameter(down.to(weight.device))
        self.trained[f"{name}.lora_B"] = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self._low_rank.append(name)

    def _change(self, name: str, weight: Tensor, up: Tensor) -> Tensor:
        """Return M * (B A) of a linear, or of some of its rows. weight: W, whose zeros are removed; up: B."""
        return (up @ self.trained[f"{name}.lora_A"]).masked_fill(weight == 0, 0.0)

    def _merging(
        self, linears: Mapping[str, nn.Module], forward: Callable[..., object], *args: object, **kwargs: object
    ) -> object:
        """Compute a block with the weights of its linears as they are trained; they are there as a whole then."""
        merged = linears if self._low_rank else {}
        for name, module in merged.items():
            weight: Tensor = module.weight  # type: ignore[assignment] # a Parameter of a Linear or Conv1D
            # torch refuses a tensor in a parameter's place, but finds this one first.
            module.__dict__["weight"] = weight + self._change(name, weight, self.trained[f"{name}.lora_B"])
        try:
            return forward(*args, **kwargs)
        finally:
            for module in merged.values():
                del module.__dict__["weight"]

    def _watch(self) -> None:
        """Give each block all its gradients where FSDP2 sums them over processes, which asks for the same ones of each.

        Tokens may reach some experts in one process only: the others have zeros then. What was reached is noted.
        """
        known = {id(parameter): name for name, parameter in self._sharded.items()}
        for block in self.model.blocks:
            names = {path: known[id(each)] for path, each in block.named_parameters() if id(each) in known}
            self._watched.update(names.values())

            def fill(_: Tensor, block: nn.Module = block, names: dict[str, str] = names) -> None:
                for path, each in block.named_parameters():  # gathered meanwhile
                    if path in names and each.grad is None:
                        each.grad = torch.zeros_like(each)
                    elif path in names:
                        self._reached.add(names[path])

            def before(
                _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], fill: Callable[..., None] = fill
            ) -> None:
                read = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor) and each.requires_grad]
                for each in read[:1]:
                    each.register_hook(fill)  # type: ignore[no-untyped-call] # torch's own; runs when the block's gradients are there

            self._hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

    def _collect(self, team: Team) -> None:
        """Take the gradients of sharded parameters, and average those of others over processes.

        What no process reached has none, which AdamW leaves alone; it moves what has a gradient of zeros.
        """
        for name, each in self._sharded.items():
            self.trained[name].grad = None if each.grad is None else own(each.grad)
            each.grad = None
        got = [
            name in self._reached if name in self._watched else each.grad is not None
            for name, each in self.trained.items()
        ]
        self._reached.clear()
        reached = torch.tensor(got, dtype=torch.int32)
        team.all_reduce([reached])
        whole: list[Tensor] = []
        for (name, each), by in zip(self.trained.items(), reached.tolist(), strict=True):
            if not by:
                each.grad = None
            elif name not in self._sharded:
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
                whole.append(each.grad)
        if whole:
            mean = torch.cat([each.flatten() for each in whole]) / team.size
            team.all_reduce([mean])
            for gradient, its in zip(whole, torch.split(mean, [each.numel() for each in whole]), strict=True):
                gradient.copy_(its.view_as(gradient))


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
def _around(blocks: Iterable[nn.Module], call: Callable[..., object]) -> Iterator[None]:
    """Have `call` run each block's forward pass meanwhile; it gets what ran before, and what the block gets."""
    before = [(block, vars(block).get("forward")) for block in blocks]
    for block, _ in before:
        block.__dict__["forward"] = partial(call, block.forward)
    try:
        yield
    finally:
        for block, forward in before:
            del block.__dict__["forward"]
            if forward is not None:
                block.__dict__["forward"] = forward


def checkpointed(blocks: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Keep only what each block reads for its gradient meanwhile, and compute the rest of it again (arXiv 1604.06174).

    Gradients keep their bits. The mechanism of transformers needs blocks in training mode, where some of them drop values.
    """
    return _around(blocks, partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
