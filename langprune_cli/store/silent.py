"""What a process that does not write has in place of a writer, so that all processes of a run can run the same stage."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.records import BlockRecord
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.manifest import Manifest

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor


class SilentWriter(ArtifactWriter):
    """The writer of a process that does not write: it notes which parts there are."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Begin with the parts of `manifest`, which are on disk."""
        self.folder = folder
        self.manifest = manifest

    @contextmanager
    def part(self, name: str, tensors: Mapping[str, str] | None = None) -> Iterator[Path]:  # noqa: ARG002 - as a writer has it
        """Yield where nothing is kept, and note that the first process has this part."""
        yield Path(os.devnull)
        self.manifest.parts[name] = {"sha256": "", "size": 0}

    def write_tensors(
        self,
        name: str,
        tensors: "dict[str, Tensor]",  # noqa: ARG002 - as a writer has it
        record: BlockRecord | None = None,  # noqa: ARG002
        single: Collection[str] = (),  # noqa: ARG002
    ) -> None:
        """Note that the first process has this part."""
        self.manifest.parts[name] = {"sha256": "", "size": 0}

    def finish(self, **about: object) -> Artifact:  # noqa: ARG002 - as above
        """Return the artifact as far as it is known here; `Place.settle` returns what the first process has written."""
        return Artifact(self.folder, self.manifest)

    def discard_if_empty(self, *, but_for: str = "") -> None:
        """Do nothing: there is nothing of this process's own."""
