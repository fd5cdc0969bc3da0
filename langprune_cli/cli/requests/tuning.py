"""`--tune` of `apply` and `prune`: train what pruning left, block by block, on the text that it was pruned for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from collections.abc import Sequence
    from pathlib import Path

    from langprune_cli.cli.requests.session import Session
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec


@dataclass(frozen=True)
class TuneOptions:
    """What the command line says on tuning."""

    epochs: int | None
    learning_rate: float | None
    max_shard_bytes: int


def tune_options(
    *, tune: bool, epochs: int | None, learning_rate: float | None, max_shard_bytes: int
) -> TuneOptions | None:
    """Return the options where `--tune` was given; raises UsageError for those that go with it alone."""
    if not tune:
        if epochs is not None or learning_rate is not None:
            raise UsageError("--epochs and --learning-rate go with --tune: add it, or leave them out")
        return None
    if learning_rate is not None and not 0 < learning_rate < 1:
        raise UsageError(f"--learning-rate {learning_rate:g} cannot train anything: give one such as 0.001")
    return TuneOptions(epochs, learning_rate, max_shard_bytes)


def target_of(to: dict[str, Any], tune: TuneOptions | None) -> dict[str, Any]:
    """Return where a model goes: the name and folder that were asked for are the tuned one's where it is to be tuned."""
    return {"name": None, "out": None, "force": to["force"]} if tune else to


def text_of(stats: Artifact | None) -> TextSpec:
    """Return the very windows that statistics were gathered on; raises UsageError where there are none."""
    from langprune_cli.stages.statistics.collecting import need_norms  # noqa: PLC0415
    from langprune_cli.stages.statistics.parts import WINDOWS_PART  # noqa: PLC0415
    from langprune_cli.types import TextSpec  # noqa: PLC0415

    if stats is None:
        raise UsageError(
            "--tune trains on the text of statistics, and this mask was made without: name some with --stats"
        )
    need_norms("--tune", stats)
    text = stats.manifest.inputs["text"]
    return TextSpec(text["language"], str(stats.folder / WINDOWS_PART), stats.name)


def tuned(
    session: Session, dense: OpenedModel, pruned: Artifact, spec: TextSpec, calibration: CalibrationSettings,
    options: TuneOptions, *, blocks: Sequence[int] | None, name: str | None, out: Path | None, force: bool,
) -> Outcome:  # fmt: skip
    """Tune a model that was just made. blocks: those of the dense model that it has, None where it has them all."""
    from langprune_cli.stages.calibrate.calibrate import draw  # noqa: PLC0415
    from langprune_cli.stages.recover.block_tuning import TuneSettings  # noqa: PLC0415
    from langprune_cli.stages.recover.tuning import tune  # noqa: PLC0415
    from langprune_cli.streaming.opened import ModelChoice  # noqa: PLC0415

    settings = TuneSettings(
        epochs=options.epochs or TuneSettings.epochs,
        learning_rate=options.learning_rate,
        max_shard_bytes=options.max_shard_bytes,
    )
    (windows,) = draw(dense, [spec], calibration, session.reporter)
    smaller = session.open(ModelChoice(str(pruned.folder)))
    return tune(
        session.workspace,
        dense,
        smaller,
        windows,
        settings,
        session.reporter,
        blocks=blocks,
        name=name,
        out=out,
        force=force,
    )
