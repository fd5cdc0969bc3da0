"""The model card of an exported model: what was pruned, how, on which text, and what it cost."""

from pathlib import Path
from typing import Any

from langprune_cli.store.artifact import Artifact
from langprune_cli.text.hub import HUB_PREFIX
from langprune_cli.text.sources import BUILTIN_PREFIX


def public_name(name: str, revision: str | None = None) -> str:
    """Return a model's or text's name as it may be published: what lies on the hub as it is, a path without its folders."""
    public = revision is not None or name.startswith((HUB_PREFIX, BUILTIN_PREFIX))
    return name if public else Path(name).name


def model_card(model: Artifact, rows: list[dict[str, Any]], title: str) -> str:
    """Return README.md of an exported model.

    `rows` are pairs of evaluation rows: {"pruned": row, "dense": row or None}.
    """
    about = model.manifest.about
    mask, text = about["mask"], about["text"]
    revision = about["model"]["revision"]
    base = public_name(about["model"]["name"], revision)
    removed = about["checked"]["sparsity"]
    languages = sorted({row["pruned"]["language"] for row in rows if row["pruned"]["language"]} | _language(text))
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- pruning", "- langprune"]
    if revision:  # only a hub id means something to others
        front += [f"base_model: {base}"]
    if languages:
        front += ["language:", *(f"- {language}" for language in languages)]
    lines = [
        *front,
        "---",
        "",
        f"# {title}",
        "",
        f"{base} with {removed:.1%} of the weights of its blocks' linears set to zero, in one shot, after training,",
        f"by {model.manifest.tool}. Embeddings, norms and head are unchanged. The weights are stored dense, in the base",
        "model's dtype; any tool that loads the base model loads this one.",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {base}{f' at {revision}' if revision else ''} |",
        f"| method | {mask['method']} |",
        f"| pattern | {_pattern(mask)} |",
        f"| update of surviving weights | {model.manifest.params['update']} |",
        f"| calibration text | {_text(text)} |",
        "",
        "## Evaluation",
        "",
    ]
    if rows:
        lines += [
            "| text | seqlen | predicted tokens | ppl dense | ppl pruned | bpb dense | bpb pruned |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_row(row["pruned"], row["dense"]) for row in rows]
        lines += ["", "Perplexity over consecutive windows of the joined text; bpb is bits per UTF-8 byte."]
    else:
        lines += ["Not evaluated. `langprune eval` measures it; export again afterwards to have the figures here."]
    return "\n".join(lines) + "\n"


def _language(text: dict[str, Any] | None) -> set[str]:
    return {text["language"]} if text and text["language"] else set()


def _pattern(mask: dict[str, Any]) -> str:
    """Return the pattern in words; N:M needs no group."""
    if "group" not in mask:
        return (
            f"{mask['pattern']} (of every {mask['pattern'].split(':')[1]} inputs, {mask['pattern'].split(':')[0]} stay)"
        )
    return f"unstructured, {mask['sparsity']:.0%} of each {mask['group']}"


def _text(text: dict[str, Any] | None) -> str:
    if text is None:
        return "none"
    language = f"{text['language']}, " if text["language"] else ""
    seed = f", seed {text['seed']}" if text["seed"] is not None else ""
    return (
        f"{language}{public_name(text['source'])}: {text['windows']} windows of {text['seqlen']} tokens "
        f"({text['sampling']}{seed}), fingerprint {text['fingerprint'][:16]}"
    )


def _row(pruned: dict[str, Any], dense: dict[str, Any] | None) -> str:
    def figure(row: dict[str, Any] | None, key: str) -> str:
        return f"{row[key]:.4g}" if row and row[key] is not None else "-"

    text = f"{public_name(pruned['source'])}" + (f" ({pruned['language']})" if pruned["language"] else "")
    cells = [text, str(pruned["seqlen"]), f"{pruned['tokens']:,}"]
    cells += [figure(row, key) for key in ("ppl", "bpb") for row in (dense, pruned)]
    return f"| {' | '.join(cells)} |"
