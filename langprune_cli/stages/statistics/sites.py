"""One block's input sites with the weights of their linears and their statistics, for solvers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import regex
import torch
from torch import Tensor

from langprune_cli.defaults import DAMPING, MIN_EXPERT_TOKENS
from langprune_cli.errors import LangpruneError, UnsolvableError, UsageError, first_line
from langprune_cli.machine.memory import LARGEST_KEPT, give_back_freed
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.site import Needs, Site
from langprune_cli.records import TextRecord
from langprune_cli.solvers.correction import correction
from langprune_cli.stages.statistics.collecting import BlockStats, has_hessians, need_norms, read_block_stats
from langprune_cli.stages.statistics.parts import WINDOWS_PART, block_part
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.opened import OpenedModel, check_same_model

_MOST_SECONDS = (
    1.0  # per name that --exclude matches: nested repetitions can take forever, and Python's re has no limit
)


@dataclass(frozen=True)
class Solving:
    """Settings for every solver."""

    damping: float = DAMPING  # share of the Hessian's mean diagonal; without effect if no Hessian is used
    # An expert that saw fewer tokens is pruned by magnitude and not updated: so few say little about its inputs.
    min_expert_tokens: int = MIN_EXPERT_TOKENS

    def params(self, needs: Needs) -> dict[str, object]:
        """Return the settings that matter for these needs, for a key."""
        given = self.min_expert_tokens != Solving.min_expert_tokens and needs != "nothing"
        return {
            **({"damping": self.damping} if needs == "hessian" else {}),
            **({"min_expert_tokens": self.min_expert_tokens} if given else {}),
        }


SOLVING = Solving()


@contextmanager
def named(what: str) -> Iterator[None]:
    """Turn UnsolvableError and torch's linear algebra errors into a LangpruneError that begins with `what`."""
    try:
        yield
    except UnsolvableError as error:
        raise LangpruneError(f"{what}: {error}") from error
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # it exists
        raise LangpruneError(
            f"{what}: its matrix cannot be factored ({first_line(error)}): calibrate on more text, or with "
            "--dtype float32, or choose and update without Hessians (--method wanda --update none)"
        ) from error


@dataclass(frozen=True)
class BlockSite:
    """A site of a model's block, and the linears stacked in it."""

    name: str  # checkpoint name of the first linear that reads it
    linears: tuple[Linear, ...]
    site: Site

    def split(self, stacked: Tensor) -> Iterator[tuple[Linear, Tensor]]:
        """Yield each linear with its rows of a tensor [r, ...]."""
        yield from zip(self.linears, self.site.split(stacked), strict=True)

    def parts(self) -> Iterator["BlockSite"]:
        """Yield each linear as a site of its own."""
        end = 0
        for linear, rows in zip(self.linears, self.site.rows, strict=True):
            start, end = end, end + rows
            yield BlockSite(self.name, (linear,), self.site.part(slice(start, end)))


def needed_stats(needs: Needs, what: str, stats: Artifact | None, model: OpenedModel) -> Artifact | None:
    """Return the statistics that `what` ("--method wanda") needs, None if it needs none.

    Raises UsageError if they are missing, LangpruneError if they are token counts, of another model, or lack Hessians.
    """
    if needs == "nothing":
        return None
    if stats is None:
        raise UsageError(f"{what} needs statistics: run langprune calibrate first, or name some with --stats")
    need_norms(what, stats)
    check_same_model(stats, model)
    if needs == "hessian" and not has_hessians(stats):
        raise LangpruneError(
            f"{what} needs Hessians, and stats {stats.name} hold only column norms: run langprune calibrate "
            f"{_same_text(stats)} --collect hessian"
        )
    return stats


def _same_text(stats: Artifact) -> str:
    """Return options of calibrate that draw the windows of `stats` again; the statistics keep them."""
    language = stats.manifest.inputs["text"]["language"]
    return " ".join([*([f"--lang {language}"] if language else []), f"--data {stats.folder / WINDOWS_PART}"])


def calibration_text(stats: Artifact | None) -> TextRecord | None:
    """Return the record of the text behind statistics, for artifacts made from them."""
    return text_record(stats.manifest.inputs, stats.manifest.about) if stats else None


def text_record(inputs: Mapping[str, object], about: Mapping[str, object]) -> TextRecord:
    """Return the same from the inputs and `about` of statistics."""
    identity, known = cast("TextRecord", inputs["text"]), cast("TextRecord", about["text"])
    return {**identity, **known}


def prunable(model: OpenedModel, index: int, exclude: str | None) -> list[Linear]:
    """Return a block's linears, without those whose checkpoint names `exclude` matches anywhere.

    Raises UsageError if `exclude` is no regular expression, or takes seconds to match a name.
    """
    linears = model.streamed.linears(index)
    if not exclude:
        return list(linears)
    try:
        pattern = regex.compile(exclude)
        return [linear for linear in linears if not pattern.search(linear.name, timeout=_MOST_SECONDS)]
    except (regex.error, RecursionError) as error:
        reason = f"is not a regular expression ({error})"
    except TimeoutError:
        reason = f"takes more than {_MOST_SECONDS:g} second to match one name"
    raise UsageError(f"--exclude {exclude!r} {reason}: give a simpler one, such as mlp or down_proj$")


def _weight(model: OpenedModel, linear: Linear) -> Tensor:
    """Return a linear's weight [o, i] from the checkpoint; raises LangpruneError if it is not finite."""
    weight = model.streamed.checkpoint.read_finite([linear.name])[linear.name].to(model.streamed.device)
    return weight.t() if linear.transposed else weight


def block_stats(stats: Artifact | None, model: OpenedModel, index: int) -> BlockStats | None:
    """Return the statistics of block `index`, if any, with checked shapes.

    Raises LangpruneError as `read_block_stats` does.
    """
    if stats is None:
        return None
    shapes = {linear.name: model.streamed.shape(linear) for linear in model.streamed.linears(index)}
    return read_block_stats(stats, block_part(index), shapes)


def block_sites(
    model: OpenedModel,
    linears: Sequence[Linear],
    stats: BlockStats | None,
    solving: Solving = SOLVING,
) -> Iterator[BlockSite]:
    """Yield the sites of some linears of one block, one in memory at a time.

    A linear without statistics is a site by itself. So is each linear of an expert with too few tokens (`Solving`); its site
    has no statistics. Raises LangpruneError if the statistics lack a linear outside of experts.
    """
    wanted = {linear.name: linear for linear in linears}
    known = known_sites(stats, linears, solving.min_expert_tokens) if stats else {}
    alone = wanted.keys() - {each for names in known.values() for each in names}
    if stats and (unseen := sorted(name for name in alone if wanted[name].expert is None)):
        raise LangpruneError(
            f"there are no statistics of {unseen[0]}, which no forward pass called: leave it out with --exclude"
        )
    for name, members in [*known.items(), *((name, [name]) for name in wanted if name in alone)]:
        here = [wanted[each] for each in members if each in wanted]
        # Experts that all saw the same tokens share a site; stacked, their rows would be far too many.
        for expert in dict.fromkeys(linear.expert for linear in here):
            inside = tuple(linear for linear in here if linear.expert == expert)
            if stats and f"{name}/hessian" in stats.tensors and _beyond_kept(model, inside):
                give_back_freed()
            # No reference stays here, so that each site is freed before the next one is made.
            yield _site(model, name, inside, None if name in alone else stats, solving)


def _beyond_kept(model: OpenedModel, linears: Sequence[Linear]) -> bool:
    """Return whether a site has matrices too large for freed memory that is kept: give that back first."""
    rows, columns = sum(model.streamed.shape(linear)[0] for linear in linears), model.streamed.shape(linears[0])[1]
    return torch.float32.itemsize * columns * max(rows, columns) > LARGEST_KEPT


def _site(
    model: OpenedModel, name: str, linears: tuple[Linear, ...], stats: BlockStats | None, solving: Solving
) -> BlockSite:
    shapes = [model.streamed.shape(linear) for linear in linears]
    rows, device = tuple(rows for rows, _ in shapes), model.streamed.device
    stacked = torch.empty(sum(rows), shapes[0][1], device=device)
    for linear, part in zip(linears, torch.split(stacked, list(rows)), strict=True):
        part.copy_(_weight(model, linear))
    found = stats.of(name).to(device) if stats else None
    site = Site(stacked, rows, found, solving.damping)
    if stats:
        _correct(site, linears, stats)
    return BlockSite(name, linears, site)


def _correct(site: Site, linears: tuple[Linear, ...], stats: BlockStats) -> None:
    """Change the weights of linears with a drift to what solvers aim at: outputs that also make up for the drift."""
    for linear, weight in zip(linears, site.split(site.weight), strict=True):
        if (drift := stats.tensors.get(f"{linear.name}/drift")) is not None:
            weight.add_(correction(site.factor, drift.to(weight.device)))


def known_sites(stats: BlockStats, linears: Sequence[Linear], min_expert_tokens: int) -> dict[str, list[str]]:
    """Return site -> linears with usable statistics: all but those of experts that saw fewer tokens."""
    experts = {linear.name for linear in linears if linear.expert is not None}
    return {
        name: members
        for name, members in stats.sites.items()
        if experts.isdisjoint(members) or stats.tokens(name) >= min_expert_tokens
    }
