"""`combine masks`: makes one keep mask from masks of one model, for several languages or by several methods."""

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
from langprune_cli.stages.solving.allocating import BlockPattern
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
    """The number of masks that must keep a weight."""

    how: str  # and, or, vote:K
    least: int
    masks: int

    @classmethod
    def parse(cls, how: str, masks: int) -> "Vote":
        """Read --how; a plain `vote` means more than half. Raises UsageError for an unknown word or a K out of range."""
        name, colon, number = how.partition(":")
        known = {"and": masks, "or": 1, "vote": masks // 2 + 1}
        if name not in known or (colon and (name != "vote" or not number.isdecimal())):
            raise UsageError(f"--how {how!r} is unknown: give and, or, or vote:K to keep what at least K masks keep")
        least = int(number) if colon else known[name]
        if not 1 <= least <= masks:
            raise UsageError(f"--how {how} is impossible with {masks} masks: give vote:1 to vote:{masks}")
        return cls(f"vote:{least}" if name == "vote" else name, least, masks)


@dataclass(frozen=True)
class _Source:
    """The importance of weights behind one mask."""

    mask: Artifact
    method: Method
    scores: Artifact | None
    stats: Artifact | None

    def ranks(self, model: OpenedModel, index: int, names: set[str]) -> dict[str, Tensor]:
        """Return the normalised ranks, float64 [o, i], of the mask's linears in a block."""
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
    """Write the mask of the weights that all, any or at least K masks keep, or with `sparsity` of exactly that many.

    The order of `parents` does not matter. A linear that a mask leaves dense counts as kept whole.
    To meet a count, weights kept by --how come first, then more important ones: by the mean over the masks of each weight's
    normalised rank within the mask's group, if the workspace has the masks' scores or statistics, else by votes and then by
    size. Votes of masks with the same N:M keep N of every M, and of masks of channels the same number of units; --how and, or
    of N:M give no pattern.
    Raises UsageError for options that do not go together, LangpruneError for masks of another model, of blocks or of tokens.
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
                f"{vote.how} keeps a varying number in groups of M, so the result has no N:M pattern: --how vote keeps the "
                "pattern that all masks share."
            )
        pattern = fit or Pattern(0.0)
        groups = {parent.manifest.params.get("group", "row") for parent in parents}
        group: Group = groups.pop() if len(groups) == 1 else "row"
        sources = _sources(workspace, parents) if fit else None
        if fit and sources is None:
            reporter.note(
                "The workspace lacks scores or statistics of some masks: votes and sizes decide between weights."
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


# (block, the parents' masks [o, i] by linear) -> keep masks, bool [o, i] by linear.
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
    return writer.finish(**mask_summary(writer, shapes, [BlockPattern(pattern)] * blocks))


def _check(parents: Sequence[Artifact], model: OpenedModel) -> None:
    if len(parents) < 2:
        raise UsageError("combine masks needs two or more artifacts: name another")
    for number, parent in enumerate(parents):
        need_bits("combine", parent)
        check_same_model(parent, model)
        if number and parents[number - 1].key == parent.key:
            raise UsageError(f"masks {parents[number - 1].name} and {parent.name} are the same artifact: name it once")


def _check_columns(parents: Sequence[Artifact], vote: Vote, sparsity: float | None) -> None:
    """Raise UsageError or LangpruneError if masks of channels and KV groups have no valid combination."""
    first, *others = parents
    for other in others:
        found = [each.manifest.params for each in (first, other)]
        if found[0].get("kept") != found[1].get("kept") or found[0]["pattern"] != found[1]["pattern"]:
            raise LangpruneError(
                f"masks {first.name} and {other.name} keep different numbers of units in a block ({found[0]['pattern']} and "
                f"{found[1]['pattern']}): combine masks of one pattern and one --round-to"
            )
    if sparsity is not None or not vote.how.startswith("vote"):
        given = f"--how {vote.how}" if sparsity is None else f"--sparsity {sparsity:g}"
        raise UsageError(
            f"{given} would give blocks different widths, and masks of {first.manifest.params['pattern']} need equal ones: "
            "give only --how vote"
        )


def _pattern_to_meet(parents: Sequence[Artifact], vote: Vote, sparsity: float | None) -> Pattern | None:
    """Return the pattern whose counts the result must meet, None if votes alone decide."""
    if sparsity is not None:
        return parse_pattern("unstructured", sparsity)
    patterns = {parent.manifest.params["pattern"] for parent in parents}
    shared = patterns.pop() if len(patterns) == 1 else ""
    n, colon, _ = shared.partition(":")
    return parse_pattern(shared, None) if colon and n.isdecimal() and vote.how.startswith("vote") else None


def _params(fit: Pattern | None, group: Group, sources: list[_Source] | None) -> Params:
    """Return the settings that change a mask, for its key."""
    if fit is None:
        return {"pattern": "unstructured", "sparsity": None}
    ranked_by = "scores" if sources else "magnitude"
    params: Params = {"pattern": str(fit), "sparsity": fit.sparsity, "ranked_by": ranked_by}
    return params if fit.m else {**params, "group": group}


def _are_of(scores: Described, made_of: tuple[str, str | None, str]) -> bool:
    """Return whether scores belong to this model, these statistics and this method."""
    return (scores.inputs["model"], stats_key(scores.inputs), scores.params["method"]) == made_of


def _sources(workspace: Workspace, parents: Sequence[Artifact]) -> list[_Source] | None:
    """Return the source of each mask's scores; None if one mask's are neither in the workspace nor computable."""
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
    """Return the keep masks of a block's units: by votes, then by the reader's weights."""
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
    """Return how many masks keep each weight of a linear; a mask that leaves the linear dense keeps all."""
    found = [mask[name] for mask in masks if name in mask]
    return votes(found) + (len(masks) - len(found))


def _text(parents: Sequence[Artifact]) -> TextRecord | None:
    """Return the records of all texts behind the masks, each once."""
    texts: list[TextRecord] = []
    for parent in parents:
        if text := parent.manifest.text:
            texts += [each for each in texts_of(text) if each not in texts]
    return {"texts": texts} if len(texts) > 1 else texts[0] if texts else None
