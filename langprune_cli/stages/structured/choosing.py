"""How a pattern that is chosen once for the whole model makes its mask: what identifies it, and the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from langprune_cli.store.artifact import ArtifactWriter


@dataclass(frozen=True)
class Basis:
    """What a mask is chosen by: statistics, or windows that would make some."""

    key: str  # of the statistics, whether they were gathered or not
    name: str  # the mask's name begins with it, where the user names nothing
    about: Mapping[str, object]  # what the mask's manifest says of it: "stats" and "text" at least


@dataclass(frozen=True)
class Choosing:
    """A mask that is to be made: what makes its key, what it is called, and the function that writes its part."""

    basis: Basis
    params: Mapping[str, object]  # "method", "pattern", "sparsity", and what else changes the mask
    label: str  # after the name of the basis, where the user names nothing
    write: Callable[[ArtifactWriter], Mapping[str, object]]  # writes the part; returns what the manifest says of it
    inputs: Mapping[str, str] = field(default_factory=dict)  # beside the model and the basis
