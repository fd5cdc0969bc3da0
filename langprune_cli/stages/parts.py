"""Names of parts, and what identifies a text: what several stages agree on."""

from typing import Any

from langprune_cli.types import Windows

GENERATION_CONFIG = "generation_config.json"  # of a model
WINDOWS_PART = "windows.safetensors"
VOCABULARY_PART = "vocabulary.safetensors"  # of a mask of tokens: which stay
BLOCKS_PART = "blocks.json"  # of a mask of whole blocks: which stay, and by what figures


def block_part(index: int) -> str:
    """Return the file that holds what belongs to block `index`."""
    return f"block-{index:03d}.safetensors"


def text_identity(windows: Windows) -> dict[str, object]:
    """Return what identifies a text as far as results go: its language and the very tokens."""
    return {
        "language": windows.spec.language,
        "fingerprint": windows.fingerprint,
        "windows": windows.count,
        "seqlen": windows.seqlen,
    }


def text_about(windows: Windows) -> dict[str, Any]:
    """Return what people may want to know of a text: where its windows come from; of a mixture, that of each of its texts."""
    if windows.parts:
        return {"texts": [text_identity(part) | text_about(part) for part in windows.parts]}
    return {
        "source": windows.spec.source,
        "sampling": windows.sampling,
        "seed": windows.seed,
        "documents": windows.documents,
    }
