"""The command `compare`: what artifacts of one kind have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.requests import options as opt
from langprune_cli.cli.requests.session import Session, one_of
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.store.manifest import is_artifact, read_manifest

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.numerics.overlap import Figures
    from langprune_cli.stages.combine.compare import Pair
    from langprune_cli.store.workspace import Workspace

# What each kind's tables show: figure -> heading, and whether it is a share.
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
        typer.Option(help="stats, scores or masks, where several have these names.", rich_help_panel=opt.CHOICE),
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Show what statistics, scores or masks of one model have in common: as a whole, by block and by kind of linear.

    [bold]langprune compare uk-wanda-0.5 en-wanda-0.5[/bold]
    """
    session = Session(workspace, json=json, device="cpu", cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    from langprune_cli.stages.combine.compare import COMPARED, compare_artifacts  # noqa: PLC0415 - needs torch

    one_of("--kind", kind, COMPARED)
    found = kind or kind_of(names, session.workspace, COMPARED)
    artifacts = [session.workspace.find(found, each) for each in names]
    opened = session.open(session.choose(model, revision, artifacts[0])) if found == "masks" else None
    comparison = compare_artifacts(artifacts, opened, session.reporter)
    if json:
        print_json({"schema": 1, "kind": found, "names": names, "pairs": [each.record() for each in comparison.pairs]})
        return
    for pair in comparison.pairs:
        _print_pair(found, pair)


def kind_of(names: list[str], workspace: Workspace, known: tuple[str, ...]) -> str:
    """Return the kind of artifacts that all names have; raises UsageError or LangpruneError for none and for several."""
    here = {each: {entry.name for entry in workspace.entries(each)} for each in known}
    kinds = [{each for each in known if name in here[each]} for name in names]
    for name, found in zip(names, kinds, strict=True):
        if not found and is_artifact(Path(name)):
            found.add(read_manifest(Path(name)).kind)
        if not found:
            hint = near_matches(name, set().union(*here.values()))
            raise LangpruneError(f"no {', '.join(known[:-1])} or {known[-1]} artifact is called {name!r}: {hint}")
    shared = set.intersection(*kinds)
    if not shared:
        raise UsageError(f"{' and '.join(names)} are artifacts of several kinds: compare those of one")
    if len(shared) > 1:
        raise UsageError(f"{' and '.join(sorted(shared))} have these names: say which with --kind")
    return shared.pop()


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


def _figure(value: float | None, *, share: bool) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if share else f"{value:.4f}"
