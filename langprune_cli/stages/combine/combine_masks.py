"""`combine masks`: keep masks of one model, made for several languages or by several methods, made into one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.methods.method import Method, methods
from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.numerics.patterns import Group, Pattern, keep_mask, parse_pattern
from langprune_cli.numerics.units import highest
from langprune_cli.numerics.votes import consensus, normalised_ranks, votes
from langprune_cli.records import Params, TextRecord, stats_key, texts_of
from langprune_cli.stages.mask.mask import mask_summary
from langprune_cli.stages.mask.score import block_scores
from langprune_cli.stages.solving.unit_choosing import readers_of
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.stages.statistics.sites import block_stats
from langprune_cli.stages.structured.keep_masks import BlockMasks, MaskReader
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.manifest import Described
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel, check_same_model
from langprune_cli.structured_patterns.pattern import need_bits, unit_axes


@dataclass(frozen=True)
class Vote:
    """How many of the masks must keep a weight for it to stay."""

    how: str  # and, or, vote:K
    least: int
    masks: int

    @classmethod
    def parse(cls, how: str, masks: int) -> "Vote":
        """Read --how; a plain `vote` is that of more than half. Raises UsageError for anything else, and for a K out of range."""
        name, colon, number = how.partition(":")
        known = {"and": masks, "or": 1, "vote": masks // 2 + 1}
        if name not in known or (colon and (name != "vote" or not number.isdecimal())):
            raise UsageError(f"--how {how!r} is unknown: give and, or, or vote:K for what at least K masks keep")
        least = int(number) if colon else known[name]
        if not 1 <= least <= masks:
            raise UsageError(f"--how {how} cannot be reached by {masks} masks: give vote:1 to vote:{masks}")
        return cls(f"vote:{least}" if name == "vote" else name, least, masks)


@dataclass(frozen=True)
class _Source:
    """What says how important the weights of one mask were when it was made."""

    mask: Artifact
    method: Method
    scores: Artifact | None
    stats: Artifact | None

    def ranks(self, model: OpenedModel, index: int, names: set[str]) -> dict[str, Tensor]:
        """Return the normalised ranks, float64 [o, i], of those linears of a block that the mask is of."""
        if self.scores:
            scores = self.scores.tensors(block_part(index))
        else:
            known = block_stats(self.stats, model, index)
            linears = [linear for linear in model.streamed.linears(index) if linear.name in names]
            scores = block_scores(model, linears, self.method, known)
        group: Group = self.mask.manifest.params.get("group", "row")
        return {name: normalised_ranks(scores[name], group) for name in names}


def combine_masks(
    workspace: Workspace,
    model: OpenedModel,
    parents: Sequence[Artifact],
    how: str,
    reporter: Reporter,
    *,
    sparsity: float | None = None,
    to: Target = TARGET,
) -> Outcome:
    """Write the mask of what all, any or at least K masks keep; with a sparsity so many weights leave, no more and no fewer.

    The order of `parents` does not matter. A linear that one of them leaves dense is kept whole by it.
    A count is met by taking first what --how keeps, then what is more important: by the mean over the masks of each weight's
    normalised rank within what that mask compared, where the masks' scores or statistics are in the workspace; else by votes,
    and of equal votes by size. Votes of masks of one pattern N:M meet N of every M, masks of channels the counts that they
    share; --how and, or of N:M is a mask without a pattern.
    Raises UsageError for what does not go together, LangpruneError for masks of another model, of blocks and of tokens.
    """
    vote = Vote.parse(how, len(parents))
    parents = sorted(parents, key=lambda parent: parent.key)
    _check(parents, model)
    if any(is_structured(parent.manifest.params["pattern"]) for parent in parents):
        _check_columns(parents, vote, sparsity)
        shared = parents[0].manifest.params
        params: Params = {"pattern": shared["pattern"], "sparsity": shared["sparsity"], "kept": shared["kept"]}
        pattern = Pattern(shared["sparsity"] or 0.0)
        choose: Choose = partial(_columns, model, shared["pattern"], shared["kept"])
    else:
        fit = _pattern_to_meet(parents, vote, sparsity)
        if fit is None and any(":" in parent.manifest.params["pattern"] for parent in parents):
            reporter.note(
                f"{vote.how} keeps other numbers in groups of M, so that the result follows no N:M pattern: --how vote meets "
                "that of masks of one pattern."
            )
        pattern = fit or Pattern(0.0)
        groups = {parent.manifest.params.get("group", "row") for parent in parents}
        group: Group = groups.pop() if len(groups) == 1 else "row"
        sources = _sources(workspace, parents) if fit else None
        if fit and sources is None:
            reporter.note(
                "Not all masks have scores or statistics in the workspace: votes and sizes decide between weights."
            )
        params = _params(fit, group, sources)
        choose = partial(_weights, model, vote, fit, group, sources)
    recipe = Recipe(
        "masks",
        inputs={"model": model.digest, "stats": None, "masks": [parent.key for parent in parents]},
        params={"method": f"{vote.how} of {vote.masks} masks", "exclude": None, **params},
        about={
            "model": model.about,
            "masks": [parent.name for parent in parents],
            "stats": None,
            "text": _text(parents),
        },
        environment=model.environment(),
    )
    make = partial(_make, model=model, parents=parents, choose=choose, pattern=pattern, reporter=reporter)
    slug = vote.how.replace(":", "-") + (f"-{sparsity:g}" if sparsity is not None else "")
    default = "+".join(sorted(parent.name for parent in parents)) + f"-{slug}"
    return run_stage(recipe, Destination.of(workspace, default, to), make)


# Of a block: its number and the parents' masks [o, i] by linear -> what stays, bool [o, i] by linear.
Choose = Callable[[int, Sequence[dict[str, Tensor]]], dict[str, Tensor]]


def _make(
    writer: ArtifactWriter,
    *,
    model: OpenedModel,
    parents: Sequence[Artifact],
    choose: Choose,
    pattern: Pattern,
    reporter: Reporter,
) -> Artifact:
    blocks = len(model.streamed.blocks)
    readers = [MaskReader(parent, model) for parent in parents]
    names = [{name for parent in parents for name in parent.tensors(block_part(index))} for index in range(blocks)]
    shapes = {
        linear.name: model.streamed.shape(linear)
        for index in range(blocks)
        for linear in model.streamed.linears(index)
        if linear.name in names[index]
    }
    need_space(writer.folder, sum(o * -(-i // 8) for o, i in shapes.values()))
    reporter.begin(f"combine {writer.folder.name}", blocks, 0)
    for index in range(blocks):
        if not writer.has(block_part(index)):
            masks = [reader.by_name(index) for reader in readers]
            BlockMasks(index, choose(index, masks)).write(writer)
        reporter.tick(index, 0)
    reporter.end()
    return writer.finish(**mask_summary(writer, shapes, [pattern] * blocks))


def _check(parents: Sequence[Artifact], model: OpenedModel) -> None:
    if len(parents) < 2:
        raise UsageError("combine masks makes one of two or more artifacts: name another")
    for number, parent in enumerate(parents):
        need_bits("combine", parent)
        check_same_model(parent, model)
        if number and parents[number - 1].key == parent.key:
            raise UsageError(f"masks {parents[number - 1].name} and {parent.name} are the same artifact: name it once")


def _check_columns(parents: Sequence[Artifact], vote: Vote, sparsity: float | None) -> None:
    """Raise UsageError or LangpruneError where masks of channels and KV groups cannot be made one that a model can follow."""
    first, *others = parents
    for other in others:
        found = [each.manifest.params for each in (first, other)]
        if found[0].get("kept") != found[1].get("kept") or found[0]["pattern"] != found[1]["pattern"]:
            raise LangpruneError(
                f"masks {first.name} and {other.name} leave another number of units in each block ({found[0]['pattern']} and "
                f"{found[1]['pattern']}): combine masks of one pattern and one --round-to"
            )
    if sparsity is not None or not vote.how.startswith("vote"):
        given = f"--how {vote.how}" if sparsity is None else f"--sparsity {sparsity:g}"
        raise UsageError(
            f"{given} would leave blocks of different widths, and masks of {first.manifest.params['pattern']} keep theirs: "
            "give --how vote alone"
        )


def _pattern_to_meet(parents: Sequence[Artifact], vote: Vote, sparsity: float | None) -> Pattern | None:
    """Return the pattern whose counts the result is to have; None where it is what the votes say."""
    if sparsity is not None:
        return parse_pattern("unstructured", sparsity)
    patterns = {parent.manifest.params["pattern"] for parent in parents}
    shared = patterns.pop() if len(patterns) == 1 else ""
    n, colon, _ = shared.partition(":")
    return parse_pattern(shared, None) if colon and n.isdecimal() and vote.how.startswith("vote") else None


def _params(fit: Pattern | None, group: Group, sources: list[_Source] | None) -> Params:
    """Return what of this changes a mask, for its key."""
    if fit is None:
        return {"pattern": "unstructured", "sparsity": None}
    ranked_by = "scores" if sources else "magnitude"
    params: Params = {"pattern": str(fit), "sparsity": fit.sparsity, "ranked_by": ranked_by}
    return params if fit.m else {**params, "group": group}


def _are_of(scores: Described, made_of: tuple[str, str | None, str]) -> bool:
    """Return whether scores are of that model, those statistics and that method."""
    return (scores.inputs["model"], stats_key(scores.inputs), scores.params["method"]) == made_of


def _sources(workspace: Workspace, parents: Sequence[Artifact]) -> list[_Source] | None:
    """Return where each mask's scores come from; None where those of one are neither in the workspace nor can be made."""
    found = []
    for mask in parents:
        method, key = methods().get(mask.manifest.params["method"]), mask.manifest.stats
        if method is None:
            return None
        scores = workspace.newest(
            "scores", where=partial(_are_of, made_of=(mask.manifest.inputs["model"], key, method.name))
        )
        stats = workspace.by_key("stats", key) if key and not scores else None
        if scores is None and stats is None and method.needs != "nothing":
            return None
        found.append(_Source(mask, method, scores, stats))
    return found


def _weights(
    model: OpenedModel, vote: Vote, fit: Pattern | None, group: Group, sources: list[_Source] | None,
    index: int, masks: Sequence[dict[str, Tensor]],
) -> dict[str, Tensor]:  # fmt: skip
    """Return the keep masks of a block's single weights."""
    names = set().union(*masks)
    kept_by = {name: _votes(masks, name) for name in names}
    if fit is None:
        return {name: kept >= vote.least for name, kept in kept_by.items()}
    keep = {}
    found = [each.ranks(model, index, set(mask)) for each, mask in zip(sources or [], masks, strict=False)]
    sizes = {} if sources else _sizes(model, index, names, group)
    for name, kept in kept_by.items():
        ranks = [each[name] for each in found if name in each]
        importance = torch.stack(ranks).mean(dim=0) if ranks else None
        score = consensus(kept, vote.least, vote.masks, importance=importance, size=sizes.get(name))
        keep[name] = keep_mask(score, fit, group=group)
    return keep


def _sizes(model: OpenedModel, index: int, names: set[str], group: Group) -> dict[str, Tensor]:
    linears = [linear for linear in model.streamed.linears(index) if linear.name in names]
    sizes = block_scores(model, linears, methods()["magnitude"], None)
    return {name: normalised_ranks(size, group) for name, size in sizes.items()}


def _columns(
    model: OpenedModel, pattern: str, kept: dict[str, int], index: int, masks: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the keep masks of a block's units: by votes, of equal ones those that are read with more weight."""
    axes = readers_of(model, index, unit_axes(pattern, model.streamed.config, tuple(kept)))
    linears = [linear for linear in model.streamed.linears(index) if linear.name in axes]
    sizes = block_scores(model, linears, methods()["magnitude"], None)
    keep = {}
    for name, axis in axes.items():
        norms = sizes[name].double().square().sum(dim=0).view(axis.units, axis.size).sum(dim=1)
        score = _votes(masks, name)[0, :: axis.size] + normalised_ranks(norms[None], "row")[0]
        stay = highest(score, kept[axis.kind])
        keep[name] = stay.repeat_interleave(axis.size).expand(sizes[name].shape)
    return keep


def _votes(masks: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    """Return how many masks keep each weight of a linear; one that leaves it dense keeps them all."""
    found = [mask[name] for mask in masks if name in mask]
    return votes(found) + (len(masks) - len(found))


def _text(parents: Sequence[Artifact]) -> TextRecord | None:
    """Return what is known of all texts behind the masks, each once."""
    texts: list[TextRecord] = []
    for parent in parents:
        if text := parent.manifest.text:
            texts += [each for each in texts_of(text) if each not in texts]
    return {"texts": texts} if len(texts) > 1 else texts[0] if texts else None
