"""Train the surviving weights of one block so that it puts out what the dense model's block does.

AMD Quark's blockwise tuning: AdamW, a cosine schedule down to a twentieth, clipped gradients, the mean squared error to the
dense hidden states. Added here: windows that are held out decide which epoch is kept, and whether any is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from langprune_cli.errors import LangpruneError
from langprune_cli.models.block_capture import Call
from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.models.streamed import Block
from langprune_cli.streaming.walk import HiddenStates

_LAST_RATE = 1 / 20  # of the learning rate, at the end of the cosine
_MOST_GRADIENT = 0.3  # norm to which the gradient of a step is clipped
_MOST_RATE = 2e-3
_LARGE_ERROR = 0.05  # from which on the rate goes by the width alone; found by measurement, docs/decisions.md
_HELD_OUT = 8  # one of so many windows is not trained on

Targets = Sequence[Tensor]  # dense hidden states per micro-batch [b, t, h]


@dataclass(frozen=True)
class TuneSettings:
    """How blocks are trained."""

    epochs: int = 5  # at most
    learning_rate: float | None = None  # None: by the model's width, see `rate`
    step_windows: int = 1  # windows of one step of the optimiser
    seed: int = 0  # of the order of the steps
    max_shard_bytes: int = MAX_SHARD_BYTES

    def rate(
        self,
        hidden_size: int,
        error: float,  # relative and squared, of the block before it is trained
    ) -> float:
        """Return the learning rate as it was given, else AMD Quark's 1e-4 at 4096 wide, by width and by error.

        AdamW moves every weight by about the rate, whatever its gradient, so that an output moves by the rate times the
        width (arXiv 2203.03466, table 3): what is best goes as the inverse of the width. And an output should move by no more
        than it is wrong, which is the root of the error.
        """
        by_width = min(_MOST_RATE, 1e-4 * 4096 / hidden_size)
        return self.learning_rate or by_width * math.sqrt(min(1.0, error / _LARGE_ERROR))


@dataclass(frozen=True)
class TunedBlock:
    """A block's parameters afterwards, as the checkpoint is to hold them, and what that did."""

    tensors: dict[str, Tensor]  # by checkpoint name
    before: float  # squared error over squared dense output, on the windows held out
    after: float
    epoch: int  # whose weights these are, counted from 1; 0 where none was better and the block stays as it was


class TunableStates(HiddenStates):
    """Hidden states that a block can be trained on."""

    def output(self, module: nn.Module, index: int, number: int) -> Tensor:
        """Return what `module`, called as block `index` is, puts out for micro-batch `number`, in the model's dtype."""
        return self._calls[number][index](module, self.hidden[number])

    def output_to_train(self, module: nn.Module, index: int, number: int) -> Tensor:
        """Return the same with everything in float32, and the products in bfloat16 where that is the model's dtype."""
        call, hidden = self._calls[number][index], self.hidden[number]
        bfloat16 = hidden.dtype == torch.bfloat16
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bfloat16):
            wide = Call(
                tuple(map(_in_float32, call.args)), {key: _in_float32(each) for key, each in call.kwargs.items()}
            )
            return wide(module, hidden.float())


@dataclass(frozen=True)
class Lesson:
    """Hidden states that a block reads, and the dense ones that it is to put out."""

    inputs: TunableStates
    targets: Targets

    def error(self, module: nn.Module, index: int) -> float:
        """Return the squared error of what `module` puts out over the squared targets."""
        with torch.no_grad():
            errors = [
                (self.inputs.output(module, index, number).float() - target.float()).square().sum(dtype=torch.float64)
                for number, target in enumerate(self.targets)
            ]
        return float(sum(errors)) / self.energy

    @property
    def energy(self) -> float:
        """Return the sum of squares of the targets."""
        return float(sum(target.float().square().sum(dtype=torch.float64) for target in self.targets))

    @property
    def values(self) -> int:
        """Return how many values the targets have."""
        return sum(target.numel() for target in self.targets)


def held_out(count: int) -> Tensor:  # bool [n]
    """Return which of `count` windows are not trained on: one in eight, one at least, spread evenly."""
    held = torch.zeros(count, dtype=torch.bool)
    many = max(1, count // _HELD_OUT)
    held[[(2 * number + 1) * count // (2 * many) for number in range(many)]] = True
    return held


def tune_block(
    block: Block,
    stored: dict[str, Tensor],  # every parameter as the checkpoint has it, by checkpoint name, in the block's own order
    train: Lesson,
    held: Lesson,
    settings: TuneSettings,
) -> TunedBlock:
    """Return a loaded block's parameters, trained on `train`: those of the epoch with the least error on `held`.

    Training ends with the first epoch that does not lower the error of the epoch before it: the first one, at the full rate,
    may be worse than none. Errors are measured with weights rounded to the checkpoint's dtype, computed as the model computes.
    Where no epoch is better than none the parameters come back bit by bit.
    Zeros of the linears stay as they are. Nothing outside is changed, the loaded block included.
    Raises LangpruneError where hidden states are not finite.
    """
    before = held.error(block.module, block.index)
    if not math.isfinite(before):
        raise LangpruneError(
            f"the hidden states of block {block.index} are not finite: compute in another dtype, such as --dtype float32"
        )
    best = TunedBlock(stored, before, before, 0)
    masters = Masters(block, stored)
    rate = settings.rate(train.targets[0].shape[-1], before)
    optimizer = torch.optim.AdamW(masters.trained(), lr=rate, weight_decay=0.0, fused=True)
    steps = settings.epochs * len(train.targets)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, rate * _LAST_RATE)
    generator = torch.Generator().manual_seed(settings.seed + block.index)
    scale = train.energy / train.values
    last = math.inf
    for epoch in range(1, settings.epochs + 1):
        if best.after == 0:  # there is nothing to be learnt
            break
        for number in torch.randperm(len(train.targets), generator=generator).tolist():
            output = train.inputs.output_to_train(masters.module(), block.index, number)
            loss = (output.float() - train.targets[number].float()).square().mean() / scale
            loss.backward()
            masters.hold_zeros()
            torch.nn.utils.clip_grad_norm_(masters.trained(), _MOST_GRADIENT)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        rounded = masters.rounded()
        after = held.error(masters.module(rounded), block.index)
        if after < best.after:
            best = TunedBlock(rounded, before, after, epoch)
        if not after < last:
            break
        last = after
    return best


class Masters:
    """A block's parameters in float32, those of its linears to be trained: norms have next to nothing to gain."""

    def __init__(self, block: Block, stored: dict[str, Tensor]) -> None:
        self._block = block
        self._stored = stored
        parameters = dict(block.module.named_parameters())
        self._name = dict(zip(parameters, stored, strict=True))
        self._dtype = {path: parameter.dtype for path, parameter in parameters.items()}
        ours = {id(each) for linear in block.linears for each in linear.module.parameters()}
        matrices = {linear.name for linear in block.linears}
        self._weights: dict[str, nn.Parameter] = {}
        self._removed: dict[str, Tensor] = {}  # bool, of linears with zeros
        for path, name in self._name.items():
            trained = id(parameters[path]) in ours
            value = stored[name].to(parameters[path].device, torch.float32, copy=True)
            self._weights[path] = nn.Parameter(value, requires_grad=trained)
            if name in matrices and not value.all():
                self._removed[path] = value == 0

    def trained(self) -> list[nn.Parameter]:
        """Return what the optimiser is to change."""
        return [weight for weight in self._weights.values() if weight.requires_grad]

    def module(self, tensors: dict[str, Tensor] | None = None) -> nn.Module:
        """Return the block with these weights, or with some of the checkpoint's dtype, by checkpoint name."""
        if tensors is None:
            return _Reweighted(self._block.module, self._weights)
        weights = {
            path: tensors[name].to(self._weights[path].device, self._dtype[path]) for path, name in self._name.items()
        }
        return _Reweighted(self._block.module, weights)

    def hold_zeros(self) -> None:
        """Take removed weights out of the gradient: AdamW then leaves them at zero."""
        for path, removed in self._removed.items():
            gradient = self._weights[path].grad
            if gradient is not None:
                gradient.masked_fill_(removed, 0.0)

    def rounded(self) -> dict[str, Tensor]:
        """Return the weights as the checkpoint is to hold them, by name: what is not trained, and zeros, bit by bit."""
        found = dict(self._stored)
        for path, weight in self._weights.items():
            if weight.requires_grad:
                before = self._stored[self._name[path]]
                new = weight.detach().cpu().to(before.dtype)
                new = new.masked_fill(new == 0, 0.0)  # never -0.0
                removed = self._removed.get(path)
                found[self._name[path]] = new if removed is None else torch.where(removed.cpu(), before, new)
        return found


class _Reweighted(nn.Module):
    """A module that computes with other weights than it holds."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._of = (module, dict(weights))  # in a tuple, so that neither becomes a part of this one

    def forward(self, *args: object, **kwargs: object) -> object:
        return functional_call(*self._of, args, kwargs)


def _in_float32(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(map(_in_float32, value))
    if isinstance(value, dict):
        return {key: _in_float32(each) for key, each in value.items()}
    return value
