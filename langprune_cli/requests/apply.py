"""The request behind `apply`: write the pruned model, or apply a mask again after training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.recover import recovered_after
from langprune_cli.requests.shared.choice import PrunedModelOptions, check_damping
from langprune_cli.requests.shared.inputs import own_stats, stats_for
from langprune_cli.requests.shared.names import UPDATES, check_name
from langprune_cli.requests.shared.options import ModelOptions, OpeningOptions, SharingOptions, TextOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.tuning import Tuning, text_of, tuned
from langprune_cli.requests.shared.values import MASK_FILES
from langprune_cli.requests.shared.weights import solving_of

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.store.building import Outcome


@dataclass(frozen=True, kw_only=True)
class ApplyRequest(ModelOptions, PrunedModelOptions, OpeningOptions, SharingOptions):
    """Update the kept weights, and write the pruned model as a folder that transformers opens.

    mask: the mask to apply, by default the newest; with `reapply` also an exported file
    reapply: apply the mask again to `model`, which was trained after pruning
    update: how to update the kept weights, by default as the mask's method does
    stats: statistics for the update, by default the mask's
    damping: a setting of solvers
    tune, epochs, learning_rate: whether to train the kept weights, and for how long
    recover: then train the model end to end on this many tokens of the statistics' text, such as "2M", as `recover` does
    model, revision: the model, by default the mask's
    out, max_shard_size: the folder to write to, instead of one in the workspace, and its largest file of weights
    text_only: of a model that reads images, write the text tower alone, as a causal language model
    device, cache_dir, trust_remote_code: how to open the model
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    mask: str | Path | None = None
    reapply: bool = False
    update: str | None = None
    stats: str | None = None
    damping: float | None = None

    @property
    def of_file(self) -> Path | None:
        """The mask if it is an exported file."""
        named = str(self.mask or "")
        return Path(named).expanduser() if named.endswith(MASK_FILES) else None

    def check(self) -> None:
        """Raise UsageError for options that do not go with --reapply, and for a mask file without it."""
        super().check()
        check_name("--update", self.update, UPDATES)
        check_damping(self.damping)
        if not (self.reapply or self.of_file):
            return
        if not self.reapply:
            raise UsageError(f"--mask {self.mask} is a file of masks, which only --reapply takes: add --reapply")
        if self.model is None:
            raise UsageError("--reapply needs the model that was trained after pruning: name it with --model")
        without = {"--update": self.update, "--stats": self.stats, "--damping": self.damping, "--tune": self.tune,
                   "--epochs": self.epochs, "--learning-rate": self.learning_rate, "--text-only": self.text_only,
                   "--recover": self.recover}  # fmt: skip
        if given := [option for option, value in without.items() if value]:
            raise UsageError(
                f"{given[0]} does not go with --reapply, which does not change other weights: leave it out"
            )


def apply(request: ApplyRequest) -> Made:
    """Make one model; with `tune` the untuned and the tuned one."""
    with running(request) as run:
        return run.made(lambda: _made(run, request))


def _made(run: Run, request: ApplyRequest) -> list[Outcome]:
    """Return the models, the last first; several processes share the windows of --recover alone."""
    models, text = run.team.first(lambda: _set_again(run, request) if request.reapply else _applied(run, request))
    if text is None:
        return models
    return [recovered_after(run, models[0].artifact, text, request), *models]


def _set_again(run: Run, request: ApplyRequest) -> tuple[list[Outcome], None]:
    from langprune_cli.stages.apply import reapply as stage  # noqa: PLC0415

    if request.of_file:
        saved = stage.mask_of_file(request.of_file)
    else:
        saved = stage.mask_of_artifact(run.pick("masks", _name(request), "mask", "mask"))
    opened, to = run.open(run.choose(request.model, request.revision)), request.target
    made = stage.reapply(
        run.workspace, opened, saved, run.reporter, max_shard_bytes=request.max_shard_bytes, to=to,
    )  # fmt: skip
    return [made], None


def _applied(run: Run, request: ApplyRequest) -> tuple[list[Outcome], TextOptions | None]:
    """Return the pruned model, tuned if that is requested, and the text to train it on if it is to be recovered."""
    from langprune_cli.stages.apply.apply import ApplySettings, apply, own_update  # noqa: PLC0415
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings  # noqa: PLC0415
    from langprune_cli.stages.structured.block_cut import blocks_that_stayed  # noqa: PLC0415
    from langprune_cli.structured_patterns.pattern import check_tunable, patterns_of  # noqa: PLC0415
    from langprune_cli.updates.update import get_update  # noqa: PLC0415

    mask, stats, to = run.pick("masks", _name(request), "mask", "mask"), request.stats, request.target
    params = mask.manifest.params
    experts = params.get("min_expert_tokens")  # the same experts lack statistics as for the mask
    update = request.update or own_update(params)
    settings = ApplySettings(
        update, solving_of(request.damping, experts), request.max_shard_bytes, text_only=request.text_only
    )
    patterns = patterns_of(params["pattern"])
    if request.tune:
        check_tunable(patterns)
    aside = [each.parts for each in patterns if not each.touches_blocks]
    if aside and (request.is_trained or request.update or request.damping is not None):
        raise UsageError(
            f"--tune, --recover, --update and --damping have no effect when {aside[0]} are pruned: leave them out"
        )
    needs = get_update(update).needs
    if needs == "nothing" and stats and not request.is_trained:
        raise UsageError(f"--stats {stats} has no use for --update {update}: leave it out")
    made_from = None if stats else own_stats(run, mask, needs)
    if made_from is None and needs != "nothing":
        made_from = stats_for(run, needs, f"--update {update}", stats)
    spec = None
    if request.is_trained:
        read = made_from or (run.workspace.find("stats", stats) if stats else own_stats(run, mask, "norms"))
        spec = text_of(read, "--tune" if request.tune else "--recover")
    opened, first = run.open_named(request, mask), to.between if request.is_trained else to
    made = apply(
        run.workspace, opened, mask, run.reporter, settings,
        stats=made_from, to=first,
    )  # fmt: skip
    if spec is None:
        return [made], None
    models = [made]
    if request.tune:
        how = Tuning(opened, spec, CalibrationSettings(), blocks_that_stayed(mask))
        most, then = request.max_shard_bytes, to.between if request.recover else to
        models = [tuned(run, how, made.artifact, request, max_shard_bytes=most, to=then), *models]
    return models, TextOptions(lang=spec.language or (), data=spec.source) if request.recover else None


def _name(request: ApplyRequest) -> str | None:
    return str(request.mask) if request.mask else None
