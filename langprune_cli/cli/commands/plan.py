"""The command `plan`: predicts the size of a pruned model and the cost of pruning, before downloading weights."""

from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.made import console
from langprune_cli.cli.display.pruning import print_vocabulary
from langprune_cli.cli.display.results import parameters
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import choice
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:  # torch takes seconds to import, and --help must be fast
    from langprune_cli.requests.plan import PlanResult
    from langprune_cli.stages.plan.plan import Plan
    from langprune_cli.stages.plan.recovery import RecoveryPlan


def plan(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id, local folder, config.json, `demo`, or a model artifact; by default the workspace's.",
            rich_help_panel="Input",
        ),
    ] = None,
    revision: opt.Revision = None,
    pattern: choice.Pattern = None,
    sparsity: choice.Sparsity = None,
    round_to: choice.RoundTo = None,
    rounding: choice.Round = "down",
    coverage: choice.Coverage = None,
    vocab_size: choice.VocabSize = None,
    keep_chat: choice.KeepChat = None,
    allocation: choice.Allocation = "uniform",
    stats: Annotated[
        str | None,
        typer.Option(help="Token counts for --pattern vocab; by default the newest.", rich_help_panel="Input"),
    ] = None,
    nsamples: opt.Nsamples = defaults.NSAMPLES,
    seqlen: opt.Seqlen = None,
    recover: Annotated[
        str | None,
        typer.Option(
            help="Say what training the pruned model on so many tokens (300k, 2M) would take, as langprune recover does.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Predict parameters, disk and memory of a pruned model from its configuration, without fetching weights.

    [bold]langprune plan --model Qwen/Qwen3-0.6B --pattern channels:0.1 --pattern blocks:0.1[/bold]
    """
    from langprune_cli.requests.plan import PlanRequest, plan  # noqa: PLC0415 - --help needs no requests

    request = PlanRequest(
        model=model, revision=revision, pattern=pattern or (), sparsity=sparsity, round_to=round_to, rounding=rounding,
        coverage=coverage, vocab_size=vocab_size, keep_chat=keep_chat, allocation=allocation, stats=stats, nsamples=nsamples,
        seqlen=seqlen, recover=recover, cache_dir=cache_dir, trust_remote_code=trust_remote_code, workspace=workspace,
        reporter=console(workspace),
    )  # fmt: skip
    show(plan(request), json=json)


def show(found: "PlanResult", *, json: bool) -> None:
    """Print what a pruning would leave."""
    if json:
        print_json(found.document())
        return
    if found.vocabulary:
        print_vocabulary(found.vocabulary.record() | {"chat": None})  # the plan shows these tokens with their bytes
        print_line("")
    print_plan(found.plan)
    print_costs(found.plan, found.flops_per_second, found.device)
    if found.plan.recovery:
        print_recovery(found.plan.recovery, found.training_flops_per_second)


def print_plan(plan: "Plan") -> None:
    """Print the predicted size, axis by axis, and the cost."""
    print_table(
        ["Model", "Size", "Pruning rate", "Pruned size"],
        [
            [
                plan.model,
                parameters(plan.parameters_before),
                f"{plan.pruning_rate:.4%}",
                parameters(plan.parameters_after),
            ]
        ],
    )
    print_line("")
    rows = [
        [each.pattern, each.unit, f"{each.before:,}", f"{each.after:,}", f"{each.removed:.2%}"] for each in plan.axes
    ]
    print_table(["pattern", "of", "before", "after", "removed"], rows)
    print_line("")
    dtype = str(plan.dtype).removeprefix("torch.")
    if plan.logits_bytes[0] != plan.logits_bytes[1]:
        before, after = map(_gigabytes, plan.logits_bytes)
        print_line(f"Logits of a window of {plan.seqlen} tokens in float32: {before} before, {after} after.")
    if plan.chat:
        print_line(
            f"{plan.chat[0]:,} tokens stay only for chats, Markdown and code: {_gigabytes(plan.chat[1])} on disk "
            "(--no-keep-chat removes them)."
        )
    print_line(f"On disk, {dtype}: {_gigabytes(plan.disk_bytes_before)} before, {_gigabytes(plan.disk_bytes)} after.")
    with_windows = f", with {plan.windows} windows of {plan.seqlen} tokens" if plan.windows else ""
    in_a_file = "; less if --max-memory keeps hidden states in a file" if plan.windows else ""
    print_line(
        f"Memory at most{with_windows}: about {_gigabytes(plan.peaks.cpu)} on a CPU, or {_gigabytes(plan.peaks.device)} on a "
        f"GPU{in_a_file}."
    )


def print_costs(plan: "Plan", rate: float, device: str) -> None:
    """Print the disk, operations and time of pruning."""
    costs, print_size = plan.costs, _gigabytes
    if not plan.windows:
        print_line(
            f"Artifacts: token counts {print_size(costs.norms_bytes)}, mask {print_size(costs.mask_bytes)}, model "
            f"{print_size(costs.model_bytes)}. The tokenizer counts tokens; no text runs through the model."
        )
        return
    statistics = print_size(costs.hessian_bytes + costs.drift_bytes)
    print_line(
        f"Artifacts: statistics {statistics} (only column norms {print_size(costs.norms_bytes)}), "
        f"mask {print_size(costs.mask_bytes)}, model {print_size(costs.model_bytes)}."
    )
    parts = [("forward", costs.forward_flops), ("Hessians", costs.hessian_flops), ("solving", costs.solving_flops)]
    if costs.divergence_flops:
        parts.insert(2, ("divergences", costs.divergence_flops))
    shares = ", ".join(f"{name} {flops / 1e12:,.3g}" for name, flops in parts)
    print_line(
        f"Operations of prune with its default method: {costs.flops / 1e12:,.3g} TFLOP ({shares}); at least "
        f"{_duration(costs.flops / rate)}, at the {rate / 1e12:,.3g} TFLOP/s of a large product on this {device}."
    )


def print_recovery(recovery: "RecoveryPlan", rate: float) -> None:
    """Print what each way to train takes, and which of them this machine has memory for."""
    device = str(recovery.device)
    print_line("")
    print_line(f"To recover on {recovery.tokens:,} tokens, in windows of {recovery.seqlen}:")
    rows = [
        [each.train, parameters(each.trained), _or_less(each.cpu, each.least_cpu), _or_less(each.device, each.least_device),
         f"{each.flops / 1e12:,.3g}", _duration(each.flops / rate)]
        for each in recovery.trainings
    ]  # fmt: skip
    print_table(["--train", "trained", "memory on a CPU", "on a GPU", "TFLOP", "at least"], rows)
    dtype = str(recovery.dtype).removeprefix("torch.")
    print_line(
        "The smaller size is that with gradient checkpointing, used where memory is short: one pass of the model more."
    )
    print_line(f"The dense model's logits take {_gigabytes(recovery.logits_bytes)} of disk.")
    print_line(f"The time is at the {rate / 1e12:,.3g} TFLOP/s of a large product in {dtype} on this {device}.")
    if recovery.free_bytes is not None:
        chosen = f"recover trains {recovery.chosen}" if recovery.chosen else "too little for any of them"
        print_line(f"{_gigabytes(recovery.free_bytes)} are free on this {device}: {chosen}.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _or_less(size: int, least: int) -> str:
    return f"{_gigabytes(size)}, {_gigabytes(least)}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
