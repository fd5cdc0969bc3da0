"""What a row of an evaluation says, for all that show it; free of torch, for the command line."""

from typing import Any


def comparable_ppl(row: dict[str, Any]) -> float | None:
    """Return a row's perplexity as it compares with the dense row's: per token of the dense model's tokenizer."""
    found: float | None = row.get("ppl_per_original_token", row["ppl"])
    return found
