"""The subjects of `eval` (a model unchanged, with a mask or quantized) and their losses on a text."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import Block
from langprune_cli.records import SubjectIdentity
from langprune_cli.stages.evaluate.quantized import QuantizedModel, check_quantizable
from langprune_cli.stages.evaluate.rows import with_bits
from langprune_cli.stages.structured.keep_masks import MaskReader, remove_pruned
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.losses import window_losses
from langprune_cli.streaming.opened import OpenedModel, check_same_model
from langprune_cli.streaming.walk import walk
from langprune_cli.structured_patterns.pattern import whole_pattern
from langprune_cli.types import Windows


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: unchanged, with a mask applied on the fly, or quantized on load."""

    model: OpenedModel
    mask: Artifact | None = None
    bits: int | None = None  # None: not quantized

    @property
    def identity(self) -> SubjectIdentity:
        """Return what decides the result besides the text: checkpoint, mask, dtype, and bits if quantized."""
        identity: SubjectIdentity = {
            "model_digest": self.model.digest,
            "mask_key": self.mask.key if self.mask else None,
            "dtype": str(self.model.streamed.dtype).removeprefix("torch."),
        }
        if self.model.streamed.untied:
            # Version 0.1.0 used the embeddings as their head, so its rows do not count any more.
            identity["untied"] = True
        if self.bits:
            identity["bits"] = self.bits
        return identity

    @property
    def label(self) -> str:
        """Return a short name for progress and errors."""
        return self.mask.name if self.mask else with_bits(self.model.label, self.bits)

    def check(self) -> None:
        """Raise LangpruneError for a mask of another model, a mask that cannot be applied on the fly, or a mask with bits."""
        if self.mask and self.bits:
            raise LangpruneError(
                f"--load-bits quantizes models from disk, and mask {self.mask.name} is applied on the fly: run "
                f"langprune apply --mask {self.mask.name}, then eval --model with the result"
            )
        if self.bits:
            check_quantizable(self.model)
        if not self.mask:
            return
        check_same_model(self.mask, self.model)
        if whole := whole_pattern(self.mask.manifest.params["pattern"]):
            raise LangpruneError(
                f"mask {self.mask.name} removes {whole.parts}, which eval cannot do on the fly: run langprune apply "
                f"--mask {self.mask.name}, then eval"
            )


class Losses:
    """The losses of one subject, text by text; a quantized model loads for the first text and stays."""

    def __init__(self, subject: Subject, reporter: Reporter) -> None:
        self.subject = subject
        self.reporter = reporter

    @cached_property
    def _quantized(self) -> QuantizedModel | None:
        return QuantizedModel(self.subject.model, self.subject.bits) if self.subject.bits else None

    def on(self, windows: Windows, folder: Path) -> Tensor:
        """Return each window's summed loss over its predicted tokens, float64 [n]; hidden states may go to a file in `folder`.

        Raises LangpruneError if a loss is not finite, or if a model that must load whole does not fit.
        """
        label, name = self.subject.label, windows.spec.name
        blocks = 0 if self._quantized else len(self.subject.model.streamed.blocks)
        self.reporter.begin(f"eval {label} on {name}", blocks, windows.ids.numel() * max(1, blocks))
        quantized = self._quantized
        losses = quantized.losses(windows.ids, self.reporter.tick) if quantized else self._streamed(windows, folder)
        self.reporter.end()
        if not torch.isfinite(losses).all():
            raise LangpruneError(
                f"the loss of {label} on {name} is not finite: compute in another dtype, such as --dtype float32"
            )
        return losses

    def _streamed(self, windows: Windows, folder: Path) -> Tensor:
        """Return the losses of a model with one block in memory at a time."""
        subject = self.subject
        reader = MaskReader(subject.mask, subject.model) if subject.mask else None

        def edit(block: Block) -> None:
            if reader:
                for linear, keep in reader.block(block.index):
                    remove_pruned(linear.weight, keep)

        states = subject.model.hidden_states(windows.ids, folder)
        for _ in walk(states, edit=edit, tick=self.reporter.tick):
            pass
        return torch.cat(window_losses(states))
