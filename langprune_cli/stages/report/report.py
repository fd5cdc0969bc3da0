"""What a report shows: findings of evaluations, pruned models, masks and statistics, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from langprune_cli.records import languages_of
from langprune_cli.stages.combine.compare import Comparison, linear_kind
from langprune_cli.stages.evaluate.rows import (
    Row,
    TaskRow,
)
from langprune_cli.stages.solving.updating import PrunedLinear
from langprune_cli.store.artifact import Artifact


@dataclass(frozen=True)
class Figure:
    """How one model, with or without a mask, does on one text."""

    ppl: float | None  # per token of the dense model's tokenizer; None: infinite, or not known
    bpb: float | None
    change: float | None = None  # of ppl, as a fraction of the dense model's; None of the dense model itself
    low: float | None = None  # its interval, where the evaluation has one
    high: float | None = None
    significant: bool | None = None  # None where there is no interval
    mark: str = ""  # "*" of the best pruned one on this text, "=" of what the windows do not tell from it


@dataclass(frozen=True)
class ReportedModel:
    """What was evaluated."""

    name: str
    of: Artifact | None  # the mask or the pruned model; None of the dense model, and of what is no longer there
    dense: bool

    @property
    def languages(self) -> set[str]:
        """Return the languages of the text that it was pruned on, as far as they are known."""
        return languages_of(self.of.manifest.text) if self.of else set()


@dataclass(frozen=True)
class Matrix:
    """An evaluation: models and masks by texts, and results of benchmark tasks; either may be empty."""

    evaluation: Artifact
    texts: tuple[Row, ...]  # the dense model's row of each
    subjects: tuple[ReportedModel, ...]  # the dense one first
    figures: tuple[tuple[Figure | None, ...], ...]  # [subject][text]
    tasks: tuple[TaskRow, ...]  # a row for each model, task and metric
    tasks_of: tuple[Artifact, ...]  # the pruned models that the tasks were run on

    @property
    def dense(self) -> str:
        """Return what the dense model is called."""
        names = [each.name for each in self.subjects] or [str(row["model"]) for row in self.tasks]
        return names[0] if names else ""


@dataclass(frozen=True)
class Reconstruction:
    """What became of the linears of a pruned model."""

    model: Artifact
    linears: tuple[PrunedLinear, ...]

    @property
    def kinds(self) -> dict[str, dict[int, list[PrunedLinear]]]:
        """Return the linears by kind and block: one each, but of experts."""
        found: dict[str, dict[int, list[PrunedLinear]]] = {}
        for each in self.linears:
            found.setdefault(linear_kind(each.linear), {}).setdefault(each.block, []).append(each)
        return found


def sparsity_of(linears: Sequence[PrunedLinear]) -> float:
    """Return the fraction removed of several linears together."""
    return sum(each.removed for each in linears) / sum(each.weights for each in linears)


def error_of(linears: Sequence[PrunedLinear]) -> float | None:
    """Return the mean relative squared error of those whose error is known, None where none is."""
    known = [each.error for each in linears if each.error is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Report:
    """All that is shown."""

    matrices: tuple[Matrix, ...]
    reconstructions: tuple[Reconstruction, ...]
    comparisons: tuple[Comparison, ...]
    sources: tuple[
        Artifact, ...
    ]  # every artifact that stands behind it: statistics, scores, masks, models, evaluations
    behind: tuple[tuple[Artifact, tuple[Artifact, ...]], ...] = ()  # of each model: what it was made from, and itself

    def of_kind(self, kind: str) -> list[Artifact]:
        """Return the sources of one kind."""
        return [each for each in self.sources if each.manifest.kind == kind]
