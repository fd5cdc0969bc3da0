"""The options that several commands share, spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

_INPUT = "What goes in"
_COMPUTE = "How it is computed"
_OUTPUT = "What comes out"

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="LANGPRUNE_WORKSPACE",
        help="Folder that holds all artifacts.",
        rich_help_panel=_OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=_OUTPUT)
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Name of the artifact; chosen from its settings if left out.", rich_help_panel=_OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Make it again even where it is on disk already.", rich_help_panel=_OUTPUT)
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id, local folder, `demo`, or a model artifact; remembered by the workspace.",
        rich_help_panel=_INPUT,
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", rich_help_panel=_INPUT)
]
Lang = Annotated[
    list[str] | None,
    typer.Option("--lang", "-l", help="Language tag, such as uk; may be given several times.", rich_help_panel=_INPUT),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Text: .jsonl[.gz], .txt, .parquet, a folder, hf:owner/name[:config][:split]\\[#column], or a .safetensors "
        "file of token windows. With --lang, paired in order.",
        rich_help_panel=_INPUT,
    ),
]
Seqlen = Annotated[
    int | None,
    typer.Option(
        "--seqlen",
        min=2,
        help="Tokens per window; 2048, or the model's context if that is shorter.",
        rich_help_panel=_INPUT,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto (the checkpoint's own), float32, bfloat16 or float16.", rich_help_panel=_COMPUTE
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=_COMPUTE)]
BatchTokens = Annotated[
    int, typer.Option("--batch-tokens", min=1, help="Tokens that go through a block at once.", rich_help_panel=_COMPUTE)
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", help="Cache of models from the hub; $HF_HOME is honoured too.", rich_help_panel=_COMPUTE
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the model.", rich_help_panel=_COMPUTE),
]
DEFAULT_WORKSPACE = Path("langprune-workspace")
