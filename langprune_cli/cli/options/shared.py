"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.options import checks, completion
from langprune_cli.cli.options.completion import names_of
from langprune_cli.requests.shared import names
from langprune_cli.requests.shared.values import DEFAULT_WORKSPACE, WORKSPACE_VARIABLE, option_name

__all__ = ["DEFAULT_WORKSPACE"]

_INPUT = "Input"
COMPUTE = "Computation"
OUTPUT = "Output"

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar=WORKSPACE_VARIABLE,
        is_eager=True,  # names of artifacts are checked against it during parsing
        help="Folder of all artifacts.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=OUTPUT)
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of new artifacts; with several texts NAME-uk, NAME-en.", rich_help_panel=OUTPUT),
]
Force = Annotated[bool, typer.Option("--force", help="Make it again even if it exists.", rich_help_panel=OUTPUT)]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be made, with place and key, and whether it exists. Reads text, as keys depend on it; runs, "
        "fetches and writes nothing else.",
        rich_help_panel=OUTPUT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id, local folder, `demo`, or a model artifact; the workspace remembers it.",
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
        help="Language: a tag, such as uk or pt-BR, or a name; repeatable. langprune languages lists them. In calibrate and "
        "prune, uk:96 and en:32 make one text of 96 and 32 windows.",
        rich_help_panel=_INPUT,
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Source of each --lang's text: ubertext, c4, wikipedia, fineweb-2, wikitext, pile or flores; by default the "
        "best known for the language.",
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
    int, typer.Option("--batch-tokens", min=1, help="Tokens per pass through a block.", rich_help_panel=COMPUTE)
]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", help="Cache of hub models; by default below $HF_HOME.", rich_help_panel=COMPUTE),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code shipped with the model.", rich_help_panel=COMPUTE),
]
AllExperts = Annotated[
    bool,
    typer.Option(
        "--all-experts",
        help="Collect statistics of every expert of a mixture on every token; the model's outputs do not change.",
        rich_help_panel=COMPUTE,
    ),
]


def given(context: typer.Context) -> frozenset[str]:
    """Return the options that the user spelled out on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(option_name(name) for name, source in sources.items() if source and source.name == "COMMANDLINE")


Shard = Annotated[
    str | None,
    typer.Option(
        help="i/n: run only the i-th of n parts of the windows, for n machines; langprune combine stats adds them up.",
        rich_help_panel=_INPUT,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="Keep hidden states above this size, such as 8GB, in a file of the workspace; by default all stay in memory.",
        rich_help_panel=COMPUTE,
    ),
]

CHOICE = "Pruning"

Nsamples = Annotated[int, typer.Option(min=1, help="Windows per text.", rich_help_panel=_INPUT)]
Seed = Annotated[int, typer.Option(help="Random seed of drawing windows.", rich_help_panel=_INPUT)]
Sampling = Annotated[
    str | None,
    typer.Option(
        help="document: one random window from each of some random documents; concat: random windows of the joined text. By "
        "default document if the text has enough long documents, else concat.",
        rich_help_panel=_INPUT,
    ),
]
Method = typer.Option(
    autocompletion=completion.one_of(names.METHODS),
    help=f"{completion.listed(names.WEIGHT_METHODS)}; for channels and KV groups {completion.listed(names.UNIT_METHODS)}; "
    f"for blocks {completion.listed(names.DEPTH_METHODS)}.",
    rich_help_panel=CHOICE,
)  # each command adds its type
Stats = Annotated[
    str | None,
    typer.Option(
        help="Statistics to use: a name, or a folder; by default the newest that fit.",
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
        help="unstructured (the default), N:M to keep N of every M inputs, N:8 (the letter N) for another N in each block; or "
        f"{', '.join(names.SHARED)}, as {names.SHARED[0]}:0.1, or {', '.join(names.UNSHARED)}, which make the "
        "model smaller; repeatable.",
        rich_help_panel=CHOICE,
    ),
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        "--sparsity",
        "-s",
        help="Fraction to remove; default 0.5, or 0.1 for channels, KV groups and blocks.",
        rich_help_panel=CHOICE,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Round the number of kept channels to a multiple of this; by default as suits the width.",
        rich_help_panel=CHOICE,
    ),
]
Round = Annotated[
    str,
    typer.Option(
        "--round", help="down: remove no more than the fraction; nearest: as AMD Quark rounds.", rich_help_panel=CHOICE
    ),
]
Variant = Annotated[
    bool,
    typer.Option("--variant", help="Wanda's variant: rows lose equal shares of importance.", rich_help_panel=CHOICE),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="row or layer: the group to compare weights within; by default the method's.", rich_help_panel=CHOICE
    ),
]
Ties = Annotated[
    str | None,
    typer.Option(
        help="exact: remove the exact number; together: remove all weights at the threshold (magnitude's default).",
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
        help="Refine the mask: sparseswaps (with Hessians) or dsnot (with norms).",
        rich_help_panel=CHOICE,
    ),
]
Allocation = Annotated[
    str,
    typer.Option(
        autocompletion=completion.one_of(names.ALLOCATIONS),
        help="How to spread sparsity over blocks: uniform, owl, alpha or search.",
        rich_help_panel=CHOICE,
    ),
]
MinExpertTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Prune experts that saw fewer tokens of the calibration text by magnitude, without update; default "
        f"{defaults.MIN_EXPERT_TOKENS}.",
        rich_help_panel=CHOICE,
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        help="For --pattern vocab: the share of each language's running text that the kept tokens cover; default "
        f"{defaults.COVERAGE}.",
        rich_help_panel=CHOICE,
    ),
]
VocabSize = Annotated[
    int | None,
    typer.Option(help="For --pattern vocab: tokens to keep, instead of a coverage.", rich_help_panel=CHOICE),
]
KeepChat = Annotated[
    bool | None,
    typer.Option(
        "--keep-chat/--no-keep-chat",
        help="For --pattern vocab: keep tokens of chats, Markdown and code even if the text lacks them: white space, "
        "punctuation, the chat template, some 300 words of roles and code. On by default.",
        rich_help_panel=CHOICE,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"For --pattern vocab: count this many tokens of each text; default {defaults.MAX_TOKENS:,}.",
        rich_help_panel=CHOICE,
    ),
]
Damping = Annotated[
    float | None,
    typer.Option(
        help=f"Share of a Hessian's mean diagonal to add to it; default {defaults.DAMPING}, more if it cannot be factored.",
        rich_help_panel=CHOICE,
    ),
]
Update = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.one_of(names.UPDATES),
        help="How to update the kept weights: none, sparsegpt, pcg, or least-squares for channels and KV groups; "
        "by default as the method does.",
        rich_help_panel=CHOICE,
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Train each pruned block to reproduce the dense block's outputs, on the same text; takes a while.",
        rich_help_panel=CHOICE,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1, help="For --tune, at most; ends early when held-out windows stop gaining.", rich_help_panel=CHOICE
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(help="For --tune: the initial rate; by default as suits the model's width.", rich_help_panel=CHOICE),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write to, instead of the workspace.", rich_help_panel=OUTPUT),
]
MaxShardSize = Annotated[
    str, typer.Option("--max-shard-size", help="Largest file of weights, such as 500MB or 2GB.", rich_help_panel=OUTPUT)
]
