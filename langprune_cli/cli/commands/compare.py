"""The command `compare`: shows how similar artifacts of one kind are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.made import console
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import choice
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:  # torch takes seconds to import, and --help must be fast
    from collections.abc import Sequence

    from langprune_cli.numerics.overlap import Figures
    from langprune_cli.requests.compare import Compared
    from langprune_cli.stages.combine.compare import Pair
    from langprune_cli.stages.combine.experts_used import ExpertsUsed

# The columns of each kind's tables: figure -> heading, and whether it is a share.
_COLUMNS = {
    "masks": {
        "sparsity": ("sparsity", True),
        "other_sparsity": ("of the other", True),
        "removed_overlap": ("removed by both / either", True),
        "removed_overlap_by_chance": ("by chance", True),
        "kept_overlap": ("kept by both / either", True),
        "kept_overlap_by_chance": ("by chance", True),
    },
    "scores": {"spearman": ("Spearman", False), "top_half_overlap": ("upper halves: both / either", True)},
    "stats": {
        "cosine": ("cosine of norms", False),
        "log_ratio": ("mean |log ratio|", False),
        "apart": ("columns 2x apart", True),
    },
}


def compare(
    names: Annotated[list[str], typer.Argument(help="Two or more of one kind: names, or folders.", show_default=False)],
    *,
    kind: Annotated[
        str | None,
        typer.Option(help="stats, scores or masks, if several kinds have these names.", rich_help_panel=choice.CHOICE),
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Show how similar statistics, scores or masks of one model are: overall, by block and by kind of linear.

    [bold]langprune compare uk-wanda-0.5 en-wanda-0.5[/bold]
    """
    from langprune_cli.requests.compare import CompareRequest, compare  # noqa: PLC0415 - --help needs no requests

    request = CompareRequest(
        names=names, kind=kind, model=model, revision=revision, cache_dir=cache_dir, trust_remote_code=trust_remote_code,
        workspace=workspace, reporter=console(workspace),
    )  # fmt: skip
    show(compare(request), json=json)


def compared(found: Compared) -> dict[str, object]:
    """Return what artifacts have in common as --json shows it."""
    experts = {"experts": [each.record() for each in found.experts]} if found.experts else {}
    return {"kind": found.kind, "names": list(found.names), "pairs": [each.record() for each in found.pairs], **experts}


def show(found: Compared, *, json: bool) -> None:
    """Print what artifacts have in common."""
    if json:
        print_json({"schema": 1, **compared(found)})
        return
    for pair in found.pairs:
        _print_pair(found.kind, pair)
    if found.experts:
        _print_experts(found.experts)


def _print_pair(kind: str, pair: Pair) -> None:
    columns = _COLUMNS[kind]
    headings = [heading for heading, _ in columns.values()]

    def row(label: str, figures: Figures) -> list[str]:
        return [label, *(_figure(figures[figure], share=share) for figure, (_, share) in columns.items())]

    print_line(f"{kind}: {pair.one} and {pair.other}")
    blocks = [row(str(block), figures) for block, figures in pair.blocks.items()]
    print_table(["block", *headings], [*blocks, row("all", pair.whole)])
    print_line("")
    print_table(["linear", *headings], [row(linear, figures) for linear, figures in pair.linears.items()])
    print_line("")


def _print_experts(blocks: Sequence[ExpertsUsed]) -> None:
    """Print the experts that each text uses most, with the shares of its tokens."""
    texts = list(blocks[0].shares)
    rows = [[str(each.block), f"{each.apart:.2%}", *map(each.named, texts)] for each in blocks]
    print_table(["block", "routed apart", *(f"experts of {text}" for text in texts)], rows)
    print_line("")


def _figure(value: float | None, *, share: bool) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if share else f"{value:.4f}"
