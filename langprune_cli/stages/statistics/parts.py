"""Shared by stages: names of parts, checks of their tensors, and the identity of a text."""

from collections.abc import Mapping

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.records import TextIdentity, TextRecord
from langprune_cli.store.artifact import Artifact
from langprune_cli.types import Windows

GENERATION_CONFIG = "generation_config.json"  # of a model
WINDOWS_PART = "windows.safetensors"


def block_part(index: int) -> str:
    """Return the name of block `index`'s part."""
    return f"block-{index:03d}.safetensors"


def fitting(
    artifact: Artifact,
    part: str,
    tensors: Mapping[str, Tensor],
    name: str,
    dtype: torch.dtype,
    *shapes: tuple[int, ...],
) -> Tensor:
    """Return a tensor of a part after checking it: an artifact with right hashes may still be forged.

    Raises LangpruneError if it is missing, or has another dtype or shape.
    """
    found = tensors.get(name)
    if found is None or found.dtype != dtype or tuple(found.shape) not in shapes:
        has = "nothing" if found is None else f"{str(found.dtype)[6:]} {list(found.shape)}"
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise LangpruneError(
            f"{artifact.folder / part} holds {has} as {name} instead of {str(dtype)[6:]} {wanted}: "
            f"make {artifact.manifest.kind}/{artifact.name} again with --force"
        )
    return found


def text_identity(windows: Windows) -> TextIdentity:
    """Return the identity of a text for results: its language and its tokens."""
    return {
        "language": windows.spec.language,
        "fingerprint": windows.fingerprint,
        "windows": windows.count,
        "seqlen": windows.seqlen,
    }


def text_about(windows: Windows) -> TextRecord:
    """Return a text's record for people: the source of its windows, and for a mixture that of each text."""
    shard: TextRecord = {"shard": list(windows.shard)} if windows.shard else {}
    if windows.parts:
        return {"texts": [{**text_identity(part), **text_about(part)} for part in windows.parts], **shard}
    return {
        **shard,
        "source": windows.spec.source,
        "sampling": windows.sampling,
        "seed": windows.seed,
        "documents": windows.documents,
    }
