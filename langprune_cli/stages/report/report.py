"""The content of a report: evaluations, pruned models, masks and statistics, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from langprune_cli.records import languages_of
from langprune_cli.stages.combine.compare import Comparison, linear_kind
from langprune_cli.stages.evaluate.rows import (
    Row,
    TaskRow,
)
from langprune_cli.stages.recover.looks import Look, kept_look
from langprune_cli.stages.solving.updating import PrunedLinear
from langprune_cli.store.artifact import Artifact


@dataclass(frozen=True)
class Figure:
    """The result of one model, with or without a mask, on one text."""

    ppl: float | None  # per token of the dense model's tokenizer; None: infinite or unknown
    bpb: float | None
    change: float | None = None  # of ppl, as a fraction of the dense model's; None for the dense model itself
    low: float | None = None  # interval of `change`, if the evaluation has intervals
    high: float | None = None
    significant: bool | None = None  # None without an interval
    mark: str = ""  # "*": the best pruned model on this text; "=": not distinguishable from it


@dataclass(frozen=True)
class ReportedModel:
    """An evaluated model, dense or pruned."""

    name: str
    of: Artifact | None  # the mask or the pruned model; None for the dense model, and for removed artifacts
    dense: bool

    @property
    def languages(self) -> set[str]:
        """Return the known languages of its calibration text."""
        return languages_of(self.of.manifest.text) if self.of else set()


@dataclass(frozen=True)
class Matrix:
    """An evaluation: models and masks by texts, and benchmark tasks; either may be empty."""

    evaluation: Artifact
    texts: tuple[Row, ...]  # the dense model's row of each
    subjects: tuple[ReportedModel, ...]  # the dense one first
    figures: tuple[tuple[Figure | None, ...], ...]  # [subject][text]
    tasks: tuple[TaskRow, ...]  # a row for each model, task and metric
    tasks_of: tuple[Artifact, ...]  # the pruned models with task results

    @property
    def dense(self) -> str:
        """Return the dense model's name."""
        names = [each.name for each in self.subjects] or [str(row["model"]) for row in self.tasks]
        return names[0] if names else ""


@dataclass(frozen=True)
class Reconstruction:
    """The results of a pruned model's linears."""

    model: Artifact
    linears: tuple[PrunedLinear, ...]

    @property
    def kinds(self) -> dict[str, dict[int, list[PrunedLinear]]]:
        """Return the linears by kind and block; experts have several of one kind in a block."""
        found: dict[str, dict[int, list[PrunedLinear]]] = {}
        for each in self.linears:
            found.setdefault(linear_kind(each.linear), {}).setdefault(each.block, []).append(each)
        return found


def sparsity_of(linears: Sequence[PrunedLinear]) -> float:
    """Return the fraction removed from several linears together."""
    return sum(each.removed for each in linears) / sum(each.weights for each in linears)


def error_of(linears: Sequence[PrunedLinear]) -> float | None:
    """Return the mean of the known relative squared errors, None if all are unknown."""
    known = [each.error for each in linears if each.error is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Recovered:
    """A model that was trained after pruning, and the looks at held-out windows."""

    model: Artifact
    looks: tuple[Look, ...]

    @property
    def kept(self) -> int:
        """Return the number of the look whose weights were kept."""
        return kept_look(self.looks)


@dataclass(frozen=True)
class Report:
    """All tables and figures of a report, before they are drawn."""

    matrices: tuple[Matrix, ...]
    reconstructions: tuple[Reconstruction, ...]
    comparisons: tuple[Comparison, ...]
    sources: tuple[Artifact, ...]  # all artifacts behind the report: statistics, scores, masks, models, evaluations
    behind: tuple[tuple[Artifact, tuple[Artifact, ...]], ...] = ()  # each model with its sources and itself
    recoveries: tuple[Recovered, ...] = ()

    def of_kind(self, kind: str) -> list[Artifact]:
        """Return the sources of one kind."""
        return [each for each in self.sources if each.manifest.kind == kind]
