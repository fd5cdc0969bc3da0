"""The request behind `recover`: the pruned model, its teacher, the text, and how to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli import defaults
from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.requests.shared.choice import ModelTargetOptions, PrunedModelOptions, check_rate
from langprune_cli.requests.shared.options import DTYPES, OpeningOptions, SharingOptions, TextOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import at_least, one_of, one_or_none, several, training_tokens

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome


@dataclass(frozen=True, kw_only=True)
class RecoverRequest(TextOptions, OpeningOptions, ModelTargetOptions, SharingOptions):
    """Train a pruned model end to end to predict what the dense model predicts; its zeros stay zero.

    lang, data, corpus: the text to train on, as for `calibrate`; several languages get equal shares, "uk:3" and "en:1" others
    model: the pruned model, an artifact or a folder; by default the newest
    teacher: the model to learn from, by default the dense model that the pruned one was made from
    tokens: how many to train on, such as "300k" or "2M"; a shorter text is read several times
    train: "all" weights, "lora" (matrices of low rank, merged under the mask), or "norms" (norms and biases); by default the
        first that fits into memory
    batch_tokens, learning_rate: tokens per step of the optimizer, and its rate; by default by tokens, width and what was lost
    online: keep the dense model in memory beside the pruned one; by default its 64 most likely tokens of every position are put
        on disk once, and read from there
    seqlen, seed: tokens per window, and the random seed of their order
    dtype: of the products, by default "bfloat16" for models in 16 bits where the device is not slower with it
    device, cache_dir, trust_remote_code: how to open the models
    log_to: "trackio", "wandb" or "tensorboard", where installed: loss, held-out loss, rate and tokens of each step go there too
    out, max_shard_size: the folder to write to, instead of one in the workspace, and its largest file of weights
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    model: str | Path | None = None
    teacher: str | Path | None = None
    tokens: str = "1M"
    train: str | None = None
    batch_tokens: int | None = None
    learning_rate: float | None = None
    online: bool = False
    seqlen: int = defaults.TRAINING_SEQLEN
    seed: int = 0
    dtype: str = "auto"
    log_to: str | None = None

    @property
    def token_count(self) -> int:
        """The number of tokens."""
        return training_tokens("--tokens", self.tokens, self.batch_tokens)

    def check(self) -> None:
        """Raise UsageError for unknown names, and numbers out of range."""
        super().check()
        one_or_none("--train", self.train, defaults.TRAINS)
        one_of("--dtype", self.dtype, DTYPES)
        one_or_none("--log-to", self.log_to, defaults.TRACKERS)
        at_least("--batch-tokens", self.batch_tokens, 1)
        at_least("--seqlen", self.seqlen, 2)
        check_rate(self.learning_rate)
        _ = self.token_count


def recover(request: RecoverRequest) -> Made:
    """Train one model."""
    with running(request) as run:
        return run.made(lambda: [recovered(run, request)])


def recovered(run: Run, request: RecoverRequest) -> Outcome:
    """Train the model of a request; raises OnlyPlannedError for one that an earlier step of a dry run would make."""
    from langprune_cli.stages.recover.cached_logits import TeacherLogits  # noqa: PLC0415
    from langprune_cli.stages.recover.distilling import step_tokens  # noqa: PLC0415
    from langprune_cli.stages.recover.memory import PLAIN, STATES_BYTES, what_fits  # noqa: PLC0415
    from langprune_cli.stages.recover.recover import RecoverSettings, made_or_begun, recover  # noqa: PLC0415
    from langprune_cli.stages.recover.teacher import shared_tokens  # noqa: PLC0415
    from langprune_cli.stages.recover.text import training_text  # noqa: PLC0415
    from langprune_cli.stages.recover.tracking import LogTo, check_tracker  # noqa: PLC0415
    from langprune_cli.streaming.compute import fast_dtype  # noqa: PLC0415
    from langprune_cli.streaming.model_choice import ModelChoice  # noqa: PLC0415
    from langprune_cli.streaming.opened import check_same_model  # noqa: PLC0415
    from langprune_cli.text.budgets import split_budgets  # noqa: PLC0415

    tracker, team = one_or_none("--log-to", request.log_to, defaults.TRACKERS), run.team
    check_tracker(tracker)
    named, chain = team.first(lambda: _lineage(run, request))
    teacher = ModelChoice(str(request.teacher)) if request.teacher else run.choose(None, None, chain[-1])
    tags, shares = split_budgets(several(request.lang))
    specs = team.first(lambda: run.resolve(tags, several(request.data), request.corpus, teacher, evaluation=False))
    pruned = run.in_dtype("float32").open(ModelChoice(named))
    stored = pruned.streamed.checkpoint.float_dtype()  # the configuration now says float32, in which it was opened
    own = run.in_dtype(request.dtype).compute.torch_dtype() or fast_dtype(stored, pruned.streamed.device)
    dtype = team.broadcast(own)  # other machines may have other units
    in_full = "float32" if str(dtype) == "torch.float32" else "auto"
    dense = run.in_dtype(in_full, max_memory=STATES_BYTES).open(teacher)
    if chain:
        check_same_model(chain[-1], dense)
    windows = team.first(
        lambda: training_text(
            pruned, specs, shares, run.reporter, tokens=request.token_count, seqlen=request.seqlen, seed=request.seed
        )
    )
    asked = one_or_none("--train", request.train, defaults.TRAINS)
    trains = [asked] if asked else defaults.TRAINS
    settings = RecoverSettings(
        request.token_count, request.batch_tokens or step_tokens(request.token_count), trains[0], request.learning_rate,
        request.seed, dtype, request.max_shard_bytes, tuple(shares),
        LogTo(tracker, run.workspace.root / "runs") if tracker else None, request.online,
    )  # fmt: skip
    taught = TeacherLogits(dense, windows, team.first(lambda: shared_tokens(pruned, dense)))
    known, whole = team.first(lambda: made_or_begun(run.workspace, taught, pruned, settings, trains, request.target))
    train, way = known or trains[0], PLAIN
    if not whole:
        train, way = what_fits(
            pruned.streamed, dense.streamed, [known] if known else trains, seqlen=windows.seqlen, dtype=dtype,
            text=None if request.online else windows.ids.numel(), team=team,
        )  # fmt: skip
        if known is None and train != trains[0]:
            run.reporter.note(f"Memory is short: training {train} alone (--train).")
        if way.checkpointing:
            run.reporter.note("Memory is short: activations are computed again for gradients, which takes longer.")
        if way.processes > 1:
            run.reporter.note(
                f"Memory is short: each of {way.processes} processes has its share of the weights, and gathers a block at a time."
            )
    settings = replace(settings, train=train, way=way)
    return recover(run.workspace, taught, pruned, settings, run.reporter, to=request.target)


def _lineage(run: Run, request: RecoverRequest) -> tuple[str, list[Artifact]]:
    """Return the pruned model's name, and what it was made from unless a teacher is named.

    Raises LangpruneError if neither says which model is the dense one.
    """
    from langprune_cli.stages.export.lineage import check_own_base, lineage  # noqa: PLC0415
    from langprune_cli.streaming.model_choice import model_artifact  # noqa: PLC0415

    named = str(request.model) if request.model else run.pick("models", None, "model", "prune").name
    run.refuse_planned(named)
    artifact = model_artifact(run.workspace, named)
    if artifact is None and request.teacher is None:
        near = "" if Path(named).exists() else f" ({near_matches(named, run.workspace.names('models'))})"
        raise LangpruneError(
            f"{named} is no model of the workspace{near}, so its dense model is not known: name that with --teacher"
        )
    chain = [] if artifact is None or request.teacher else lineage(run.workspace, artifact)
    if chain:
        check_own_base(run.workspace, chain)
    return named, chain


def recovered_after(run: Run, pruned: Artifact, text: TextOptions, options: PrunedModelOptions) -> Outcome:
    """Train a newly made model on a text, as --recover of `apply` and `prune` asks for."""
    opening = options if isinstance(options, OpeningOptions) else OpeningOptions()
    request = RecoverRequest(
        lang=text.lang, data=text.data, corpus=text.corpus, model=pruned.folder, tokens=options.recover or "",
        device=opening.device, cache_dir=opening.cache_dir, trust_remote_code=opening.trust_remote_code, out=options.out,
        max_shard_size=options.max_shard_size, name=options.name, force=options.force, dry_run=options.dry_run,
    )  # fmt: skip
    return recovered(run, request)
