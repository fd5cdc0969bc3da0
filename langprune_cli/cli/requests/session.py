"""One run of a stage command: resolves what was left out, calls the stage, prints what came out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli import defaults
from langprune_cli.cli.display.console import ConsoleReporter
from langprune_cli.cli.display.log import running_log
from langprune_cli.cli.display.made import document, show_made
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.run import Run
from langprune_cli.requests.shared.values import one_of, shard_of, size_in_bytes

__all__ = ["Session", "document", "one_of", "shard_of", "size_in_bytes"]

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.store.building import Outcome


class Session(Run):
    """A workspace, the settings of the computation, and the console."""

    def __init__(
        self,
        workspace: Path,
        *,
        json: bool,
        dtype: str | None = None,  # None: the command has no such option
        device: str = "auto",
        batch_tokens: int = defaults.BATCH_TOKENS,
        cache_dir: Path | None = None,
        trust_remote_code: bool = False,
        all_experts: bool = False,
        max_memory: str | None = None,
        dry_run: bool = False,
    ) -> None:
        import transformers  # noqa: PLC0415 - see above

        from langprune_cli.store.workspace import Workspace  # noqa: PLC0415
        from langprune_cli.streaming.opened import Compute  # noqa: PLC0415

        transformers.logging.set_verbosity_error()
        # What matters of theirs comes up as an exception.
        for library in ("datasets", "huggingface_hub", "fsspec", "bitsandbytes"):
            logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"(transformers|torch|datasets|huggingface_hub|bitsandbytes)\b")
        reporter = ConsoleReporter()
        opened = Workspace(workspace.expanduser(), dry=dry_run, note=reporter.note)
        if not dry_run and (log := running_log()):
            log.workspace = opened.root
        most = size_in_bytes("--max-memory", max_memory) if max_memory else None
        compute = Compute(
            dtype, device, batch_tokens, cache_dir, trust_remote_code, all_experts, fetch=not dry_run, max_memory=most
        )
        super().__init__(opened, compute, reporter)
        self.json = json

    def show(self, outcomes: list[Outcome]) -> None:
        """Print what a stage made; in a dry run what it would make."""
        planned = self.workspace.planned
        if planned is not None:
            show_made(Made(tuple(outcomes), tuple(planned)), json=self.json)
            return
        self.workspace.run_starts()  # where all was there already, none did
        show_made(Made(tuple(outcomes)), json=self.json)
