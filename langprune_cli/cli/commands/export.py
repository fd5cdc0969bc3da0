"""The command `export`: a folder to share, or a repository on the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.made import console
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import checks
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:
    from langprune_cli.requests.export import Exported

_INPUT = "Input"
_OUTPUT = "Output"


def export(
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New or empty folder; optional with --push-to-hub.", rich_help_panel=_OUTPUT),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model artifact; by default the newest.",
            **checks.artifact("models"),
            rich_help_panel=_INPUT,
        ),
    ] = None,
    with_mask: Annotated[
        bool,
        typer.Option("--with-mask", help="Add the keep masks.", rich_help_panel=_OUTPUT),
    ] = False,
    file_format: Annotated[
        str,
        typer.Option("--format", help="safetensors, or gguf with llama.cpp's converter.", rich_help_panel=_OUTPUT),
    ] = "safetensors",
    converter: Annotated[
        Path | None,
        typer.Option(help="For --format gguf: llama.cpp's convert_hf_to_gguf.py.", rich_help_panel=_INPUT),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="Upload the files to this repository of the Hugging Face Hub, private if it is new; run it again after an "
            "interruption to upload the rest.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="With --push-to-hub: make a new repository public, or upload to a public one.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the files with their sizes; write and upload nothing.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Copy a pruned model to a folder to share, or to the hub, with tokenizer, model card and provenance.

    [bold]langprune export --out ./llama-uk-2x4[/bold]
    """
    from langprune_cli.requests.export import ExportRequest, export  # noqa: PLC0415 - --help needs no requests

    request = ExportRequest(
        out=out, model=model, with_mask=with_mask, file_format=file_format, converter=converter, push_to_hub=push_to_hub,
        public=public, dry_run=dry_run, workspace=workspace, reporter=console(workspace, dry_run=dry_run),
    )  # fmt: skip
    show(export(request), json=json)


def show(found: "Exported", *, json: bool) -> None:
    """Print what was exported, or would be."""
    if json:
        print_json({"schema": 1, **exported(found)})
    elif found.sizes is not None:
        _print_sizes(found.sizes, found.model.name, found.repository)
    else:
        _print_done(found)


def exported(found: "Exported") -> dict[str, object]:
    """Return what was exported, or would be, as --json shows it."""
    name, sizes = found.model.name, found.sizes
    if sizes is not None:
        files = [{"file": each, "bytes": size} for each, size in sizes.items()]
        total = sum(size or 0 for size in sizes.values())
        of_plan = {"dry_run": True, "kind": "export", "model": name, "repository": found.repository}
        return {**of_plan, "bytes": total, "files": files}
    sent = {"commit": found.commit} if found.commit else {}
    path = str(found.folder) if found.folder else None
    return {"kind": "export", "model": name, "path": path, "files": list(found.files), **sent}


def _print_sizes(sizes: dict[str, int | None], model: str, repo: str | None) -> None:
    total = sum(size or 0 for size in sizes.values())
    print_table(["file", "bytes"], [[name, "?" if size is None else f"{size:,}"] for name, size in sizes.items()])
    where = f" to {repo}" if repo else ""
    unknown = [name for name, size in sizes.items() if size is None]
    beside = f" beside {' and '.join(unknown)}" if unknown else ""
    print_line(f"{model}: {len(sizes)} files, {total / 1e6:,.2f} MB{beside}{where}; nothing was written or uploaded.")


def _print_done(found: "Exported") -> None:
    name, out, files = found.model.name, found.folder, found.files
    if out and found.cached:
        print_line(f"{out} is an export of {name} already: {', '.join(files)}")
    elif out:
        print_line(f"exported {name} to {out}: {', '.join(files)}")
    if found.commit:
        print_line(f"uploaded {name}, {len(files)} files: {found.commit}")
