"""The command `eval`: compares dense and pruned models, on texts, on tasks and by speed."""

from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.display.console import print_json
from langprune_cli.cli.display.made import console, document, made_document, show_made
from langprune_cli.cli.display.matrix import print_evaluation, print_tasks
from langprune_cli.cli.display.results import print_outcomes, print_sizes
from langprune_cli.cli.display.speeds import print_speeds, speeds_document
from langprune_cli.cli.options import checks
from langprune_cli.cli.options import shared as opt
from langprune_cli.cli.options.completion import names_of

if TYPE_CHECKING:
    from langprune_cli.requests.evaluate import Evaluated

_INPUT = "Input"
LoadBits = Annotated[
    int | None,
    typer.Option(
        help="Quantize every model on load to 4 or 8 bits with bitsandbytes (pip install '.\\[bnb]'), to measure the loss of "
        "pruning and quantization together. Loads whole models, and runs one window at a time.",
        rich_help_panel=opt.COMPUTE,
    ),
]
Speed = Annotated[
    bool,
    typer.Option(
        "--speed",
        help="Also measure tokens per second and bytes; without --lang and --data only these.",
        rich_help_panel=opt.OUTPUT,
    ),
]
SemiStructured = Annotated[
    bool,
    typer.Option(
        "--semi-structured",
        help="Like --speed, but measure each model with 2:4 linears again, with these as torch's semi-structured "
        "tensors. Needs CUDA with compute capability 8.0 or later; elsewhere a note says so.",
        rich_help_panel=opt.OUTPUT,
    ),
]


def evaluate(
    *,
    lang: opt.Lang = None,
    corpus: opt.Corpus = None,
    data: opt.Data = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id, local folder, `demo`, or a model artifact; several model artifacts of one model are compared.",
            autocompletion=names_of("models", also=("demo",)),
            callback=checks.model,
            rich_help_panel=_INPUT,
        ),
    ] = None,
    revision: opt.Revision = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask to apply on the fly, without writing a model; repeatable.",
            **checks.artifact("masks"),
            rich_help_panel=_INPUT,
        ),
    ] = None,
    seqlen: opt.Seqlen = None,
    max_windows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Evaluate only the first windows; by default all, or {defaults.HUB_WINDOWS} of a hub dataset.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-evaluation-harness (pip install '.\\[harness]'), separated by commas: its names, or your .yaml "
            "files; without --lang and --data only these.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    load_bits: LoadBits = None,
    speed: Speed = False,
    semi_structured: SemiStructured = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    batch_tokens: opt.BatchTokens = defaults.BATCH_TOKENS,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    max_memory: opt.MaxMemory = None,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Measure perplexity and bits per byte, dense beside pruned, for each mask and language, with the interval of each change.

    [bold]langprune eval --lang uk --lang en[/bold]
    """
    from langprune_cli.requests.evaluate import EvaluateRequest, evaluate  # noqa: PLC0415 - --help needs no requests

    request = EvaluateRequest(
        lang=lang or (), corpus=corpus, data=data or (), model=model or (), revision=revision, mask=mask or (), seqlen=seqlen,
        max_windows=max_windows, tasks=tasks, load_bits=load_bits, speed=speed, semi_structured=semi_structured, dtype=dtype,
        device=device, batch_tokens=batch_tokens, cache_dir=cache_dir, trust_remote_code=trust_remote_code,
        max_memory=max_memory, name=name, force=force, dry_run=dry_run, workspace=workspace,
        reporter=console(workspace, dry_run=dry_run),
    )  # fmt: skip
    show(evaluate(request), json=json)


def evaluated(found: "Evaluated") -> dict[str, object]:
    """Return an evaluation as --json shows it."""
    if found.planned is not None:
        return made_document(found)
    if not found.outcomes:
        return speeds_document(found.speed or ())
    return {**document(found.outcomes[0]), **found.document()}


def show(found: "Evaluated", *, json: bool) -> None:
    """Print an evaluation."""
    if json:
        print_json({"schema": 1, **evaluated(found)})
        return
    if found.planned is not None:
        show_made(found, json=False)
        return
    if not found.outcomes:
        print_speeds(found.speed or ())
        return
    if found.rows:
        print_evaluation(found.rows, found.compare)
    print_sizes(found.sizes or ())
    if found.tasks is not None:
        print_tasks(found.tasks)
    if found.speed is not None:
        print_speeds(found.speed)
    print_outcomes(found.outcomes)
