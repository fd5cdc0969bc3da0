"""`apply --reapply`: which mask and which model are meant, and the table of what had come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.requests.checks import MASK_FILES
from langprune_cli.cli.requests.session import Session, size_in_bytes
from langprune_cli.errors import UsageError


def set_again(
    session: Session, model: str | None, revision: str | None, mask: str | None, *, reapply: bool,
    without: dict[str, Any], max_shard_size: str, out: Path | None, name: str | None, force: bool,
) -> None:  # fmt: skip
    """Run `apply --reapply`. without: options that have no use here, with what was given for them."""
    from langprune_cli.stages.apply import reapply as stage  # noqa: PLC0415

    if not reapply:
        raise UsageError(f"--mask {mask} is a file of masks, made for a model that is not at hand: add --reapply")
    if model is None:
        raise UsageError("--reapply sets a mask on a model that was trained after pruning: name it with --model")
    if given := [option for option, value in without.items() if value]:
        raise UsageError(
            f"{given[0]} has no use for --reapply, which leaves all other weights as they are: leave it out"
        )
    if mask and mask.endswith(MASK_FILES):
        saved = stage.mask_of_file(Path(mask).expanduser())
    else:
        saved = stage.mask_of_artifact(session.pick("masks", mask, "mask", "mask"))
    made = stage.reapply(
        session.workspace, session.open(session.choose(model, revision)), saved, session.reporter,
        max_shard_bytes=size_in_bytes("--max-shard-size", max_shard_size), name=name,
        out=out.expanduser() if out else None, force=force,
    )  # fmt: skip
    if not session.json:
        print_returned(made.artifact.manifest.about["reapplied"])
    session.show([made])


def print_returned(found: dict[str, Any]) -> None:
    """Print how many of the masked weights had become other than zero, block by block and in all."""
    rows = [[str(each["block"]), *_figures(each)] for each in found["blocks"]]
    print_line("Weights that training had brought back, and that are zero again:")
    print_table(["block", "masked", "came back", "share"], [*rows, ["all", *_figures(found)]])


def _figures(counts: dict[str, int]) -> list[str]:
    share = counts["returned"] / counts["masked"] if counts["masked"] else 0.0
    return [f"{counts['masked']:,}", f"{counts['returned']:,}", f"{share:.2%}"]
