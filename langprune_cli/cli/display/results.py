"""Tables of results on stdout."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.errors import LangpruneError
from langprune_cli.stages.evaluate.rows import SizeRow, model_label, with_bits
from langprune_cli.stages.recover.looks import kept_look, read_looks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from langprune_cli.stages.solving.updating import PrunedLinear
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.manifest import Manifest


def describe(artifact: Artifact) -> str:
    """Return a short description of an artifact, or a remark if another program's manifest lacks it."""
    try:
        return _described(artifact)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError):
        return "its manifest lacks a description: make it again"


def _described(artifact: Artifact) -> str:
    manifest = artifact.manifest
    about, params, inputs = manifest.about, manifest.params, manifest.inputs
    if not manifest.complete:
        return "not complete: run its command again"
    measured = {"stats": _describe_stats, "logits": _describe_logits, "divergences": _describe_divergences}
    if manifest.kind in measured:
        return measured[manifest.kind](manifest)
    if manifest.kind == "scores":
        return f"{params['method']} from {about['stats'] or 'weights alone'}"
    if manifest.kind == "masks":
        removed = f"{about['removed'] / about['weights']:.2%} of {about['weights']:,} weights removed"
        if size := about.get("hidden"):
            removed = f"hidden size {size['before']:,} -> {size['after']:,}"
        removed += f", {params['exclude']} left out" if params["exclude"] else ""
        judged_on = about.get("judged_on", {}).get("name")
        made_from = about["stats"] or judged_on or ", ".join(about.get("masks", ())) or "weights alone"
        return f"{params['method']} {params['pattern']} from {made_from}, {removed}"
    if manifest.kind == "models":
        base = about["model"]["name"].rpartition("/")[2]
        checked = about["checked"]
        if "parameters_after" in checked:
            before, after = checked["parameters_before"], checked["parameters_after"]
            what = f"{before:,} -> {after:,} parameters ({1 - after / before:.4%} removed)"
        else:
            what = f"{checked['sparsity']:.2%} zeros"
        return f"{base} with mask {about['mask']['name']}{_trained(artifact)}, {what}, checked"
    cells, tasks = inputs["cells"], len(inputs.get("tasks", {}).get("names", []))
    rows = with_bits(f"{len(cells)} rows", cells[0].get("bits") if cells else None)
    return ", ".join([rows] * (bool(cells) or not tasks) + [f"{tasks} tasks"] * (tasks > 0))


def _trained(artifact: Artifact) -> str:
    """Return what recovery trained, on how many tokens, and what it brought, after a comma; nothing for other models."""
    if "recovered" not in (about := artifact.manifest.about):
        return ""
    brought = ""
    with suppress(LangpruneError):  # a part that is damaged: verify says so
        looks = read_looks(artifact)
        brought = f", {looks[0]['held_out']:.4f} -> {looks[kept_look(looks)]['held_out']:.4f} nats from the dense model"
    return f", trained on {about['recovered']['tokens']:,} tokens ({about['recovered']['train']}{brought})"


def model_of(manifest: Manifest) -> str | None:
    """Return the name of an artifact's model, without folders; None if its manifest does not say."""
    try:
        return str(manifest.about["model"]["name"]).rpartition("/")[2]
    except (KeyError, TypeError):
        return None


def languages_of(manifest: Manifest) -> list[str]:
    """Return the languages of the text behind an artifact, or of an evaluation's texts."""
    try:
        about, inputs = manifest.about, manifest.inputs
        text = inputs.get("text") or about.get("text") or {}
        found = [text.get("language"), *(each.get("language") for each in text.get("texts", ()))]
        return sorted({str(each) for each in [*found, *(cell["language"] for cell in inputs.get("cells", ()))] if each})
    except (KeyError, TypeError, AttributeError):
        return []


def evaluated(folder: Path, manifest: Manifest) -> list[str]:
    """Return an evaluation's models and masks, the dense one first; nothing for other artifacts."""
    if manifest.kind != "evals" or not manifest.complete:
        return []
    try:
        rows = json.loads((folder / "result.json").read_bytes())["rows"]
        return list(dict.fromkeys(f"mask {row['mask']}" if row["mask"] else model_label(row) for row in rows))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _describe_stats(manifest: Manifest) -> str:
    about, params = manifest.about, manifest.params
    if "tokens" in params["collect"]:
        counted = about["counted"]
        tokens = ", ".join(f"{each['tokens']:,} tokens of {label}" for label, each in counted.items())
        return f"{tokens}, counted over a vocabulary of {params['vocab_size']:,}"
    text = manifest.inputs["text"]
    how = manifest.text.get("sampling") or f"of {len(manifest.text['texts'])} texts"
    if "weights" in params:
        shares = zip(about["stats"] or (), params["weights"], strict=True)
        how += f" ({', '.join(f'{share:g} {name}' for name, share in shares)} per {params['per']})"
    return f"{text['windows']} windows of {text['seqlen']} tokens, {how}, {params['dtype']}"


def _describe_logits(manifest: Manifest) -> str:
    params, text = manifest.params, manifest.inputs["text"]
    return f"{params['top']} tokens of each position, {text['windows']} windows of {text['seqlen']}, {params['dtype']}"


def _describe_divergences(manifest: Manifest) -> str:
    sparsities = ", ".join(f"{each:g}" for each in manifest.params["sparsities"])
    return f"of each linear from {manifest.about['stats']}, pruned at {sparsities}"


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print one line per artifact: kind, name, description, and whether it was made now."""
    for outcome in outcomes:
        artifact = outcome.artifact
        state = "already there, nothing to do" if outcome.cached else f"{outcome.seconds:.1f} s"
        print_line(f"{artifact.manifest.kind}/{artifact.name}: {describe(artifact)} ({state})")
        tails = artifact.manifest.about.get("dense_tail_columns")
        if tails:
            print_line(
                f"  M does not divide the width of {len(tails)} linears; their last columns stay dense: {_some(tails)}"
            )


def _some(tails: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(tails.items())[:3]]
    return ", ".join(shown) + (", ..." if len(tails) > 3 else "")


def print_pruned(linears: Sequence[PrunedLinear], seconds: dict[int, float]) -> None:
    """Print each block's sparsity, the relative error of each linear, and the time.

    Linears appear by the last words of their names, which are the same in all blocks.
    """
    blocks: dict[int, dict[str, PrunedLinear]] = {}
    for each in linears:
        blocks.setdefault(each.block, {})[each.linear.split(".")[-2]] = each
    columns = list(dict.fromkeys(name for block in blocks.values() for name in block))
    rows = []
    for index, block in blocks.items():
        removed = sum(each.removed for each in block.values()) / sum(each.weights for each in block.values())
        errors = [_percent(block[name].error) if name in block else "" for name in columns]
        rows.append([str(index), f"{removed:.2%}", *errors, f"{seconds[index]:.1f}" if index in seconds else ""])
    print_line("Relative reconstruction error of each linear (squared, on the calibration text):")
    print_table(["layer", "sparsity", *columns, "seconds"], rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def print_sizes(rows: Sequence[SizeRow]) -> None:
    """Print the rows of `stages.evaluate.rows.size_rows`, if any."""
    several = len({row["pruned"] for row in rows}) > 1
    lines = [
        [
            row["pruned"] if several else row["model"],
            parameters(row["parameters_before"]),
            f"{row['pruning_rate']:.4%}",
            parameters(row["parameters_after"]),
            row["text"],
            *("inf" if ppl is None else f"{ppl:.4f}" for ppl in (row["ppl_before"], row["ppl_after"])),
        ]
        for row in rows
    ]
    if lines:
        columns = ["model", "size", "pruning rate", "pruned size", "text", "ppl before pruning", "ppl after pruning"]
        print_table(columns, lines)


def parameters(count: int) -> str:
    """Return a number of parameters in words: 6.7384 B."""
    return f"{count / 1e9:.4f} B" if count >= 1e9 else f"{count / 1e6:.4f} M"
