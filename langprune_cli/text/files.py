"""Read the documents of one local file: JSON lines, plain text or Parquet, optionally gzipped.

Records are streamed; memory holds one document, or one batch of Parquet rows. Every problem with a file is a
LangpruneError that names the file and the line.
"""

import codecs
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from langprune_cli.errors import LangpruneError, near_matches

SUFFIXES = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz", ".parquet")
_HASHED_AT_ONCE = 2**20  # bytes
_MOST_DOCUMENT_BYTES = 2**30  # unpacked: a document is held in memory, and a small .gz may unpack to any size


def read_file(file: Path, column: str) -> Iterator[str]:
    """Yield the documents of `file` in order, blank ones included.

    A document is the string under `column` of a JSON line or a Parquet row, or the whole of a .txt file.
    """
    name = file.name.lower()
    with _readable(file):
        if name.endswith(".parquet"):
            yield from _parquet_documents(file, column)
        elif name.endswith((".txt", ".txt.gz")):
            with _open_bytes(file) as stream:
                yield _decode(_bounded(stream.read(_MOST_DOCUMENT_BYTES + 1), str(file)), file, 0)
        else:
            yield from _jsonl_documents(file, column)


def hash_file(digest: "hashlib._Hash", file: Path, most: int) -> int:
    """Add a file's kind, size and first `most` bytes to `digest`; return its size."""
    name = file.name.lower()
    with _readable(file), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        digest.update(json.dumps([next(filter(name.endswith, SUFFIXES)), size], separators=(",", ":")).encode())
        left = most
        while left > 0 and (block := opened.read(min(left, _HASHED_AT_ONCE))):
            digest.update(block)
            left -= len(block)
    return size


def not_a_file(path: Path) -> LangpruneError:
    """Return the error for a pipe, socket or device: text is read more than once, a pipe only once."""
    return LangpruneError(f"{path} is a pipe, a socket or a device, not a file: write its text to a file and name that")


def missing_column(where: str, column: str, columns: Iterable[object]) -> LangpruneError:
    """Return the error for a record at `where` without `column`; it lists the record's columns."""
    names = [str(name) for name in columns]
    found = near_matches(column, names) if names else "it has none"
    return LangpruneError(f"{where} has no column {column!r} ({found}): append #COLUMN to the source to choose one")


def valid_text(value: object, where: str) -> str:
    r"""Return `value` if it is a string of valid Unicode, else raise: JSON's "\ud83d" alone has no UTF-8."""
    if not isinstance(value, str):
        raise LangpruneError(f"{where} holds {_kind(value)}, not a string: give a column of text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise LangpruneError(
            f"{where} holds half of a surrogate pair at character {error.start}: remove it, it is no text"
        ) from error
    return value


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn errors of the operating system or gzip about `file` into one sentence."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LangpruneError(f"{file} is not a complete gzip file ({error}): copy or download it again") from error
    except OSError as error:
        raise LangpruneError(f"{file} cannot be read: {error.strerror or error}") from error


def _open_bytes(file: Path) -> io.BufferedIOBase:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")


def _bounded(raw: bytes, where: str) -> bytes:
    """Return a document's bytes; raises LangpruneError if they exceed the limit."""
    if len(raw) > _MOST_DOCUMENT_BYTES:
        raise LangpruneError(
            f"{where} is one document of more than {_MOST_DOCUMENT_BYTES:,} bytes: split it into several"
        )
    return raw


def _decode(raw: bytes, file: Path, offset: int) -> str:
    """Decode UTF-8 from `offset` bytes into the (decompressed) file; a byte order mark at 0 is dropped."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LangpruneError(
            f"{file} is not UTF-8 at byte {offset + error.start} (0x{raw[error.start]:02x}): "
            "convert it to UTF-8, for instance with iconv"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 and raw.startswith(codecs.BOM_UTF8) else text


def _jsonl_documents(file: Path, column: str) -> Iterator[str]:
    offset = 0
    with _open_bytes(file) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(_MOST_DOCUMENT_BYTES + 1), b""), start=1):
            line = _decode(_bounded(raw, f"{file}:{number}"), file, offset)
            offset += len(raw)
            if line and not line.isspace():
                yield _record_text(line, column, f"{file}:{number}")


def _record_text(line: str, column: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = str(error).replace("line 1 column", "column")
        raise LangpruneError(f"{where} is not valid JSON ({why}): each line must be one JSON object") from error
    if not isinstance(record, dict):
        example = json.dumps({column: "..."}, ensure_ascii=False)
        raise LangpruneError(f"{where} is {_kind(record)}, not a JSON object: write {example} on each line")
    if column not in record:
        raise missing_column(where, column, record)
    return valid_text(record[column], f"{where}: the column {column!r}")


def _parquet_documents(file: Path, column: str) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415  (slow to load, and most texts are not Parquet)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if column not in schema.names:
                raise missing_column(str(file), column, schema.names)
            kind = schema.field(column).type
            if not any(name in str(kind) for name in ("string", "utf8")) or pa.types.is_nested(kind):
                raise LangpruneError(f"{file}: the column {column!r} holds {kind}, not strings: give a column of text")
            for batch in parquet.iter_batches(batch_size=256, columns=[column]):
                # A null means that the row has no text.
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except UnicodeDecodeError as error:
        raise LangpruneError(f"{file}: the column {column!r} is not UTF-8 ({error.reason}): write it anew") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        why = " ".join(str(error).split())[:200]
        raise LangpruneError(f"{file} is not a readable Parquet file ({why}): copy or download it again") from error


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
