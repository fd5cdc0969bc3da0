"""Opens a model for a stage: finds it by name, and opens its streamed skeleton and its tokenizer."""

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import tokenizers
import torch
import transformers
from torch import Tensor

from langprune_cli.defaults import SEQLEN
from langprune_cli.errors import LangpruneError, UsageError, first_line
from langprune_cli.location.config_only import locate_config
from langprune_cli.location.location import ModelLocation, locate_model
from langprune_cli.models.model_files import VOCABULARY, check_files, tokenizer_digest
from langprune_cli.models.skeleton import read_config
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.store.artifact import KINDS, Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import need_space
from langprune_cli.store.manifest import is_artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.walk import HiddenStates
from langprune_cli.tokens.tokenizer import Tokenizer
from langprune_cli.types import Windows

DEMO = "demo"


@dataclass(frozen=True)
class ModelChoice:
    """A model named by the user, or remembered by the workspace."""

    name: str
    revision: str | None = None


class OpenedModel:
    """A model located and opened for streaming."""

    def __init__(self, location: ModelLocation, compute: Compute) -> None:
        self.location = location
        self.compute = compute
        self.streamed = StreamedModel(
            location.folder,
            dtype=compute.torch_dtype(),
            device=compute.torch_device(),
            trust_remote_code=compute.trust_remote_code,
            all_experts=compute.all_experts,
        )
        self.config = self.streamed.config
        self.fit_to_stay: set[tuple[int, ...]] = set()  # the choices of blocks that passed `check_without`
        if compute.all_experts:
            self.require_experts("--all-experts")

    def require_experts(self, option: str) -> None:
        """Raise UsageError for an option about experts if the model has none."""
        if not self.streamed.has_experts:
            raise UsageError(f"{option} has no effect on {self.label}, which has no experts: leave it out")

    @property
    def about(self) -> dict[str, str | None]:
        """Return the model's name for people: hub id and revision, or the folder."""
        return self.location.about

    @property
    def label(self) -> str:
        """Return a short name for tables."""
        return self.location.label

    @property
    def digest(self) -> str:
        """Return the checkpoint's digest."""
        return self.streamed.digest

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the model's own tokenizer; raises LangpruneError if its files are missing or unreadable."""
        return _read_tokenizer(self.location.folder, trust_remote_code=self.compute.trust_remote_code)

    @property
    def vocabulary(self) -> str:
        """Return the identity of the vocabulary: the tokenizer's digest, or the number of ids without a tokenizer."""
        try:
            return tokenizer_digest(self.location.folder)
        except LangpruneError:
            return str(self.streamed.config.get_text_config().vocab_size)

    def seqlen(self, asked: int | None, reporter: Reporter) -> int:
        """Return the requested window length, by default 2048 or the model's context if that is shorter.

        Raises LangpruneError for a window longer than the context.
        """
        chosen = window_length(asked, self.streamed.context, self.label)
        if asked is None and chosen < SEQLEN:
            reporter.note(f"Windows have {chosen} tokens, the whole context of {self.label}.")
        return chosen

    def check_windows(self, windows: Windows) -> None:
        """Raise LangpruneError for given windows longer than the context."""
        context = self.streamed.context
        if context and windows.seqlen > context:
            raise LangpruneError(
                f"{windows.spec.source} has windows of {windows.seqlen} tokens, and the context of {self.label} is {context}: "
                "give shorter ones"
            )

    def hidden_states(self, ids: Tensor, folder: Path, *, fast: bool = False) -> HiddenStates:
        """Return the embedded windows `ids` [n, t], in a file of `folder` if they exceed --max-memory.

        fast: see `HiddenStates`. Raises LangpruneError if the folder has no room for them.
        """
        return HiddenStates(self.streamed, ids, self.compute.batch_tokens, self.spill(ids, folder), fast=fast)

    def spill(self, ids: Tensor, folder: Path) -> Path | None:
        """Return `folder` if the hidden states of `ids` [n, t] need a file, None if memory holds them.

        Raises LangpruneError if the folder has no room for them.
        """
        size = ids.numel() * self.streamed.config.get_text_config().hidden_size * self.streamed.dtype.itemsize
        if self.compute.max_memory is None or size <= self.compute.max_memory:
            return None
        need_space(folder, size)
        return folder

    def environment(self) -> dict[str, str]:
        """Return versions and hardware that may change the last bits of a result; they are not part of its key."""
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self.streamed.device.type,
            "machine": platform.machine(),
        }


class OpenedTokenizer:
    """A model's configuration and tokenizer; its weights may be missing."""

    def __init__(self, location: ModelLocation, *, trust_remote_code: bool) -> None:
        """Open both; raises LangpruneError for missing or unreadable files."""
        self.location = location
        self.digest = tokenizer_digest(location.folder)
        self.tokenizer = _read_tokenizer(location.folder, trust_remote_code=trust_remote_code)
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


def window_length(asked: int | None, context: int | None, label: str) -> int:
    """Return the requested number of tokens of a window, by default 2048 or the context if that is shorter.

    label: the model, for messages. Raises LangpruneError for a window longer than the context.
    """
    if asked is None:
        return min(SEQLEN, context or SEQLEN)
    if context and asked > context:
        raise LangpruneError(
            f"--seqlen {asked} is longer than the context of {label}, {context} tokens: ask for {context} or less"
        )
    return asked


def _read_tokenizer(folder: Path, *, trust_remote_code: bool) -> Tokenizer:
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


def choose_model(workspace: Workspace, named: str | None, revision: str | None, reporter: Reporter) -> ModelChoice:
    """Return the named model, else the workspace's (remembered, or of its artifacts), else the built-in demo model.

    Raises LangpruneError if the workspace remembers none and has artifacts of several models.
    """
    if named:
        return ModelChoice(named, revision)
    remembered = workspace.model()
    if remembered and remembered["name"]:
        return ModelChoice(remembered["name"], revision or remembered["revision"])
    known = {outline.model for kind in KINDS for outline in workspace.outlines(kind) if outline.model}
    models = {model for model in known if not model_artifact(workspace, model[0])}
    if len(models) > 1:
        names = " and ".join(sorted(name for name, _ in models))
        raise LangpruneError(f"the workspace {workspace.root} has artifacts of {names}: name one of them with --model")
    for name, commit in models - {(DEMO, None)}:
        reporter.note(f"Using {name}, the model of this workspace's artifacts (--model names another).")
        return ModelChoice(name, revision or commit)
    reporter.note("Using the built-in demo model (--model names another).")
    return ModelChoice(DEMO, revision)


def open_model(workspace: Workspace, choice: ModelChoice, compute: Compute, reporter: Reporter) -> OpenedModel:
    """Locate a model (an artifact's name, a folder, a hub id or `demo`) and open it, in all processes of the run.

    Raises LangpruneError as `locate_model`, `Checkpoint` and `read_config` do, and if processes find different models.
    """
    team = compute.team
    location = team.first(lambda: _located(workspace, choice, compute, locate_model, reporter))
    if not location.folder.exists():  # this process is on another machine, with its own cache
        location = _located(workspace, choice, compute, locate_model, reporter)
    model = OpenedModel(location, compute)
    if len(set(team.all_gather(model.digest if team.size > 1 else ""))) > 1:
        raise LangpruneError(f"{model.label} is not the same model on all machines: give them the same files")
    on_cpu = model.streamed.dtype == torch.bfloat16 and model.streamed.device.type == "cpu"
    if compute.dtype is not None and on_cpu and _lacks_bfloat16():
        reporter.note("This CPU has no bfloat16 units: --dtype float32 is several times faster here.")
    return model


def open_tokenizer(workspace: Workspace, choice: ModelChoice, compute: Compute, reporter: Reporter) -> OpenedTokenizer:
    """Locate a model as `open_model` does, and open its configuration and tokenizer without fetching or reading weights.

    Raises LangpruneError as `locate_config`, `read_config` and `tokenizer_digest` do.
    """
    location = _located(workspace, choice, compute, partial(locate_config, only="tokenizer"), reporter)
    return OpenedTokenizer(location, trust_remote_code=compute.trust_remote_code)


def _located(
    workspace: Workspace,
    choice: ModelChoice,
    compute: Compute,
    locate: Callable[..., ModelLocation],
    reporter: Reporter,
) -> ModelLocation:
    """Return a model's location: an artifact's folder, or the result of `locate`, whose notes are shown."""
    artifact = model_artifact(workspace, choice.name)
    if artifact:
        # By name if it is in this workspace, which may move.
        own = artifact.folder.absolute().parent == (workspace.root / "models").absolute()
        return ModelLocation(artifact.folder, artifact.name, None, "artifact" if own else "folder")
    location = locate(
        choice.name,
        revision=choice.revision,
        cache_dir=compute.cache_dir,
        with_code=compute.trust_remote_code,
        fetch=compute.fetch,
    )
    for note in location.notes:
        reporter.note(note)
    return location


def _lacks_bfloat16() -> bool:
    """Return whether this CPU emulates products of bfloat16 matrices, as x86 CPUs without AVX-512 do."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def model_artifact(workspace: Workspace, name: str) -> Artifact | None:
    """Return the model artifact with that name or folder, None if the name means something else."""
    places = [Path(name)]
    with suppress(UsageError):  # not a possible name of an artifact
        places.append(workspace.folder("models", name))
    return workspace.find("models", name) if name != DEMO and any(map(is_artifact, places)) else None


def check_same_model(artifact: Artifact, model: OpenedModel, or_else: str = "") -> None:
    """Raise LangpruneError if `artifact` was made from another checkpoint than `model`.

    or_else: further advice at the end of the message.
    """
    if artifact.manifest.inputs["model"] != model.digest:
        made_for = artifact.manifest.about.get("model", {}).get("name", "another model")
        raise LangpruneError(
            f"{artifact.manifest.kind} {artifact.name} was made for another model ({made_for}), not for "
            f"{model.about['name']}: name that model with --model, or make it again for this one{or_else}"
        )
