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
    found = export(request)
    if found.sizes is not None:
        _print_sizes(found.sizes, found.model.name, push_to_hub, json=json)
    else:
        _print_done(found, json=json)


def _print_sizes(sizes: dict[str, int | None], model: str, repo: str | None, *, json: bool) -> None:
    total = sum(size or 0 for size in sizes.values())
    if json:
        files: list[dict[str, object]] = [{"file": name, "bytes": size} for name, size in sizes.items()]
        print_json({"schema": 1, "dry_run": True, "kind": "export", "model": model, "repository": repo,
                    "bytes": total, "files": files})  # fmt: skip
        return
    print_table(["file", "bytes"], [[name, "?" if size is None else f"{size:,}"] for name, size in sizes.items()])
    where = f" to {repo}" if repo else ""
    unknown = [name for name, size in sizes.items() if size is None]
    beside = f" beside {' and '.join(unknown)}" if unknown else ""
    print_line(f"{model}: {len(sizes)} files, {total / 1e6:,.2f} MB{beside}{where}; nothing was written or uploaded.")


def _print_done(found: "Exported", *, json: bool) -> None:
    name, out, files = found.model.name, found.folder, list(found.files)
    if json:
        sent = {"commit": found.commit} if found.commit else {}
        path = str(out) if out else None
        print_json({"schema": 1, "kind": "export", "model": name, "path": path, "files": files, **sent})
        return
    if out:
        print_line(f"exported {name} to {out}: {', '.join(files)}")
    if found.commit:
        print_line(f"uploaded {name}, {len(files)} files: {found.commit}")
