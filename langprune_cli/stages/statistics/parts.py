"""Shared by stages: names of parts, checks of their tensors, and the identity of a text."""

from collections.abc import Collection, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import MOST_TENSORS, read_entry, read_header
from langprune_cli.records import TextIdentity, TextRecord
from langprune_cli.store.artifact import Artifact, tensor_sha256
from langprune_cli.store.plain import plain_file
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


def single_tensors(artifact: Artifact, part: str, names: Collection[str]) -> dict[str, Tensor]:
    """Return some tensors of a part, those that it has; without the rest of the file if the manifest has their sha256.

    Raises LangpruneError as `Artifact.read` does.
    """
    entry = artifact.manifest.parts.get(part)
    digests = entry.get("tensors", {}) if entry else {}
    if digests.keys() >= set(names):
        with suppress(LangpruneError, KeyError):
            plain_file(artifact.folder / part, within=artifact.folder)
            places = read_header(artifact.folder, part, MOST_TENSORS)
            found = {name: read_entry(artifact.folder, places[name]) for name in names}
            if all(tensor_sha256(tensor) == digests[name] for name, tensor in found.items()):
                return found
    # An earlier version or another program wrote the manifest, or the file is damaged: reading the whole of it tells.
    return {name: tensor for name, tensor in artifact.tensors(part).items() if name in names}


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
