"""Counts the tokens that each expert of a mixture saw, and finds experts with too few for statistics."""

from statistics import median

from safetensors import safe_open

from langprune_cli.models.streamed import Linear
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.stages.statistics.sites import Solving
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.plain import plain_file
from langprune_cli.streaming.opened import OpenedModel

_MOST_SHOWN = 8  # blocks in a note


def tokens_by_expert(stats: ArtifactWriter, model: OpenedModel) -> dict[int, list[int]]:
    """Return how many tokens each expert saw, by block, for blocks with experts.

    Reads only a few bytes of each part, even with Hessians.
    """
    found = {}
    for index in range(len(model.streamed.blocks)):
        first = _first_linears(model, index)
        if first:
            with safe_open(plain_file(stats.folder / block_part(index), within=stats.folder), "pt") as part:
                seen = {name: int(part.get_tensor(name)) for name in part.keys() if name.endswith("/tokens")}  # noqa: SIM118 - no mapping
            every = max(seen.values()) if stats.manifest.params.get("experts") == "all" else 0
            found[index] = [seen.get(f"{linear.name}/tokens", every) for linear in first]
    return found


def _first_linears(model: OpenedModel, index: int) -> list[Linear]:
    """Return the first linear of every expert; its inputs are the tokens routed to the expert."""
    linears = reversed(model.streamed.linears(index))
    first = {linear.expert: linear for linear in linears if linear.expert is not None}
    return [first[expert] for expert in sorted(first)]


def finish_stats(writer: ArtifactWriter, model: OpenedModel, reporter: Reporter) -> Artifact:
    """Complete the statistics; for a mixture, record the tokens of every expert and tell the user how they spread."""
    found = tokens_by_expert(writer, model)
    if not found:
        return writer.finish()
    counts = [tokens for block in found.values() for tokens in block]
    unseen = counts.count(0)
    reporter.note(
        f"{len(counts)} experts in {len(found)} blocks saw {min(counts)} to {max(counts)} tokens each (median "
        f"{median(counts):g})" + (f"; {unseen} saw none." if unseen else ".")
    )
    return writer.finish(expert_tokens={str(index): block for index, block in found.items()})


def without_statistics(stats: Artifact | None, solving: Solving, reporter: Reporter) -> dict[str, dict[str, list[int]]]:
    """Return {"experts_by_magnitude": {block: experts}} for experts that saw too few tokens, with a note; {} if none did."""
    if stats is None:
        return {}
    found = {
        index: [expert for expert, tokens in enumerate(block) if tokens < solving.min_expert_tokens]
        for index, block in stats.manifest.about.get("expert_tokens", {}).items()
    }
    found = {index: experts for index, experts in found.items() if experts}
    if not found:
        return {}
    named = [f"{len(experts)} in block {index}" for index, experts in found.items()][:_MOST_SHOWN]
    more = ", ..." if len(found) > _MOST_SHOWN else ""
    reporter.note(
        f"{sum(map(len, found.values()))} experts saw fewer than {solving.min_expert_tokens} tokens and are pruned by "
        f"magnitude, without update ({', '.join(named)}{more}): more text, or --all-experts, gives them statistics."
    )
    return {"experts_by_magnitude": found}
