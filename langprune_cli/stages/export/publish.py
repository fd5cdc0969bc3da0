"""`export --push-to-hub`: uploads an exported folder to a repository of the Hugging Face Hub, in one commit.

The `huggingface_hub` library sets the endpoint, the token and offline mode; this module never reads the token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, errors, get_token
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported without saying so to type checkers
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from langprune_cli.errors import LangpruneError, UsageError, first_line
from langprune_cli.store.building import Reporter

_AGAIN = "run the same command again: nothing is sent twice"
# Errors of the HTTP library below, which differ by version, and of incomplete answers.
_HTTP = tuple(base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception))
_FAILURES: tuple[type[Exception], ...] = (*_HTTP, OSError, RuntimeError, ValueError, KeyError)


def check_login(repo: str) -> None:
    """Raise UsageError unless `repo` is owner/name, LangpruneError if nothing can be sent; call it before copying."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError(
            f"--push-to-hub {repo} is not a repository: give owner/name, where the owner is you or an organization"
        )
    if constants.HF_HUB_OFFLINE:
        raise LangpruneError(
            f"{repo} cannot be reached offline: unset HF_HUB_OFFLINE, or export to a folder with --out only"
        )
    if get_token() is None:
        raise LangpruneError(f"uploading to {repo} needs a login: run `hf auth login`, or set HF_TOKEN")


def publish(folder: Path, names: Sequence[str], repo: str, reporter: Reporter, *, public: bool) -> str:
    """Send files of `folder` to the model repository `repo`, made if missing; return the commit's address.

    names: the files to send, and only these.

    Large files go first, one by one, and one commit names all: the repository never shows half a model, and a push after an
    interruption sends only the rest. Other files of the repository do not change. A new repository is private unless `public`.
    Raises LangpruneError if the hub refuses, cannot be reached, or has an existing public repository and `public` is not set.
    """
    api = HfApi()
    with _explained(repo), _no_bars():
        repo = _repository(api, repo, reporter, public=public)
        files = [CommitOperationAdd(name, str(folder / name)) for name in names]
        reporter.begin(f"push to {repo}", len(files), 0)
        for number, file in enumerate(files):
            api.preupload_lfs_files(repo, [file], free_memory=False)
            reporter.tick(number, 0)
        done = api.create_commit(repo, files, commit_message="Upload a model pruned by langprune")
        reporter.end()
    return done.commit_url


def _repository(api: HfApi, repo: str, reporter: Reporter, *, public: bool) -> str:
    """Make the repository, or find it; return its full name."""
    try:
        return api.create_repo(repo, private=not public).repo_id
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    info = api.model_info(repo)
    if not info.private and not public:
        raise LangpruneError(
            f"{info.id} exists and is public: add --public to publish the model in it, or name another"
        )
    if info.private and public:
        reporter.note(f"{info.id} exists and stays private; make it public in its settings on the hub.")
    return info.id


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one sentence that says what to do, never with the token."""
    try:
        yield
    except errors.HFValidationError as error:
        raise LangpruneError(f"--push-to-hub {repo} is not a valid name of a repository: give owner/name") from error
    except errors.HfHubHTTPError as error:
        raise LangpruneError(_sentence(repo, error.response.status_code, error.server_message)) from error
    except _FAILURES as error:
        raise LangpruneError(
            f"{repo} could not be sent to {constants.ENDPOINT} ({first_line(error)}): {_AGAIN}"
        ) from error


def _sentence(repo: str, status: int, said: str | None) -> str:
    known = {
        401: f"the hub did not accept your token for {repo}: run `hf auth login` with a valid one",
        403: f"your token may not write to {repo}: give it write access on the hub, or name your own repository",
        404: f"{repo} does not exist or is hidden from you: check the owner's name, or run `hf auth login`",
        409: f"{repo} was changed by someone else at the same time: {_AGAIN}",
        429: f"too many requests to {repo} (429): wait some minutes, then {_AGAIN}",
    }
    return known.get(status) or f"the hub refused {repo} ({status}{f', {said}' if said else ''}): {_AGAIN}"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn huggingface_hub's progress bars off: the caller has its own."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
