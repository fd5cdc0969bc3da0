"""Trains a pruned model end to end to give the dense model's next-token distribution.

Distillation (arXiv 1503.02531) with AdamW, a warm-up and a cosine schedule. Windows that are held out decide which step is
kept: training on a small text goes on to get better on that text alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from langprune_cli.defaults import STEP_TOKENS
from langprune_cli.machine.sharding import gathered, is_sharded
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.models.shards import write_tensors
from langprune_cli.stages.recover.looks import Look, kept_look, look_every
from langprune_cli.stages.recover.student import Replica, Student
from langprune_cli.stages.recover.teacher import Teacher
from langprune_cli.store.files import new_file
from langprune_cli.streaming.resuming import SAVE_AFTER_SECONDS

_WARM_UP = 0.05  # of the steps
_LAST_RATE = 1 / 20  # of the learning rate, at the end of the cosine
_MOST_GRADIENT = 1.0  # clips the norm of a step's gradient
_STEPS = 400  # at least, of more than the fewest tokens
_PATIENCE = 4  # looks in the second half without a better one, after which training ends


@dataclass
class Course:
    """How far training has come: what a killed run goes on from."""

    step: int = 0
    looks: list[Look] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)  # its weights; none at the first look, before training
    losses: list[float] = field(default_factory=list)  # of the steps since the last look

    @property
    def best(self) -> int:
        """Return the number of the look that is kept."""
        return kept_look(self.looks)


@dataclass(frozen=True)
class Lessons:
    """The windows, which of them are for what, and who teaches."""

    ids: Tensor  # [n, t]
    train: Tensor  # int64 [a], places of windows
    held_out: Tensor  # int64 [b]
    teacher: Teacher


@dataclass(frozen=True)
class Schedule:
    """How training goes."""

    steps: int
    step_windows: int
    micro_windows: int  # in memory at once
    rate: Callable[[float], float]  # loss before training -> the highest learning rate
    seed: int  # of the order of the windows

    def share(self, step: int) -> float:
        """Return the share of the learning rate: a line up, then half a cosine down."""
        warm = max(1, round(_WARM_UP * self.steps))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


def step_tokens(tokens: int) -> int:
    """Return the tokens of a step by default: the most of which there are 400 steps, as few tokens teach more in small ones."""
    return next((each for each in reversed(STEP_TOKENS) if tokens >= _STEPS * each), STEP_TOKENS[0])


def steps_of(tokens: int, batch_tokens: int, seqlen: int) -> tuple[int, int]:
    """Return the number of steps that read `tokens` tokens, and the windows of each."""
    windows = max(1, batch_tokens // seqlen)
    return max(1, tokens // (windows * seqlen)), windows


class Distillation:
    """Trains, step by step; `course` and the optimizer's state are all that a step depends on.

    Of several processes, each computes its share of a step's windows and of the held-out ones. Gradients and losses are summed
    over all, so that all take the same steps and keep the same look.
    """

    def __init__(
        self,
        student: Student,
        lessons: Lessons,
        schedule: Schedule,
        autocast: Callable[[], AbstractContextManager[object]],
        team: Team = ALONE,
    ) -> None:
        """Begin at the first step; team: processes that all do this, each with its copy of the student."""
        self.course = Course()
        self._team = team
        self._student, self._lessons, self._schedule, self._autocast = student, lessons, schedule, autocast
        self._trained = list(student.trained.values())
        # Each step sets its rate.
        self._optimizer = torch.optim.AdamW(self._trained, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))  # the turn, and its order of the windows
        self._model = self._replica()

    def _replica(self) -> Replica | DistributedDataParallel:
        """Return the student, with gradients that are averaged over all processes."""
        own = Replica(self._student)
        if self._team.size == 1 or self._student.sharded:
            return own
        with self._team.collectives():  # tokens may reach some experts in one process only, or in none
            return DistributedDataParallel(own, find_unused_parameters=True, gradient_as_bucket_view=True)

    def run(
        self, save: Callable[[], None], tick: Callable[[int], None], stepped: Callable[[float, float], None]
    ) -> Iterator[Look]:
        """Train to the end, and yield each look.

        save: is called now and then; tick: with the tokens that were read; stepped: with loss and learning rate of each step.
        """
        saved = time.monotonic()
        if not self.course.looks:
            yield self._look()
        every = look_every(self._schedule.steps)
        while self.course.step < self._schedule.steps and not self._is_over():
            rate = self.rate * self._schedule.share(self.course.step)
            self._take_step(rate, tick)
            stepped(self.course.losses[-1], rate)
            if self.course.step % every == 0 or self.course.step == self._schedule.steps:
                yield self._look()
            if self._team.broadcast(time.monotonic() - saved > SAVE_AFTER_SECONDS):
                save()
                saved = time.monotonic()

    @property
    def rate(self) -> float:
        """Return the highest learning rate, which the first look decides."""
        return self._schedule.rate(self.course.looks[0]["held_out"])

    def _is_over(self) -> bool:
        """Return whether training goes nowhere, which says little while rates are high: they first make a good model worse."""
        looks, half = self.course.looks, self._tokens(self._schedule.steps) / 2
        late = sum(look["tokens"] > half for look in looks)
        return min(late, len(looks) - 1 - self.course.best) >= _PATIENCE

    def _tokens(self, steps: int) -> int:
        """Return how many tokens so many steps read."""
        return steps * self._schedule.step_windows * self._lessons.ids.shape[1]

    def _take_step(self, rate: float, tick: Callable[[int], None]) -> None:
        course, seqlen = self.course, self._lessons.ids.shape[1]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        windows = self._windows(course.step)
        share = self._team.part(windows)
        passes = self._passes(windows)
        total = torch.zeros((), dtype=torch.float64)
        for number, (part, counts) in enumerate(passes, 1):
            with self._collecting(last=number == len(passes)):
                loss = self._loss(part)
                # Gradients become the mean over processes.
                weight = self._team.size if counts else 0
                torch.autograd.backward(loss * weight / (len(windows) * seqlen))
            if counts:
                total += loss.detach().double().cpu()
                tick(len(part) * len(windows) // len(share) * seqlen)
        self._team.all_reduce([total])
        with self._team.collectives():
            self._student.clip(_MOST_GRADIENT, self._team)
        self._optimizer.step()
        self._optimizer.zero_grad()
        course.losses.append(float(total) / (len(windows) * seqlen))
        course.step += 1

    @contextmanager
    def _collecting(self, *, last: bool) -> Iterator[None]:
        """Collect the gradients of a micro-batch; with those of the last one, the sums go to all processes."""
        model = self._model
        alone = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        with self._team.collectives(), alone:
            yield

    def _passes(self, windows: Tensor) -> list[tuple[Tensor, bool]]:
        """Return this process's share of windows in micro-batches, and whether each counts: all processes have as many.

        They gather sharded weights, and sum gradients, together: one with a smaller share computes what does not count.
        """
        most = self._schedule.micro_windows
        share = self._team.part(windows)
        passes = [(part, True) for part in torch.split(share, most)] if len(share) else []
        needed = math.ceil(math.ceil(len(windows) / self._team.size) / most)
        return passes + [(windows[:1], False)] * (needed - len(passes))

    def _windows(self, step: int) -> Tensor:
        """Return the places of a step's windows [b]: all in random order, then again in another."""
        train, each = self._lessons.train, self._schedule.step_windows
        return torch.stack([train[self._place(place)] for place in range(step * each, (step + 1) * each)])

    def _place(self, place: int) -> Tensor:
        turn, within = divmod(place, len(self._lessons.train))
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed(self._schedule.seed * 1_000_003 + turn)
            self._order = turn, torch.randperm(len(self._lessons.train), generator=generator)
        return self._order[1][within]

    def _loss(self, places: Tensor) -> Tensor:
        ids = self._lessons.ids[places].long().to(self._trained[0].device)
        with self._autocast():
            divergence = self._lessons.teacher(places, ids)
            logits = self._model(ids)
        return divergence(logits)

    def _look(self) -> Look:
        """Measure the loss on held-out windows with the weights as they would be stored, and keep the best."""
        course, held = self.course, self._lessons.held_out
        with torch.no_grad(), self._team.collectives():
            tensors = self._student.rounded() if course.step else {}
            with self._student.as_stored(tensors):
                losses = [(float(self._loss(part)), counts) for part, counts in self._passes(held)]
        total = torch.tensor(math.fsum(loss for loss, counts in losses if counts), dtype=torch.float64)
        self._team.all_reduce([total])
        loss = sum(course.losses) / len(course.losses) if course.losses else None
        mean = float(total) / (len(held) * self._lessons.ids.shape[1])
        look: Look = {"tokens": self._tokens(course.step), "loss": loss, "held_out": mean}
        course.looks.append(look)
        course.losses = []
        if course.best == len(course.looks) - 1:
            course.kept = {}  # before the next are there
            with self._team.collectives():
                course.kept = self._student.whole(tensors, self._team)
        return look

    def save(self, path: Path) -> None:
        """Write the course, the weights and the optimizer's state; all processes call it, and the first one writes.

        Sharded tensors are gathered one by one, so that the file says nothing of shards.
        """
        course, joined = self.course, self._student.joined
        found = {f"kept.{name}": tensor for name, tensor in course.kept.items()}
        for name, parameter in self._student.trained.items():
            found[f"weight.{name}"] = joined(name, parameter.detach())
            for key, value in self._optimizer.state[parameter].items():
                found[f"{key}.{name}"] = joined(name, value)
        looks = [
            [each["tokens"], math.nan if each["loss"] is None else each["loss"], each["held_out"]]
            for each in course.looks
        ]
        found["looks"] = torch.tensor(looks, dtype=torch.float64)
        found["losses"] = torch.tensor(course.losses, dtype=torch.float64)
        found["place"] = torch.tensor([course.step, course.best])
        with self._team.collectives():
            if self._team.leads:
                with new_file(path) as temporary:
                    write_tensors(temporary, found, gathered)
            else:
                for each in filter(is_sharded, found.values()):
                    gathered(each)

    def restore(self, path: Path) -> bool:
        """Go on from what `save` wrote; return False for no file, or one of no use."""
        with suppress(SafetensorError, OSError, KeyError, ValueError, RuntimeError), safe_open(path, "pt") as saved:
            names = set(saved.keys())
            step, _ = saved.get_tensor("place").tolist()
            looks: list[Look] = [
                {"tokens": int(tokens), "loss": None if math.isnan(loss) else loss, "held_out": held}
                for tokens, loss, held in saved.get_tensor("looks").tolist()
            ]
            best = [name for name in names if name.startswith("kept.") and self._team.leads]
            kept = {name.removeprefix("kept."): saved.get_tensor(name) for name in best}
            part, trained = self._student.part, self._student.trained
            state = {
                name: {
                    key: part(name, saved.get_tensor(f"{key}.{name}"))
                    for key in ("weight", "step", "exp_avg", "exp_avg_sq")
                    if f"{key}.{name}" in names or key == "weight"
                }
                for name in trained
            }
            for name, parameter in trained.items():
                with torch.no_grad():
                    parameter.copy_(state[name].pop("weight"))
                if state[name]:  # else no step has reached it
                    self._optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device)
                        for key, value in state[name].items()
                    }
            self.course = Course(step, looks, kept, saved.get_tensor("losses").tolist())
            return True
        return False
