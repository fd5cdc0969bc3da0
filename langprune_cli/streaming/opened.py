"""Opens a model for a stage: its streamed skeleton, its tokenizer, and what the stages ask of both."""

import platform
from functools import cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor

from langprune_cli.defaults import SEQLEN
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import ModelLocation, locate_model
from langprune_cli.models.model_files import tokenizer_digest
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import need_space
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute, slow_bfloat16
from langprune_cli.streaming.model_choice import ModelChoice, located
from langprune_cli.streaming.opened_tokenizer import read_tokenizer
from langprune_cli.streaming.walk import HiddenStates
from langprune_cli.tokens.tokenizer import Tokenizer
from langprune_cli.types import Windows


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
        return read_tokenizer(self.location.folder, trust_remote_code=self.compute.trust_remote_code)

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

    def hidden_states(self, ids: Tensor, folder: Path, *, fast: bool = False, ways: int = 1) -> HiddenStates:
        """Return the embedded windows `ids` [n, t], in a file of `folder` if they exceed --max-memory.

        fast: see `HiddenStates`. ways: see `spill`. Raises LangpruneError if the folder has no room for them.
        """
        return HiddenStates(self.streamed, ids, self.compute.batch_tokens, self.spill(ids, folder, ways), fast=fast)

    def spill(self, ids: Tensor, folder: Path, ways: int = 1, most: int | None = None) -> Path | None:
        """Return `folder` if the hidden states of `ids` [n, t] need a file, None if memory holds them.

        ways: how many such hidden states there are. most: bytes in memory where --max-memory does not say, None for any number.
        Raises LangpruneError if the folder has no room for them.
        """
        size = ways * ids.numel() * self.streamed.config.get_text_config().hidden_size * self.streamed.dtype.itemsize
        most = most if self.compute.max_memory is None else self.compute.max_memory
        if most is None or size <= most:
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


def open_model(workspace: Workspace, choice: ModelChoice, compute: Compute, reporter: Reporter) -> OpenedModel:
    """Locate a model (an artifact's name, a folder, a hub id or `demo`) and open it, in all processes of the run.

    Raises LangpruneError as `locate_model`, `Checkpoint` and `read_config` do, and if processes find different models.
    """
    team = compute.team
    location = team.first(lambda: located(workspace, choice, compute, locate_model, reporter))
    if not location.folder.exists():  # this process is on another machine, with its own cache
        location = located(workspace, choice, compute, locate_model, reporter)
    model = OpenedModel(location, compute)
    if len(set(team.all_gather(model.digest if team.size > 1 else ""))) > 1:
        raise LangpruneError(f"{model.label} is not the same model on all machines: give them the same files")
    on_cpu = model.streamed.dtype == torch.bfloat16 and model.streamed.device.type == "cpu"
    if compute.dtype is not None and on_cpu and slow_bfloat16(model.streamed.device):
        reporter.note("This CPU multiplies bfloat16 slowly: --dtype float32 is faster here.")
    return model


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
