"""`--pattern experts`: chooses which experts stay, and cuts the others with their rows of the router."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.expert_methods.method import chosen, get_expert_method
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.stages.statistics.routing import gathered_routing, routing_in
from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.stages.structured.cut import Cut, Masks, as_json, readable
from langprune_cli.stages.structured.judged_on import JudgedOn
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.units.experts import EXPERTS, ExpertRows, expert_rows, experts_in

EXPERTS_PART = "experts.json"  # which experts stay, and the figures behind the choice


def choosing_experts(
    model: OpenedModel, judged_on: JudgedOn, removal: Removal, method: str, reporter: Reporter
) -> Choosing:
    """Return the choice of experts, the same number in each block.

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


def expert_cut(model: OpenedModel, masks: Masks) -> "ExpertCut":
    """Return the cut of a mask of experts; raises LangpruneError for an unsupported model."""
    blocks = json.loads(readable(masks).read(EXPERTS_PART))["blocks"]
    stay = {int(index): tuple(each["stay"]) for index, each in blocks.items()}
    rows = expert_rows(model.streamed.config)
    return ExpertCut(model, rows, stay, check_experts(model, rows, len(next(iter(stay.values())))))


def check_experts(model: OpenedModel, rows: ExpertRows, left: int) -> Narrowing:
    """Return the narrowing to `left` experts per block.

    Raises LangpruneError if transformers would not open the smaller model, and if the checkpoint has no tensor of its own for
    what the router has of an expert.
    """
    streamed = model.streamed
    for index, block in enumerate(streamed.blocks):
        if experts_in(block) is None:
            continue
        here = streamed.tensor_paths(index) | streamed.buffer_paths(index)
        missing = next((path for path in rows.rows if path not in here), None)
        if missing is not None:
            raise LangpruneError(
                f"experts cannot leave {model.location.folder}: it has no tensor for {missing} of block {index}, where "
                "its router has a value for each expert: prune channels, blocks or single weights"
            )
    return narrowing_of(model, (rows.axis,), {EXPERTS: left})


@dataclass(frozen=True)
class ExpertCut(Cut):
    """Cuts each block down to the kept experts; an expert's new number is its place among them."""

    model: OpenedModel
    rows: ExpertRows
    stay: Mapping[int, tuple[int, ...]]  # by block
    narrowing: Narrowing
    _moved: dict[int, dict[str, str | None]] = field(default_factory=dict)  # by block, tensors of experts -> new names
    _routers: dict[str, tuple[int, int]] = field(default_factory=dict)  # router's tensor -> block, dimension

    def name(self, group: int, name: str) -> str | None:
        """Return the name with the expert's new number, None if it leaves."""
        return self._names(group).get(name, name)

    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the entry with one row of the router per kept expert."""
        moved = self._names(group).get(name)
        if moved is not None:  # the part of a tensor of all experts has its number
            return replace(entry, part=self.model.streamed.checkpoint.entries[moved].part)
        router = self._router(name)
        if router is None:
            return entry
        block, dim = router
        left = entry.shape[dim] - self.rows.units + len(self.stay[block])
        shape = (*entry.shape[:dim], left, *entry.shape[dim + 1 :])
        return replace(entry, shape=shape, size=entry.size // entry.shape[dim] * left)

    def tensor(self, _group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the router's rows of the kept experts, and of those that only hand on what they are given."""
        router = self._router(name)
        if router is None:
            return tensor
        block, dim = router
        return tensor.index_select(dim, torch.tensor([*self.stay[block], *range(self.rows.units, tensor.shape[dim])]))

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return config.json with the new number of experts, other files unchanged."""
        if name != CONFIG:
            return data
        return as_json(self.narrowing.config(json.loads(data), self.model.streamed.config))

    def _router(self, name: str) -> tuple[int, int] | None:
        """Return a tensor's block, and the dimension that has an entry for each expert; None for other tensors."""
        if not self._routers:
            for index in self.stay:
                here = self.model.streamed.tensor_paths(index) | self.model.streamed.buffer_paths(index)
                self._routers.update({here[path]: (index, dim) for path, dim in self.rows.rows.items()})
        return self._routers.get(name)

    def _names(self, group: int) -> dict[str, str | None]:
        """Return tensor -> new name, None if it leaves, for the experts of a block."""
        if group not in self.stay:
            return {}
        if group not in self._moved:
            found = experts_in(self.model.streamed.blocks[group])
            assert found is not None  # noqa: S101 - the mask has experts of this block
            before = f"{found[0]}."
            paths = self.model.streamed.tensor_paths(group)
            places = {expert: place for place, expert in enumerate(self.stay[group])}
            moved: dict[str, str | None] = {}
            for path, name in paths.items():
                number, _, rest = path.removeprefix(before).partition(".")
                if path.startswith(before) and number.isdecimal():
                    place = places.get(int(number))
                    moved[name] = None if place is None else paths[f"{before}{place}.{rest}"]
            self._moved[group] = moved
        return self._moved[group]
