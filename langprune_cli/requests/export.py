"""The request behind `export`: a folder to share, or a repository on the hub."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.options import DryRunOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import folder, one_of

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.store.artifact import Artifact

FORMATS = ("safetensors", "gguf")


@dataclass(frozen=True, kw_only=True)
class ExportRequest(DryRunOptions):
    """Copy a pruned model to a folder to share, or to the hub, with tokenizer, model card and provenance.

    out: a new or empty folder; optional with `push_to_hub`
    model: the model artifact, by default the newest
    with_mask: whether to add the keep masks
    file_format, converter: "safetensors", or "gguf" with llama.cpp's script (the options --format and --converter)
    push_to_hub, public: the repository to upload to, and whether it is public
    dry_run: list the files with their sizes, and write and upload nothing
    """

    out: str | Path | None = None
    model: str | None = None
    with_mask: bool = False
    file_format: str = "safetensors"
    converter: str | Path | None = None
    push_to_hub: str | None = None
    public: bool = False

    @property
    def title(self) -> str:
        """The title of the model card."""
        out = folder(self.out)
        return out.resolve().name if out else str(self.push_to_hub).rpartition("/")[2]

    def check(self) -> None:
        """Raise UsageError without a destination, and for options that do not go together."""
        super().check()
        if self.out is None and self.push_to_hub is None:
            raise UsageError(
                "export needs a destination: name a folder with --out, or a repository with --push-to-hub, or both"
            )
        if self.public and self.push_to_hub is None:
            raise UsageError("--public goes with --push-to-hub: add it, or leave it out")
        if one_of("--format", self.file_format, FORMATS) != "gguf" and self.converter:
            raise UsageError("--converter goes with --format gguf: add it, or leave it out")


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    model: Artifact
    folder: Path | None  # None: only uploaded, or a dry run
    files: tuple[str, ...]
    commit: str | None = None  # its address on the hub
    repository: str | None = None  # of a dry run: where the files would go
    cached: bool = False  # whether the folder was there already
    sizes: dict[str, int | None] | None = None  # of a dry run: bytes of each file, None if unknown


def export(request: ExportRequest) -> Exported:
    """Export one model."""
    with running(request) as run:
        from langprune_cli.stages.export.gguf import check_converter  # noqa: PLC0415
        from langprune_cli.stages.export.publish import check_login  # noqa: PLC0415

        gguf = request.file_format == "gguf"
        converter = check_converter(Path(request.converter) if request.converter else None) if gguf else None
        artifact = run.pick("models", request.model, "model", "apply")
        if request.dry_run:
            return _listed(run, request, artifact)
        if request.push_to_hub:
            check_login(request.push_to_hub)
        return _written(run, request, artifact, converter)


def _listed(run: Run, request: ExportRequest, artifact: Artifact) -> Exported:
    from langprune_cli.stages.export.export import exported_sizes  # noqa: PLC0415

    gguf = request.file_format == "gguf"
    sizes = exported_sizes(run.workspace, artifact, request.title, run.reporter, with_mask=request.with_mask, gguf=gguf)
    return Exported(artifact, None, tuple(sizes), sizes=sizes, repository=request.push_to_hub)


def _written(run: Run, request: ExportRequest, artifact: Artifact, converter: Path | None) -> Exported:
    from langprune_cli.stages.export.export import export  # noqa: PLC0415
    from langprune_cli.stages.export.exported import is_export_of, listed_files  # noqa: PLC0415
    from langprune_cli.stages.export.publish import publish  # noqa: PLC0415

    out, repository = Path(request.out) if request.out else None, request.push_to_hub
    with ExitStack() as stack:
        place = out or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=run.workspace.root)), request.title)
        files = listed_files(place, artifact) if is_export_of(place, artifact) else []
        there = bool(files) and (repository is not None or _as_asked(request, files))
        if there and repository:
            run.reporter.note(f"Uploading the files in {place}.")
        if not there:
            files = export(
                run.workspace, artifact, place, run.reporter,
                title=request.title, with_mask=request.with_mask, converter=converter,
            )  # fmt: skip
        commit = None
        if repository:
            files = listed_files(place, artifact)
            commit = publish(place, files, repository, run.reporter, public=request.public)
    return Exported(artifact, out, tuple(files), commit, cached=there)


def _as_asked(request: ExportRequest, files: list[str]) -> bool:
    """Return whether an export has these files: with the mask and in the format that are asked for, or without."""
    from langprune_cli.stages.export.exported import GGUF, MASK_FILE  # noqa: PLC0415

    gguf = any(each.endswith(GGUF) for each in files)
    return (MASK_FILE in files) == request.with_mask and gguf == (request.file_format == "gguf")
