"""One run of a stage command: resolves what was left out, calls the stage, prints what came out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langprune_cli import defaults
from langprune_cli.cli.display.console import ConsoleReporter, print_json
from langprune_cli.cli.display.log import running_log
from langprune_cli.cli.display.planned import print_planned
from langprune_cli.cli.display.results import print_outcomes
from langprune_cli.errors import LangpruneError, OnlyPlannedError, UsageError, near_matches

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from collections.abc import Collection

    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.streaming.opened import ModelChoice, OpenedModel
    from langprune_cli.types import TextSpec


class Session:
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
        self.reporter = ConsoleReporter()
        self.workspace = Workspace(workspace.expanduser(), dry=dry_run, note=self.reporter.note)
        if not dry_run and (log := running_log()):
            log.workspace = self.workspace.root
        most = size_in_bytes("--max-memory", max_memory) if max_memory else None
        self.compute = Compute(
            dtype, device, batch_tokens, cache_dir, trust_remote_code, all_experts, fetch=not dry_run, max_memory=most
        )
        self.json = json

    def open(self, choice: ModelChoice, *, remember: bool = False) -> OpenedModel:
        """Open a model; with `remember` it becomes the workspace's when the run starts.

        Raises OnlyPlannedError for a model that a dry run would have made before.
        """
        from langprune_cli.streaming.opened import open_model  # noqa: PLC0415

        planned = self.workspace.planned or []
        if any(not each.there and str(each.folder) == choice.name for each in planned):
            raise OnlyPlannedError(planned)
        model = open_model(self.workspace, choice, self.compute, self.reporter)
        if remember:
            self.remember(choice, model.about)
        return model

    def remember(self, choice: ModelChoice, about: dict[str, str | None]) -> None:
        """Make a model the workspace's when the run starts; not one that is an artifact of its own."""
        from langprune_cli.streaming.opened import model_artifact  # noqa: PLC0415

        if not model_artifact(self.workspace, choice.name):
            self.workspace.model()  # a damaged record is to be noticed before the work
            self.workspace.when_run_starts_remember(about["name"] or choice.name, about["revision"])

    def choose(self, named: str | None, revision: str | None, made_from: Artifact | None = None) -> ModelChoice:
        """Return the model that was named, else the one that an artifact was made from, else the workspace's."""
        from langprune_cli.streaming.opened import ModelChoice, choose_model  # noqa: PLC0415

        if named is None and made_from is not None:
            about = made_from.manifest.about["model"]
            return ModelChoice(about["name"], revision or about["revision"])
        return choose_model(self.workspace, named, revision, self.reporter)

    def pick(self, kind: str, named: str | None, what: str, command: str) -> Artifact:
        """Return the artifact that was named, else the newest, and say which.

        Raises LangpruneError when there is none.
        """
        if named:
            return self.workspace.find(kind, named)
        newest = self.workspace.newest(kind)
        if newest is None:
            raise LangpruneError(f"the workspace {self.workspace.root} has no {kind}: run langprune {command} first")
        self.reporter.note(f"Using {what} {newest.name}.")
        return newest

    def show(self, outcomes: list[Outcome], **more: Any) -> None:  # noqa: ANN401 - JSON values
        """Print what a stage made; in a dry run what it would make."""
        if self.workspace.planned is not None:
            print_planned(self.workspace.planned, json=self.json)
            return
        self.workspace.run_starts()  # where all was there already, none did
        documents = [document(outcome) for outcome in outcomes]
        if log := running_log():
            for each in documents:
                state = "already there" if each["cached"] else f"{each['seconds']} s"
                log.write(f"{each['kind']}/{each['name']} ({state}), key {each['key']}, in {each['path']}")
        if self.json:
            print_json({"schema": 1, **documents[0], **more, "artifacts": documents})
        else:
            print_outcomes(outcomes)

    def resolve(
        self, lang: list[str], data: list[str], corpus: str | None, choice: ModelChoice, *, evaluation: bool
    ) -> list[TextSpec]:
        """Return the texts that are meant, and say which those of the hub are that a language stands for."""
        from langprune_cli.streaming.opened import DEMO  # noqa: PLC0415
        from langprune_cli.text.corpora import hub_text_note, resolve_texts  # noqa: PLC0415
        from langprune_cli.text.languages import reading_note  # noqa: PLC0415

        specs = resolve_texts(lang, data, evaluation=evaluation, builtin=choice.name == DEMO, corpus=corpus)
        for text, spec in zip(lang, specs, strict=False):  # no languages: texts alone
            if spec.language and (read := reading_note(text, spec.language)):
                self.reporter.note(read)
        for note in filter(None, map(hub_text_note, [] if data else specs)):
            self.reporter.note(note)
        return specs

    def texts(
        self, lang: list[str], data: list[str], corpus: str | None, choice: ModelChoice, *, given: Collection[str]
    ) -> list[TextSpec]:  # fmt: skip
        """Return the texts that an artifact each is to be made of: one where --lang says how many windows of each.

        given: the options that stood on the command line.
        Raises UsageError for --nsamples where --lang has the numbers.
        """
        from langprune_cli.text.budgets import mixture, split_budgets  # noqa: PLC0415

        tags, budgets = split_budgets(lang)
        specs = self.resolve(tags, data, corpus, choice, evaluation=False)
        if budgets:
            if "--nsamples" in given:
                raise UsageError(f"--lang {lang[0]} says how many windows are drawn: leave out --nsamples")
            specs = [mixture(specs, budgets)]
        return specs

    def calibrate(
        self, model: str | None, revision: str | None, lang: list[str], data: list[str], corpus: str | None, *,
        given: Collection[str],
        name: str | None, force: bool, **settings: Any,  # noqa: ANN401 - the fields of CalibrationSettings
    ) -> None:  # fmt: skip
        """Run stage 1."""
        from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate  # noqa: PLC0415

        one_of("--collect", settings["collect"], ("norms", "hessian", "tokens"))
        choice = self.choose(model, revision)
        specs = self.texts(lang, data, corpus, choice, given=given)
        opened = self.open(choice, remember=True)
        self.show(
            calibrate(
                self.workspace, opened, specs, CalibrationSettings(**settings), self.reporter, name=name, force=force
            )
        )


def document(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as --json shows it."""
    artifact = outcome.artifact
    return {
        "kind": artifact.manifest.kind,
        "name": artifact.name,
        "path": str(artifact.folder.absolute()),
        "key": artifact.key,
        "cached": outcome.cached,
        "seconds": round(outcome.seconds, 3),
        "about": artifact.manifest.about,
    }


def size_in_bytes(option: str, text: str) -> int:
    """Read a size such as 500MB (powers of ten, as transformers counts); raises UsageError for anything else."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(f"{option} {text!r} is not a size: write it as 500MB or 2GB")
    return size


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Read `i/n`; raises UsageError for anything else."""
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r} is none: write 1/4 for the first of four, up to 4/4")
    return int(part), int(parts)


def one_of(option: str, value: str | None, known: tuple[str, ...]) -> Any:  # noqa: ANN401 - one of `known`, or None
    """Return the value of an option; raises UsageError where it is none of those known."""
    if value is not None and value not in known:
        raise UsageError(f"{option} {value!r} is unknown: {near_matches(value, known)}")
    return value
