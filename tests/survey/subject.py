"""A tiny checkpoint: what langprune makes of it, and what stock transformers computes of that."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import langprune_cli
from langprune_cli.errors import LangpruneError
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.requests.evaluate import Evaluated
from langprune_cli.requests.prune import PruneResult
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact
from tests.support.text.text_corpora import SENTENCES, write_jsonl
from tests.survey.kinds import Kind, some_windows
from tests.survey.stock import Measured, Request

_CLOSE = 1e-6  # relative, of nats
_GENERATED = 4


@dataclass(frozen=True)
class Pruned:
    """A pruned model, of which `eval` has to say what stock transformers computes."""

    name: str
    nats: float
    differs: str = ""  # how it is not the dense model with parts zero, although it works


@dataclass(frozen=True)
class Subject:
    """A tiny checkpoint, and stock transformers in another process."""

    kind: Kind
    folder: Path
    place: Path  # for what is made
    ask: Callable[[Request], Measured]
    windows: Tensor = field(default_factory=lambda: some_windows(4))

    @cached_property
    def data(self) -> Path:
        """The file of the windows."""
        save_file({"windows": self.windows}, self.place / "windows.safetensors")
        return self.place / "windows.safetensors"

    @cached_property
    def text(self) -> Path:
        """A file of text."""
        return write_jsonl(self.place / "text.jsonl", [f"{SENTENCES[1]} {SENTENCES[3]}"] * 4)  # English alone

    @cached_property
    def dense(self) -> Measured:
        """What stock transformers makes of the checkpoint itself."""
        return self.ask(Request(self.kind, self.folder, self.windows, generates=True))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The checkpoint's tensors."""
        return read_tensors(self.folder)

    @cached_property
    def streamed(self) -> StreamedModel:
        """The model without weights."""
        return StreamedModel(self.folder)

    @cached_property
    def blocks(self) -> str:
        """The list of the model's blocks."""
        return find_blocks(self.streamed.model)[0]

    @cached_property
    def transposed(self) -> dict[str, bool]:
        """Of every linear, whether the checkpoint stores it [in, out]."""
        indices = range(len(self.streamed.blocks))
        return {each.name: each.transposed for index in indices for each in self.streamed.linears(index)}

    def masked(self, mask: Artifact, share: float | None = None) -> dict[str, Tensor]:
        """Return the checkpoint's tensors with zeros where a mask has none of its bits, of every linear `share` of it."""
        found = {name: tensor.clone() for name, tensor in self.tensors.items()}
        bits = dict(_bits(mask))
        assert bits, "no linear is pruned"
        for name, each in bits.items():
            part = _part(found, name)
            rows = part.t() if self.transposed[name] else part
            kept = unpacked(each, rows.shape[1])
            removed = 1 - kept.float().mean().item()
            assert share is None or abs(removed - share) < 0.1, f"{removed:.2f} of {name} leaves"
            rows.masked_fill_(~kept, 0.0)
        return found

    def prune(self, pattern: str, method: str | None, *, update: str | None = "none") -> PruneResult:
        """Prune as a user does."""
        workspace = self.place / "workspace"
        if pattern == "vocab":
            return langprune_cli.prune(
                model=self.folder, data=self.text, pattern=pattern, keep_chat=False, round_to=8, workspace=workspace
            )
        return langprune_cli.prune(
            model=self.folder, data=self.data, pattern=pattern, method=method, update=update, workspace=workspace
        )

    def check_dense(self) -> None:
        """Check what `eval` says of the dense model."""
        (row,) = self.evaluate(self.data).rows
        close(row["nats"], self.dense.nats, "eval of the dense model")

    def check_pruned(self, pruned: Sequence[Pruned]) -> None:
        """Check what `eval` says of pruned models, and of the dense one beside them."""
        rows = self.evaluate(self.data, *(each.name for each in pruned)).rows
        close(rows[0]["nats"], self.dense.nats, "eval of the dense model")
        for row, each in zip(rows[1:], pruned, strict=True):
            close(row["nats"], each.nats, "eval of the pruned model")

    def evaluate(self, data: Path, *pruned: str) -> Evaluated:
        """Evaluate as a user does, the dense model and pruned ones, which may not be refused any more."""
        workspace = self.place / "workspace"
        try:
            return langprune_cli.evaluate(model=(self.folder, *pruned), data=data, seqlen=24, workspace=workspace)
        except LangpruneError as error:
            if not pruned:
                raise
            self.evaluate(self.data)  # where the dense model is refused, so is this
            raise AssertionError(f"what was pruned is refused: {error}") from error

    def runs(self, folder: Path, windows: Tensor | None = None) -> Measured:
        """Return what stock transformers makes of a pruned folder, which it has to open and to generate with as the dense one."""
        generates = isinstance(self.dense.generated, int)
        found = self.ask(Request(self.kind, folder, self.windows if windows is None else windows, generates))
        assert found.problems == self.dense.problems, found.problems
        if generates:
            assert self.dense.generated == found.generated == _GENERATED, found.generated
        return found


def mask_of(made: PruneResult) -> Artifact:
    """Return the mask of what was pruned."""
    return next(each for each in made.artifacts if each.manifest.kind == "masks")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint."""
    return {name: each for path in sorted(folder.glob("*.safetensors")) for name, each in load_file(path).items()}


def numbers(tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers a checkpoint has."""
    return sum(each.numel() for each in tensors.values())


def unpacked(bits: Tensor, width: int) -> Tensor:
    """Return a mask [o, i], bool, of its bits [o, i / 8], uint8."""
    return (bits[..., None] >> torch.arange(8) & 1).flatten(-2)[..., :width].bool()


def close(nats: float, expected: float, what: str) -> None:
    """Check that a loss is what it has to be."""
    assert abs(nats - expected) <= _CLOSE * abs(expected), f"{what} says {nats!r}, and it is {expected!r}"


def same(found: Measured, expected: Measured) -> None:
    """Check that two models compute the same."""
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def _bits(mask: Artifact) -> Iterator[tuple[str, Tensor]]:
    for index in range(len(list(mask.folder.glob("block-*.safetensors")))):
        yield from mask.tensors(block_part(index)).items()


def _part(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return the matrix of a name: a tensor, an expert of one (name[3]), or some rows of one (name[0:48])."""
    found = re.fullmatch(r"(.+)\[(\d+)(?::(\d+))?\]", name)
    if not found:
        return tensors[name]
    tensor = tensors[found[1]]
    return tensor[int(found[2]) : int(found[3])] if found[3] else tensor[int(found[2])]
