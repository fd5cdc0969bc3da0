"""What a user does with a model, by pattern, and whether the result is what it has to be.

Each check raises LangpruneError where langprune refuses, and AssertionError where something is wrong.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
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


class DiffersError(Exception):
    """The model works, and does not compute what the dense one does with parts zero; the message says why."""


_CLOSE = 1e-6  # relative, of nats
_GENERATED = 4


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
        return self.ask(Request(self.kind, self.folder, self.windows))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The checkpoint's tensors."""
        return read_tensors(self.folder)

    @cached_property
    def transposed(self) -> dict[str, bool]:
        """Of every linear, whether the checkpoint stores it [in, out]."""
        model = StreamedModel(self.folder)
        return {each.name: each.transposed for index in range(len(model.blocks)) for each in model.linears(index)}

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

    def nats(self, *models: str | Path) -> list[float]:
        """Return what `eval` says of the dense model and of pruned ones."""
        return [row["nats"] for row in self.evaluate(self.data, *models).rows]

    def evaluate(self, data: Path, *models: str | Path) -> Evaluated:
        """Evaluate as a user does; what was pruned may not be refused any more."""
        try:
            return langprune_cli.evaluate(model=models, data=data, seqlen=24, workspace=self.place / "workspace")
        except LangpruneError as error:
            if models == (self.folder,):
                raise
            self.evaluate(self.data, self.folder)  # where the dense model is refused, so is this
            raise AssertionError(f"what was pruned is refused: {error}") from error

    def runs(self, folder: Path, windows: Tensor | None = None) -> Measured:
        """Return what stock transformers makes of a pruned folder, which it has to open and to generate with as the dense one."""
        found = self.ask(Request(self.kind, folder, self.windows if windows is None else windows))
        assert found.problems == self.dense.problems, found.problems
        if isinstance(self.dense.generated, int):
            assert self.dense.generated == found.generated == _GENERATED, found.generated
        return found


def stream(subject: Subject) -> None:
    """Check that `eval` says of the dense model what stock transformers computes."""
    (nats,) = subject.nats(subject.folder)
    _close(nats, subject.dense.nats, "eval of the dense model")


def weights(pattern: str) -> Callable[[Subject], None]:
    """Return the check of a pattern of single weights: exact zeros, all else byte by byte."""

    def check(subject: Subject) -> None:
        made = subject.prune(pattern, "wanda")
        expected = subject.masked(_mask(made), share=0.5)
        after = read_tensors(made.folder)
        assert after.keys() == expected.keys(), after.keys() ^ expected.keys()
        for name, tensor in after.items():
            same = tensor.dtype == expected[name].dtype and torch.equal(_as_bits(tensor), _as_bits(expected[name]))
            assert same, f"{name} is not as the mask says"
        for path in subject.folder.iterdir():
            if path.suffix in {".json", ".jinja", ".txt", ".model"} and "index" not in path.name:
                assert (made.folder / path.name).read_bytes() == path.read_bytes(), f"{path.name} differs"
        _evaluates(subject, made, subject.runs(made.folder))

    return check


def units(pattern: str) -> Callable[[Subject], None]:
    """Return the check of a pattern of units of every block: the dense model with their readers' columns zero, but smaller."""

    def check(subject: Subject) -> None:
        made = subject.prune(pattern, "magnitude")
        zeroed = subject.masked(_mask(made))
        folder = subject.place / "zeroed"
        shutil.copytree(subject.folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
        save_file(zeroed, folder / "model.safetensors", metadata={"format": "pt"})
        found, after = subject.runs(made.folder), read_tensors(made.folder)
        _evaluates(subject, made, found)
        assert _numbers(after) < _numbers(subject.tensors)
        if any(
            "norm" in name and each.dim() == 1 and len(each) < len(subject.tensors[name])
            for name, each in after.items()
        ):
            raise DiffersError("works, but a norm over all units is over those that stay, which is another number")
        _same(found, subject.ask(Request(subject.kind, folder, subject.windows)))

    return check


def blocks(subject: Subject) -> None:
    """Check the model without a block against the dense one in which it does nothing."""
    made = subject.prune("blocks:0.25", "influence", update=None)
    removed = json.loads((_mask(made).folder / "blocks.json").read_bytes())["removed"]
    path, _ = find_blocks(StreamedModel(subject.folder).model)
    found = subject.runs(made.folder)
    _same(found, subject.ask(Request(subject.kind, subject.folder, subject.windows, path, tuple(removed))))
    _evaluates(subject, made, found)
    assert _numbers(read_tensors(made.folder)) < _numbers(subject.tensors)


def vocabulary(subject: Subject) -> None:
    """Check that tokens that stay have the logits that they had."""
    made = subject.prune("vocab", None, update=None)
    stay = load_file(_mask(made).folder / "vocabulary.safetensors")["stay"]
    windows = torch.arange(len(stay) // 24 * 24).view(-1, 24)[
        1:5
    ]  # by their new numbers; special tokens come elsewhere
    found = subject.runs(made.folder, windows)
    dense = subject.ask(Request(subject.kind, subject.folder, stay[windows]))
    assert found.logits.shape[-1] < dense.logits.shape[-1], "no token leaves"
    torch.testing.assert_close(found.logits[..., : len(stay)], dense.logits[..., stay], rtol=1e-5, atol=1e-5)
    kept = subject.evaluate(subject.text, made.name)
    read = load_file(kept.folder / "windows-0-1.safetensors")["windows"].long()
    _close(kept.rows[1]["nats"], subject.runs(made.folder, read).nats, "eval of the pruned model")


# What the table has a column for.
CHECKS: dict[str, Callable[[Subject], None]] = {
    "stream": stream,
    "weights": weights("unstructured"),
    "2:4": weights("2:4"),
    "channels": units("channels:0.25"),
    "KV groups": units("kv-groups:0.5"),
    "blocks": blocks,
    "vocabulary": vocabulary,
}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint."""
    return {name: each for path in sorted(folder.glob("*.safetensors")) for name, each in load_file(path).items()}


def unpacked(bits: Tensor, width: int) -> Tensor:
    """Return a mask [o, i], bool, of its bits [o, i / 8], uint8."""
    return (bits[..., None] >> torch.arange(8) & 1).flatten(-2)[..., :width].bool()


def _mask(made: PruneResult) -> Artifact:
    return next(each for each in made.artifacts if each.manifest.kind == "masks")


def _bits(mask: Artifact) -> Iterator[tuple[str, Tensor]]:
    for index in range(len(list(mask.folder.glob("block-*.safetensors")))):
        yield from mask.tensors(block_part(index)).items()


def _evaluates(subject: Subject, made: PruneResult, found: Measured) -> None:
    dense, pruned = subject.nats(made.name)
    _close(dense, subject.dense.nats, "eval of the dense model")
    _close(pruned, found.nats, "eval of the pruned model")


def _close(nats: float, expected: float, what: str) -> None:
    assert abs(nats - expected) <= _CLOSE * abs(expected), f"{what} says {nats!r}, and it is {expected!r}"


def _same(found: Measured, expected: Measured) -> None:
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def _part(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return the matrix of a name: a tensor, an expert of one (name[3]), or some rows of one (name[0:48])."""
    found = re.fullmatch(r"(.+)\[(\d+)(?::(\d+))?\]", name)
    if not found:
        return tensors[name]
    tensor = tensors[found[1]]
    return tensor[int(found[2]) : int(found[3])] if found[3] else tensor[int(found[2])]


def _as_bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def _numbers(tensors: dict[str, Tensor]) -> int:
    return sum(each.numel() for each in tensors.values())
