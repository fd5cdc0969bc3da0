"""Opens a model's tokenizer, without its weights."""

import platform
from functools import partial
from pathlib import Path

import tokenizers
import transformers

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.location.config_only import locate_config
from langprune_cli.location.location import ModelLocation
from langprune_cli.models.model_files import VOCABULARY, check_files, tokenizer_digest
from langprune_cli.models.skeleton import read_config
from langprune_cli.store.building import Reporter
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice, located
from langprune_cli.tokens.tokenizer import Tokenizer


class OpenedTokenizer:
    """A model's configuration and tokenizer; its weights may be missing."""

    def __init__(self, location: ModelLocation, *, trust_remote_code: bool) -> None:
        """Open both; raises LangpruneError for missing or unreadable files."""
        self.location = location
        self.digest = tokenizer_digest(location.folder)
        self.tokenizer = read_tokenizer(location.folder, trust_remote_code=trust_remote_code)
        self.config = read_config(location.folder, trust_remote_code=trust_remote_code)
        # A model may have more ids than its tokenizer (padding), and a tokenizer may have gaps between its ids.
        highest = max(self.tokenizer.get_vocab().values(), default=-1)
        self.vocab_size = max(self.config.get_text_config().vocab_size, len(self.tokenizer), highest + 1)

    def environment(self) -> dict[str, str]:
        """Return versions that may change the tokens of a text; they are not part of a key."""
        return {
            "tokenizers": tokenizers.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        }


def read_tokenizer(folder: Path, *, trust_remote_code: bool) -> Tokenizer:
    """Return the tokenizer in a model folder; raises LangpruneError if its files are missing or unreadable."""
    check_files(folder)
    try:
        # For some families transformers silently makes a tokenizer with an empty vocabulary.
        if not any(VOCABULARY.fullmatch(path.name) for path in folder.iterdir()):
            raise ValueError("there is no vocabulary file")
        found: Tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise LangpruneError(
            f"{folder} has no readable tokenizer ({first_line(error)}): add tokenizer.json, or give token windows with "
            "--data FILE.safetensors"
        ) from error
    return found


def open_tokenizer(workspace: Workspace, choice: ModelChoice, compute: Compute, reporter: Reporter) -> OpenedTokenizer:
    """Locate a model as `open_model` does, and open its configuration and tokenizer without fetching or reading weights.

    Raises LangpruneError as `locate_config`, `read_config` and `tokenizer_digest` do.
    """
    location = located(workspace, choice, compute, partial(locate_config, only="tokenizer"), reporter)
    return OpenedTokenizer(location, trust_remote_code=compute.trust_remote_code)
