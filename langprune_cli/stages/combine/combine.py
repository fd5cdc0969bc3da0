"""`combine stats`: adds up statistics of several texts, as if collected on all of the text at once.

With weights: as if collected on a text with these shares.
"""

import math
import platform
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import Literal, TypeVar

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.records import About, BlockRecord, TextRecord
from langprune_cli.stages.combine.weights import Weights, factors_of, in_order
from langprune_cli.stages.statistics.collecting import read_block_stats
from langprune_cli.stages.statistics.counted_tokens import (
    counts_part,
    counts_record,
    counts_tensors,
    has_token_counts,
    read_token_counts,
)
from langprune_cli.stages.statistics.parts import WINDOWS_PART, fitting
from langprune_cli.stages.statistics.routing import ROUTING
from langprune_cli.stages.statistics.sites import text_record
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.manifest import Manifest, of_pruned_blocks
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.text.windows import fingerprint
from langprune_cli.tokens.counting import TokenCounts

T = TypeVar("T")


def combine_stats(
    workspace: Workspace,
    parents: Sequence[Artifact],
    reporter: Reporter,
    *,
    weights: Weights | None = None,
    to: Target = TARGET,
) -> Outcome:
    """Make the stats artifact with the sums of others: column norms and Hessians, or token counts by language.

    The order of `parents` does not matter: they are added in the order of their keys.
    weights: of the parents, in their order; None: plain sums, which weight each by its tokens.
    Raises UsageError for fewer than two parents, a parent named twice, and weights that do not fit them, LangpruneError for
    parents that do not add up.
    """
    if len(parents) < 2:
        raise UsageError("combine stats adds up two or more artifacts: name another")
    if weights:
        parents, weights = in_order(parents, weights)
    parents = sorted(parents, key=lambda parent: parent.key)
    for one, other in pairwise(parents):
        if one.key == other.key:
            raise UsageError(f"stats {one.name} and {other.name} are the same artifact: name it once")
    for sums in parents:
        for parent in parents:
            if parent.key in sums.manifest.added:
                raise UsageError(f"stats {sums.name} already contain those of {parent.name}: leave {parent.name} out")
    _need_same(parents, "collect", lambda manifest: manifest.params["collect"], "--collect", ", ".join)
    place = Destination.of(workspace, "+".join(sorted(parent.name for parent in parents)), to)
    if has_token_counts(parents[0]):
        if weights:
            raise UsageError(
                "--weights are for column norms, and token counts stay separate by language: leave them out"
            )
        recipe = _recipe_of_counts(parents)
        return run_stage(recipe, place, partial(_join_counts, parents=parents))
    windows = _joined_windows(parents)
    make = partial(_add, parents=parents, windows=windows, weights=weights, reporter=reporter)
    return run_stage(_recipe(parents, windows, weights), place, make)


def _need_same(
    parents: Sequence[Artifact],
    what: str,
    of: Callable[[Manifest], T],
    option: str,
    spell: Callable[[T], str] = str,
) -> None:
    """Raise LangpruneError if one of `parents` differs from the first in `what`."""
    first, *others = parents
    for other in others:
        values = of(first.manifest), of(other.manifest)
        if values[0] != values[1]:
            raise LangpruneError(
                f"stats {first.name} and {other.name} do not add up, as their {what} differ ({spell(values[0])} and "
                f"{spell(values[1])}): run langprune calibrate again with the same {option} for both"
            )


def _need_same_model(parents: Sequence[Artifact], field: Literal["model", "tokenizer"], what: str) -> None:
    """Raise LangpruneError unless all `parents` have the same model, or the same tokenizer."""
    first, *others = parents
    for other in others:
        if first.manifest.inputs[field] != other.manifest.inputs[field]:
            names = [each.manifest.about["model"]["name"] for each in (first, other)]
            raise LangpruneError(
                f"stats {first.name} and {other.name} do not add up, as they were made with different {what} ({names[0]} and "
                f"{names[1]}): run langprune calibrate again with the same --model for both"
            )


def _joined_windows(parents: Sequence[Artifact]) -> Tensor:  # int32 [n, t]
    """Return the windows of all parents; raises LangpruneError if their statistics do not add up."""
    for parent in parents:
        if of_pruned_blocks(parent.manifest):
            raise LangpruneError(
                f"stats {parent.name} come from a model pruned block by block, and add up with no others: run "
                f"langprune calibrate --data {parent.folder / WINDOWS_PART}"
            )
    _need_same_model(parents, "model", "models")
    shown = {None: "those of the router", "all": "every token"}
    _need_same(parents, "experts' tokens", lambda each: each.params.get("experts"), "--all-experts", shown.__getitem__)
    _need_same(parents, "dtypes", lambda manifest: manifest.params["dtype"], "--dtype")
    _need_same(parents, "tokens per window", lambda manifest: manifest.inputs["text"]["seqlen"], "--seqlen")
    return torch.cat([_windows_of(parent) for parent in parents])


def _windows_of(parent: Artifact) -> Tensor:  # int32 [n, t]
    text = parent.manifest.inputs["text"]
    shape = text["windows"], text["seqlen"]
    return fitting(parent, WINDOWS_PART, parent.tensors(WINDOWS_PART), "windows", torch.int32, shape)


def _recipe(parents: Sequence[Artifact], windows: Tensor, weights: Weights | None) -> Recipe:
    first = parents[0].manifest
    languages = {parent.manifest.inputs["text"]["language"] for parent in parents}
    return Recipe(
        "stats",
        inputs={
            "model": first.inputs["model"],
            "stats": [parent.key for parent in parents],
            "text": {
                "language": languages.pop() if len(languages) == 1 else None,
                "fingerprint": fingerprint(windows),
                "windows": windows.shape[0],
                "seqlen": windows.shape[1],
            },
        },
        params={
            **{
                name: first.params[name]
                for name in ("collect", "propagation", "dtype", "experts")
                if name in first.params
            },
            **({"weights": list(weights.of), "per": weights.per} if weights else {}),
        },
        about={**_about(parents), "blocks": first.about["blocks"]},
        environment=_environment(),
    )


def _recipe_of_counts(parents: Sequence[Artifact]) -> Recipe:
    _need_same_model(parents, "tokenizer", "tokenizers")
    return Recipe(
        "stats",
        inputs={
            "tokenizer": parents[0].manifest.inputs["tokenizer"],
            "stats": [parent.key for parent in parents],
        },
        params={
            "collect": ["tokens"],
            # Models with the same tokenizer may pad their embeddings differently.
            "vocab_size": max(parent.manifest.params["vocab_size"] for parent in parents),
        },
        about=_about(parents),
        environment=_environment(),
    )


def _about(parents: Sequence[Artifact]) -> About:
    texts: list[TextRecord] = []
    for parent in parents:
        manifest = parent.manifest
        texts += manifest.text.get("texts") or [text_record(manifest.inputs, manifest.about)]
    return {
        "model": parents[0].manifest.about["model"],
        "stats": [parent.name for parent in parents],
        "text": {"texts": texts},
    }


def _environment() -> dict[str, str]:
    return {"torch": torch.__version__, "machine": platform.machine()}


def _add(
    writer: ArtifactWriter,
    *,
    parents: Sequence[Artifact],
    windows: Tensor,
    weights: Weights | None,
    reporter: Reporter,
) -> Artifact:
    blocks = sorted(part for part in parents[0].manifest.parts if part != WINDOWS_PART)
    todo = [part for part in blocks if not writer.has(part)]
    sizes = parents[0].manifest.parts
    need_space(writer.folder, windows.numel() * 4 + sum(sizes[part]["size"] for part in todo))
    if not writer.has(WINDOWS_PART):
        writer.write_tensors(WINDOWS_PART, {"windows": windows})
    reporter.begin(f"combine {writer.folder.name}", len(blocks), 0)
    for index, part in enumerate(blocks):
        if part in todo:
            writer.write_tensors(part, *_sum_of_block(parents, part, weights), single=ROUTING)
        reporter.tick(index, 0)
    reporter.end()
    return writer.finish(**_sum_of_experts(parents))


def _sum_of_block(
    parents: Sequence[Artifact], part: str, weights: Weights | None
) -> tuple[dict[str, Tensor], BlockRecord]:
    """Return the sums of one block, and its record of sites; raises LangpruneError if the sites differ."""
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    sites: dict[str, list[str]] = {}
    tokens_of = [math.prod(parent.manifest.inputs["text"][of] for of in ("windows", "seqlen")) for parent in parents]
    whole: dict[str, float] = {}  # by site, the sum of weights of the texts that reached it
    for number, parent in enumerate(parents):
        block = read_block_stats(parent, part)
        tensors = block.tensors
        mixture = "expert_tokens" in parent.manifest.about
        fit = all(tensors[name].shape == sums[name].shape for name in tensors.keys() & sums.keys())
        if number and not (fit and _add_up(sites, block.sites, mixture=mixture)):
            raise LangpruneError(
                f"stats {parents[0].name} and {parent.name} do not add up, as they were collected at different inputs "
                f"({part}): run langprune calibrate again with the same version for both"
            )
        sites |= block.sites
        factors = factors_of(tensors, parent, weights.of[number], weights.per) if weights else {}
        for site, (weight, _) in factors.items():
            whole[site] = whole.get(site, 0.0) + weight
        for name, tensor in tensors.items():
            dtypes[name] = tensor.dtype
            # Hessians are added in float64 and rounded to float32 once, so a sum of many texts is as exact as one of two.
            term = tensor.double() if tensor.dtype == torch.float32 else tensor
            site, _, what = name.rpartition("/")
            if weights and what != "tokens":
                # What a router does is counted over all tokens of a text, whatever reached each expert.
                of_text = weights.of[number] * sum(tokens_of) / tokens_of[number]
                term = term * (of_text if name in ROUTING else factors[site][1])
            sums[name] = sums[name] + term if name in sums else term
    for site, weight in whole.items():
        tokens = int(sums[f"{site}/tokens"])
        for name in (f"{site}/{what}" for what in ("sum_sq", "sum_x", "hessian")):
            if name in sums:
                sums[name] = sums[name] * (tokens / weight)
    return {name: _stored(tensor, dtypes[name]) for name, tensor in sums.items()}, {"sites": sites}


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a sum in the dtype of its terms; counts stay whole numbers."""
    whole = not dtype.is_floating_point and tensor.is_floating_point()
    return (tensor.round() if whole else tensor).to(dtype)


def _add_up(sites: dict[str, list[str]], others: dict[str, list[str]], *, mixture: bool) -> bool:
    """Return whether two blocks have the same sites, except for experts of a mixture that a text did not reach."""
    same = all(others[site] == linears for site, linears in sites.items() if site in others)
    return same and (mixture or sites.keys() == others.keys())


def _sum_of_experts(parents: Sequence[Artifact]) -> About:
    """Return the number of tokens that each expert saw in all texts; nothing for a model without experts."""
    counts = [parent.manifest.about.get("expert_tokens") for parent in parents]
    if not all(counts):
        return {}
    blocks = counts[0] or {}
    return {
        "expert_tokens": {
            block: [sum(seen) for seen in zip(*(each[block] for each in counts if each), strict=True)]
            for block in blocks
        }
    }


def _join_counts(writer: ArtifactWriter, *, parents: Sequence[Artifact]) -> Artifact:
    found: dict[str, list[TokenCounts]] = {}
    size = writer.manifest.params["vocab_size"]
    for parent in parents:
        for label, counts in read_token_counts(parent).items():
            found.setdefault(label, [TokenCounts.zeros(size)]).append(counts)
    sums = {label: reduce(add, each) for label, each in sorted(found.items())}
    tensors = {name: tensor for label, counts in sums.items() for name, tensor in counts_tensors(label, counts).items()}
    writer.write_tensors(counts_part(0), tensors)
    return writer.finish(counted={label: counts_record(counts) for label, counts in sums.items()})
