"""Writes GGUF with llama.cpp's own converter, which knows the format's names of tensors and tokenizers."""

import json
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import cast

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import ModelLocation
from langprune_cli.records import About, ModelRecord
from langprune_cli.store.artifact import PROVENANCE, Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice, model_artifact
from langprune_cli.streaming.opened_tokenizer import OpenedTokenizer, open_tokenizer
from langprune_cli.structured_patterns.pattern import patterns_of
from langprune_cli.tokens.token_bytes import description
from langprune_cli.tokens.vocabulary import Kind, Vocabulary

CONVERTER = "convert_hf_to_gguf.py"
_MAGIC = b"GGUF"  # the first bytes of a GGUF file
_FOR_TRIMMED = Path(__file__).with_name("convert_trimmed.py")
_SOURCE = "https://github.com/ggml-org/llama.cpp"


def check_converter(converter: Path | None) -> Path:
    """Return the converter's path; raises UsageError if none is given or it does not exist."""
    if converter is None:
        raise UsageError(
            f"--format gguf needs llama.cpp's converter: get {_SOURCE}, and give its path with --converter "
            f"llama.cpp/{CONVERTER}"
        )
    if not converter.expanduser().is_file():
        raise UsageError(f"--converter {converter} is not a file: give the path of llama.cpp's {CONVERTER}")
    return converter.expanduser().resolve()


def trimmed_hindrance(kind: Kind) -> str | None:
    """Return why the converter cannot handle a trimmed tokenizer of this kind, None if it can.

    Without a tokenizer.model it refuses most tokenizers. For those like Llama 2's it writes the same score, by which llama.cpp
    merges, for each token, so text would be split differently.
    """
    if kind == "byte-level BPE":
        return None
    return f"llama.cpp's converter reads a {kind} from its tokenizer.model, which cannot be trimmed"


def tokenizer_before(workspace: Workspace, model: Artifact, reporter: Reporter) -> Path | None:
    """Return a folder with the original tokenizer of a model with a trimmed vocabulary; None for a full vocabulary.

    Raises LangpruneError for a tokenizer that the converter cannot handle, or a missing original.
    """
    about, trimmed = model.manifest.about, False
    source: ModelRecord = {}
    seen = set()
    while about:
        pattern = str((about.get("mask") or {}).get("pattern"))
        trimmed |= any(each.trims_tokenizer for each in patterns_of(pattern))
        source = about.get("model") or {}
        name = source.get("name")
        # Records of forged folders may form a circle.
        about = {} if name is None or name in seen else _about(workspace, name)
        seen.add(name)
    if not trimmed:
        return None
    small = OpenedTokenizer(ModelLocation(model.folder, model.name, None, "artifact"), trust_remote_code=False)
    vocabulary = Vocabulary.opened(small.tokenizer)
    if hindrance := trimmed_hindrance(vocabulary.kind):
        raise LangpruneError(f"{model.name} has a trimmed vocabulary, and {hindrance}: export --format safetensors")
    name = source.get("name") or "a model without a name"
    try:
        dense = open_tokenizer(workspace, ModelChoice(name, source.get("revision")), Compute(), reporter)
        _check_same(vocabulary, small.tokenizer, dense.tokenizer)
    except (LangpruneError, UsageError, ValueError) as error:
        raise LangpruneError(
            f"llama.cpp's converter needs the tokenizer of {name}, from which {model.name}'s was trimmed, and that is missing "
            f"({error}): put it back, or export --format safetensors"
        ) from error
    return dense.location.folder


def _about(workspace: Workspace, name: str) -> About:
    """Return the `about` of an artifact or an exported folder; {} for a model that was never pruned here."""
    if artifact := model_artifact(workspace, name):
        return artifact.manifest.about
    with suppress(OSError, ValueError, AttributeError):
        found: object = json.loads(Path(name, PROVENANCE).read_bytes()).get("about")
        return cast("About", found) if isinstance(found, dict) else {}
    return {}


def _check_same(vocabulary: Vocabulary, small: object, dense: object) -> None:
    """Raise ValueError unless `small` is `dense` without some of its tokens."""
    ids = {token: i for i, token in Vocabulary.opened(dense).tokens.items()}  # type: ignore[arg-type] # tokenizers of transformers, which is untyped
    found = [ids.get(token, -1) for _, token in sorted(vocabulary.tokens.items())]
    parts = [description(each) or {} for each in (small, dense)]  # type: ignore[arg-type] # tokenizers of transformers, which is untyped
    same = all(parts[0].get(part) == parts[1].get(part) for part in ("normalizer", "pre_tokenizer"))
    if not same or -1 in found or any(a >= b for a, b in pairwise(found)):
        raise ValueError("its tokenizer has changed")


def write_gguf(converter: Path, model: Path, file: Path, before: Path | None = None) -> None:
    """Let the converter write the model folder as one GGUF file, in the 16-bit type that loses least (`--outtype auto`).

    before: the folder of the original tokenizer, from `tokenizer_before`. The converter runs in this Python, with the packages
    installed here. Raises LangpruneError if it fails.
    """
    script = [str(converter)] if before is None else [str(_FOR_TRIMMED), str(converter), str(before)]
    command = [sys.executable, *script, str(model), "--outfile", str(file), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's own converter
    if done.returncode == 0 and file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) == _MAGIC:
                return
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1][:300]
    raise LangpruneError(
        f"{converter} wrote no GGUF file (exit code {done.returncode}: {said}): install what it needs into this Python, or "
        "export --format safetensors and convert that folder"
    )
