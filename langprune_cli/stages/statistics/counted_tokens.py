"""Token counts in statistics: writes and reads their parts, and checks that they belong to a model."""

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.model_files import tokenizer_digest
from langprune_cli.store.artifact import Artifact
from langprune_cli.tokens.counting import TokenCounts


def counts_part(number: int) -> str:
    """Return the file with the counts of part `number` of a text."""
    return f"counts-{number:03d}.safetensors"


def has_token_counts(stats: Artifact) -> bool:
    """Return whether statistics are token counts."""
    return "tokens" in stats.manifest.params["collect"]


def read_token_counts(stats: Artifact) -> dict[str, TokenCounts]:
    """Return the counts by language, or by the text's name if its language is unknown; sorted by that label.

    Raises LangpruneError as `Artifact.read` does.
    """
    found: dict[str, TokenCounts] = {}
    for part in stats.manifest.parts:
        for label, counts in read_counts_part(stats, part).items():
            found[label] = found[label] + counts if label in found else counts
    return dict(sorted(found.items()))  # safetensors returns tensors in no order


def needed_token_counts(what: str, stats: Artifact | None, location: ModelLocation) -> Artifact:
    """Return the statistics if they hold what `what` ("--pattern vocab:0.5") needs: counts made with the model's tokenizer.

    Raises UsageError if they are missing, LangpruneError if they hold no counts, or counts of another tokenizer.
    """
    make = "run langprune calibrate --lang LANGUAGE --collect tokens"
    if stats is None:
        raise UsageError(f"{what} needs token counts: {make} first, or name some with --stats")
    if not has_token_counts(stats):
        raise LangpruneError(f"{what} needs token counts, and stats {stats.name} hold none: {make}")
    if stats.manifest.inputs["tokenizer"] != tokenizer_digest(location.folder):
        raise LangpruneError(
            f"stats {stats.name} hold counts made with another tokenizer ({stats.manifest.about['model']['name']}) than "
            f"{location.about['name']} has: {make} for this model"
        )
    return stats


def counts_tensors(label: str, counts: TokenCounts) -> dict[str, Tensor]:
    """Return the tensors of a part with these counts, by "<label>/<what>"."""
    return {
        f"{label}/counts": counts.counts,
        f"{label}/tokens": torch.tensor(counts.tokens),
        f"{label}/bytes": torch.tensor(counts.bytes),
        f"{label}/documents": torch.tensor(counts.documents),
    }


def counts_record(counts: TokenCounts) -> dict[str, int]:
    """Return one language's entry of an artifact's `about`."""
    return {"tokens": counts.tokens, "bytes": counts.bytes, "documents": counts.documents}


def read_counts_part(stats: Artifact, part: str) -> dict[str, TokenCounts]:
    """Return the counts of one part by label."""
    tensors = stats.tensors(part)
    labels = [name.removesuffix("/counts") for name in tensors if name.endswith("/counts")]
    return {
        label: TokenCounts(
            tensors[f"{label}/counts"], *(int(tensors[f"{label}/{what}"]) for what in ("tokens", "bytes", "documents"))
        )
        for label in labels
    }
