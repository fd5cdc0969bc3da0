"""How a pattern that is chosen once for the whole model makes its mask: what identifies it, and the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from langprune_cli.store.artifact import Artifact, ArtifactWriter


@dataclass(frozen=True)
class Choosing:
    """A mask that is to be made: what makes its key, what it is called, and the function that writes its part."""

    stats: Artifact  # that it is chosen by
    params: Mapping[str, object]  # "method", "pattern", "sparsity", and what else changes the mask
    text: object  # behind the statistics, as manifests have it
    label: str  # after the statistics' name, where the user names nothing
    write: Callable[[ArtifactWriter], Mapping[str, object]]  # writes the part; returns what the manifest says of it
    inputs: Mapping[str, str] = field(default_factory=dict)  # beside model and statistics
