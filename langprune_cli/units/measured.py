"""Measures on random weights whether a model with fewer units computes the same as with their columns zero."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.models.composites import text_paths, unread
from langprune_cli.models.families import Axis
from langprune_cli.models.narrowing import Narrowing
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.units.changes import Skeleton

_TOKENS = 24
ROUNDING = (
    1e-5  # largest difference over largest value: some steps of a model are in float32 whatever its weights are in
)
_FELT = 1e-3  # difference that other columns make, at least: else nothing was measured

Keep = dict[str, Tensor]  # bool [units] by reader


@dataclass(frozen=True)
class Measure:
    """A small model with random weights, to be compared with the same without some units."""

    dense: Skeleton
    weights: dict[str, Tensor]  # by path; parameters that are tied are there once for each
    logits: Tensor | None  # None: the model does not run

    @classmethod
    def of(cls, dense: Skeleton) -> "Measure":
        """Draw the weights, and run the model."""
        weights = drawn(dense.model)
        try:
            return cls(dense, weights, run(filled(copy.deepcopy(dense.model), weights)))
        except Exception:  # noqa: BLE001 - whatever a family's code makes of weights in this dtype
            return cls(dense, weights, None)

    def difference(self, axes: Sequence[Axis], smaller: Configuration, left: int) -> str | None:
        """Return what is wrong with the model of fewer units, None where it computes the same.

        axes: of one number of the configuration; smaller: the configuration in which `left` units are left.
        """
        prefix, blocks = find_blocks(self.dense.model)
        narrowing = Narrowing(tuple(axes), {axis.kind: left for axis in axes}, tuple(range(len(blocks))), prefix)
        keep = [_some(axes, left, index) for index in range(len(blocks))]
        zeroed, cut = dict(self.weights), dict(self.weights)
        for index in range(len(blocks)):
            before = f"{prefix}.{index}."
            for path in [path for path in self.weights if path.startswith(before)]:
                cut[path] = narrowing.tensor(path.removeprefix(before), self.weights[path], keep[index])
            for axis in axes:
                if (path := f"{before}{axis.reader}.weight") in zeroed:
                    columns = keep[index][axis.reader].repeat_interleave(axis.size)
                    zeroed[path] = zeroed[path] * (columns if axis.slices[0].dim == 1 else columns[:, None])
        if self.logits is None:
            return "a small model of this kind, on which it would be tried, does not run"
        try:
            small = filled(self.dense.build(smaller), cut)
            whole = filled(copy.deepcopy(self.dense.model), zeroed)
            _norms_over_what_stays(whole, small, axes, keep)
            found, wanted = run(small), run(whole)
        except Exception as error:  # noqa: BLE001 - whatever a family's code makes of the smaller model
            cause = error.__cause__ if isinstance(error, LangpruneError) and error.__cause__ else error
            return f"a small model of this kind does not run without some of them: {first_line(cause)}"
        if apart(wanted, self.logits) < _FELT:
            return "a small model of this kind computes the same with some of them and without, so that nothing can be told"
        away = apart(found, wanted)
        if away <= ROUNDING:
            return None
        return f"a small model of this kind without some of them is {away:.2g} of its largest logit away from one with zeros"


def _some(axes: Sequence[Axis], left: int, index: int) -> Keep:
    """Return random units that stay: other ones of each reader and in each block."""
    generator = torch.Generator().manual_seed(1 + index)
    keep = {}
    for axis in axes:
        chosen = torch.randperm(axis.units, generator=generator)[:left]
        keep[axis.reader] = torch.zeros(axis.units, dtype=torch.bool).index_fill(0, chosen, value=True)
    return keep


def drawn(model: CausalModel) -> dict[str, Tensor]:
    """Return random weights by path, for every parameter that text needs; a tied one has its weights at each of its paths."""
    generator = torch.Generator().manual_seed(0)
    text = text_paths(model, find_blocks(model)[0])
    of: dict[int, Tensor] = {}
    weights = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if not path.startswith(text):  # a tower of images is not run, and may be larger than all else
            continue
        if id(parameter) not in of:
            of[id(parameter)] = _random(tuple(parameter.shape), generator).to(parameter.dtype)
        weights[path] = of[id(parameter)]
    return weights


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return weights of a size that keeps what goes through them about as large as it is; norms and biases are about 1."""
    if len(shape) < 2:
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.3).add_(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).div_(math.sqrt(max(shape[-1], 1)))


def filled(model: CausalModel, weights: Mapping[str, Tensor]) -> CausalModel:
    """Put weights into a skeleton, by path, and NaN elsewhere; raises ValueError where one does not fit."""
    for path, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, name = path.rpartition(".")
        given = weights.get(path)
        if given is not None and given.shape != parameter.shape:
            raise ValueError(f"{path} would be {list(parameter.shape)}, and is {list(given.shape)}")
        new = unread(parameter) if given is None else nn.Parameter(given, requires_grad=False)
        setattr(model.get_submodule(owner), name, new)
    return model


def _norms_over_what_stays(whole: CausalModel, small: CausalModel, axes: Sequence[Axis], keep: Sequence[Keep]) -> None:
    """Let norms over all units, as of olmo2's queries, be over those that stay: so are the smaller model's.

    Over fewer entries a norm is another number, which is no fault of where the units lie.
    """
    pairs = zip(find_blocks(whole)[1], find_blocks(small)[1], keep, strict=True)
    for block, other, stay in pairs:
        modules, others = dict(block.named_modules()), dict(other.named_modules())
        for axis in axes:
            for cut in axis.slices[1:]:
                path, _, name = cut.path.rpartition(".")
                norm = modules.get(path)
                if norm is not None and name == "weight" and norm.weight.dim() == 1:
                    at = stay[axis.reader].repeat_interleave(cut.sizes[0]).nonzero()[:, 0]
                    norm.register_forward_hook(_OverSome(others[path], at, norm.weight.shape[0]))


@dataclass(frozen=True)
class _OverSome:
    """A hook that puts out a narrower norm's output where its entries are, and zeros elsewhere."""

    narrower: nn.Module
    at: Tensor  # the entries that stay
    width: int

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the output that takes the place of the wide norm's."""
        if not args or args[0].shape[-1] != self.width:
            return output
        norms: Tensor = self.narrower(args[0][..., self.at])
        return torch.zeros_like(output).index_copy(-1, self.at, norms)


def run(model: CausalModel) -> Tensor:  # float64 [1, t, vocabulary]
    """Return the logits of a few tokens that are spread over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    ids = ((torch.arange(1, _TOKENS + 1) * 7919) % size)[None]
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.double()


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value; infinity where one is not a number."""
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        return float("inf")
    return float((one - other).abs().max() / other.abs().max())
