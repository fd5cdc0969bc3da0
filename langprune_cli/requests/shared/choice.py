"""Options of choosing what to prune and of updating the rest, for score, mask, apply, prune and plan. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langprune_cli import defaults
from langprune_cli.errors import UsageError
from langprune_cli.numerics.pattern_names import check_spelling
from langprune_cli.requests.shared.names import ALLOCATIONS, METHODS, REFINEMENTS, check_name
from langprune_cli.requests.shared.options import Request, TargetOptions
from langprune_cli.requests.shared.values import (
    Names,
    at_least,
    folder,
    one_of,
    one_or_none,
    several,
    size_in_bytes,
    training_tokens,
)
from langprune_cli.store.target import Target

ROUNDINGS = ("down", "nearest")
GROUPS: tuple[Literal["row", "layer"], ...] = ("row", "layer")
TIES: tuple[Literal["exact", "together"], ...] = ("exact", "together")


@dataclass(frozen=True, kw_only=True)
class PatternOptions(Request):
    """The kinds of parts to prune, and how many."""

    pattern: Names = ()
    sparsity: float | None = None
    round_to: int | None = None
    rounding: str = "down"
    coverage: float | None = None
    vocab_size: int | None = None
    keep_chat: bool | None = None

    def check(self) -> None:
        """Raise UsageError for unknown patterns and ways to round."""
        super().check()
        for each in several(self.pattern):
            check_spelling(each)
        at_least("--round-to", self.round_to, 1)
        one_of("--round", self.rounding, ROUNDINGS)


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(PatternOptions):
    """How to choose what to prune."""

    method: str | None = None
    variant: bool = False
    group: str | None = None
    ties: str | None = None
    exclude: str | None = None
    refine: str | None = None
    allocation: str = "uniform"
    damping: float | None = None
    min_expert_tokens: int | None = None

    @property
    def of_weights(self) -> dict[str, object]:
        """The options for single weights only, by name; falsy if left out."""
        return {
            "--allocation": self.allocation if self.allocation != "uniform" else None,
            "--group": self.group,
            "--ties": self.ties,
            "--exclude": self.exclude,
            "--refine": self.refine,
        }

    @property
    def tells_solvers(self) -> bool:
        """Whether any setting of solvers is given."""
        return self.damping is not None or self.min_expert_tokens is not None

    def check(self) -> None:
        """Raise UsageError for invalid values, LangpruneError for unknown methods and other names."""
        super().check()
        check_name("--method", self.method, METHODS)
        check_name("--refine", self.refine, REFINEMENTS)
        check_name("--allocation", self.allocation, ALLOCATIONS)
        one_or_none("--group", self.group, GROUPS)
        one_or_none("--ties", self.ties, TIES)
        check_damping(self.damping)
        at_least("--min-expert-tokens", self.min_expert_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Request):
    """Whether to train the kept weights, and for how long."""

    tune: bool = False
    epochs: int | None = None
    learning_rate: float | None = None

    def check(self) -> None:
        """Raise UsageError for options that need --tune, and for impossible rates."""
        super().check()
        if not self.tune and (self.epochs is not None or self.learning_rate is not None):
            raise UsageError("--epochs and --learning-rate go with --tune: add it, or leave them out")
        at_least("--epochs", self.epochs, 1)
        check_rate(self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class ModelTargetOptions(TargetOptions):
    """Where to write a model, and how large its files may be."""

    out: str | Path | None = None
    max_shard_size: str = defaults.MAX_SHARD_SIZE

    @property
    def target(self) -> Target:
        """The destination of the model."""
        return Target(self.name, folder(self.out), self.force)

    @property
    def max_shard_bytes(self) -> int:
        """Bytes of the largest file of weights."""
        return size_in_bytes("--max-shard-size", self.max_shard_size)

    def check(self) -> None:
        """Raise UsageError for an invalid size."""
        super().check()
        size_in_bytes("--max-shard-size", self.max_shard_size)


@dataclass(frozen=True, kw_only=True)
class PrunedModelOptions(TuneOptions, ModelTargetOptions):
    """What becomes of a pruned model: whether it is trained, and what of it is written."""

    recover: str | None = None
    text_only: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether another model is made of the pruned one."""
        return self.tune or self.recover is not None

    def check(self) -> None:
        """Raise UsageError for what is no number of tokens, or too small a one."""
        super().check()
        if self.recover is not None:
            training_tokens("--recover", self.recover)


def check_damping(damping: float | None) -> None:
    """Raise UsageError unless it is a share of a Hessian's mean diagonal."""
    if damping is not None and not 0 < damping <= 1:
        raise UsageError(
            f"--damping {damping:g} is not a share of the Hessian's mean diagonal: give a number above 0, up to 1"
        )


def check_rate(learning_rate: float | None) -> None:
    """Raise UsageError for a learning rate that is not between 0 and 1."""
    if learning_rate is not None and not 0 < learning_rate < 1:
        raise UsageError(f"--learning-rate {learning_rate:g} is not between 0 and 1: give a number such as 0.001")
