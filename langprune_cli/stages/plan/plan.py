"""`plan`: the size of a pruned model, from its configuration alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from langprune_cli.allocations.allocation import Allocation
from langprune_cli.allocations.uniform import ALLOCATION as UNIFORM
from langprune_cli.defaults import NSAMPLES
from langprune_cli.errors import UsageError
from langprune_cli.layouts.linears import linear_shapes
from langprune_cli.location.config_only import locate_config
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import build_skeleton, context_of, find_blocks, read_config, stated_dtype
from langprune_cli.numerics.patterns import Pattern, parse_pattern, prune_count
from langprune_cli.stages.plan.cost import Costs, costs, token_costs
from langprune_cli.stages.plan.memory import Peaks, peaks
from langprune_cli.stages.plan.recovery import RecoveryAsked, RecoveryPlan, plan_recovery
from langprune_cli.stages.structured.removals import DOWN, Removal, Rounding
from langprune_cli.stages.structured.sketch import AxisPlan, Sketch
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice, model_artifact
from langprune_cli.streaming.opened import window_length
from langprune_cli.streaming.own_code import own_code
from langprune_cli.structured_patterns.pattern import check_rounding, get_pattern, parse_removals, split_patterns


@dataclass(frozen=True)
class Asked:
    """What to prune."""

    removals: tuple[Removal, ...]
    pattern: Pattern | None = None  # of single weights, if any
    rounding: Rounding = DOWN
    chat: int | None = None  # tokens kept only for chats, Markdown and code; None: unknown or not requested
    recovery: RecoveryAsked | None = None  # whether to train afterwards
    allocation: Allocation = UNIFORM  # of the pattern


@dataclass(frozen=True)
class Plan:
    """The size of a pruned model, and the cost of pruning it."""

    model: str
    parameters_before: int
    parameters_after: int
    zeros: int  # among the kept parameters
    dtype: torch.dtype  # of the checkpoint
    peaks: Peaks  # of memory
    windows: int  # that run through the model; 0 if only tokens are pruned
    seqlen: int
    axes: tuple[AxisPlan, ...]
    logits_bytes: tuple[int, int]  # float32, per window: before, after
    costs: Costs
    chat: tuple[int, int] | None = None  # tokens kept only for chats, Markdown and code, and their bytes on disk
    recovery: RecoveryPlan | None = None

    @property
    def pruning_rate(self) -> float:
        """Return the removed fraction of all parameters; zeros count as parameters."""
        return 1 - self.parameters_after / self.parameters_before

    @property
    def disk_bytes(self) -> int:
        """Return the size of the weights after pruning; zeros take as much room as other weights."""
        return self.parameters_after * self.dtype.itemsize

    @property
    def disk_bytes_before(self) -> int:
        """Return the size of the weights before pruning."""
        return self.parameters_before * self.dtype.itemsize

    def document(self) -> dict[str, object]:
        """Return the plan for --json."""
        axes = [
            {"pattern": each.pattern, "unit": each.unit, "before": each.before, "after": each.after,
             "removed": each.removed}
            for each in self.axes
        ]  # fmt: skip
        return {
            "schema": 1,
            "kind": "plan",
            "model": self.model,
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "pruning_rate": self.pruning_rate,
            "zeros": self.zeros,
            "dtype": str(self.dtype).removeprefix("torch."),
            "disk_bytes": self.disk_bytes,
            "disk_bytes_before": self.disk_bytes_before,
            "peak_ram_bytes": self.peaks.cpu,
            "peak_device_bytes": self.peaks.device,
            "windows": self.windows,
            "seqlen": self.seqlen,
            "logits_bytes_before": self.logits_bytes[0],
            "logits_bytes": self.logits_bytes[1],
            **({} if self.chat is None else {"chat_tokens": self.chat[0], "chat_bytes": self.chat[1]}),
            "axes": axes,
            "costs": self.costs.document(),
        }


def read_patterns(texts: Sequence[str], sparsity: float | None, rounding: Rounding = DOWN) -> Asked:
    """Read --pattern options such as `channels`, `kv-groups:0.125`, `blocks:0.1`, `unstructured` and `2:4`.

    sparsity: for patterns without a share of their own, and for single weights.
    Raises UsageError for patterns that are unknown or do not go together, LangpruneError for shares out of range.
    """
    structured, single = split_patterns(texts)
    removals = parse_removals(structured, None if single else sparsity)
    if not texts and sparsity is not None:
        raise UsageError(f"--sparsity {sparsity:g} has no use when only tokens are pruned: leave it out")
    check_rounding(removals, rounding.to, nearest=rounding.nearest)
    return Asked(removals, parse_pattern(single, sparsity) if single else None, rounding)


def find_config(workspace: Workspace, choice: ModelChoice, compute: Compute) -> ModelLocation:
    """Return the place of a model's configuration, by an artifact's name or as `locate_config` does, with its errors."""
    artifact = model_artifact(workspace, choice.name)
    if artifact:
        return ModelLocation(artifact.folder, artifact.name, None, "folder")
    return locate_config(
        choice.name, revision=choice.revision, cache_dir=compute.cache_dir, with_code=compute.trust_remote_code
    )


def plan(
    location: ModelLocation,
    asked: Asked,
    *,
    windows: int = NSAMPLES,
    seqlen: int | None = None,  # None: 2048, or the model's context if that is shorter
    trust_remote_code: bool = False,
) -> Plan:
    """Count the parameters before and after pruning, by building both models without weights.

    It counts the last blocks as pruned: the real choice is not known yet, and does not matter if all blocks are alike.
    Raises LangpruneError as `read_config` and `axes_of` do, for values that no model can be built from, and if nothing would
    stay.
    """
    config = read_config(location.folder, trust_remote_code=trust_remote_code)
    with own_code(location.folder, config.model_type):
        return _planned(location, config, asked, windows, seqlen, trust_remote_code=trust_remote_code)


def _planned(
    location: ModelLocation,
    config: Configuration,
    asked: Asked,
    windows: int,
    seqlen: int | None,
    *,
    trust_remote_code: bool,
) -> Plan:
    dtype = stated_dtype(config) or torch.bfloat16
    build = _Builder(dtype, trust_remote_code=trust_remote_code)
    model = build(config)
    sketch = Sketch(location, config, model, build)
    for removal in asked.removals:
        sketch = get_pattern(removal.kind).plan(sketch, removal, asked.rounding)
    smaller, found = sketch.smaller(), list(sketch.plans)
    zeros = 0
    if asked.pattern:
        weights, zeros = _zeros(smaller, asked.pattern)
        found.append(AxisPlan(str(asked.pattern), "weights of linears, not zero", weights, weights - zeros))
    if not asked.pattern and not any(get_pattern(each.kind).touches_blocks for each in asked.removals):
        windows = 0  # none run through the model: the tokenizer counts tokens
    recovery = plan_recovery(model, smaller, dtype, asked.recovery) if asked.recovery else None
    context = context_of(config)
    length = window_length(seqlen, context, location.label)
    corrected = asked.pattern is not None  # as the default method for single weights is
    rows = sketch.rows, sketch.tokens_left
    taken = token_costs(smaller, *rows)
    if windows:
        taken = costs(model, smaller, windows, length, corrected=corrected, allocation=asked.allocation)
    leave = sketch.stay < sketch.layers
    memory = peaks(model, windows, length, blocks_leave=leave, corrected=corrected, trials=asked.allocation.trials)
    return Plan(
        location.id, _count(model), _count(smaller), zeros, dtype, memory, windows,
        length, tuple(found), (4 * length * sketch.rows, 4 * length * sketch.tokens_left), taken,
        None if asked.chat is None else (asked.chat, asked.chat * _row_bytes(model, sketch.rows, dtype)), recovery,
    )  # fmt: skip


@dataclass(frozen=True)
class _Builder:
    """Builds skeletons without even their buffers in memory."""

    dtype: torch.dtype
    trust_remote_code: bool

    def __call__(self, config: Configuration) -> CausalModel:
        with torch.device("meta"):
            return build_skeleton(config, self.dtype, trust_remote_code=self.trust_remote_code)


def _count(model: torch.nn.Module) -> int:
    """Return the number of parameters; tied ones count once, as on disk."""
    return sum(parameter.numel() for parameter in model.parameters())


def _row_bytes(model: CausalModel, rows: int, dtype: torch.dtype) -> int:
    """Return a token's bytes on disk: its rows of the embedding, and of an untied head."""
    tables = [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]
    unique = {id(weight): weight for each in tables for weight in each.parameters()}
    elements: int = sum(weight.numel() for weight in unique.values())
    return elements // rows * dtype.itemsize


def _zeros(model: CausalModel, pattern: Pattern) -> tuple[int, int]:
    """Return the number of weights of all blocks' linears, and how many of them a pattern sets to zero.

    Columns beyond the last whole group of M stay dense. The count is exact for N:M, else within one weight per row.
    """
    weights = zeros = 0
    for block in find_blocks(model)[1]:
        for rows, columns in (shape for _, shapes in linear_shapes(block) for shape in shapes):
            weights += rows * columns
            if pattern.keep_of:
                n, m = pattern.keep_of
                zeros += rows * (columns // m) * (m - n)
            else:
                zeros += prune_count(rows * columns, pattern.sparsity)
    return weights, zeros
