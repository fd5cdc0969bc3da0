"""Saves hidden states beside an artifact's parts, so that an interrupted walk resumes."""

import time
from contextlib import suppress

from safetensors import SafetensorError

from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.files import new_file
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates, restore_states, save_states
from langprune_cli.types import Windows

# Hidden states are written once at least this much work would be lost without them.
SAVE_AFTER_SECONDS = 120.0


class SavedStates:
    """The scratch file of one walk over the blocks."""

    def __init__(self, writer: ArtifactWriter, model: OpenedModel, windows: Windows, *, ways: int = 1) -> None:
        """Describe the walk of `windows` through `model`. ways: how many hidden states go through it side by side."""
        self._writer = writer
        self._model = model
        self._windows = windows
        self._ways = ways
        self._saved = time.monotonic()

    def start(self, done: int) -> tuple[list[HiddenStates], int]:
        """Return the latest saved hidden states of each way that do not pass block `done`, and the block that reads them."""
        states = self._embedded()
        first = 0
        # Several processes save nothing: they run the earlier blocks again.
        if self._model.compute.team.size == 1 and self._writer.scratch.exists():
            with suppress(
                SafetensorError, KeyError, RuntimeError, StopIteration
            ):  # damaged: run the earlier blocks again
                first = restore_states(self._writer.scratch, states) + 1
            if not 0 < first <= done:  # damaged, or a part that was finished then is damaged since
                states, first = self._embedded(), 0
        self._saved = time.monotonic()
        return states, first

    def keep(self, states: list[HiddenStates], after: int) -> None:
        """Write the outputs of block `after`, if enough work would be lost without them."""
        if self._model.compute.team.size > 1:
            return
        last = len(self._model.streamed.blocks) - 1
        if time.monotonic() - self._saved > SAVE_AFTER_SECONDS and after < last:
            with new_file(self._writer.scratch) as temporary:
                save_states(temporary, states, after)
            self._saved = time.monotonic()

    def _embedded(self) -> list[HiddenStates]:
        share, folder = self._model.compute.team.share(self._windows.ids), self._writer.folder
        first = self._model.hidden_states(share, folder, fast=True, ways=self._ways)
        return [first, *(first.twin(self._model.spill(share, folder, self._ways)) for _ in range(1, self._ways))]
