"""The options that several commands share, spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.options import checks, completion
from langprune_cli.cli.options.completion import names_of
from langprune_cli.requests.shared import names
from langprune_cli.requests.shared.values import DEFAULT_WORKSPACE, WORKSPACE_VARIABLE, option_name

__all__ = ["DEFAULT_WORKSPACE"]

_INPUT = "What goes in"
COMPUTE = "How it is computed"
OUTPUT = "What comes out"

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar=WORKSPACE_VARIABLE,
        is_eager=True,  # what artifacts are called is checked when it is read
        help="Folder that holds all artifacts.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=OUTPUT)
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of all that is made; of several texts NAME-uk, NAME-en.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Make it again even where it is on disk already.", rich_help_panel=OUTPUT)
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be made, where and by which key, and whether it is there already. Text is read, for keys depend on "
        "it; nothing else is run, fetched or written.",
        rich_help_panel=OUTPUT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id, local folder, `demo`, or a model artifact; remembered by the workspace.",
        autocompletion=names_of("models", also=("demo",)),
        callback=checks.model,
        rich_help_panel=_INPUT,
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", rich_help_panel=_INPUT)
]
Lang = Annotated[
    list[str] | None,
    typer.Option(
        "--lang",
        "-l",
        autocompletion=completion.languages,
        help="Language: a tag, such as uk or pt-BR, or a name; may be given several times. langprune languages lists them. uk:96 "
        "and en:32 make one text, of so many windows each; of calibrate and prune.",
        rich_help_panel=_INPUT,
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Where the text of each --lang comes from: ubertext, c4, wikipedia, fineweb-2, wikitext, pile or flores; what "
        "suits the language if left out.",
        rich_help_panel=_INPUT,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Text: .jsonl[.gz], .txt, .parquet, a folder or pattern of these, hf:owner/name[:config][:split]\\[#column], or a "
        ".safetensors file of token windows. With --lang, paired in order.",
        rich_help_panel=_INPUT,
    ),
]
Seqlen = Annotated[
    int | None,
    typer.Option(
        "--seqlen",
        min=2,
        help=f"Tokens per window; {defaults.SEQLEN}, or the model's context if that is shorter.",
        rich_help_panel=_INPUT,
    ),
]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="auto (the checkpoint's own), float32, bfloat16 or float16.", rich_help_panel=COMPUTE),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=COMPUTE)]
BatchTokens = Annotated[
    int, typer.Option("--batch-tokens", min=1, help="Tokens that go through a block at once.", rich_help_panel=COMPUTE)
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", help="Cache of models from the hub; $HF_HOME is honoured too.", rich_help_panel=COMPUTE
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the model.", rich_help_panel=COMPUTE),
]
AllExperts = Annotated[
    bool,
    typer.Option(
        "--all-experts",
        help="Show every token to every expert of a mixture, for statistics; what the model computes stays the same.",
        rich_help_panel=COMPUTE,
    ),
]


def given(context: typer.Context) -> frozenset[str]:
    """Return the options of a command that stood on its command line, as they are spelled."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(option_name(name) for name, source in sources.items() if source and source.name == "COMMANDLINE")


Shard = Annotated[
    str | None,
    typer.Option(
        help="i/n: run the i-th of n parts of the windows, one on each of n machines; langprune combine stats adds them up.",
        rich_help_panel=_INPUT,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="Keep hidden states that take more than this, such as 8GB, in a file of the workspace; all in memory if left out.",
        rich_help_panel=COMPUTE,
    ),
]

CHOICE = "What is pruned"

Nsamples = Annotated[int, typer.Option(min=1, help="Windows per text.", rich_help_panel=_INPUT)]
Seed = Annotated[int, typer.Option(help="Seed of the draw.", rich_help_panel=_INPUT)]
Sampling = Annotated[
    str | None,
    typer.Option(
        help="document: a random window of each of some random documents; concat: random windows of the joined text. Left out: "
        "document where the text has enough long documents, else concat.",
        rich_help_panel=_INPUT,
    ),
]
Method = typer.Option(
    autocompletion=completion.one_of(names.METHODS),
    help=f"{completion.listed(names.WEIGHT_METHODS)}; of channels and groups {completion.listed(names.UNIT_METHODS)}; "
    f"of blocks {completion.listed(names.DEPTH_METHODS)}.",
    rich_help_panel=CHOICE,
)  # with a type of each command's own
Stats = Annotated[
    str | None,
    typer.Option(
        help="Statistics to use: a name, or a folder; the newest that will do if left out.",
        **checks.artifact("stats"),
        rich_help_panel=_INPUT,
    ),
]
Pattern = Annotated[
    list[str] | None,
    typer.Option(
        "--pattern",
        "-p",
        autocompletion=completion.patterns,
        help="unstructured (if left out), N:M = N kept of every M inputs, N:8 (the letter N) for an N of each block's own; or "
        f"{', '.join(names.SHARED)}, as {names.SHARED[0]}:0.1, or {', '.join(names.UNSHARED)}, which make the "
        "model smaller; several times if need be.",
        rich_help_panel=CHOICE,
    ),
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        "--sparsity",
        "-s",
        help="Fraction removed; if left out 0.5, of parts that leave whole 0.1.",
        rich_help_panel=CHOICE,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Channels that stay are a multiple of this; what suits the width if left out.",
        rich_help_panel=CHOICE,
    ),
]
Round = Annotated[
    str,
    typer.Option(
        "--round", help="down: no more is removed than asked; nearest: as AMD Quark rounds.", rich_help_panel=CHOICE
    ),
]
Variant = Annotated[
    bool,
    typer.Option("--variant", help="Wanda's variant: rows lose equal shares of importance.", rich_help_panel=CHOICE),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="row or layer: what weights are compared within; the method's own if left out.", rich_help_panel=CHOICE
    ),
]
Ties = Annotated[
    str | None,
    typer.Option(
        help="exact: the count asked for; together: all weights at the threshold leave (magnitude's own).",
        rich_help_panel=CHOICE,
    ),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="Tensors to leave dense, by checkpoint name.", rich_help_panel=CHOICE),
]
Refine = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of(names.REFINEMENTS),
        help="Better the mask afterwards: sparseswaps (by Hessians) or dsnot (by norms).",
        rich_help_panel=CHOICE,
    ),
]
Allocation = Annotated[
    str,
    typer.Option(
        autocompletion=completion.one_of(names.ALLOCATIONS),
        help="How sparsity is spread over blocks: uniform, owl, alpha or search.",
        rich_help_panel=CHOICE,
    ),
]
MinExpertTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Experts that fewer tokens of the calibration text reached are pruned by magnitude and not updated: "
        f"{defaults.MIN_EXPERT_TOKENS} if left out.",
        rich_help_panel=CHOICE,
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        help="Of --pattern vocab: the share of each language's running text whose tokens stay: "
        f"{defaults.COVERAGE} if left out.",
        rich_help_panel=CHOICE,
    ),
]
VocabSize = Annotated[
    int | None,
    typer.Option(help="Of --pattern vocab: how many tokens stay, instead of a coverage.", rich_help_panel=CHOICE),
]
KeepChat = Annotated[
    bool | None,
    typer.Option(
        "--keep-chat/--no-keep-chat",
        help="Of --pattern vocab: keep tokens of chats, Markdown and code, in the text or not: white space, punctuation, what "
        "the chat template writes, some 300 words of roles and code. On if left out.",
        rich_help_panel=CHOICE,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Of --pattern vocab: count this many tokens of each text: {defaults.MAX_TOKENS:,} if left out.",
        rich_help_panel=CHOICE,
    ),
]
Damping = Annotated[
    float | None,
    typer.Option(
        help=f"Share of a Hessian's mean diagonal that is added to it; {defaults.DAMPING} if left out, more where that cannot be "
        "factored.",
        rich_help_panel=CHOICE,
    ),
]
Update = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of(names.UPDATES),
        help="New values for the weights that stay: none, sparsegpt, pcg, or least-squares for channels and groups; "
        "what belongs to the method if left out.",
        rich_help_panel=CHOICE,
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Train what is left of each block to put out what the dense block does, on the same text; takes a while.",
        rich_help_panel=CHOICE,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of --tune, at most; it ends early where held-out windows no longer gain.", rich_help_panel=CHOICE
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Of --tune, at its start; what suits the model's width if left out.", rich_help_panel=CHOICE),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write to, instead of one in the workspace.", rich_help_panel=OUTPUT),
]
MaxShardSize = Annotated[
    str, typer.Option("--max-shard-size", help="Largest weight file, such as 500MB or 2GB.", rich_help_panel=OUTPUT)
]
