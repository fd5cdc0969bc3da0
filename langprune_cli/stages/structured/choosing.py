"""The choice of a pattern for the whole model: the key of its mask, and the work of making it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from langprune_cli.store.artifact import ArtifactWriter


@dataclass(frozen=True)
class Basis:
    """The basis of a mask: statistics, or windows of text to collect them on."""

    key: str  # of the statistics, even if they were never collected
    name: str  # the mask's default name begins with it
    about: Mapping[str, object]  # for the mask's manifest: "stats" and "text" at least


@dataclass(frozen=True)
class Choosing:
    """A mask before it is made: its key's fields, its label, and the function that writes its part."""

    basis: Basis
    params: Mapping[str, object]  # "method", "pattern", "sparsity", and other settings that change the mask
    label: str  # the default name is the basis's name and this
    write: Callable[[ArtifactWriter], Mapping[str, object]]  # writes the part; returns facts for the manifest
    inputs: Mapping[str, str] = field(default_factory=dict)  # besides the model and the basis
