"""The command `prune`: all stages up to the pruned model, block by block."""

from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.display.made import console, show_pruned
from langprune_cli.cli.options import choice
from langprune_cli.cli.options import shared as opt


def prune(
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
    method: Annotated[str | None, choice.Method] = None,
    pattern: choice.Pattern = None,
    sparsity: choice.Sparsity = None,
    round_to: choice.RoundTo = None,
    rounding: choice.Round = "down",
    coverage: choice.Coverage = None,
    vocab_size: choice.VocabSize = None,
    keep_chat: choice.KeepChat = None,
    max_tokens: choice.MaxTokens = None,
    variant: choice.Variant = False,
    group: choice.Group = None,
    ties: choice.Ties = None,
    exclude: choice.Exclude = None,
    refine: choice.Refine = None,
    allocation: choice.Allocation = "uniform",
    update: choice.Update = None,
    damping: choice.Damping = None,
    min_expert_tokens: choice.MinExpertTokens = None,
    tune: choice.Tune = False,
    epochs: choice.Epochs = None,
    learning_rate: choice.LearningRate = None,
    recover: choice.Recover = None,
    propagation: Annotated[
        str | None,
        typer.Option(
            help="pruned: calibrate each block on the outputs of the pruned blocks before it; corrected: and make up for what "
            "they have lost; dense: of the dense blocks. Default: the method's own.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    batch_tokens: opt.BatchTokens = defaults.BATCH_TOKENS,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    all_experts: opt.AllExperts = False,
    max_memory: opt.MaxMemory = None,
    out: opt.Out = None,
    max_shard_size: opt.MaxShardSize = defaults.MAX_SHARD_SIZE,
    text_only: opt.TextOnly = False,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Calibrate, choose, update and write the pruned model in one go, block by block. The defaults measured best.

    [bold]langprune prune --model Qwen/Qwen3-0.6B --lang uk --pattern 2:4[/bold]
    """
    from langprune_cli.requests.prune import PruneRequest, prune  # noqa: PLC0415 - --help needs no requests

    request = PruneRequest(
        lang=lang or (), corpus=corpus, data=data or (), model=model, revision=revision, nsamples=nsamples, seqlen=seqlen,
        seed=seed, sampling=sampling, method=method, pattern=pattern or (), sparsity=sparsity, round_to=round_to,
        rounding=rounding, coverage=coverage, vocab_size=vocab_size, keep_chat=keep_chat, max_tokens=max_tokens,
        variant=variant, group=group, ties=ties, exclude=exclude, refine=refine, allocation=allocation, update=update,
        damping=damping, min_expert_tokens=min_expert_tokens, tune=tune, epochs=epochs, learning_rate=learning_rate,
        recover=recover, propagation=propagation, dtype=dtype, device=device, batch_tokens=batch_tokens, cache_dir=cache_dir,
        trust_remote_code=trust_remote_code, all_experts=all_experts, max_memory=max_memory, out=out,
        max_shard_size=max_shard_size, text_only=text_only, name=name, force=force, dry_run=dry_run, workspace=workspace,
        reporter=console(workspace, dry_run=dry_run), given=opt.given(context),
        team=context.obj,
    )  # fmt: skip
    show_pruned(prune(request), json=json)
