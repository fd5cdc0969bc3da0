"""`--pattern experts`: which whole experts of each block stay, by where the router sends the tokens of a text."""

import math

from langprune_cli.expert_methods.method import chosen, get_expert_method
from langprune_cli.stages.statistics.routing import gathered_routing, routing_in
from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.stages.structured.expert_cut import EXPERTS_PART, check_experts
from langprune_cli.stages.structured.judged_on import JudgedOn
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.units.experts import expert_rows


def choosing_experts(
    model: OpenedModel, judged_on: JudgedOn, removal: Removal, method: str, reporter: Reporter
) -> Choosing:
    """Return how it is chosen which experts stay: the same number in each block.

    Raises LangpruneError for an unknown method, a model without experts, and a share that leaves too few of them.
    """
    found, rows = get_expert_method(method), expert_rows(model.streamed.config)
    left = rows.left(removal.sparsity)
    check_experts(model, rows, left)

    def write(writer: ArtifactWriter) -> dict[str, object]:
        blocks: dict[str, dict[str, object]] = {}
        removed: dict[str, list[int]] = {}
        weights = gone = 0
        known = routing_in(judged_on.stats, rows.units) if judged_on.stats else {}
        for index, routing in (known or gathered_routing(model, judged_on.ids(), reporter)).items():
            scores = found.score(routing)
            stay = chosen(scores, left, rows.groups)
            blocks[str(index)] = {
                "stay": list(stay),
                "scores": scores.tolist(),
                "tokens": routing.tokens.tolist(),
                "outputs": routing.outputs.tolist(),
            }
            removed[str(index)] = [expert for expert in range(rows.units) if expert not in stay]
            for linear in model.streamed.linears(index):
                if linear.expert is not None:
                    size = math.prod(model.streamed.shape(linear))
                    weights, gone = weights + size, gone + size * (linear.expert not in stay)
        writer.write(EXPERTS_PART, readable_json({"method": method, "experts": rows.units, "blocks": blocks}))
        return {"weights": weights, "removed": gone, "removed_experts": removed}

    return Choosing(
        judged_on,
        params={"method": method, "pattern": str(removal), "sparsity": removal.sparsity},
        label=f"{method}-{removal.kind}-{removal.sparsity:g}",
        write=write,
    )
