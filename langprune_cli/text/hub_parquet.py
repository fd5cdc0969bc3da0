"""Read one column of Parquet files on the Hugging Face Hub without fetching much more than that.

`datasets` could read them too, but fetches every column, whole row groups, and tens of megabytes ahead, in threads of
Arrow that go on after the last row that was wanted: where the program ends before them, they abort it (seen with pyarrow
26; see github.com/apache/arrow/issues/45214).
"""

from collections.abc import Iterable, Iterator

from langprune_cli.text.files import missing_column

_FETCHED_AT_ONCE = 2 * 2**20  # bytes of one request, unless a page is larger
_ROWS = 256


def parquet_values(urls: Iterable[str], column: str, where: str) -> Iterator[object]:
    """Yield the values of a column in `hf://` files, one file after the other, null ones as None.

    Raises LangpruneError where there is no such column, and whatever `huggingface_hub` and pyarrow raise.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415  (slow to load, and most texts are not Parquet)
    from huggingface_hub import HfFileSystem  # noqa: PLC0415

    files = HfFileSystem()
    for url in urls:
        # Not `pre_buffer`, and with a buffer: pages are fetched as they are decoded, not row groups, and in no thread.
        with (
            files.open(url, "rb", block_size=_FETCHED_AT_ONCE) as opened,
            pq.ParquetFile(opened, pre_buffer=False, buffer_size=_FETCHED_AT_ONCE) as parquet,
        ):
            names = parquet.schema_arrow.names
            if column not in names:
                raise missing_column(where, column, names)
            for batch in parquet.iter_batches(batch_size=_ROWS, columns=[column], use_threads=False):
                yield from batch.column(0).to_pylist()
