"""Options about what is pruned, and how it is chosen, spelled and explained once."""

from typing import Annotated

import typer

from langprune_cli import defaults
from langprune_cli.cli.options import completion
from langprune_cli.requests.shared import names

CHOICE = "Pruning"

Method = typer.Option(
    autocompletion=completion.one_of(names.METHODS),
    help=f"{completion.listed(names.WEIGHT_METHODS)}; for channels and KV groups {completion.listed(names.UNIT_METHODS)}; "
    f"for experts {completion.listed(names.EXPERT_METHODS)}; for blocks {completion.listed(names.DEPTH_METHODS)}; for the hidden "
    f"size {completion.listed(names.HIDDEN_METHODS)}.",
    rich_help_panel=CHOICE,
)  # each command adds its type
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
        help="Fraction to remove; default 0.5, or 0.1 for what makes the model smaller.",
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
        "--round",
        help="down: remove no more than the fraction; nearest: as AMD Quark rounds, and the nearest number of KV groups that the "
        "model's configuration allows.",
        rich_help_panel=CHOICE,
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
        help="How to spread sparsity: uniform; over blocks: owl, alpha or search; over linears: fisher.",
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
Recover = Annotated[
    str | None,
    typer.Option(
        "--recover",
        help="Then train the pruned model end to end on so many tokens of the text (300k, 2M), as langprune recover does.",
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
