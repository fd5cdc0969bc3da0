"""The commands of the six stages: parse, call one library function, print. Torch is imported when a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from langprune_cli.cli import options as opt
from langprune_cli.cli.session import Session

_INPUT = "What goes in"
_CHOICE = "What is pruned"
_OUTPUT = "What comes out"


def calibrate(
    *,
    lang: opt.Lang = None,
    data: opt.Data = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    nsamples: Annotated[int, typer.Option(min=1, help="Windows per text.", rich_help_panel=_INPUT)] = 128,
    seqlen: opt.Seqlen = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", rich_help_panel=_INPUT)] = 0,
    sampling: Annotated[
        str,
        typer.Option(
            help="document: a random window of each of some random documents; concat: random windows of the joined text.",
            rich_help_panel=_INPUT,
        ),
    ] = "document",
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    batch_tokens: opt.BatchTokens = 2048,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Run text through the model and keep the norms of what each layer reads: one artifact per text.

    [bold]langprune calibrate --model Qwen/Qwen3-0.6B --lang uk --data texts.jsonl[/bold]
    """
    session = Session(workspace, json=json, dtype=dtype, device=device, batch_tokens=batch_tokens, cache_dir=cache_dir,
                      trust_remote_code=trust_remote_code)  # fmt: skip
    session.calibrate(
        model,
        revision,
        lang or [],
        data or [],
        nsamples=nsamples,
        seqlen=seqlen,
        seed=seed,
        sampling=sampling,
        name=name,
        force=force,
    )


_METHOD = typer.Option(help="magnitude, wanda, wanda-variant or ria.", rich_help_panel=_CHOICE)
_STATS = typer.Option(help="Statistics to use: a name, or a folder; the newest if left out.", rich_help_panel=_INPUT)


def score(
    *,
    method: Annotated[str, _METHOD] = "wanda",
    stats: Annotated[str | None, _STATS] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Write how important each weight is. Optional: `mask` computes the same scores as it goes.

    [bold]langprune score --method ria[/bold]
    """
    session = Session(workspace, json=json, device=device, cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    session.score(model, revision, method, stats, name=name, force=force)


def mask(
    *,
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern", "-p", help="unstructured, or N:M = N kept of every M inputs.", rich_help_panel=_CHOICE
        ),
    ] = "unstructured",
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", "-s", help="Fraction removed; 0.5 if left out.", rich_help_panel=_CHOICE),
    ] = None,
    method: Annotated[str | None, _METHOD] = None,
    variant: Annotated[
        bool,
        typer.Option(
            "--variant", help="Wanda's variant: rows lose equal shares of importance.", rich_help_panel=_CHOICE
        ),
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(
            help="row or layer: what weights are compared within; the method's own if left out.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    ties: Annotated[
        str | None,
        typer.Option(
            help="exact: the count asked for; together: all weights at the threshold leave (magnitude's own).",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Tensors to leave dense, by checkpoint name.", rich_help_panel=_CHOICE),
    ] = None,
    stats: Annotated[str | None, _STATS] = None,
    scores: Annotated[
        str | None, typer.Option(help="Scores to use instead of statistics and a method.", rich_help_panel=_INPUT)
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Choose the weights that stay, one bit each. Runs no forward pass: a second pattern takes seconds.

    [bold]langprune mask --pattern 2:4[/bold]
    """
    session = Session(workspace, json=json, device=device, cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    session.mask(
        model, revision, stats, scores, method=method, variant=variant, pattern=pattern, sparsity=sparsity, group=group,
        ties=ties, exclude=exclude, name=name, force=force,
    )  # fmt: skip


def apply(
    *,
    mask: Annotated[
        str | None, typer.Option(help="Mask to apply; the newest if left out.", rich_help_panel=_INPUT)
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write to, instead of one in the workspace.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Largest weight file, such as 500MB or 2GB.", rich_help_panel=_OUTPUT)
    ] = "2GB",
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Write the pruned model as a folder that transformers opens, and check it tensor by tensor.

    [bold]langprune apply --mask uk-wanda-2x4 --out ./pruned[/bold]
    """
    session = Session(workspace, json=json, device="cpu", cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    session.apply(model, revision, mask, out=out, max_shard_size=max_shard_size, name=name, force=force)


def evaluate(
    *,
    lang: opt.Lang = None,
    data: opt.Data = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="Mask to apply on the fly, no model is written; may be given several times.", rich_help_panel=_INPUT
        ),
    ] = None,
    seqlen: opt.Seqlen = None,
    max_windows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Evaluate the first windows only; of a dataset on the hub 256 if left out.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    batch_tokens: opt.BatchTokens = 2048,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Measure perplexity and bits per byte, dense beside pruned.

    [bold]langprune eval --lang uk --lang en[/bold]
    """
    session = Session(workspace, json=json, dtype=dtype, device=device, batch_tokens=batch_tokens, cache_dir=cache_dir,
                      trust_remote_code=trust_remote_code)  # fmt: skip
    session.evaluate(
        model,
        revision,
        mask or [],
        lang or [],
        data or [],
        seqlen=seqlen,
        max_windows=max_windows,
        name=name,
        force=force,
    )


def export(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="New or empty folder.", rich_help_panel=_OUTPUT)],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model artifact; the newest if left out.", rich_help_panel=_INPUT),
    ] = None,
    with_mask: Annotated[
        bool,
        typer.Option("--with-mask", help="Add the keep masks.", rich_help_panel=_OUTPUT),
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Copy a pruned model to a folder to share, with tokenizer, model card and provenance.

    [bold]langprune export --out ./llama-uk-2x4[/bold]
    """
    Session(workspace, json=json).export(model, out, with_mask=with_mask)
