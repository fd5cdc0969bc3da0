"""The dense model's next-token distributions on disk: the most likely tokens of each position, and the rest.

The streamed model makes them once, with one block in memory; any number of recoveries read them, and then need no dense model.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.recover.divergence import truncated_loss
from langprune_cli.stages.recover.teacher import Divergence
from langprune_cli.stages.statistics.parts import WINDOWS_PART, text_identity
from langprune_cli.stages.statistics.recipe import described
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.resuming import SavedStates
from langprune_cli.streaming.walk import tick_of_all, walk
from langprune_cli.types import Windows

TOP = 64  # tokens of each position
_PART_BYTES = 32 << 20
_TENSORS = ("tokens", "log_probs")
_LEAST = torch.finfo(torch.float16).min
_MOST_OFF = 0.01  # of 1, what the probabilities of a position add up to: float16 puts them off by 2^-11 ln(65) = 0.002


@dataclass(frozen=True)
class TeacherLogits:
    """The next-token distributions of one dense model on one text."""

    dense: OpenedModel
    windows: Windows  # in the student's tokens
    rows: Tensor | None = None  # int64 [v], the dense model's number of each token, -1 for none; None: the same tokens

    @property
    def vocabulary(self) -> int:
        """Return how many tokens the student has."""
        return len(self.rows) if self.rows is not None else int(self.dense.config.get_text_config().vocab_size)

    @property
    def top(self) -> int:
        """Return how many tokens of each position are kept: the student and the dense model have them all."""
        shared = self.vocabulary if self.rows is None else int((self.rows >= 0).sum())
        return min(TOP, shared)

    @property
    def identity(self) -> Recipe:
        """Return what makes the artifact's key."""
        shared = {} if self.rows is None else {"tokens": hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()}
        dtype = str(self.dense.streamed.dtype).removeprefix("torch.")
        return Recipe(
            "logits",
            inputs={"model": self.dense.digest, "text": text_identity(self.windows), **shared},
            params={"top": self.top, "dtype": dtype},
        )

    @property
    def recipe(self) -> Recipe:
        """Return the same with what the manifest tells people; every byte of the weights is hashed."""
        return described(self.identity, self.dense, self.windows)

    def size(self) -> int:
        """Return the bytes of all distributions."""
        return self.windows.ids.numel() * token_bytes(self.top, self.vocabulary)

    @property
    def bounds(self) -> list[int]:
        """Return the first window of each part, and the number of all."""
        each = max(1, _PART_BYTES // (self.windows.seqlen * token_bytes(self.top, self.vocabulary)))
        return [*range(0, self.windows.count, each), self.windows.count]

    def made(self, workspace: Workspace, reporter: Reporter, *, force: bool = False) -> Outcome:
        """Return the artifact, found or made; with `force` it is made again. Several processes share the windows.

        Raises LangpruneError if a distribution is not finite.
        """
        name = f"{self.dense.label.replace('/', '-')}-{self.windows.spec.name}"
        team = self.dense.compute.team

        def make(writer: ArtifactWriter) -> Artifact:
            team.first(lambda: need_space(writer.folder, self.size()))
            if not writer.has(WINDOWS_PART):
                writer.write_tensors(WINDOWS_PART, {"windows": self.windows.ids})
            if not all(writer.has(part_name(start)) for start in self.bounds[:-1]):
                self._write(writer, reporter)
            return writer.finish()

        recipe = team.first(lambda: self.recipe)
        return run_stage(recipe, Destination(workspace, name, force=force), make, self.size, team)

    def _write(self, writer: ArtifactWriter, reporter: Reporter) -> None:
        streamed, ids, bounds, team = self.dense.streamed, self.windows.ids, self.bounds, self.dense.compute.team
        windows = self.windows if self.rows is None else replace(self.windows, ids=self.rows[ids.long()].to(ids.dtype))
        saved = SavedStates(writer, self.dense, windows)
        (states,), first = saved.start(len(streamed.blocks))
        reporter.begin(
            f"logits of {self.dense.label}", len(streamed.blocks), ids.numel() * (len(streamed.blocks) - first)
        )
        for block in walk(states, first=first, tick=tick_of_all(team, reporter.tick)):
            saved.keep([states], block.index)
        reporter.end()
        for (start, stop), found in zip(pairwise(bounds), self._parts(states.logits(), bounds), strict=True):
            if not writer.has(part_name(start)):
                own = tuple(torch.stack(each) for each in zip(*found, strict=True))  # none of a process without windows
                shares = [zip(*each, strict=True) for each in team.all_gather(own)]
                in_order = [next(shares[place % team.size]) for place in range(start, stop)]
                tokens, values = (torch.stack(each) for each in zip(*in_order, strict=True))
                stored = {"tokens": tokens.to(_token_dtype(self.vocabulary)), "log_probs": values}
                writer.write_tensors(part_name(start), stored)

    def _parts(
        self, pieces: Iterator[tuple[int, int, Tensor]], bounds: list[int]
    ) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Yield this process's windows of each part, as (tokens [t, k], log-probabilities [t, k + 1])."""
        seqlen = self.windows.seqlen
        waiting: list[tuple[Tensor, Tensor]] = []  # of a micro-batch: [b, p, ..]
        done: list[tuple[Tensor, Tensor]] = []
        places = self.dense.compute.team.part(torch.arange(self.windows.count))
        sizes = [int(((places >= start) & (places < stop)).sum()) for start, stop in pairwise(bounds)]
        for _, start, logits in pieces:
            waiting.append(self._most_likely(logits))
            if start + logits.shape[1] < seqlen:
                continue
            tokens, values = (torch.cat(each, dim=1) for each in zip(*waiting, strict=True))
            waiting = []
            done += zip(tokens, values, strict=True)
            while sizes and len(done) >= sizes[0]:
                size = sizes.pop(0)
                yield done[:size]
                done = done[size:]

    def _most_likely(self, logits: Tensor) -> tuple[Tensor, Tensor]:  # [b, p, w] -> [b, p, k], [b, p, k + 1]
        """Return the student's most likely tokens, and the log-probabilities of these and of all others together."""
        shared = None if self.rows is None else (self.rows >= 0).nonzero().flatten()
        wide = logits.float()
        if shared is not None and self.rows is not None:
            wide = wide[..., self.rows[shared].to(wide.device)]
        wide = wide.log_softmax(-1)
        values, tokens = wide.topk(self.top, dim=-1)
        if values.isnan().any():
            raise LangpruneError(
                f"the logits of {self.dense.label} are not finite: compute in another dtype, such as --dtype float32"
            )
        rest = wide.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
        if shared is not None:
            tokens = shared.to(tokens.device)[tokens]
        stored = torch.cat([values, rest], dim=-1).clamp(min=_LEAST).half()
        return tokens.int().cpu(), stored.cpu()  # torch does not send uint16 to other processes


def token_bytes(top: int, vocabulary: int) -> int:
    """Return the bytes of the distribution at one position: numbers of tokens, their log-probabilities, and the rest's."""
    return top * _token_dtype(vocabulary).itemsize + (top + 1) * torch.float16.itemsize


def _token_dtype(vocabulary: int) -> torch.dtype:
    return torch.uint16 if vocabulary <= 1 << 16 else torch.int32


def part_name(first: int) -> str:
    """Return the name of the part that begins with window `first`."""
    return f"logits-{first:06d}.safetensors"


class CachedTeacher:
    """Reads the dense model's distributions of some windows from an artifact, those of a micro-batch at a time."""

    def __init__(self, made: Artifact, about: TeacherLogits) -> None:
        """Check the artifact; raises LangpruneError for a part that is missing, damaged, or not what belongs there."""
        self._made, self._vocabulary, self._bounds = made, about.vocabulary, about.bounds
        for start, stop in pairwise(self._bounds):
            made.read(part_name(start))  # compares its hash
            self._check_shapes(part_name(start), (stop - start, about.windows.seqlen, about.top))
        rows = about.rows
        self._lost = None if rows is None or bool((rows >= 0).all()) else (rows < 0).nonzero().flatten()

    def __call__(self, places: Tensor, ids: Tensor) -> Divergence:
        """Read the distributions; the divergence from them takes all but the most likely tokens as one."""
        found = [self._window(int(place)) for place in places]
        tokens, values = (torch.stack(each).to(ids.device) for each in zip(*found, strict=True))
        lost = None if self._lost is None else self._lost.to(ids.device)
        return lambda student: truncated_loss(student, tokens, values, lost)

    def _window(self, place: int) -> tuple[Tensor, Tensor]:
        """Return (tokens int64 [t, k], log-probabilities float32 [t, k + 1]) of one window; no more of the file is read."""
        part = bisect_right(self._bounds, place) - 1
        at = place - self._bounds[part]
        name = part_name(self._bounds[part])
        with safe_open(
            self._made.folder / name, "pt"
        ) as file:  # an open file's pages would count as the process's memory
            tokens, values = (file.get_slice(each)[at] for each in _TENSORS)
        tokens, values = tokens.long(), values.float()
        known = (tokens >= 0) & (tokens < self._vocabulary)
        right = (values.exp().sum(-1) - 1).abs() <= _MOST_OFF  # not of NaN
        if not (known.all() and right.all()):
            raise self._forged(name)
        return tokens, values

    def _check_shapes(self, name: str, shape: tuple[int, int, int]) -> None:
        """Raise LangpruneError for a part with other tensors than `_most_likely` makes: right hashes may still be forged."""
        expected = [(_token_dtype(self._vocabulary), shape), (torch.float16, (*shape[:2], shape[2] + 1))]
        with suppress(SafetensorError, OSError), safe_open(self._made.folder / name, "pt") as file:
            slices = [file.get_slice(each) for each in _TENSORS if each in file.keys()]  # noqa: SIM118 - no mapping
            found = [(each[:1].dtype, tuple(each.get_shape())) for each in slices]
            if found == expected:
                return
        raise self._forged(name)

    def _forged(self, name: str) -> LangpruneError:
        return LangpruneError(
            f"{self._made.folder / name} does not hold what belongs there: run langprune recover again with --force"
        )
