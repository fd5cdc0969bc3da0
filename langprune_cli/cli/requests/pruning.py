"""`score`, `mask` and `apply`: what was left out on the command line is found here, then the stages are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langprune_cli.cli.requests import structured, vocabulary
from langprune_cli.cli.requests.inputs import newer_scores, own_stats, stats_for
from langprune_cli.cli.requests.session import Session, one_of, size_in_bytes
from langprune_cli.cli.requests.structured import unit_options
from langprune_cli.cli.requests.tuning import target_of, text_of, tune_options, tuned
from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from pathlib import Path

    from langprune_cli.methods.method import Method
    from langprune_cli.stages.solving.choosing import MaskSettings
    from langprune_cli.stages.statistics.sites import Solving


def score(
    session: Session, model: str | None, revision: str | None, method: str, stats: str | None, *, name: str | None, force: bool
) -> None:  # fmt: skip
    """Run stage 2."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415
    from langprune_cli.stages.mask.score import score  # noqa: PLC0415

    chosen = get_method(method)
    made_from = stats_for(session, chosen.needs, f"--method {method}", stats)
    opened = session.open(session.choose(model, revision, made_from), remember=model is not None)
    session.show([score(session.workspace, opened, chosen, made_from, session.reporter, name=name, force=force)])


def mask(
    session: Session, model: str | None, revision: str | None, stats: str | None, scores: str | None, *,
    method: str | None, variant: bool, pattern: list[str] | None, round_to: int | None, rounding: str, name: str | None,
    force: bool, coverage: float | None, vocab_size: int | None, keep_chat: bool | None, **choice: Any,  # noqa: ANN401 - of `settings_of`
) -> None:  # fmt: skip
    """Run stage 3."""
    target, patterns = vocabulary.vocabulary_target(
        pattern or ["unstructured"], coverage=coverage, vocab_size=vocab_size, keep_chat=keep_chat, round_to=round_to
    )
    if target:
        _masks_tokens(
            patterns, of_weights(choice) | {"--variant": variant, "--scores": scores, "--method": method,
            "--sparsity": choice["sparsity"], "--damping": choice["damping"],
            "--min-expert-tokens": choice["min_expert_tokens"],
            "--round": None if rounding == "down" else rounding},
        )  # fmt: skip
        vocabulary.mask(session, model, revision, stats, target, name=name, force=force)
        return
    units = unit_options(
        patterns, choice["sparsity"], method, round_to=round_to, rounding=rounding, solving=solving_of(choice),
        of_weights=of_weights(choice) | {"--variant": variant, "--scores": scores},
    )  # fmt: skip
    if units:
        structured.mask(session, model, revision, stats, units, name=name, force=force)
        return
    from langprune_cli.methods.method import get_method  # noqa: PLC0415
    from langprune_cli.numerics.site import most_needed  # noqa: PLC0415
    from langprune_cli.stages.mask.mask import MaskSource, mask, source_of_scores  # noqa: PLC0415
    from langprune_cli.stages.solving.allocating import chosen_allocation  # noqa: PLC0415
    from langprune_cli.stages.solving.choosing import Chooser  # noqa: PLC0415

    settings = settings_of(pattern=patterns[0], **choice)
    chosen = method_of(method or "wanda", settings, variant=variant)
    on_statistics = settings.refinement or settings.allocation != "uniform" or solving_given(choice)
    if scores:
        if stats or method or variant or solving_given(choice):
            raise UsageError(
                "--scores goes without --stats, --method, --variant, --damping and --min-expert-tokens: they have theirs already"
            )
        found = session.workspace.find("scores", scores)
        source, chosen = source_of_scores(session.workspace, found), get_method(found.manifest.params["method"])
    elif stats or method or variant or on_statistics or not (newest := newer_scores(session)):
        chooser = Chooser.of(chosen, settings)
        allocation = chosen_allocation(chooser)
        if most_needed(allocation.needs, chooser.needs) != chooser.needs:
            made_from = stats_for(session, allocation.needs, f"--allocation {allocation.name}", stats)
        else:
            made_from = stats_for(session, chooser.needs, chooser.what, stats)
        source = MaskSource(made_from)
    else:
        source, chosen = source_of_scores(session.workspace, newest), get_method(newest.manifest.params["method"])
    opened = session.open(session.choose(model, revision, source.scores or source.stats), remember=model is not None)
    if choice["min_expert_tokens"] is not None:
        opened.require_experts("--min-expert-tokens")
    chooser = Chooser.of(chosen, settings)
    note_cost(session, chosen.name, settings)
    session.show([mask(session.workspace, opened, source, chooser, session.reporter, name=name, force=force)])


def _masks_tokens(others: list[str], options: dict[str, Any]) -> None:
    """Raise UsageError for patterns and options that do not go with a mask of tokens."""
    if others:
        raise UsageError(
            f"tokens are chosen by themselves: run mask and apply for them first, then for {others[0]} on that model, or all of "
            "it with langprune prune"
        )
    for option, value in options.items():
        if value:
            raise UsageError(f"{option} has no use for --pattern vocab: leave it out")


def apply(
    session: Session, model: str | None, revision: str | None, mask: str | None, stats: str | None, *,
    update: str | None, damping: float | None, max_shard_size: str, out: Path | None, name: str | None, force: bool,
    **training: Any,  # noqa: ANN401 - of `tune_options`
) -> None:  # fmt: skip
    """Run stage 4."""
    from langprune_cli.stages.apply.apply import ApplySettings, apply, own_update  # noqa: PLC0415
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings  # noqa: PLC0415
    from langprune_cli.stages.structured.cutting import blocks_that_stayed  # noqa: PLC0415
    from langprune_cli.stages.structured.structures import VOCABULARY  # noqa: PLC0415
    from langprune_cli.updates.update import get_update  # noqa: PLC0415

    chosen = session.pick("masks", mask, "mask", "mask")
    params = chosen.manifest.params
    experts = params.get("min_expert_tokens")  # the same experts go without as when the mask was made
    solving = solving_of({"damping": damping, "min_expert_tokens": experts})
    shard = size_in_bytes("--max-shard-size", max_shard_size)
    settings = ApplySettings(update or own_update(params), solving, shard)
    tune = tune_options(**training, max_shard_bytes=settings.max_shard_bytes)
    if params["pattern"] == VOCABULARY and (tune or update or damping is not None):
        raise UsageError("--tune, --update and --damping have nothing to change where tokens leave: leave them out")
    needs = get_update(settings.update).needs
    if needs == "nothing" and stats and not tune:
        raise UsageError(f"--stats {stats} has no use for --update {settings.update}: leave it out")
    made_from = None if stats else own_stats(session, chosen, needs)
    if made_from is None and needs != "nothing":
        made_from = stats_for(session, needs, f"--update {settings.update}", stats)
    to: dict[str, Any] = {"name": name, "out": out.expanduser() if out else None, "force": force}
    spec = None
    if tune:
        spec = text_of(
            made_from or (session.workspace.find("stats", stats) if stats else own_stats(session, chosen, "norms"))
        )
    opened = session.open(session.choose(model, revision, chosen), remember=model is not None)
    made = [
        apply(session.workspace, opened, chosen, session.reporter, settings, stats=made_from, **target_of(to, tune))
    ]
    if tune and spec:
        stayed = blocks_that_stayed(chosen)
        made.insert(0, tuned(session, opened, made[0].artifact, spec, CalibrationSettings(), tune, blocks=stayed, **to))
    session.show(made)


def settings_of(
    *, pattern: str, sparsity: float | None, group: str | None, ties: str | None, exclude: str | None,
    refine: str | None, allocation: str, **solving: Any,  # noqa: ANN401 - of `solving_of`
) -> MaskSettings:  # fmt: skip
    """Return how weights are to be chosen; raises UsageError and LangpruneError for values that do not exist."""
    from langprune_cli.numerics.patterns import parse_pattern  # noqa: PLC0415
    from langprune_cli.refinements.refinement import get_refinement  # noqa: PLC0415
    from langprune_cli.stages.solving.choosing import MaskSettings  # noqa: PLC0415

    groups: Any = one_of("--group", group, ("row", "layer"))
    tie_rule: Any = one_of("--ties", ties, ("exact", "together"))
    return MaskSettings(
        parse_pattern(pattern, sparsity),
        groups,
        tie_rule,
        exclude,
        allocation,
        get_refinement(refine) if refine else None,
        solving_of(solving),
    )


def of_weights(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the options that only patterns of single weights have, by name."""
    spread = choice["allocation"] if choice["allocation"] != "uniform" else None
    return {"--allocation": spread} | {f"--{each}": choice[each] for each in ("group", "ties", "exclude", "refine")}


def method_of(name: str, settings: MaskSettings, *, variant: bool) -> Method:
    """Return the method; --variant is Wanda's, and goes with unstructured pruning only."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415

    if variant and (name not in {"wanda", "wanda-variant"} or settings.pattern.m):
        raise UsageError("--variant goes with --method wanda and --pattern unstructured only: leave it out")
    return get_method("wanda-variant" if variant else name)


def note_cost(session: Session, method: str, settings: MaskSettings) -> None:
    """Say what 2:4 by Wanda usually costs."""
    from langprune_cli.stages.evaluate.ruined import WANDA_2_4  # noqa: PLC0415

    if method == "wanda" and settings.pattern.keep_of == (2, 4):
        session.reporter.note(WANDA_2_4)


def solving_given(choice: dict[str, Any]) -> bool:
    """Return whether solvers are told anything."""
    return choice["damping"] is not None or choice["min_expert_tokens"] is not None


def solving_of(choice: dict[str, Any]) -> Solving:
    """Return what solvers are told by the options that were given, the others being None."""
    from langprune_cli.stages.statistics.sites import Solving  # noqa: PLC0415

    damping = choice["damping"]
    if damping is not None and not 0 < damping <= 1:
        raise UsageError(
            f"--damping {damping:g} is not a share of the Hessian's mean diagonal: give one above 0, up to 1"
        )
    return Solving(**{name: choice[name] for name in ("damping", "min_expert_tokens") if choice[name] is not None})
