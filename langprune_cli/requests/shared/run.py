"""One run of a request: its workspace, how to open models, and defaults from the workspace. Prints nothing."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.requests.shared.options import (
    DryRunOptions,
    ForwardOptions,
    GatheringOptions,
    HubOptions,
    OpeningOptions,
    SharingOptions,
)
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.values import folder, several, size_in_bytes, workspace_folder
from langprune_cli.store.planned import OnlyPlannedError

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from langprune_cli.machine.team import Team
    from langprune_cli.requests.shared.options import ModelOptions, Request, TextOptions
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome, Reporter
    from langprune_cli.store.workspace import Workspace
    from langprune_cli.streaming.compute import Compute
    from langprune_cli.streaming.model_choice import ModelChoice
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec

_LOUD = ("datasets", "huggingface_hub", "fsspec", "bitsandbytes")  # their problems that matter arrive as exceptions
_THEIRS = r"(transformers|torch|datasets|huggingface_hub|bitsandbytes)\b"


class Run:
    """A workspace, how to open models, and the reporter of notes and progress."""

    def __init__(self, workspace: Workspace, compute: Compute, reporter: Reporter) -> None:
        self.workspace = workspace
        self.compute = compute
        self.reporter = reporter

    @property
    def team(self) -> Team:
        """Return the processes of this run; the first reads the workspace for all."""
        return self.compute.team

    @property
    def planned(self) -> bool:
        """Return whether this is a dry run."""
        return self.workspace.planned is not None

    def open(self, choice: ModelChoice, *, remember: bool = False) -> OpenedModel:
        """Open a model; with `remember` it becomes the workspace's when the run starts.

        Raises OnlyPlannedError for a model that an earlier step of a dry run would make.
        """
        from langprune_cli.streaming.opened import open_model  # noqa: PLC0415

        self.refuse_planned(choice.name)
        model = open_model(self.workspace, choice, self.compute, self.reporter)
        if remember:
            self.remember(choice, model.about)
        return model

    def refuse_planned(self, name: str) -> None:
        """Raise OnlyPlannedError for a model that an earlier step of a dry run would make."""
        planned = self.workspace.planned or []
        if any(not each.there and str(each.folder) == name for each in planned):
            raise OnlyPlannedError(planned)

    def in_dtype(self, dtype: str, *, max_memory: int | None = None) -> Run:
        """Return this run with models in another dtype; max_memory: bytes of hidden states in memory, see `Compute`."""
        return Run(
            self.workspace,
            replace(self.compute, dtype=dtype, max_memory=max_memory or self.compute.max_memory),
            self.reporter,
        )

    def remember(self, choice: ModelChoice, about: dict[str, str | None]) -> None:
        """Make a model the workspace's when the run starts, unless it is one of its artifacts."""
        from langprune_cli.streaming.model_choice import model_artifact  # noqa: PLC0415

        def prepare() -> None:
            if not model_artifact(self.workspace, choice.name):
                self.workspace.model()  # raises before the work if the record is damaged
                self.workspace.when_run_starts_remember(about["name"] or choice.name, about["revision"])

        self.team.first(prepare)

    def choose(self, named: str | Path | None, revision: str | None, made_from: Artifact | None = None) -> ModelChoice:
        """Return the named model, else an artifact's source, else the workspace's."""
        from langprune_cli.streaming.model_choice import ModelChoice, choose_model  # noqa: PLC0415

        if named is None and made_from is not None:
            about = made_from.manifest.about["model"]
            return ModelChoice(about["name"], revision or about["revision"])
        name = str(named) if named else None
        return self.team.first(lambda: choose_model(self.workspace, name, revision, self.reporter))

    def open_named(self, request: ModelOptions, made_from: Artifact | None = None) -> OpenedModel:
        """Open the model that a request names and remember it, else open an artifact's source."""
        choice = self.choose(request.model, request.revision, made_from)
        return self.open(choice, remember=request.model is not None)

    def pick(self, kind: str, named: str | None, what: str, command: str) -> Artifact:
        """Return the named artifact, else the newest, with a note; raises LangpruneError if there is none."""
        if named:
            return self.workspace.find(kind, named)
        newest = self.workspace.newest(kind)
        if newest is None:
            raise LangpruneError(f"the workspace {self.workspace.root} has no {kind}: run langprune {command} first")
        self.reporter.note(f"Using {what} {newest.name}.")
        return newest

    def resolve(
        self, lang: list[str], data: list[str], corpus: str | None, choice: ModelChoice, *, evaluation: bool
    ) -> list[TextSpec]:
        """Return the requested texts, with a note on each hub corpus that stands for a language."""
        from langprune_cli.streaming.model_choice import DEMO  # noqa: PLC0415
        from langprune_cli.text.corpora import hub_text_note, resolve_texts  # noqa: PLC0415
        from langprune_cli.text.languages import reading_note  # noqa: PLC0415

        specs = resolve_texts(lang, data, evaluation=evaluation, builtin=choice.name == DEMO, corpus=corpus)
        for text, spec in zip(lang, specs, strict=False):  # without languages: only texts
            if spec.language and (read := reading_note(text, spec.language)):
                self.reporter.note(read)
        for note in filter(None, map(hub_text_note, [] if data else specs)):
            self.reporter.note(note)
        return specs

    def texts(
        self, lang: list[str], data: list[str], corpus: str | None, choice: ModelChoice, *, given: Collection[str]
    ) -> list[TextSpec]:  # fmt: skip
        """Return the texts, one per artifact; a --lang with numbers of windows gives one mixture.

        given: the spelled-out options.
        Raises UsageError for --nsamples together with numbers in --lang.
        """
        from langprune_cli.text.budgets import mixture, split_budgets  # noqa: PLC0415

        tags, budgets = split_budgets(lang)
        specs = self.team.first(lambda: self.resolve(tags, data, corpus, choice, evaluation=False))
        if budgets:
            if "--nsamples" in given:
                raise UsageError(f"--lang {lang[0]} already sets the number of windows: leave out --nsamples")
            specs = [mixture(specs, budgets)]
        return specs

    def texts_of(self, request: TextOptions, choice: ModelChoice) -> list[TextSpec]:
        """Return the texts of a request, as `texts` does."""
        return self.texts(several(request.lang), several(request.data), request.corpus, choice, given=request.given)

    def made(self, make: Callable[[], Sequence[Outcome]]) -> Made:
        """Return the result of `make`, or the plan of a dry run as far as it goes."""
        try:
            outcomes = tuple(make())
        except OnlyPlannedError as reached:
            return Made((), tuple(reached.planned), whole=False)
        planned = self.workspace.planned
        if planned is None:
            self.team.first(self.workspace.run_starts)  # if all artifacts existed, no stage did
        return Made(outcomes, None if planned is None else tuple(planned))


@contextmanager
def running(request: Request, *, device: str = "auto") -> Iterator[Run]:
    """Begin a run of a request; other libraries are quiet until it ends.

    device: for requests without one.
    """
    from langprune_cli.store.building import Silent  # noqa: PLC0415
    from langprune_cli.store.workspace import Workspace  # noqa: PLC0415

    with _quiet():
        reporter = request.reporter or Silent()
        dry = isinstance(request, DryRunOptions) and request.dry_run
        workspace = Workspace(workspace_folder(request.workspace), dry=dry, note=reporter.note)
        yield Run(workspace, compute_of(request, device), reporter)


def compute_of(request: Request, device: str = "auto") -> Compute:
    """Return how to run models, from the request's options."""
    from langprune_cli.streaming.compute import Compute  # noqa: PLC0415

    compute = Compute(dtype=None, device=device, fetch=not (isinstance(request, DryRunOptions) and request.dry_run))
    if isinstance(request, HubOptions):
        cache_dir = folder(request.cache_dir)
        compute = replace(compute, cache_dir=cache_dir, trust_remote_code=request.trust_remote_code)
    if isinstance(request, OpeningOptions):
        compute = replace(compute, device=request.device)
    if isinstance(request, ForwardOptions):
        most = size_in_bytes("--max-memory", request.max_memory) if request.max_memory else None
        compute = replace(compute, dtype=request.dtype, batch_tokens=request.batch_tokens, max_memory=most)
    if isinstance(request, GatheringOptions):
        compute = replace(compute, all_experts=request.all_experts)
    if isinstance(request, SharingOptions):
        compute = replace(compute, team=request.team or compute.team)
    return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep other libraries from printing."""
    import transformers  # noqa: PLC0415

    verbosity = transformers.logging.get_verbosity()
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    transformers.logging.set_verbosity_error()
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_THEIRS)
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
