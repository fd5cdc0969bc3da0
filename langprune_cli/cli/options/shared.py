"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.options import checks, completion
from langprune_cli.cli.options.completion import names_of
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
Stats = Annotated[
    str | None,
    typer.Option(
        help="Statistics to use: a name, or a folder; by default the newest that fit.",
        **checks.artifact("stats"),
        rich_help_panel=_INPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write to, instead of the workspace.", rich_help_panel=OUTPUT),
]
MaxShardSize = Annotated[
    str, typer.Option("--max-shard-size", help="Largest file of weights, such as 500MB or 2GB.", rich_help_panel=OUTPUT)
]
TextOnly = Annotated[
    bool,
    typer.Option(
        "--text-only",
        help="Of a model that reads images, write the text tower alone, as a causal language model.",
        rich_help_panel=OUTPUT,
    ),
]
