"""Finds what reads and what writes a model's residual stream, so that the stream can have fewer coordinates.

What changes where the configuration states another hidden size is cut. A small model of the same kind tells by running which norm
a linear reads, and which norm reads a linear. Then it is measured that this model computes the same in other coordinates.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.units.changes import Count
from langprune_cli.units.coordinates import Coordinates, Part, Stream
from langprune_cli.units.measured import ROUNDING, apart, drawn, filled, run
from langprune_cli.units.seen import Seen
from langprune_cli.units.small import Known, build, few_blocks, narrow_widths

_DTYPES = torch.float64, torch.float32  # the first that a family's code runs in
_EPSILON = 1e-30


class _UnknownError(Exception):
    """Says what of a family's stream is not known."""


def hidden_count(config: Configuration) -> Count:
    """Return how a configuration states its hidden size, and the width of its heads, which otherwise follows from it."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    width = getattr(text, "head_dim", None) or (text.hidden_size // heads if isinstance(heads, int) else None)
    return Count(text.hidden_size, (("hidden_size", 1),), (("head_dim", width),) if width else ())


def found_stream(config: Configuration) -> Stream:
    """Return what the tensors of a model have to do with its stream; raises LangpruneError where that is not known."""
    return _found(Known(config))


@lru_cache(maxsize=8)
def _found(known: Known) -> Stream:
    name = known.config.get_text_config().model_type
    try:
        return _Finding(_exact(narrow_widths(few_blocks(known.config)))).stream()
    except _UnknownError as error:
        raise LangpruneError(
            f"The hidden size of this {name} cannot be changed ({error}): prune its channels, KV groups or blocks"
        ) from error


def _exact(config: Configuration) -> Configuration:
    """Return the configuration with norms that add next to nothing to what they divide by: it would hide what they do."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    for key, value in list(vars(text).items()):
        if "eps" in key and isinstance(value, float):
            setattr(text, key, _EPSILON)
    return config


class _Finding:
    """Finds the stream of a small model."""

    def __init__(self, config: Configuration) -> None:
        self._config, self._count = config, hidden_count(config)
        self._size = self._count.units
        self._left, self._smaller = self._stated()
        self._model, self._weights = self._running()
        self._dtype = next(iter(self._weights.values())).dtype
        self._prefix, self._blocks = find_blocks(self._model)
        self._modules = dict(self._model.named_modules())
        self._seen = Seen(self._model)
        with self._seen.watching():
            run(self._model)

    def _stated(self) -> tuple[int, Configuration]:
        """Return a smaller hidden size, and the configuration that states it."""
        for left in (self._size // 2, self._size * 3 // 4, self._size // 4):
            try:
                smaller = self._count.stated(self._config, left)
                build(smaller)
            except Exception:  # noqa: BLE001, S112 - whatever a family's code says of numbers that it does not take
                continue
            return left, smaller
        raise _UnknownError("its config.json cannot state another one")

    def _running(self) -> tuple[CausalModel, dict[str, Tensor]]:
        """Return a model with random weights that runs, and these by path."""
        for dtype in _DTYPES:
            model = build(self._config, dtype)
            weights = drawn(model)
            try:
                filled(model, weights)
                run(model)
            except Exception:  # noqa: BLE001, S112 - whatever a family's code makes of weights in this dtype
                continue
            return model, weights
        raise _UnknownError("a small model of this kind, on which it would be tried, does not run")

    def stream(self) -> Stream:
        """Return the stream; raises _UnknownError for what is not known of the model."""
        cut = self._cut()
        norms = self._norms(cut)
        embedding, head = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        parts = {path: self._part(path, dim, norms) for path, dim in cut.items()}
        last = self._seen.read_by(head, norms) if head is not None else ""
        if not last:
            raise _UnknownError("its head does not read a norm")
        ends = [f"{path}.weight" for each in (embedding, head) for path, one in self._modules.items() if one is each]
        found = Stream(
            self._count,
            self._inside(parts),
            {path: part for path, part in parts.items() if not path.startswith(f"{self._prefix}.")},
            last,
            ends[-1],
            tied=self._weights[ends[0]] is self._weights[ends[-1]],
            one_more=self._one_more(norms),
            root=self._root(cut),
        )
        self._measure(found)
        return found

    def _cut(self) -> dict[str, int]:
        """Return the dimension of each parameter that has the hidden size."""
        before, after = (
            {path: tuple(each.shape) for path, each in model.named_parameters(remove_duplicate=False)}
            for model in (self._model, build(self._smaller))
        )
        found = {}
        for path, shape in before.items():
            other = after.get(path, ())
            changed = [dim for dim, sizes in enumerate(zip(shape, other, strict=False)) if len(set(sizes)) > 1]
            if len(other) != len(shape) or len(changed) > 1:
                raise _UnknownError(f"{path} would change in another way")
            if changed:
                if (shape[changed[0]], other[changed[0]]) != (self._size, self._left):
                    raise _UnknownError(f"{path} has another size that follows from it")
                found[path] = changed[0]
        return found

    def _norms(self, cut: Mapping[str, int]) -> dict[str, nn.Module]:
        """Return the modules that norm the stream, by path."""
        found = {}
        for path in cut:
            owner, _, name = path.rpartition(".")
            module = self._modules[owner]
            if isinstance(module, (nn.Linear, nn.Embedding)):
                continue
            if name == "weight" and module.weight.dim() == 2:
                continue
            if name != "weight" or module.weight.dim() != 1 or module not in self._seen.outputs:
                raise _UnknownError(f"{path} is not known to be part of a linear or a norm")
            found[owner] = module
        return found

    def _one_more(self, norms: Mapping[str, nn.Module]) -> bool:
        """Return whether norms multiply by one more than their weights; they divide by the root mean square."""
        found = set()
        for path, module in norms.items():
            x, y = self._seen.inputs[module].double(), self._seen.outputs[module].double()
            gain = (y / x * x.square().mean(-1, keepdim=True).sqrt()).flatten(0, -2)
            weight = self._weights[f"{path}.weight"].double()
            more = [number for number in (0, 1) if apart(gain, (weight + number).expand_as(gain)) < 1e-3]
            if not more:
                raise _UnknownError(f"{path} does not divide by the root mean square alone")
            found.update(more)
        if len(found) != 1:
            raise _UnknownError("its norms are of several kinds")
        return bool(found.pop())

    def _part(self, path: str, dim: int, norms: Mapping[str, nn.Module]) -> Part:
        owner, _, name = path.rpartition(".")
        module = self._modules[owner]
        if owner in norms:
            return Part("scales", owner)
        if isinstance(module, nn.Embedding):
            return Part("embeds")
        if name == "weight" and dim == 1:
            return Part("reads", self._first(owner, lambda each: self._seen.read_by(each, norms)))
        return Part("writes", self._first(owner, lambda each: self._seen.reader_of(each, norms)))

    def _first(self, path: str, find: Callable[[nn.Module], str]) -> str:
        """Return what is found of a module, else of the modules around it inside of its block: experts see some tokens each."""
        while path and not (found := find(self._modules[path])):
            path = path.rpartition(".")[0]
            if self._modules[path] in list(self._blocks) or not path.startswith(self._prefix):
                return ""
        return found

    def _inside(self, parts: Mapping[str, Part]) -> dict[str, Part]:
        """Return the parts of all blocks by path inside of a block; raises _UnknownError where blocks differ."""
        found: dict[str, Part] = {}
        for path, part in parts.items():
            if not path.startswith(f"{self._prefix}."):
                continue
            number, _, rest = path.removeprefix(f"{self._prefix}.").partition(".")
            own = Part(part.role, part.norm.removeprefix(f"{self._prefix}.{number}."))
            if found.setdefault(rest, own) != own:
                raise _UnknownError(f"{rest} has another part in other blocks")
        return found

    def _root(self, cut: Mapping[str, int]) -> bool:
        """Return whether embeddings are multiplied by the root of the hidden size."""
        smaller = filled(build(self._smaller, self._dtype), self._cut_off(cut))
        factors = [self._factor(self._model, self._seen), self._factor(smaller, None)]
        ratio, root = factors[0] / factors[1], math.sqrt(self._size / self._left)
        if abs(ratio - 1) < 1e-2:
            return False
        if abs(ratio / root - 1) < 1e-2:
            return True
        raise _UnknownError("its embeddings are multiplied by a factor that follows from it in an unknown way")

    def _cut_off(self, cut: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the weights of the first entries of the stream alone."""
        return {
            path: tensor.narrow(cut[path], 0, self._left).contiguous() if path in cut else tensor
            for path, tensor in self._weights.items()
        }

    def _factor(self, model: CausalModel, seen: Seen | None) -> float:
        """Return what a model multiplies its embeddings by, before the first block."""
        if seen is None:
            seen = Seen(model)
            with seen.watching():
                run(model)
        embedding = model.get_input_embeddings()
        rows = next(embedding.parameters())[seen.inputs[embedding]].double()
        hidden = seen.inputs[find_blocks(model)[1][0]].double()
        factor = float((hidden * rows).sum() / rows.square().sum())
        if apart(hidden, rows * factor) > 1e-2:
            raise _UnknownError("something is added to its embeddings")
        return factor

    def _measure(self, stream: Stream) -> None:
        """Raise _UnknownError unless fewer coordinates are the same as a projection of the stream of unchanged size."""
        weights = dict(self._weights)
        for path in self._constant(stream):  # so that D is one, and a norm behind a linear the same in all coordinates
            weights[path] = torch.full_like(weights[path], 0.7)
        generator = torch.Generator().manual_seed(2)
        turn = torch.linalg.qr(torch.randn(self._size, self._left, generator=generator, dtype=torch.float64)).Q
        whole = Coordinates(stream, turn @ turn.T, torch.ones(self._size, dtype=torch.float64))
        fewer = Coordinates(stream, turn, torch.ones(self._size, dtype=torch.float64))
        try:
            wanted = run(filled(copy.deepcopy(self._model), self._changed(whole, weights)))
            found = run(filled(build(self._smaller, self._dtype), self._changed(fewer, weights)))
        except Exception as error:
            raise _UnknownError(f"a small model of this kind does not run with another: {first_line(error)}") from error
        if (away := apart(found, wanted)) > ROUNDING:
            raise _UnknownError(f"a small model of this kind with another is {away:.2g} of its largest logit away")

    def _constant(self, stream: Stream) -> list[str]:
        """Return the paths of norms' weights that cannot go into what reads them."""
        behind = {f"{path}.weight" for path in stream.behind}
        inside = [path for path in self._weights if path.startswith(f"{self._prefix}.")]
        last = [f"{stream.last}.weight"] if stream.tied else []
        return [path for path in inside if path.removeprefix(f"{self._prefix}.").partition(".")[2] in behind] + last

    def _changed(self, to: Coordinates, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights in other coordinates; with as many as before, of a stream that is projected."""
        stream, made = to.stream, {}
        larger = math.sqrt(self._size / to.left)  # as much is left of the stream, in fewer entries
        constant_ones = self._constant(stream)
        for path, tensor in weights.items():
            inside = path.startswith(f"{self._prefix}.")
            number, _, rest = path.removeprefix(f"{self._prefix}.").partition(".")
            part = stream.blocks.get(rest) if inside else stream.part_outside(path)
            before = f"{self._prefix}.{number}." if inside else ""
            if part is None:
                made[path] = tensor
                continue
            norm = weights[f"{before}{part.norm}.weight"] if part.norm else None
            gain = None if norm is None else stream.gain(norm)
            constant = larger
            if part.role == "scales" and path in constant_ones and gain is not None:
                embedded = larger if stream.root and part.norm == stream.last else 1.0
                constant = larger * float(gain[0]) / embedded
            made[path] = to.tensor(part, tensor, None if part.role == "writes" else gain, constant)
        return made
