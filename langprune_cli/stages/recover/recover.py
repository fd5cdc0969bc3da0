"""`recover`: trains a pruned model end to end on text, so that it predicts what the dense model predicts."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from langprune_cli.defaults import Train
from langprune_cli.errors import LangpruneError
from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.records import CheckedRecord
from langprune_cli.stages.apply.apply import check_target
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.recover.block_tuning import rate_share
from langprune_cli.stages.recover.cached_logits import CachedTeacher, TeacherLogits
from langprune_cli.stages.recover.checking import as_updated, check_trained
from langprune_cli.stages.recover.distilling import Distillation, Lessons, Schedule, steps_of
from langprune_cli.stages.recover.looks import RECOVERY_PART, Look, is_finite, said
from langprune_cli.stages.recover.memory import PLAIN, Way, micro_windows
from langprune_cli.stages.recover.student import Student, checkpointed, in_memory
from langprune_cli.stages.recover.teacher import OnlineTeacher, Teacher, check_tokens
from langprune_cli.stages.recover.text import held_out_windows
from langprune_cli.stages.recover.tracking import LogTo, Tracked, tracking
from langprune_cli.stages.recover.tuning import record_of
from langprune_cli.stages.solving.updating import UpdatedLinear
from langprune_cli.stages.statistics.parts import text_about, text_identity
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, begun_before, made_before, run_stage
from langprune_cli.store.files import disk_errors, readable_json
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel

# Learning rates for a width, tokens of a step and a loss, see `rate`; measured, docs/decisions-appendix.md.
_RATES: dict[Train, float] = {"all": 2e-4, "lora": 2e-3, "norms": 2e-3}
_WIDTH, _STEP_TOKENS, _LARGE_LOSS = 576, 2048, 0.03


@dataclass(frozen=True)
class RecoverSettings:
    """How to train."""

    tokens: int
    batch_tokens: int  # of a step of the optimizer
    train: Train = "all"
    learning_rate: float | None = None  # None: see `rate`
    seed: int = 0  # of the order of the windows
    dtype: torch.dtype = torch.bfloat16  # of the products
    max_shard_bytes: int = MAX_SHARD_BYTES
    shares: tuple[int, ...] = ()  # of each text, for the record: what they gave are the windows
    log_to: LogTo | None = None  # is not on record, since nothing depends on it
    online: bool = False  # the teacher is in memory beside the student, instead of its most likely tokens on disk
    way: Way = PLAIN  # to take less memory and more time: changes nothing but, with shares of weights, rounding

    def rate(self, hidden_size: int, seqlen: int, loss: float) -> float:
        """Return the given learning rate, else one for the model's width, the tokens of a step and what was lost.

        loss: nats per token before training, see `rate_share`. The rate goes with the inverse of the width (arXiv 2203.03466,
        table 3) and the root of a step's tokens (2205.10287).
        """
        by_step = math.sqrt(steps_of(self.tokens, self.batch_tokens, seqlen)[1] * seqlen / _STEP_TOKENS)
        by_width = _RATES[self.train] * _WIDTH / hidden_size
        return self.learning_rate or by_width * by_step * rate_share(loss, _LARGE_LOSS)


def recover(
    workspace: Workspace,
    taught: TeacherLogits,  # on the windows to train on and to hold out
    pruned: OpenedModel,  # in float32
    settings: RecoverSettings,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Write the pruned model with weights trained to give the teacher's next-token distributions.

    The pruned model is in memory as a whole, and with `online` the teacher too. Zeros of the blocks' linears stay, and what is
    not trained keeps its bits. The step with the least loss on held-out windows is kept, with weights rounded to the checkpoint's
    dtype; if none is better than before, all weights stay as they were. Several processes share the windows; the first writes.
    Raises LangpruneError for text with tokens that the teacher lacks, or without windows to hold out, and for losses that are not
    finite.
    """
    teacher, windows = taught.dense, taught.windows
    for model in (pruned, teacher):
        check_target(workspace, model, to)
        model.check_windows(windows)
    if not held_out_windows(windows).any():
        raise LangpruneError(
            f"{windows.spec.source} gave {windows.count} window{'s' * (windows.count > 1)}, and recovery needs one to train on "
            "and one to hold out of the same text: give more text, or a smaller --seqlen"
        )
    check_tokens(windows, taught.rows, pruned, teacher)
    team = pruned.compute.team
    recipe = team.first(lambda: _recipe(taught, pruned, settings))

    def make(writer: ArtifactWriter) -> Artifact:
        logits = None if settings.online else taught.made(workspace, reporter, force=to.force).artifact
        return Recovery(writer, taught, logits, pruned, settings, reporter).run()

    where = _destination(workspace, pruned, to)
    if workspace.planned is not None and not settings.online and made_before(recipe, where) is None:
        taught.made(workspace, reporter, force=to.force)
    return run_stage(recipe, where, make, team=team)


def made_or_begun(
    workspace: Workspace,
    taught: TeacherLogits,
    pruned: OpenedModel,
    settings: RecoverSettings,
    trains: Sequence[Train],
    to: Target,
) -> tuple[Train | None, bool]:
    """Return which of `trains` a model on disk was trained with, finished or else begun, and whether it is finished.

    So that a command that leaves the choice to memory finds its model again when another amount is free.
    """
    where = _destination(workspace, pruned, to)
    recipes = {train: _recipe(taught, pruned, replace(settings, train=train)) for train in trains}
    made = next((train for train, recipe in recipes.items() if made_before(recipe, where)), None)
    begun = (train for train, recipe in recipes.items() if begun_before(recipe, where))
    return made or next(begun, None), made is not None


def _destination(workspace: Workspace, pruned: OpenedModel, to: Target) -> Destination:
    return Destination.of(workspace, f"{pruned.label}-recovered", to)


class Recovery:
    """One run; goes on from the last state of training that was saved."""

    def __init__(
        self,
        writer: ArtifactWriter,
        taught: TeacherLogits,
        logits: Artifact | None,  # on disk; None: computed
        pruned: OpenedModel,
        settings: RecoverSettings,
        reporter: Reporter,
    ) -> None:
        self._writer = writer
        self._taught, self._logits = taught, logits
        self._teacher, self._pruned, self._team = taught.dense.streamed, pruned.streamed, pruned.compute.team
        self._windows, self._settings, self._reporter = taught.windows, settings, reporter
        self._target = ModelWriter(writer, pruned, settings.max_shard_bytes)
        self._team.first(self._target.need_space)

    def run(self) -> Artifact:
        """Train, write what came of it, and read it back."""
        kept = self._trained()
        return self._team.first(lambda: self._written(kept))

    def _written(self, kept: dict[str, Tensor]) -> Artifact:
        def of_block(index: int) -> dict[str, UpdatedLinear]:
            return as_updated(index, {name: kept[name] for name in self._pruned.tensor_names(index) if name in kept})

        outside = {name: kept[name] for name in self._pruned.outside_names() if name in kept}
        self._target.write(of_block, lambda _: None, outside)
        return self._writer.finish(checked=self._checked(kept))

    def _trained(self) -> dict[str, Tensor]:
        """Return the tensors of the best step, none if it is no better than before."""
        settings, held = self._settings, held_out_windows(self._windows)
        seqlen = self._windows.seqlen
        steps, step_windows = steps_of(settings.tokens, settings.batch_tokens, seqlen)
        if self._team.size > step_windows:
            self._reporter.note(
                f"A step has {step_windows} window{'s' * (step_windows > 1)}, so that {self._team.size - step_windows} of "
                f"{self._team.size} processes have no work: a larger --batch-tokens gives it to them, and other steps."
            )
        with ExitStack() as loaded:
            teacher = self._opened_teacher(loaded)
            parameters = loaded.enter_context(in_memory(self._pruned, self._team, sharded=settings.way.processes > 1))
            student = Student(self._pruned, parameters, settings.train, settings.seed)
            loaded.callback(student.release)
            if settings.way.checkpointing:
                loaded.enter_context(checkpointed(self._pruned.blocks))
            state = student.state_bytes
            self._team.first(lambda: self._target.need_space(2 * state))  # a new one is written beside the last
            lessons = Lessons(self._windows.ids, (~held).nonzero().flatten(), held.nonzero().flatten(), teacher)
            rate = partial(settings.rate, self._pruned.config.get_text_config().hidden_size, seqlen)
            schedule = Schedule(steps, step_windows, micro_windows(seqlen), rate, settings.seed)
            distillation = Distillation(student, lessons, schedule, self._autocast, self._team)
            self._resume(distillation, steps)
            manifest = self._writer.manifest
            training = Tracked(self._writer.folder.name, manifest.key, manifest.params, distillation.course.step)
            log_to = settings.log_to if self._team.leads else None
            log = loaded.enter_context(tracking(log_to, training, self._reporter))
            left = (steps - distillation.course.step) * step_windows * seqlen
            self._reporter.begin(f"recover {self._writer.folder.name}", 0, left)

            def save() -> None:
                distillation.save(self._writer.scratch)
                record = {"learning_rate": distillation.rate, "looks": distillation.course.looks}
                self._writer.write(RECOVERY_PART, readable_json(record))

            def stepped(loss: float, rate: float) -> None:
                step = distillation.course.step
                log({"loss": loss, "learning_rate": rate, "tokens": step * step_windows * seqlen}, step)

            for look in distillation.run(save, lambda tokens: self._reporter.tick(0, tokens), stepped):
                self._team.first(partial(self._need_finite, look))
                self._reporter.note(said(look, steps * step_windows * seqlen))
                log({"held_out_loss": look["held_out"]}, distillation.course.step)
            self._reporter.end()
            save()
            course = distillation.course
        before, after = course.looks[0]["held_out"], course.looks[course.best]["held_out"]
        came = f"{before:.4f} -> {after:.4f} nats per token from the dense model on held-out windows"
        same = "" if course.best else "; no step was better, so the weights are as they were"
        self._reporter.note(f"{came}, after {course.looks[course.best]['tokens']:,} tokens{same}.")
        return course.kept

    def _opened_teacher(self, loaded: ExitStack) -> Teacher:
        if self._logits is not None:
            return CachedTeacher(self._logits, self._taught)
        loaded.enter_context(in_memory(self._teacher, self._team, sharded=self._settings.way.processes > 1))
        rows = self._taught.rows
        return OnlineTeacher(self._teacher.model, None if rows is None else rows.to(self._teacher.device))

    def _resume(self, distillation: Distillation, steps: int) -> None:
        """Go on from the saved state, if there is one; raises LangpruneError if not all processes see the same."""
        scratch = self._writer.scratch
        if scratch.exists() and distillation.restore(scratch):
            done = distillation.course.step
            self._reporter.note(f"Resuming {self._writer.folder.name}: {done} of {steps} steps are done.")
        if len(set(self._team.all_gather(distillation.course.step))) > 1:
            raise LangpruneError(
                f"{scratch} is not the same for all processes: give them a workspace on a disk that all of them see"
            )

    def _need_finite(self, look: Look) -> None:
        if not is_finite(look):
            self._forget()
            raise LangpruneError(
                f"the loss after {look['tokens']} tokens is not finite: give a smaller --learning-rate, or --dtype float32"
            )

    def _forget(self) -> None:
        """Remove what the next run would go on from, as it would end the same way; run_stage then removes the folder."""
        with disk_errors(self._writer.folder):
            for path in (self._writer.scratch, self._writer.folder / RECOVERY_PART):
                path.unlink(missing_ok=True)
        self._writer.manifest.parts.pop(RECOVERY_PART, None)

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = self._settings.dtype
        kept = (
            self._settings.way.processes == 1
        )  # copies of weights in `dtype`, of the whole model, until its pass ends
        return torch.autocast(self._pruned.device.type, dtype, dtype != torch.float32, cache_enabled=kept)

    def _checked(self, kept: dict[str, Tensor]) -> CheckedRecord:
        """Read the written model back; raises LangpruneError for anything that is not as it should be."""
        known: CheckedRecord = self._writer.manifest.about.get("checked") or {}
        return check_trained(self._writer.folder, self._target.places, self._pruned, self._teacher, kept, known)


def _recipe(taught: TeacherLogits, pruned: OpenedModel, settings: RecoverSettings) -> Recipe:
    """Return the recipe of a recovered model: the pruned one's, with the recovery added."""
    teacher, windows = taught.dense, taught.windows
    before = record_of(pruned.location.folder)
    inputs, about = before.get("inputs", {}), before.get("about", {})
    update = before.get("params", {}).get("update", "none")
    how = {**asdict(settings), "dtype": str(settings.dtype).removeprefix("torch.")}
    shard, shares, _ = how.pop("max_shard_bytes"), list(how.pop("shares")), how.pop("log_to")
    online, _ = how.pop("online"), how.pop("way")
    return Recipe(
        "models",
        inputs={
            "model": inputs.get("model", teacher.digest),
            "teacher": teacher.digest,
            "pruned": pruned.digest,
            "mask": inputs.get("mask", ""),
            "text": text_identity(windows),
            **({} if online else {"logits": taught.identity.key}),
        },
        params={**how, "max_shard_bytes": shard, "update": "recover" if update == "none" else f"{update}, recover"},
        about={
            "mask": {"name": pruned.label},
            "model": teacher.about,
            **about,
            "recovered": {
                "model": pruned.about, "teacher": teacher.about, **how,
                "text": {**text_identity(windows), **text_about(windows)},
                **({"shares": shares} if shares else {}),
            },
        },
        environment=pruned.environment(),
    )  # fmt: skip
