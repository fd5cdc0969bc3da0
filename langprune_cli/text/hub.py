"""Stream the documents of a dataset on the Hugging Face Hub; every failure becomes one sentence.

The endpoint ($HF_ENDPOINT), the token and offline mode ($HF_HUB_OFFLINE) are those of the `huggingface_hub`
library. Datasets that need their own loading script are refused: no code from the Hub is ever run.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.text.files import missing_column, valid_text
from langprune_cli.text.hub_pace import paced
from langprune_cli.text.hub_parquet import parquet_values

HUB_PREFIX = "hf:"
MAX_HUB_DOCUMENTS = 20_000  # documents read of one dataset; C4's English part alone has 365 million
# Fewer long documents are read: this much text is enough once there are as many documents as windows could need.
_ENOUGH_BYTES, _ENOUGH_DOCUMENTS = 64 * 2**20, 1_000
HALVES = ("calibration", "evaluation")  # of a split; a hash of a document's text decides its half
_MOST_NAMED = 20  # names of configs or splits that an error message lists; FineWeb-2 has 3,700
DEFAULT_COLUMN = "text"
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"}


@dataclass(frozen=True)
class HubSource:
    """A dataset on the Hugging Face Hub: `hf:owner/name[:config][:split[/half]][#column]`."""

    dataset: str  # owner/name
    config: str | None
    split: str
    column: str
    half: str | None = None  # one of HALVES, None: all documents


class HubUnreachableError(LangpruneError):
    """The Hub does not answer, or says to try later; cached windows of an earlier run may be used instead."""


def parse_hub_source(source: str) -> HubSource:
    """Parse `hf:owner/name[:config][:split[/half]][#column]`; the split is "train" unless named.

    A single part is a split if it is a usual split name (train, test, validation, ...), with or without a half, else a
    config; naming both avoids the guess. `train/calibration` and `train/evaluation` are two halves of one
    split that share no document. Raises LangpruneError for any other form.
    """
    address, _, column = source.removeprefix(HUB_PREFIX).partition("#")
    dataset, *parts = address.split(":")
    if dataset.count("/") != 1 or not all(dataset.split("/")) or len(parts) > 2 or not all(parts):
        raise LangpruneError(f"{source!r} names no dataset: write hf:owner/name or hf:owner/name:config:split#column")
    config, split = None, "train"
    if len(parts) == 2:
        config, split = parts
    elif parts and parts[0].partition("/")[0].lower() in _SPLITS:
        split = parts[0]
    elif parts:
        config = parts[0]
    split, slash, half = split.partition("/")
    if slash and half not in HALVES:
        raise LangpruneError(f"{source!r} names no half of {split!r}: write {' or '.join(HALVES)} after the slash")
    return HubSource(dataset, config, split, column or DEFAULT_COLUMN, half or None)


def read_hub_documents(hub: HubSource) -> Iterator[str]:
    """Yield the first MAX_HUB_DOCUMENTS documents of a dataset or of a half of it; nulls become blank documents.

    Fewer if documents are long, see `read_to_its_bound`. Raises LangpruneError if the dataset, its config, split or column
    does not exist, is gated, cannot be reached or is not a table of strings.
    """
    if Path(hub.dataset).exists():  # `datasets` would silently read it instead of the Hub's
        raise LangpruneError(
            f"the local {hub.dataset} hides the dataset of that name on the Hub: give --data {hub.dataset} "
            "to read the local one, or start langprune from another folder"
        )
    documents = size = 0
    for number, value in enumerate(_values(hub), start=1):
        text = "" if value is None else valid_text(value, f"row {number} of hf:{hub.dataset} ({hub.split})")
        if hub.half and hub.half != half_of(text):
            continue
        yield text
        documents, size = documents + 1, size + len(text.encode())
        if read_to_its_bound(documents, size):
            return


def read_to_its_bound(documents: int, size: int) -> bool:
    """Return whether that many documents and UTF-8 bytes reach the limit that is read of a dataset."""
    return documents >= MAX_HUB_DOCUMENTS or (size >= _ENOUGH_BYTES and documents >= _ENOUGH_DOCUMENTS)


def half_of(text: str) -> str:
    """Return the half of the split that a document belongs to, which depends on its text alone.

    It is the last bit of sha256 over a tag and the text, so equal documents are in the same half.
    """
    return HALVES[hashlib.sha256(b"langprune half\0" + text.encode()).digest()[-1] & 1]


def hub_commit(hub: HubSource) -> str:
    """Return a dataset's current commit; raises LangpruneError as `read_hub_documents` does."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    try:
        return str(HfApi().dataset_info(hub.dataset, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha)
    except _failures() as error:
        raise _unreadable(hub, error) from error


def _failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions that reading a dataset can raise.

    `datasets` raises OSError and RuntimeError for a missing dataset, no network and scripts; ValueError for configs and
    splits (and, through Arrow, for broken files); the rest come from lower layers while rows are streamed.
    """
    import datasets  # noqa: PLC0415  (takes a second to load, and local files do not need it)

    return (
        OSError, ValueError, RuntimeError, TypeError, KeyError, EOFError,
        _http_error(), datasets.exceptions.DatasetsError,
    )  # fmt: skip


def _values(hub: HubSource) -> Iterator[object]:
    """Yield the column's value of each row of a dataset; raises LangpruneError as `read_hub_documents` does."""
    import datasets  # noqa: PLC0415  (as above)
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    failures = _failures()
    try:
        # Asked first, once and for no longer than the libraries wait for one answer: `datasets` tries again for half
        # a minute, and hides what the Hub said.
        HfApi().dataset_info(hub.dataset, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        # Below it, `huggingface_hub` asks again five times in half a minute; twenty times that is no answer to wait for.
        datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
        with _no_progress_bars(datasets.utils), paced():
            builder = datasets.load_dataset_builder(hub.dataset, hub.config)
            parts = builder.config.data_files if builder.name == "parquet" else None
            if parts and hub.split in parts:
                values = parquet_values(parts[hub.split], hub.column, f"hf:{hub.dataset} ({hub.split})")
            else:
                values = _column(builder.as_streaming_dataset(split=hub.split), hub)
    except failures as error:
        raise _unreadable(hub, error) from error
    while True:
        try:
            with paced():
                value = next(values)
        except StopIteration:
            return
        except failures as error:
            raise _unreadable(hub, error) from error
        yield value


def _column(rows: Iterable[dict[str, object]], hub: HubSource) -> Iterator[object]:
    for number, row in enumerate(rows, start=1):
        if hub.column not in row:
            raise missing_column(f"row {number} of hf:{hub.dataset} ({hub.split})", hub.column, row)
        yield row[hub.column]


class _Bars(Protocol):
    """The module `datasets.utils`, which has no types."""

    def are_progress_bars_disabled(self) -> bool: ...
    def disable_progress_bars(self) -> None: ...
    def enable_progress_bars(self) -> None: ...


@contextmanager
def _no_progress_bars(utils: _Bars) -> Iterator[None]:
    """Turn off the progress bars of `datasets`, which would disturb the caller's display."""
    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _unreadable(hub: HubSource, error: BaseException) -> LangpruneError:
    """Return the error to show for a failure, based on the most specific exception in its chain."""
    from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415
    from huggingface_hub import constants, errors  # noqa: PLC0415

    chain = _chain(error)

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    name, page = f"hf:{hub.dataset}", f"{constants.ENDPOINT}/datasets/{hub.dataset}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    own = "give text on this machine with --data FILE"
    # `datasets` raises its own error "from None", so that only its wording still says what the Hub answered.
    gated = caused_by(errors.GatedRepoError) or "is a gated dataset" in str(error)
    status = next((code for link in chain if (code := _status(link)) is not None), None)
    if constants.HF_HUB_OFFLINE or caused_by(errors.OfflineModeIsEnabled):
        return HubUnreachableError(f"{name} cannot be read offline: unset HF_HUB_OFFLINE, or {own}")
    refusals = (  # the first that holds
        (gated, f"{name} is gated: accept its terms at {page}, then {log_in}"),
        (
            caused_by(errors.RepositoryNotFoundError, DatasetNotFoundError),
            f"there is no dataset {name}, or it is private: check the name, or {log_in}",
        ),
        (status in {401, 403}, f"{name} may not be read ({status}): {log_in}, or ask its owner for access"),
    )
    if told := next((sentence for holds, sentence in refusals if holds), None):
        return LangpruneError(told)
    if status == 429:
        return HubUnreachableError(
            f"the Hub answered 429 for {name}, too many requests: wait some minutes, or {log_in}"
        )
    if status is not None:
        return HubUnreachableError(f"the Hub answered {status} for {name}: try again later, or {own}")
    if caused_by(_http_error(), ConnectionError, TimeoutError):
        return HubUnreachableError(
            f"the Hub cannot be reached for {name} at {constants.ENDPOINT}: check the network, or {own}"
        )
    return LangpruneError(f"{name}: {_wrong_request(hub, ' '.join(' '.join(map(str, chain)).split()))}")


def _http_error() -> type[BaseException]:
    """Return the base error of the HTTP library of `huggingface_hub`, which depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return HfHubHTTPError.__bases__[0]


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, None if it has none."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _wrong_request(hub: HubSource, text: str) -> str:
    """Return what is wrong with the request to an existing dataset, based on the message of `datasets`."""
    if "scripts are no longer supported" in text:
        return "only a script of its own can read it, and no code from the Hub is run: choose another one"
    if "Bad split" in text:
        return f"there is no split {hub.split!r} ({_named(text, 'Available')}): write hf:{hub.dataset}:SPLIT"
    if "BuilderConfig" in text and "not found" in text:
        known = _named(text, "Available", hub.config)
        return f"there is no config {hub.config!r} ({known}): write hf:{hub.dataset}:CONFIG:SPLIT"
    if "Config name is missing" in text:
        return f"a config must be named ({_named(text, 'configs: ')}): write hf:{hub.dataset}:CONFIG:SPLIT"
    if "data file" in text or "EmptyDataset" in text or "No task.toml" in text:
        return "holds no data files that can be read: choose another dataset"
    return f"cannot be read ({text[:300]}): choose another dataset, or give text with --data FILE"


def _named(text: str, after: str, wanted: str | None = None) -> str:
    """Return the names listed in an error message of `datasets`; only those nearest to `wanted` if there are many."""
    names = [name.strip(" '") for name in text.partition(after)[2].partition("[")[2].partition("]")[0].split(",")]
    if len(names) <= _MOST_NAMED:
        return f"Known: {', '.join(names)}"
    nearest = near_matches(wanted or "", names).partition("? Known: ")
    return f"{nearest[0]}? It has {len(names)}" if nearest[1] else f"it has {len(names)}, such as {names[0]}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return `error` and its causes, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
