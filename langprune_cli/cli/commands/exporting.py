"""The command `export`: a folder to share, or a repository on the hub."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.requests import checks
from langprune_cli.cli.requests import options as opt
from langprune_cli.cli.requests.session import Session, one_of
from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.store.artifact import Artifact

_INPUT = "What goes in"
_OUTPUT = "What comes out"


def export(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="New or empty folder; may be left out with --push-to-hub.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model artifact; the newest if left out.",
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
        typer.Option("--format", help="safetensors, or gguf by llama.cpp's converter.", rich_help_panel=_OUTPUT),
    ] = "safetensors",
    converter: Annotated[
        Path | None,
        typer.Option(help="Of --format gguf: llama.cpp's convert_hf_to_gguf.py.", rich_help_panel=_INPUT),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="Send the files to this repository of the Hugging Face Hub, private if it is new; given again, it sends what "
            "has not arrived.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Of --push-to-hub: for everybody to see.", rich_help_panel=_OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the files with their sizes; write and send nothing.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Copy a pruned model to a folder to share, or to the hub, with tokenizer, model card and provenance.

    [bold]langprune export --out ./llama-uk-2x4[/bold]
    """
    if out is None and push_to_hub is None:
        raise UsageError(
            "export where? Name a folder with --out, or a repository with --push-to-hub: give one, or both"
        )
    if public and push_to_hub is None:
        raise UsageError("--public goes with --push-to-hub: add it, or leave it out")
    gguf = one_of("--format", file_format, ("safetensors", "gguf")) == "gguf"
    if converter and not gguf:
        raise UsageError("--converter goes with --format gguf: add it, or leave it out")
    session = Session(workspace, json=json, dry_run=dry_run)
    from langprune_cli.stages.export.export import export, exported_sizes  # noqa: PLC0415 - needs torch
    from langprune_cli.stages.export.exported import is_export_of, listed_files  # noqa: PLC0415
    from langprune_cli.stages.export.gguf import check_converter  # noqa: PLC0415
    from langprune_cli.stages.export.publish import check_login, publish  # noqa: PLC0415

    chosen = check_converter(converter) if gguf else None
    artifact = session.pick("models", model, "model", "apply")
    title = out.expanduser().resolve().name if out else str(push_to_hub).rpartition("/")[2]
    if dry_run:
        sizes = exported_sizes(session.workspace, artifact, title, session.reporter, with_mask=with_mask, gguf=gguf)
        _print_sizes(sizes, artifact, push_to_hub, json=json)
        return
    if push_to_hub:
        check_login(push_to_hub)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=session.workspace.root)), title)
        if push_to_hub and is_export_of(folder, artifact):
            session.reporter.note(f"Sending what lies in {folder}.")
        else:
            files = export(
                session.workspace,
                artifact,
                folder,
                session.reporter,
                title=title,
                with_mask=with_mask,
                converter=chosen,
            )
        commit = None
        if push_to_hub:
            files = listed_files(folder, artifact)
            commit = publish(folder, files, push_to_hub, session.reporter, public=public)
    _print_done(artifact, out, files, commit, json=json)


def _print_sizes(sizes: dict[str, int | None], artifact: "Artifact", repo: str | None, *, json: bool) -> None:
    total = sum(size or 0 for size in sizes.values())
    if json:
        files: list[dict[str, Any]] = [{"file": name, "bytes": size} for name, size in sizes.items()]
        print_json({"schema": 1, "dry_run": True, "kind": "export", "model": artifact.name, "repository": repo,
                    "bytes": total, "files": files})  # fmt: skip
        return
    print_table(["file", "bytes"], [[name, "?" if size is None else f"{size:,}"] for name, size in sizes.items()])
    where = f" to {repo}" if repo else ""
    unknown = [name for name, size in sizes.items() if size is None]
    beside = f" beside {' and '.join(unknown)}" if unknown else ""
    print_line(
        f"{artifact.name}: {len(sizes)} files, {total / 1e6:,.2f} MB{beside}{where}; nothing was written or sent."
    )


def _print_done(artifact: "Artifact", out: Path | None, files: list[str], commit: str | None, *, json: bool) -> None:
    if json:
        sent = {"commit": commit} if commit else {}
        path = str(out) if out else None
        print_json({"schema": 1, "kind": "export", "model": artifact.name, "path": path, "files": files, **sent})
        return
    if out:
        print_line(f"exported {artifact.name} to {out}: {', '.join(files)}")
    if commit:
        print_line(f"sent {artifact.name}, {len(files)} files: {commit}")
