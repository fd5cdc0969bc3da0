"""Groups of options for several requests: names, defaults and checks. Needs no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from langprune_cli import defaults
from langprune_cli.errors import UsageError
from langprune_cli.machine.team import Team
from langprune_cli.requests.shared.values import Names, Paths, at_least, one_of, one_or_none, option_name, size_in_bytes
from langprune_cli.store.building import Reporter
from langprune_cli.store.target import Target

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One command's options. They are checked when the request is made, so an existing request can run."""

    workspace: str | Path | None = None  # None: $LANGPRUNE_WORKSPACE, else ./langprune-workspace
    reporter: Reporter | None = field(default=None, repr=False, compare=False)  # gets notes and progress
    # Options that the user spelled out, such as --nsamples: if without effect, they are refused even at their defaults.
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise UsageError for invalid values, or values that do not go together."""
        self.check()

    def check(self) -> None:
        """Check this request's values; each group of options adds its checks after those of its base groups."""

    def refuse_given(self, options: Iterable[str], why: str) -> None:
        """Raise UsageError if any of these options was spelled out; the message names them."""
        if needless := [each for each in options if each in self.given]:
            raise UsageError(f"{why}: leave out {', '.join(needless)}")


AnyRequest = TypeVar("AnyRequest", bound=Request)


def with_given(request: AnyRequest, fields: Iterable[str]) -> AnyRequest:
    """Return the request with a record of its spelled-out fields."""
    return replace(request, given=frozenset(map(option_name, fields)))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Request):
    """The model."""

    model: str | Path | None = None  # None: the artifacts' model, or the workspace's
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextOptions(Request):
    """The texts."""

    lang: Names = ()
    corpus: str | None = None
    data: Paths = ()


@dataclass(frozen=True, kw_only=True)
class WindowOptions(Request):
    """The windows to draw from a text."""

    nsamples: int = defaults.NSAMPLES
    seqlen: int | None = None
    seed: int = 0
    sampling: str | None = None

    def check(self) -> None:
        """Raise UsageError for windows that cannot be drawn."""
        super().check()
        at_least("--nsamples", self.nsamples, 1)
        at_least("--seqlen", self.seqlen, 2)
        one_or_none("--sampling", self.sampling, defaults.SAMPLINGS)


@dataclass(frozen=True, kw_only=True)
class HubOptions(Request):
    """How to find and read a hub model."""

    cache_dir: str | Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class OpeningOptions(HubOptions):
    """How to open a model."""

    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(OpeningOptions):
    """How to run a model on text."""

    dtype: str = "auto"
    batch_tokens: int = defaults.BATCH_TOKENS
    max_memory: str | None = None

    def check(self) -> None:
        """Raise UsageError for an unknown dtype, and for invalid sizes."""
        super().check()
        one_of("--dtype", self.dtype, DTYPES)
        at_least("--batch-tokens", self.batch_tokens, 1)
        if self.max_memory is not None:
            size_in_bytes("--max-memory", self.max_memory)


@dataclass(frozen=True, kw_only=True)
class SharingOptions(Request):
    """Who does the work."""

    team: Team | None = field(default=None, repr=False, compare=False)  # processes that share it, each with its windows


@dataclass(frozen=True, kw_only=True)
class GatheringOptions(ForwardOptions, SharingOptions):
    """How to collect statistics of a model."""

    all_experts: bool = False


@dataclass(frozen=True, kw_only=True)
class DryRunOptions(Request):
    """Whether to make anything."""

    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class NamingOptions(Request):
    """The artifact's name, and whether to make it again."""

    name: str | None = None
    force: bool = False

    @property
    def target(self) -> Target:
        """The destination of the artifact."""
        return Target(self.name, None, self.force)


@dataclass(frozen=True, kw_only=True)
class TargetOptions(NamingOptions, DryRunOptions):
    """The artifact to make, if any."""
