"""`--tune` of `apply` and `prune`: trains the kept weights, block by block, on the calibration text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Sequence

    from langprune_cli.requests.shared.choice import TuneOptions
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.target import Target
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec


@dataclass(frozen=True)
class Tuning:
    """The dense model to imitate, and the text to train on."""

    dense: OpenedModel  # the target of its hidden states
    spec: TextSpec
    calibration: CalibrationSettings
    blocks: Sequence[int] | None = None  # the dense model's blocks that it kept, None if all


def text_of(stats: Artifact | None, option: str) -> TextSpec:
    """Return the windows behind statistics, for an option that trains on them; raises UsageError without statistics."""
    from langprune_cli.stages.statistics.collecting import need_norms  # noqa: PLC0415
    from langprune_cli.stages.statistics.parts import WINDOWS_PART  # noqa: PLC0415
    from langprune_cli.types import TextSpec  # noqa: PLC0415

    if stats is None:
        raise UsageError(
            f"{option} trains on the text of statistics, and the workspace has none of this mask: name some with --stats, "
            "which langprune calibrate makes"
        )
    need_norms(option, stats)
    text = stats.manifest.inputs["text"]
    return TextSpec(text["language"], str(stats.folder / WINDOWS_PART), stats.name)


def tuned(
    run: Run, how: Tuning, pruned: Artifact, options: TuneOptions, *, max_shard_bytes: int, to: Target
) -> Outcome:
    """Tune a newly made model."""
    from langprune_cli.stages.calibrate.calibrate import draw  # noqa: PLC0415
    from langprune_cli.stages.recover.block_tuning import TuneSettings  # noqa: PLC0415
    from langprune_cli.stages.recover.tuning import Pair, tune  # noqa: PLC0415
    from langprune_cli.streaming.model_choice import ModelChoice  # noqa: PLC0415

    settings = TuneSettings(
        epochs=options.epochs or TuneSettings.epochs,
        learning_rate=options.learning_rate,
        max_shard_bytes=max_shard_bytes,
    )
    (windows,) = draw(how.dense, [how.spec], how.calibration, run.reporter)
    pair = Pair(how.dense, run.open(ModelChoice(str(pruned.folder))), how.blocks)
    return tune(run.workspace, pair, windows, settings, run.reporter, to=to)
