"""The command `recover`: parse, call one library function, print. It imports torch only when it runs."""

from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.display.made import console, show_made
from langprune_cli.cli.options import checks
from langprune_cli.cli.options import shared as opt
from langprune_cli.cli.options.completion import names_of

_TRAINING = "Training"
_INPUT = "Input"


def recover(
    context: typer.Context,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Pruned model: an artifact, by default the newest, or a folder.",
            autocompletion=names_of("models"),
            callback=checks.model,
            rich_help_panel=_INPUT,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Model to learn from; by default the dense model that --model was made from.", rich_help_panel=_INPUT
        ),
    ] = None,
    lang: opt.Lang = None,
    corpus: opt.Corpus = None,
    data: opt.Data = None,
    tokens: Annotated[
        str, typer.Option(help="Tokens to train on: 300k, 2M. A shorter text is read again.", rich_help_panel=_INPUT)
    ] = "1M",
    seqlen: Annotated[
        int, typer.Option(min=2, help="Tokens per window.", rich_help_panel=_INPUT)
    ] = defaults.TRAINING_SEQLEN,
    seed: Annotated[int, typer.Option(help="Random seed of the order of windows.", rich_help_panel=_INPUT)] = 0,
    train: Annotated[
        str | None,
        typer.Option(
            help="all weights, lora (matrices of low rank, merged under the mask), or norms (norms and biases); by default the "
            "first that fits into memory.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens per step of the optimizer; by default 512 to 2048, for 400 steps or more.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="The highest rate; by default as suits --train, --batch-tokens, the model's width and what was lost.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Keep the dense model in memory beside the pruned one, instead of its most likely tokens on disk.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the products: auto, float32, bfloat16. auto is bfloat16 for 16-bit models where the device is not slower "
            "with it. Weights are float32 while they are trained.",
            rich_help_panel=opt.COMPUTE,
        ),
    ] = "auto",
    log_to: Annotated[
        str | None,
        typer.Option(
            help="trackio, wandb or tensorboard, where installed: loss, held-out loss, rate and tokens go there too.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    out: opt.Out = None,
    max_shard_size: opt.MaxShardSize = defaults.MAX_SHARD_SIZE,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Train a pruned model end to end to predict what the dense model predicts. Its zeros stay zero.

    [bold]langprune recover --model uk-wanda-2x4 --lang uk --tokens 2M[/bold]
    """
    from langprune_cli.requests.recover import RecoverRequest, recover  # noqa: PLC0415 - --help needs no requests

    request = RecoverRequest(
        model=model, teacher=teacher, lang=lang or (), corpus=corpus, data=data or (), tokens=tokens, seqlen=seqlen, seed=seed,
        train=train, batch_tokens=batch_tokens, learning_rate=learning_rate, online=online, dtype=dtype, log_to=log_to, out=out,
        max_shard_size=max_shard_size, device=device, cache_dir=cache_dir, trust_remote_code=trust_remote_code, name=name,
        force=force, dry_run=dry_run, workspace=workspace, reporter=console(workspace, dry_run=dry_run),
        team=context.obj,
    )  # fmt: skip
    show_made(recover(request), json=json)
