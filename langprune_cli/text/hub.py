"""Read the documents of a dataset on the Hugging Face Hub, streamed; say in one sentence why it cannot be.

The endpoint ($HF_ENDPOINT), the token and offline mode ($HF_HUB_OFFLINE) are those of the `huggingface_hub`
library. Datasets that need a script of their own to be read are refused: no code from the Hub is ever run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langprune_cli.errors import LangpruneError
from langprune_cli.text.files import missing_column, valid_text

HUB_PREFIX = "hf:"
MAX_HUB_DOCUMENTS = 20_000  # documents read of one dataset; C4's English part alone has 365 million
DEFAULT_COLUMN = "text"
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"}


@dataclass(frozen=True)
class HubSource:
    """A dataset on the Hugging Face Hub: `hf:owner/name[:config][:split][#column]`."""

    dataset: str  # owner/name
    config: str | None
    split: str
    column: str


def parse_hub_source(source: str) -> HubSource:
    """Take `hf:owner/name[:config][:split][#column]` apart; the split is "train" unless named.

    One part alone is a split if it is a usual name of one (train, test, validation, ...), else a config;
    whoever names both leaves nothing to guess. Raises LangpruneError for any other form.
    """
    address, _, column = source.removeprefix(HUB_PREFIX).partition("#")
    dataset, *parts = address.split(":")
    if dataset.count("/") != 1 or not all(dataset.split("/")) or len(parts) > 2 or not all(parts):
        raise LangpruneError(f"{source!r} names no dataset: write hf:owner/name or hf:owner/name:config:split#column")
    config, split = None, "train"
    if len(parts) == 2:
        config, split = parts
    elif parts and parts[0].lower() in _SPLITS:
        split = parts[0]
    elif parts:
        config = parts[0]
    return HubSource(dataset, config, split, column or DEFAULT_COLUMN)


def read_hub_documents(hub: HubSource) -> Iterator[str]:
    """Yield the first MAX_HUB_DOCUMENTS documents of a dataset, null ones as blank.

    Raises LangpruneError if the dataset, its config, split or column does not exist, is gated, cannot be
    reached or is not a table of strings.
    """
    if Path(hub.dataset).exists():  # `datasets` would read it instead of the Hub's, without a word
        raise LangpruneError(
            f"the local {hub.dataset} hides the dataset of that name on the Hub: give --data {hub.dataset} "
            "to read the local one, or start langprune from another folder"
        )
    for number, row in enumerate(_rows(hub), start=1):
        where = f"row {number} of hf:{hub.dataset} ({hub.split})"
        if hub.column not in row:
            raise missing_column(where, hub.column, row)
        value = row[hub.column]
        yield "" if value is None else valid_text(value, where)
        if number == MAX_HUB_DOCUMENTS:
            return


def hub_commit(hub: HubSource) -> str:
    """Return the commit that a dataset stands at; raises LangpruneError as `read_hub_documents` does."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    try:
        return str(HfApi().dataset_info(hub.dataset, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha)
    except _failures() as error:
        raise LangpruneError(_why_unreadable(hub, error)) from error


def _failures() -> tuple[type[BaseException], ...]:
    """Return what can be raised while a dataset is read.

    OSError and RuntimeError are what `datasets` raises for an absent dataset, no network and scripts; ValueError for
    configs and splits (and, through Arrow, for broken files); the rest comes up from below while rows are streamed.
    """
    import datasets  # noqa: PLC0415  (takes a second to load, and local files do not need it)

    return (
        OSError, ValueError, RuntimeError, TypeError, KeyError, EOFError,
        _http_error(), datasets.exceptions.DatasetsError,
    )  # fmt: skip


def _rows(hub: HubSource) -> Iterator[dict[str, Any]]:
    import datasets  # noqa: PLC0415  (as above)
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    failures = _failures()
    try:
        # Asked first, once and for no longer than the libraries wait for one answer: `datasets` tries again for half
        # a minute, and hides what the Hub said.
        HfApi().dataset_info(hub.dataset, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        with _no_progress_bars(datasets.utils):
            rows = iter(datasets.load_dataset(hub.dataset, hub.config, split=hub.split, streaming=True))
    except failures as error:
        raise LangpruneError(_why_unreadable(hub, error)) from error
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except failures as error:
            raise LangpruneError(_why_unreadable(hub, error)) from error
        yield row


@contextmanager
def _no_progress_bars(utils: Any) -> Iterator[None]:  # noqa: ANN401  (the untyped module datasets.utils)
    """Keep `datasets` from drawing a bar of its own across the caller's display while it lists files."""
    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _why_unreadable(hub: HubSource, error: BaseException) -> str:
    """Return the sentence for a failure: the most telling error in the chain that led to it decides."""
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
    reasons = (  # the first that holds
        (
            constants.HF_HUB_OFFLINE or caused_by(errors.OfflineModeIsEnabled),
            f"{name} cannot be read offline: unset HF_HUB_OFFLINE, or {own}",
        ),
        (gated, f"{name} is gated: accept its terms at {page}, then {log_in}"),
        (
            caused_by(errors.RepositoryNotFoundError, DatasetNotFoundError),
            f"there is no dataset {name}, or it is private: check the name, or {log_in}",
        ),
        (status in {401, 403}, f"{name} may not be read ({status}): {log_in}, or ask its owner for access"),
        (status is not None, f"the Hub answered {status} for {name}: try again later, or {own}"),
        (
            caused_by(_http_error(), ConnectionError, TimeoutError),
            f"the Hub cannot be reached for {name} at {constants.ENDPOINT}: check the network, or {own}",
        ),
    )
    told = next((sentence for holds, sentence in reasons if holds), None)
    return told or f"{name}: {_wrong_request(hub, ' '.join(' '.join(map(str, chain)).split()))}"


def _http_error() -> type[BaseException]:
    """Return the base error of the HTTP library below `huggingface_hub`, which its versions change."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return HfHubHTTPError.__bases__[0]


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer that is an error, None for one that is not about an answer."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _wrong_request(hub: HubSource, text: str) -> str:
    """Return what is wrong with what was asked of an existing dataset, going by the words of `datasets`."""
    if "scripts are no longer supported" in text:
        return "only a script of its own can read it, and no code from the Hub is run: choose another one"
    available = text.partition("Available")[2].partition("[")[2].partition("]")[0].replace("'", "")
    if "Bad split" in text:
        return f"there is no split {hub.split!r} (Known: {available}): write hf:{hub.dataset}:SPLIT"
    if "BuilderConfig" in text and "not found" in text:
        return f"there is no config {hub.config!r} (Known: {available}): write hf:{hub.dataset}:CONFIG:SPLIT"
    if "Config name is missing" in text:
        configs = text.partition("configs: [")[2].partition("]")[0].replace("'", "")
        return f"a config must be named (Known: {configs}): write hf:{hub.dataset}:CONFIG:SPLIT"
    if "data file" in text or "EmptyDataset" in text or "No task.toml" in text:
        return "holds no data files that can be read: choose another dataset"
    return f"cannot be read ({text[:300]}): choose another dataset, or give text with --data FILE"


def _chain(error: BaseException) -> list[BaseException]:
    """Return `error` and what led to it, outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
