"""Finds models that pruning ruined, and suggests untried remedies from their manifests."""

from collections.abc import Iterator, Sequence
from math import exp, log

from langprune_cli.records import languages_of
from langprune_cli.stages.evaluate.rows import Row, change_of
from langprune_cli.store.manifest import Manifest
from langprune_cli.structured_patterns.pattern import patterns_of

# A model with at least this loss counts as ruined: its perplexity rose by half, which readers notice at once.
RUINED_NATS = log(1.5)

WANDA_2_4 = (
    "2:4 by Wanda alone usually costs much: a small bilingual model loses 0.156 nats per token with it, and 0.036 with langprune "
    "prune and its default method; the ppl of SmolLM2-135M rises from 20.1 to 133 and to 49.9. Run langprune prune --pattern 2:4 "
    "without --method on the same text."
)


def ruined_notes(rows: Sequence[Row], made: dict[str, Manifest]) -> Iterator[str]:
    """Yield a note on each model and mask that lost RUINED_NATS or more on a text; it says if the loss may be noise.

    made: the manifests of the models and masks in `rows`, by label.
    """
    dense = {row["text"]: row for row in reversed(rows)}
    worse: dict[str, list[Row]] = {}
    for row in rows:
        change = change_of(row, dense[row["text"]])
        if change is not None and change >= exp(RUINED_NATS) - 1:
            worse.setdefault(row["mask"] or row["model"], []).append(row)
    for label, of in worse.items():
        changes = ", ".join(f"{row['text']} {change_of(row, dense[row['text']]):+.0%}" for row in of)
        said = f"{label} is ruined: its ppl changed by half or more ({changes})."
        if all(row.get("significant") is False for row in of):
            said = f"{label} seems ruined, on too few windows to be sure: its ppl changed by half or more ({changes})."
        yield " ".join([said, *_advice(made[label], of)]) if label in made else said


def _advice(manifest: Manifest, rows: Sequence[Row]) -> Iterator[str]:
    languages = languages_of(manifest.text)
    others = list(
        dict.fromkeys(row["language"] for row in rows if row["language"] and row["language"] not in languages)
    )
    if languages and others:
        both = " ".join(f"--lang {each}:64" for each in [*sorted(languages), *others])
        yield (
            f"It was calibrated on {' and '.join(sorted(languages))} and not on {' or '.join(others)}: calibrate on both if "
            f"both count ({both})."
        )
    if helps := _what_helps(manifest):
        yield f"What helps: {'; '.join(helps)}."


def _what_helps(manifest: Manifest) -> list[str]:
    """Return remedies that were not tried."""
    about, params = manifest.about, manifest.params
    mask = params if manifest.kind == "masks" else about.get("mask") or {}
    pattern, update = mask.get("pattern", "unstructured"), params.get("update", "none")
    structured = patterns_of(pattern)
    found = [advice for each in structured[:1] for advice in each.advice(update)]
    if structured and not structured[0].share:
        return found
    if not structured and not (mask.get("method") == "admm" and "pcg" in update):
        found.append(
            f"langprune prune, whose default method (admm, update pcg) loses far less than {mask.get('method')} with "
            + ("no update" if update == "none" else f"update {update}")
        )
    if "recovered" not in about:
        found.append("langprune recover, which trains what is left")
    if ":" in pattern and not structured:
        found.append(
            f"--pattern channels:0.1 instead of {pattern}, which makes the model smaller and faster everywhere"
        )
        return found
    return [*found, f"less than {mask.get('sparsity') or 0.5:.0%} removed"]
