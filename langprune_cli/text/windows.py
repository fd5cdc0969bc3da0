"""Make token windows of a text: random ones for calibration, consecutive ones for evaluation and training, or given ones."""

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.defaults import SAMPLINGS
from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.text.beginnings import read_beginning
from langprune_cli.text.files import not_a_file
from langprune_cli.text.hub import HUB_PREFIX, read_to_its_bound
from langprune_cli.text.sampling import RankedDocuments, TooFewDocumentsError, concat_windows, document_windows
from langprune_cli.text.sources import read_documents, source_for
from langprune_cli.tokens.encoding import encode
from langprune_cli.tokens.tokenizer import Tokenizer
from langprune_cli.types import TextSpec, Windows

_EVALUATION_BYTES = 32 * 2**20  # one text of 32 MiB takes half a minute and 4 GB to tokenise
_TRAINING_BYTES = 256 * 2**20  # of a text to train on, unless more tokens are asked for
_BYTES_PER_TOKEN = 16  # a generous first guess of the text that windows need


def fingerprint(ids: Tensor) -> str:  # ids: integers [n, t]
    """Return the fingerprint of token windows: hex sha256 over a tag, n and t (int64) and the ids (int32).

    Numbers are little-endian, so it is the same on every machine.
    """
    digest = hashlib.sha256(b"langprune windows v1")
    digest.update(struct.pack("<qq", *ids.shape))
    digest.update(ids.to(torch.int32).contiguous().cpu().numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def is_given(source: str) -> bool:
    """Return whether a source is a file of token ids, which needs no tokenizer and is used as it is."""
    return source.lower().endswith(".safetensors") and not source.startswith(HUB_PREFIX)


def calibration_windows(
    spec: TextSpec,
    tokenizer: Tokenizer | None,  # may be None if the source is a file of token ids
    *,
    nsamples: int,  # n
    seqlen: int,  # t
    seed: int,
    sampling: str,  # "document" or "concat"
    vocab_size: int | None = None,  # ids must be below; the tokenizer's size if None
) -> Windows:
    """Draw `nsamples` random windows of `seqlen` tokens from a text.

    "document" takes one window of each of `nsamples` random documents that are longer than the window;
    "concat" takes windows from anywhere in the documents joined by blank lines. Both depend on the text's
    documents and the seed only, not on their order or the machine. A .safetensors source is taken as it is,
    whatever else is asked for.

    Raises UsageError for values out of range, LangpruneError if the text cannot be read or has too little of
    it.
    """
    if (given := _given_windows(spec, tokenizer, vocab_size)) is not None:
        return given
    if sampling not in SAMPLINGS:
        raise UsageError(f"there is no sampling {sampling!r}: {near_matches(sampling, SAMPLINGS)}")
    if nsamples < 1 or seqlen < 2:
        raise UsageError(f"at least 1 window of 2 tokens is needed, not {nsamples} of {seqlen}: raise the smaller")
    tokenizer = _required(tokenizer, spec)
    source = source_for(spec.source, evaluation=False)
    ranked = RankedDocuments(lambda: read_documents(source), seed)
    notes: list[str] = []
    try:
        if sampling == "document":
            ids = document_windows(ranked, tokenizer, nsamples, seqlen)
        else:
            ids, notes = concat_windows(ranked, tokenizer, nsamples, seqlen)
    except TooFewDocumentsError as error:
        raise TooFewDocumentsError(f"{source}: {error}", error.documents, error.found) from error
    except LangpruneError as error:
        if ranked.documents:  # everything could be read, so the error is about how much there is of it
            raise LangpruneError(f"{source}: {error}") from error
        raise
    notes += hub_note(source, ranked.documents, ranked.size)
    return _windows(ids, spec, _vocabulary_size(tokenizer, vocab_size), sampling, seed, ranked.documents, notes)


def evaluation_windows(
    spec: TextSpec,
    tokenizer: Tokenizer | None,  # may be None if the source is a file of token ids
    *,
    seqlen: int,  # t
    max_windows: int | None = None,  # n at most; no more of the text is read than these need
    vocab_size: int | None = None,  # ids must be below; the tokenizer's size if None
) -> Windows:
    """Cut a text into consecutive windows of `seqlen` tokens, the published protocol for perplexity.

    The documents are joined by blank lines in the order of the source and tokenised as a whole, with the
    tokenizer's defaults (a BOS token once, if it adds one); what is left over after the last whole window is
    dropped. (Wanda's and SparseGPT's lib/eval.py on WikiText-2.) A .safetensors source is taken as it is, up
    to `max_windows`.

    Raises UsageError for values out of range, LangpruneError if the text cannot be read or is shorter than a
    window.
    """
    if max_windows is not None and max_windows < 1:
        raise UsageError(f"at least 1 window is needed, not {max_windows}: give a larger number")
    if (given := _given_windows(spec, tokenizer, vocab_size)) is not None:
        return given if max_windows is None else _first(given, max_windows)
    if seqlen < 2:
        raise UsageError(
            f"a window needs at least 2 tokens, one to predict the other from, not {seqlen}: raise --seqlen"
        )
    tokenizer = _required(tokenizer, spec)
    source = source_for(spec.source, evaluation=True)
    budget = _EVALUATION_BYTES
    if max_windows is not None:
        budget = min(budget, max_windows * seqlen * _BYTES_PER_TOKEN)
    enough = None if max_windows is None else (max_windows + 1) * seqlen
    read = read_beginning(
        lambda: read_documents(source, keep_blank=True), tokenizer, (budget, _EVALUATION_BYTES), enough
    )
    ids = read.cut(seqlen, max_windows, source)
    notes = hub_note(source, read.documents, read.size)
    if not read.whole and (max_windows is None or len(ids) < max_windows):
        notes.append(
            f"only the first {read.documents} documents ({read.budget // 2**20} MiB) of {source} are evaluated on"
        )
    return _windows(ids, spec, _vocabulary_size(tokenizer, vocab_size), "contiguous", None, read.documents, notes)


def training_windows(
    spec: TextSpec,
    tokenizer: Tokenizer | None,  # may be None if the source is a file of token ids
    *,
    tokens: int,
    seqlen: int,  # t
    seed: int,
    vocab_size: int | None = None,  # ids must be below; the tokenizer's size if None
) -> Windows:
    """Cut a text into windows of `seqlen` tokens to train on, enough for `tokens` tokens, or all if it has fewer.

    Documents are joined by blank lines in the order of their ranks, which depends on them and the seed alone, so the
    beginning of a large text is a random part of it. Windows do not overlap: nothing is read twice before all is
    read once. A .safetensors source is taken as it is.

    Raises UsageError for values out of range, LangpruneError if the text cannot be read or is shorter than a window.
    """
    if (given := _given_windows(spec, tokenizer, vocab_size)) is not None:
        return given
    if tokens < 1 or seqlen < 2:
        raise UsageError(f"at least 1 token and windows of 2 are needed, not {tokens} and {seqlen}: raise the smaller")
    tokenizer = _required(tokenizer, spec)
    source = source_for(spec.source, evaluation=False)
    ranked = RankedDocuments(lambda: read_documents(source), seed)
    most = max(_TRAINING_BYTES, tokens * _BYTES_PER_TOKEN // 2)
    budget = min(most, tokens * _BYTES_PER_TOKEN)
    read = read_beginning(lambda: (raw.decode() for _, raw in ranked), tokenizer, (budget, most), tokens)
    ids = read.cut(seqlen, -(-tokens // seqlen), source)
    notes = hub_note(source, ranked.documents, ranked.size)
    return _windows(ids, spec, _vocabulary_size(tokenizer, vocab_size), "contiguous", seed, read.documents, notes)


def retokenized(windows: Windows, tokenizer: Tokenizer, other: Tokenizer) -> Windows:
    """Return the text of consecutive windows, retokenized by another tokenizer into windows of the same length.

    The rest after the last whole window is dropped. Raises LangpruneError if there is no whole window.
    """
    text = tokenizer.decode(
        windows.ids.flatten().tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    ids, seqlen = encode(other, text), windows.seqlen
    count = len(ids) // seqlen
    if not count:
        raise LangpruneError(
            f"{windows.spec.source} has {len(ids)} tokens of the smaller vocabulary, too few for a window of {seqlen}: give "
            "more text, or a smaller --seqlen"
        )
    ids = ids[: count * seqlen].view(count, seqlen).clone()
    return replace(windows, ids=ids, fingerprint=fingerprint(ids))


def _given_windows(spec: TextSpec, tokenizer: Tokenizer | None, vocab_size: int | None) -> Windows | None:
    """Return the tensor `windows` of a .safetensors source, or None for a source of text."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    path = spec.source
    if not is_given(path):
        return None
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise not_a_file(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            if "windows" not in file.keys():  # noqa: SIM118  (not a dict)
                held = near_matches("windows", file.keys())
                raise LangpruneError(f"{path} has no tensor `windows` of token ids ({held}): is it a file of weights?")
            ids = file.get_tensor("windows")
    except FileNotFoundError as error:
        raise LangpruneError(f"there is no file {path}: check the name and the current folder") from error
    except (SafetensorError, OSError) as error:
        raise LangpruneError(f"{path} is not a readable safetensors file ({error}): make or copy it again") from error
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise LangpruneError(f"{path}: `windows` holds {str(ids.dtype)[6:]}, not integers: give token ids")
    if ids.dim() != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise LangpruneError(
            f"{path}: `windows` has the shape {list(ids.shape)}: give [windows, tokens], at least [1, 2]"
        )
    n, t = ids.shape
    note = f"{path} holds {n} windows of {t} tokens, which are used as they are"
    return _windows(ids.to(torch.int64), spec, _vocabulary_size(tokenizer, vocab_size), "given", None, 0, [note])


def _windows(
    ids: Tensor,  # [n, t]
    spec: TextSpec,
    size: int,  # of the vocabulary
    sampling: str,
    seed: int | None,
    documents: int,
    notes: list[str],
) -> Windows:
    """Check that the ids lie within the vocabulary and make the record."""
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= size:
        wrong = lowest if lowest < 0 else highest
        raise LangpruneError(
            f"{spec.source}: the token id {wrong} lies outside the vocabulary of {size}: "
            "use the tokenizer that belongs to the model"
        )
    ids = ids.to(torch.int32).contiguous()
    return Windows(ids, fingerprint(ids), spec, sampling, seed, documents, tuple(notes))


def _vocabulary_size(tokenizer: Tokenizer | None, vocab_size: int | None) -> int:
    return vocab_size if vocab_size is not None else len(tokenizer) if tokenizer is not None else 2**31


def _first(windows: Windows, most: int) -> Windows:
    if windows.count <= most:
        return windows
    ids = windows.ids[:most].clone()
    note = f"{windows.spec.source} holds {windows.count} windows, of which the first {most} are used"
    return replace(windows, ids=ids, fingerprint=fingerprint(ids), notes=(note,))


def _required(tokenizer: Tokenizer | None, spec: TextSpec) -> Tokenizer:
    if tokenizer is None:
        raise LangpruneError(f"{spec.source} is text and there is no tokenizer: give a .safetensors file of token ids")
    return tokenizer


def hub_note(source: str, documents: int, size: int) -> list[str]:
    """Return a note if reading a hub dataset stopped at the limit; `size` in bytes."""
    if source.startswith(HUB_PREFIX) and read_to_its_bound(documents, size):
        return [f"no more than the first {documents} documents of {source} are read"]
    return []
