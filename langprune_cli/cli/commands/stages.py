"""The commands of the first four stages: parse, call one library function, print. They import torch only when they run."""

from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.display.made import console, show_made
from langprune_cli.cli.options import checks, choice
from langprune_cli.cli.options import shared as opt

_TRAINING = "Training"
_INPUT = "Input"
_OUTPUT = "Output"


def calibrate(
    context: typer.Context,
    *,
    lang: opt.Lang = None,
    corpus: opt.Corpus = None,
    data: opt.Data = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    nsamples: opt.Nsamples = defaults.NSAMPLES,
    seqlen: opt.Seqlen = None,
    seed: opt.Seed = 0,
    sampling: opt.Sampling = None,
    collect: Annotated[
        str,
        typer.Option(
            help="norms; hessian: also sums of x x\u1d40, for sparsegpt, admm and the updates; or tokens: how often each "
            "token occurs, which needs only the tokenizer.",
            rich_help_panel=_INPUT,
        ),
    ] = "norms",
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"For --collect tokens: count documents up to this many tokens; default {defaults.MAX_TOKENS:,}.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    shard: opt.Shard = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    batch_tokens: opt.BatchTokens = defaults.BATCH_TOKENS,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    all_experts: opt.AllExperts = False,
    max_memory: opt.MaxMemory = None,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Run text through the model and store the norms of each linear's inputs: one artifact per text.

    [bold]langprune calibrate --model Qwen/Qwen3-0.6B --lang uk --data texts.jsonl[/bold]
    """
    from langprune_cli.requests.calibrate import CalibrateRequest, calibrate  # noqa: PLC0415 - --help needs no requests

    request = CalibrateRequest(
        lang=lang or (), corpus=corpus, data=data or (), model=model, revision=revision, nsamples=nsamples, seqlen=seqlen,
        seed=seed, sampling=sampling, collect=collect, max_tokens=max_tokens, shard=shard, dtype=dtype, device=device,
        batch_tokens=batch_tokens, cache_dir=cache_dir, trust_remote_code=trust_remote_code, all_experts=all_experts,
        max_memory=max_memory, name=name, force=force, dry_run=dry_run, workspace=workspace,
        reporter=console(workspace, dry_run=dry_run), given=opt.given(context),
        team=context.obj,
    )  # fmt: skip
    show_made(calibrate(request), json=json)


def score(
    *,
    method: Annotated[str, choice.Method] = "wanda",
    stats: opt.Stats = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Write the importance of each weight. Optional: without it, `mask` computes the same scores itself.

    [bold]langprune score --method ria[/bold]
    """
    from langprune_cli.requests.score import ScoreRequest, score  # noqa: PLC0415 - --help needs no requests

    request = ScoreRequest(
        method=method, stats=stats, model=model, revision=revision, device=device, cache_dir=cache_dir,
        trust_remote_code=trust_remote_code, name=name, force=force, dry_run=dry_run, workspace=workspace,
        reporter=console(workspace, dry_run=dry_run),
    )  # fmt: skip
    show_made(score(request), json=json)


def mask(
    *,
    pattern: choice.Pattern = None,
    sparsity: choice.Sparsity = None,
    method: Annotated[str | None, choice.Method] = None,
    round_to: choice.RoundTo = None,
    rounding: choice.Round = "down",
    coverage: choice.Coverage = None,
    vocab_size: choice.VocabSize = None,
    keep_chat: choice.KeepChat = None,
    variant: choice.Variant = False,
    group: choice.Group = None,
    ties: choice.Ties = None,
    exclude: choice.Exclude = None,
    refine: choice.Refine = None,
    allocation: choice.Allocation = "uniform",
    damping: choice.Damping = None,
    min_expert_tokens: choice.MinExpertTokens = None,
    stats: opt.Stats = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Scores to use instead of statistics and a method.",
            **checks.artifact("scores"),
            rich_help_panel=_INPUT,
        ),
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Choose the weights to keep, one bit each. Runs no forward pass: a second pattern takes seconds.

    [bold]langprune mask --pattern 2:4[/bold]
    """
    from langprune_cli.requests.mask import MaskRequest, mask  # noqa: PLC0415 - --help needs no requests

    request = MaskRequest(
        pattern=pattern or (), sparsity=sparsity, method=method, round_to=round_to, rounding=rounding, coverage=coverage,
        vocab_size=vocab_size, keep_chat=keep_chat, variant=variant, group=group, ties=ties, exclude=exclude, refine=refine,
        allocation=allocation, damping=damping, min_expert_tokens=min_expert_tokens, stats=stats, scores=scores, model=model,
        revision=revision, device=device, cache_dir=cache_dir, trust_remote_code=trust_remote_code, name=name, force=force,
        dry_run=dry_run, workspace=workspace, reporter=console(workspace, dry_run=dry_run),
    )  # fmt: skip
    show_made(mask(request), json=json)


def apply(
    context: typer.Context,
    *,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Mask to apply; by default the newest. With --reapply also the mask/keep_masks.safetensors of an exported "
            "model.",
            **checks.artifact("masks"),
            rich_help_panel=_INPUT,
        ),
    ] = None,
    reapply: Annotated[
        bool,
        typer.Option(
            "--reapply",
            help="Apply the mask again to --model, which was trained after pruning, and count the weights that came back.",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    update: choice.Update = None,
    stats: opt.Stats = None,
    damping: choice.Damping = None,
    tune: choice.Tune = False,
    epochs: choice.Epochs = None,
    learning_rate: choice.LearningRate = None,
    recover: choice.Recover = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    out: opt.Out = None,
    max_shard_size: opt.MaxShardSize = defaults.MAX_SHARD_SIZE,
    text_only: opt.TextOnly = False,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Update the kept weights, write the model as a folder for transformers, and check it tensor by tensor.

    [bold]langprune apply --mask uk-wanda-2x4 --update sparsegpt --out ./pruned[/bold]
    """
    from langprune_cli.requests.apply import ApplyRequest, apply  # noqa: PLC0415 - --help needs no requests

    request = ApplyRequest(
        mask=mask, reapply=reapply, update=update, stats=stats, damping=damping, tune=tune, epochs=epochs,
        learning_rate=learning_rate, recover=recover, model=model, revision=revision, out=out, max_shard_size=max_shard_size,
        text_only=text_only, device=device,
        cache_dir=cache_dir, trust_remote_code=trust_remote_code, name=name, force=force, dry_run=dry_run,
        workspace=workspace, reporter=console(workspace, dry_run=dry_run), team=context.obj,
    )  # fmt: skip
    show_made(apply(request), json=json)
