"""The command `demo`: all stages on the built-in model."""

from pathlib import Path
from typing import Annotated

import typer

from langprune_cli.cli.display.log import running_log
from langprune_cli.cli.options import shared as opt


def demo(
    *,
    workspace: Annotated[Path, typer.Option("--workspace", "-w", help="Folder for the demo's artifacts.")] = Path(
        "langprune-demo"
    ),
    json: opt.Json = False,
) -> None:
    """Prune the built-in bilingual model for Ukrainian and for English, and show the effect of each mask on each language.

    Runs all six stages, offline, in under a minute.
    """
    from langprune_cli.cli.display.console import ConsoleReporter, print_json, print_line  # noqa: PLC0415
    from langprune_cli.cli.display.tables import print_table  # noqa: PLC0415
    from langprune_cli.stages.demo.demo import run_demo  # noqa: PLC0415 - needs torch
    from langprune_cli.store.workspace import Workspace  # noqa: PLC0415

    if log := running_log():
        log.workspace = workspace
    result = run_demo(Workspace(workspace), ConsoleReporter())
    if json:
        print_json(result)
        return
    print_table(["model", *(f"ppl on {text}" for text in result["texts"])], result["table"])
    for sentence in result["verdict"]:
        print_line(sentence)
    print_line(f"{result['seconds']:.0f} s; everything is in {workspace}: langprune ls -w {workspace}")
