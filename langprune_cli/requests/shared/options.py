"""Groups of options that several requests have: names, defaults and checks, once. Needs no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from langprune_cli import defaults
from langprune_cli.errors import UsageError
from langprune_cli.machine.team import Team
from langprune_cli.requests.shared.values import Names, Paths, at_least, one_of, option_name, size_in_bytes
from langprune_cli.store.building import Reporter
from langprune_cli.store.target import Target

DTYPES = ("float32", "bfloat16", "float16", "auto")
SAMPLINGS = ("document", "concat")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one command is asked to do. It is checked when it is made: one that exists can be run."""

    workspace: str | Path | None = None  # None: $LANGPRUNE_WORKSPACE, else ./langprune-workspace
    reporter: Reporter | None = field(default=None, repr=False, compare=False)  # is told notes and progress
    # Options that were spelled out, as --nsamples: those that have no effect are refused, at their defaults too.
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise UsageError for values that do not exist or do not go together."""
        self.check()

    def check(self) -> None:
        """Check this request's values; each group of options adds its own, after those of the groups that it builds on."""

    def refuse_given(self, options: Iterable[str], why: str) -> None:
        """Raise UsageError where one of these options was spelled out; the message names those that were."""
        if needless := [each for each in options if each in self.given]:
            raise UsageError(f"{why}: leave out {', '.join(needless)}")


AnyRequest = TypeVar("AnyRequest", bound=Request)


def with_given(request: AnyRequest, fields: Iterable[str]) -> AnyRequest:
    """Return a request that knows which of its fields were spelled out."""
    return replace(request, given=frozenset(map(option_name, fields)))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Request):
    """Which model is meant."""

    model: str | Path | None = None  # None: the one that the artifacts were made from, or that the workspace remembers
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextOptions(Request):
    """Which texts are read."""

    lang: Names = ()
    corpus: str | None = None
    data: Paths = ()


@dataclass(frozen=True, kw_only=True)
class WindowOptions(Request):
    """Which windows of a text are drawn."""

    nsamples: int = defaults.NSAMPLES
    seqlen: int | None = None
    seed: int = 0
    sampling: str | None = None

    def check(self) -> None:
        """Raise UsageError for windows that cannot be drawn."""
        super().check()
        at_least("--nsamples", self.nsamples, 1)
        at_least("--seqlen", self.seqlen, 2)


@dataclass(frozen=True, kw_only=True)
class HubOptions(Request):
    """How a model of the hub is found and read."""

    cache_dir: str | Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class OpeningOptions(HubOptions):
    """How a model is opened."""

    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(OpeningOptions):
    """How text goes through a model."""

    dtype: str = "auto"
    batch_tokens: int = defaults.BATCH_TOKENS
    max_memory: str | None = None

    def check(self) -> None:
        """Raise UsageError for a dtype that is unknown, and for sizes that are none."""
        super().check()
        one_of("--dtype", self.dtype, DTYPES)
        at_least("--batch-tokens", self.batch_tokens, 1)
        if self.max_memory is not None:
            size_in_bytes("--max-memory", self.max_memory)


@dataclass(frozen=True, kw_only=True)
class GatheringOptions(ForwardOptions):
    """How statistics of a model are gathered."""

    all_experts: bool = False
    team: Team | None = field(
        default=None, repr=False, compare=False
    )  # the processes that gather them, each of its windows


@dataclass(frozen=True, kw_only=True)
class DryRunOptions(Request):
    """Whether anything is made at all."""

    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class NamingOptions(Request):
    """What is made: under which name, and whether again where it is there already."""

    name: str | None = None
    force: bool = False

    @property
    def target(self) -> Target:
        """Where the artifact goes."""
        return Target(self.name, None, self.force)


@dataclass(frozen=True, kw_only=True)
class TargetOptions(NamingOptions, DryRunOptions):
    """What is made, if anything."""
