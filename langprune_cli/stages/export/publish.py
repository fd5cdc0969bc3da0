"""`export --push-to-hub`: the files of an exported folder to a repository of the Hugging Face Hub, in one commit.

The endpoint, the token and offline mode are those of the `huggingface_hub` library; the token is never looked at here.
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

_AGAIN = "run the same command again: what has arrived is not sent twice"
# The errors of the HTTP library below, which its versions change, and what half an answer is read as.
_HTTP = tuple(base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception))
_FAILURES: tuple[type[Exception], ...] = (*_HTTP, OSError, RuntimeError, ValueError, KeyError)


def check_login(repo: str) -> None:
    """Raise UsageError for what is no owner/name, LangpruneError where nothing can be sent: before anything is copied."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError(
            f"--push-to-hub {repo} names no repository: give owner/name, the owner being you or an organization"
        )
    if constants.HF_HUB_OFFLINE:
        raise LangpruneError(
            f"{repo} cannot be sent to offline: unset HF_HUB_OFFLINE, or export to a folder with --out alone"
        )
    if get_token() is None:
        raise LangpruneError(
            f"the hub takes {repo} from those alone whom it knows: run `hf auth login`, or set HF_TOKEN"
        )


def publish(folder: Path, names: Sequence[str], repo: str, reporter: Reporter, *, public: bool) -> str:
    """Send files of `folder` to the model repository `repo`, made where it is not there; return the commit's address.

    names: of the files, which are all that is sent.

    The large files go first, one by one, and one commit names all: the repository never shows half a model, and a push that
    was interrupted sends only what has not arrived. Files of the repository that the folder has not stay as they are.
    A repository is private unless `public`.
    Raises LangpruneError where the hub refuses, cannot be reached, or has a public repository of that name that was not
    asked for.
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
    """Make the repository, or find it; return its whole name."""
    try:
        return api.create_repo(repo, private=not public).repo_id
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    info = api.model_info(repo)
    if not info.private and not public:
        raise LangpruneError(f"{info.id} is there and public: add --public to publish the model in it, or name another")
    if info.private and public:
        reporter.note(f"{info.id} was there and stays private; its settings on the hub make it public.")
    return info.id


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence that says what to do; the token is in none of them."""
    try:
        yield
    except errors.HFValidationError as error:
        raise LangpruneError(
            f"--push-to-hub {repo} is not a name that a repository may have: give owner/name"
        ) from error
    except errors.HfHubHTTPError as error:
        raise LangpruneError(_sentence(repo, error.response.status_code, error.server_message)) from error
    except _FAILURES as error:
        raise LangpruneError(
            f"{repo} could not be sent to {constants.ENDPOINT} ({first_line(error)}): {_AGAIN}"
        ) from error


def _sentence(repo: str, status: int, said: str | None) -> str:
    known = {
        401: f"the hub did not take your token for {repo}: run `hf auth login` with one that is valid",
        403: f"your token may not write to {repo}: give it write access on the hub, or name a repository of your own",
        404: f"there is no {repo} that you may see: check the owner's name, or run `hf auth login`",
        409: f"{repo} was changed by someone else at the same time: {_AGAIN}",
        429: f"the hub asks for patience with {repo} (429): wait some minutes, then {_AGAIN}",
    }
    return known.get(status) or f"the hub refused {repo} ({status}{f', {said}' if said else ''}): {_AGAIN}"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep huggingface_hub from drawing bars across the caller's."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
