"""Trains the kept weights of one block to reproduce the output of the dense model's block.

AMD Quark's blockwise tuning: AdamW, a cosine schedule down to a twentieth, clipped gradients, the mean squared error to the
dense hidden states. Added here: held-out windows decide which epoch to keep, if any.
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
_MOST_GRADIENT = 0.3  # clips the norm of a step's gradient
_MOST_RATE = 2e-3
_LARGE_ERROR = 0.05  # above this the rate depends on the width alone; measured, docs/decisions.md
_HELD_OUT = 8  # one window of this many is held out

Targets = Sequence[Tensor]  # dense hidden states per micro-batch [b, t, h]


@dataclass(frozen=True)
class TuneSettings:
    """The settings of training blocks."""

    epochs: int = 5  # at most
    learning_rate: float | None = None  # None: by the model's width, see `rate`
    step_windows: int = 1  # windows per step of the optimiser
    seed: int = 0  # of the order of the steps
    max_shard_bytes: int = MAX_SHARD_BYTES

    def rate(
        self,
        hidden_size: int,
        error: float,  # relative and squared, of the block before training
    ) -> float:
        """Return the given learning rate, else AMD Quark's 1e-4 for a width of 4096, scaled by width and error.

        AdamW moves every weight by about the rate, whatever its gradient, so an output moves by the rate times the width (arXiv
        2203.03466,
        table 3): the best rate is proportional to the inverse of the width. And an output should move by no more than its own
        error, the
        root of `error`.
        """
        by_width = min(_MOST_RATE, 1e-4 * 4096 / hidden_size)
        return self.learning_rate or by_width * rate_share(error, _LARGE_ERROR)


def rate_share(lost: float, large: float) -> float:
    """Return what share of a learning rate suits a squared error, or a divergence, of `lost`: all from `large` on, else its root.

    AdamW moves every weight by about the rate, in good part by chance, and that adds to them with the square of the rate.
    """
    return math.sqrt(min(1.0, max(0.0, lost) / large))


@dataclass(frozen=True)
class TunedBlock:
    """A tuned block's parameters in the checkpoint's dtype, and the errors before and after."""

    tensors: dict[str, Tensor]  # by checkpoint name
    before: float  # squared error over squared dense output, on held-out windows
    after: float
    epoch: int  # of these weights, counted from 1; 0 if no epoch was better and the block is unchanged


class TunableStates(HiddenStates):
    """Hidden states to train a block on."""

    def output(self, module: nn.Module, index: int, number: int) -> Tensor:
        """Return the output of `module`, called like block `index`, for micro-batch `number`, in the model's dtype."""
        return self._calls[number][index](module, self.hidden[number])

    def output_to_train(self, module: nn.Module, index: int, number: int) -> Tensor:
        """Return the same in float32, with products in bfloat16 if that is the model's dtype."""
        call, hidden = self._calls[number][index], self.hidden[number]
        bfloat16 = hidden.dtype == torch.bfloat16
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bfloat16):
            wide = Call(
                tuple(map(_in_float32, call.args)), {key: _in_float32(each) for key, each in call.kwargs.items()}
            )
            return wide(module, hidden.float())


@dataclass(frozen=True)
class Lesson:
    """The hidden states that a block reads, and its targets, the dense ones."""

    inputs: TunableStates
    targets: Targets

    def error(self, module: nn.Module, index: int) -> float:
        """Return the squared error of `module`'s outputs over the squared targets."""
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
        """Return the number of values of the targets."""
        return sum(target.numel() for target in self.targets)


def held_out(count: int, one_in: int = _HELD_OUT, most: int | None = None) -> Tensor:  # bool [n]
    """Return which of `count` windows to hold out: one in `one_in`, at least one and at most `most`, spread evenly."""
    held = torch.zeros(count, dtype=torch.bool)
    many = min(max(1, count // one_in), count if most is None else most)
    held[[(2 * number + 1) * count // (2 * many) for number in range(many)]] = True
    return held


def tune_block(
    block: Block,
    stored: dict[str, Tensor],  # every parameter in the checkpoint's dtype, by checkpoint name, in the block's order
    train: Lesson,
    held: Lesson,
    settings: TuneSettings,
) -> TunedBlock:
    """Return a loaded block's parameters, trained on `train`: those of the epoch with the least error on `held`.

    Training ends with the first epoch that does not lower the previous epoch's error; the first epoch, at the full rate, may be
    worse than none. Errors are measured with weights rounded to the checkpoint's dtype, in the model's own computation. If no
    epoch helps, the parameters return unchanged, bit by bit. Zeros of the linears stay zero. The loaded block itself does not
    change.
    Raises LangpruneError if hidden states are not finite.
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
        if best.after == 0:  # the error is already zero
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
    """A block's parameters in float32; only those of linears are trained, as norms gain next to nothing."""

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
        """Return the parameters that the optimiser changes."""
        return [weight for weight in self._weights.values() if weight.requires_grad]

    def module(self, tensors: dict[str, Tensor] | None = None) -> nn.Module:
        """Return the block with these weights, or with `tensors` in the checkpoint's dtype, by checkpoint name."""
        if tensors is None:
            return _Reweighted(self._block.module, self._weights)
        weights = {
            path: tensors[name].to(self._weights[path].device, self._dtype[path]) for path, name in self._name.items()
        }
        return _Reweighted(self._block.module, weights)

    def hold_zeros(self) -> None:
        """Set the gradients of pruned weights to zero, so that AdamW leaves them at zero."""
        for path, removed in self._removed.items():
            gradient = self._weights[path].grad
            if gradient is not None:
                gradient.masked_fill_(removed, 0.0)

    def rounded(self) -> dict[str, Tensor]:
        """Return the weights in the checkpoint's dtype, by name; untrained ones and zeros are unchanged bit by bit."""
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
    """A module that computes with other weights than its own."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._of = (module, dict(weights))  # in a tuple, so that torch does not register them here

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
