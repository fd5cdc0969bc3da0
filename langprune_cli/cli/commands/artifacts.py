"""The commands about artifacts: ls, show, verify, rm."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from langprune_cli.cli.display.console import ConsoleReporter, print_json, print_line
from langprune_cli.cli.display.listed import Shown, shown_in
from langprune_cli.cli.display.results import describe
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import shared as opt
from langprune_cli.cli.options.completion import names_of
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.store import verifying
from langprune_cli.store.artifact import KINDS, Artifact
from langprune_cli.store.index import Listed
from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.workspace import Workspace

NAME = typer.Argument(
    help="Name, or kind/name if several kinds have it.",
    autocompletion=names_of(*KINDS, with_kind=True),
    show_default=False,
)


_CHECKED = typer.Argument(
    help="Name, kind/name, or a folder with an artifact or an exported model.", show_default=False
)


def list_artifacts(
    *,
    kind: Annotated[
        str | None,
        typer.Argument(help="stats, scores, divergences, masks, models, logits or evals.", show_default=False),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="name, date (oldest first, over all kinds) or size (largest last); by default by kind and date.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """List the artifacts of the workspace, with the date when each was made or last requested.

    [bold]langprune ls masks[/bold]
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"{kind!r} is not a kind of artifact: {near_matches(kind, KINDS)}")
    if sort is not None and sort not in _ORDERS:
        raise UsageError(f"--sort {sort!r} is unknown: {near_matches(sort, _ORDERS)}")
    found = []
    for each in [kind] if kind else KINDS:
        readable, damaged = shown_in(workspace, each)
        for error in damaged:
            ConsoleReporter().note(f"Left out: {error}.")
        found += readable
    if sort:
        found.sort(key=_ORDERS[sort])
    if json:
        rows = [
            {"kind": at.kind, "name": at.folder.name, "path": str(at.folder), "key": shown["key"],
             "complete": shown["complete"], "bytes": shown["bytes"], "date": _date(at).isoformat(timespec="seconds"),
             "model": shown["model"], "languages": shown["languages"], "evaluated": shown["evaluated"], "what": shown["what"]}
            for at, shown in found
        ]  # fmt: skip
        print_json({"schema": 1, "artifacts": rows})
    elif not found:
        print_line(f"{workspace} has no artifacts yet; langprune calibrate --lang LANGUAGE makes the first.")
    else:
        lines = [
            [at.kind, at.folder.name, f"{_date(at):%Y-%m-%d %H:%M}", f"{shown['bytes'] / 1e6:,.2f} MB", shown["model"] or "",
             " ".join(shown["languages"]), "; ".join(filter(None, [shown["what"], ", ".join(shown["evaluated"])]))]
            for at, shown in found
        ]  # fmt: skip
        print_table(["kind", "name", "date", "size", "model", "language", "what"], lines)


_ORDERS: dict[str, Callable[[tuple[Listed, Shown]], tuple[str | int, ...]]] = {
    "name": lambda each: (each[0].folder.name, each[0].kind),
    "date": lambda each: (each[0].modified_ns,),
    "size": lambda each: (each[1]["bytes"],),
}


def _date(at: Listed) -> datetime:
    return datetime.fromtimestamp(at.modified_ns / 1e9).astimezone()


def kind_and_name(name: str, workspace: Workspace) -> tuple[str, str]:
    """Return (kind, name) of `name` or `kind/name`; raises LangpruneError if no kind or several kinds have it."""
    kind, slash, rest = name.partition("/")
    if slash and kind in KINDS:
        return kind, rest
    found = [each for each in KINDS if workspace.holds(each, name)]
    if len(found) > 1:
        raise LangpruneError(f"{' and '.join(found)} have {name!r}: write {found[0]}/{name}")
    if not found:
        names = {each for kind in KINDS for each in workspace.names(kind)}
        hint = near_matches(name, names) if names else f"{workspace.root} is empty"
        raise LangpruneError(f"no artifact is called {name!r}: {hint}")
    return found[0], name


def show(
    name: Annotated[str, NAME],
    *,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Show an artifact: its inputs, settings and contents.

    [bold]langprune show masks/uk-wanda-2x4[/bold]
    """
    opened = Workspace(workspace)
    kind, short = kind_and_name(name, opened)
    folder = opened.folder(kind, short)
    if not folder.is_dir():
        opened.find(kind, short)  # raises with the near names
    manifest = read_manifest(folder)
    if json:
        print_json(asdict(manifest) | {"name": short, "path": str(folder)})
        return
    artifact = Artifact(folder, manifest)
    print_line(f"{kind}/{short}: {describe(artifact)}")
    print_line(f"{len(manifest.parts)} files, {artifact.size() / 1e6:,.2f} MB, in {folder}")
    sections = {
        "inputs": manifest.inputs,
        "params": manifest.params,
        "about": manifest.about,
        "environment": manifest.environment,
    }
    rows = [["key", manifest.key], ["made by", manifest.tool]]
    rows += [[f"{section}.{label}", text] for section, record in sections.items() for label, text in _flat(record)]
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print_line(f"{label:<{width}}  {text}")


def _flat(record: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return a JSON value as lines of dotted names and values."""
    if isinstance(record, dict):
        return [line for key, value in record.items() for line in _flat(value, f"{prefix}.{key}" if prefix else key)]
    if isinstance(record, list) and record and isinstance(record[0], dict):
        return [line for number, value in enumerate(record) for line in _flat(value, f"{prefix}.{number}")]
    return [(prefix, "-" if record is None else str(record))]


def remove(
    names: Annotated[list[str], NAME],
    *,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Delete artifacts. A model written with --out stays on disk; only the workspace forgets it.

    [bold]langprune rm masks/uk-wanda-0.5[/bold]
    """
    opened = Workspace(workspace)
    found = [kind_and_name(name, opened) for name in names]
    for kind, short in found:
        opened.remove(kind, short)
        if not json:
            print_line(f"removed {kind}/{short}")
    if json:
        removed = [{"kind": kind, "name": short, "path": str(opened.folder(kind, short))} for kind, short in found]
        print_json({"schema": 1, "removed": removed})


def verify(
    names: Annotated[list[str] | None, _CHECKED] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Check all artifacts of the workspace.", rich_help_panel="Input")
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Check that artifacts are unchanged, every file by its size and sha256; exit code 1 if one has changed.

    [bold]langprune verify --all[/bold]
    """
    if bool(names) == everything:
        raise UsageError("verify needs the names of artifacts: give some, or --all")
    opened = Workspace(workspace.expanduser())
    found = verifying.places(opened) if everything else {}
    for name in names or []:
        found |= verifying.places_called(opened, name)
    checked = [verifying.verify(label, folder) for label, folder in found.items()]
    damages = [damage for each in checked for damage in each.damages]
    if json:
        rows = [
            {"label": each.label, "path": str(each.folder), "complete": each.complete, "files": each.files,
             "bytes": each.size, "damaged": [{"path": str(one.path), "says": one.says} for one in each.damages]}
            for each in checked
        ]  # fmt: skip
        print_json({"schema": 1, "whole": not damages, "artifacts": rows})
    else:
        lines = [[each.label, str(each.files), f"{each.size / 1e6:,.2f} MB", _state(each)] for each in checked]
        print_table(["artifact", "files", "size", "state"], lines)
        for damage in damages:
            print_line(damage.says)
    if damages:
        raise typer.Exit(1)


def _state(each: verifying.Verified) -> str:
    if each.damages:
        return f"damaged: {len(each.damages)} of its files"
    return "whole" if each.complete else "whole so far, not complete"
