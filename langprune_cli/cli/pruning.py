"""`score`, `mask`, `apply` and `prune`: what was left out on the command line is found here, then the stages are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langprune_cli.cli import structured
from langprune_cli.cli.inputs import newer_scores, own_stats, stats_for
from langprune_cli.cli.session import Session, one_of
from langprune_cli.cli.structured import unit_options
from langprune_cli.cli.tuning import TuneOptions, text_of, tune_options, tuned
from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from pathlib import Path

    from langprune_cli.methods.method import Method
    from langprune_cli.stages.choosing import MaskSettings
    from langprune_cli.stages.run import Outcome
    from langprune_cli.stages.sites import Solving
    from langprune_cli.stages.unit_choosing import AnyChooser


def score(
    session: Session, model: str | None, revision: str | None, method: str, stats: str | None, *, name: str | None, force: bool
) -> None:  # fmt: skip
    """Run stage 2."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415
    from langprune_cli.stages.score import score  # noqa: PLC0415

    chosen = get_method(method)
    made_from = stats_for(session, chosen.needs, f"--method {method}", stats)
    opened = session.open(session.choose(model, revision, made_from), remember=model is not None)
    session.show([score(session.workspace, opened, chosen, made_from, session.reporter, name=name, force=force)])


def mask(
    session: Session, model: str | None, revision: str | None, stats: str | None, scores: str | None, *,
    method: str | None, variant: bool, pattern: list[str] | None, round_to: int | None, rounding: str, name: str | None,
    force: bool, **choice: Any,  # noqa: ANN401 - of `settings_of`
) -> None:  # fmt: skip
    """Run stage 3."""
    patterns = pattern or ["unstructured"]
    units = unit_options(
        patterns, choice["sparsity"], method, round_to=round_to, rounding=rounding, solving=_solving(choice),
        of_weights=_of_weights(choice) | {"--variant": variant, "--scores": scores},
    )  # fmt: skip
    if units:
        structured.mask(session, model, revision, stats, units, name=name, force=force)
        return
    from langprune_cli.methods.method import get_method  # noqa: PLC0415
    from langprune_cli.numerics.site import most_needed  # noqa: PLC0415
    from langprune_cli.stages.allocating import chosen_allocation  # noqa: PLC0415
    from langprune_cli.stages.choosing import Chooser  # noqa: PLC0415
    from langprune_cli.stages.mask import MaskSource, mask, source_of_scores  # noqa: PLC0415

    settings = settings_of(pattern=patterns[0], **choice)
    chosen = method_of(method or "wanda", settings, variant=variant)
    on_statistics = settings.refinement or settings.allocation != "uniform" or _solving_given(choice)
    if scores:
        if stats or method or variant or _solving_given(choice):
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
    session.show([mask(session.workspace, opened, source, chooser, session.reporter, name=name, force=force)])


def apply(
    session: Session, model: str | None, revision: str | None, mask: str | None, stats: str | None, *,
    update: str | None, damping: float | None, max_shard_size: str, out: Path | None, name: str | None, force: bool,
    **training: Any,  # noqa: ANN401 - of `tune_options`
) -> None:  # fmt: skip
    """Run stage 4."""
    from langprune_cli.stages.apply import apply, own_update  # noqa: PLC0415
    from langprune_cli.stages.calibrate import CalibrationSettings  # noqa: PLC0415
    from langprune_cli.stages.cutting import blocks_that_stayed  # noqa: PLC0415
    from langprune_cli.updates.update import get_update  # noqa: PLC0415

    chosen = session.pick("masks", mask, "mask", "mask")
    params = chosen.manifest.params
    experts = params.get("min_expert_tokens")  # the same experts go without as when the mask was made
    solving = _solving({"damping": damping, "min_expert_tokens": experts})
    settings = _apply_settings(update or own_update(params), solving, max_shard_size)
    tune = tune_options(**training, max_shard_bytes=settings.max_shard_bytes)
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
    made = [apply(session.workspace, opened, chosen, session.reporter, settings, stats=made_from, **_target(to, tune))]
    if tune and spec:
        stayed = blocks_that_stayed(chosen)
        made.insert(0, tuned(session, opened, made[0].artifact, spec, CalibrationSettings(), tune, blocks=stayed, **to))
    session.show(made)


def prune(
    session: Session, model: str | None, revision: str | None, lang: list[str], data: list[str], *,
    method: str | None, variant: bool, pattern: list[str] | None, round_to: int | None, rounding: str,
    update: str | None, propagation: str, max_shard_size: str, calibration: dict[str, Any], out: Path | None,
    name: str | None, force: bool, training: dict[str, Any], **choice: Any,  # noqa: ANN401 - of `settings_of`
) -> None:  # fmt: skip
    """Run stages 1 to 4, block by block."""
    from langprune_cli.cli.results import print_pruned  # noqa: PLC0415
    from langprune_cli.stages.calibrate import CalibrationSettings  # noqa: PLC0415
    from langprune_cli.stages.choosing import Chooser  # noqa: PLC0415
    from langprune_cli.stages.cutting import blocks_that_stayed  # noqa: PLC0415
    from langprune_cli.stages.model_writing import read_pruned  # noqa: PLC0415
    from langprune_cli.stages.opened import DEMO  # noqa: PLC0415
    from langprune_cli.stages.prune import PruneSettings, prune  # noqa: PLC0415
    from langprune_cli.text.corpora import resolve_texts  # noqa: PLC0415

    patterns = pattern or ["unstructured"]
    units = unit_options(
        patterns, choice["sparsity"], method, round_to=round_to, rounding=rounding, solving=_solving(choice),
        of_weights=_of_weights(choice) | {"--variant": variant},
    )  # fmt: skip
    propagated: Any = one_of("--propagation", propagation, ("pruned", "dense"))
    model_choice = session.choose(model, revision)
    specs = resolve_texts(lang, data, evaluation=False, builtin=model_choice.name == DEMO)
    if len(specs) > 1:
        raise UsageError(f"prune works on one text at a time, and {len(specs)} were given: run it once for each")
    chooser: AnyChooser | None = None
    if not units:
        settings = settings_of(pattern=patterns[0], **choice)
        chooser = Chooser.of(method_of(method or "admm", settings, variant=variant), settings)
    drawn = CalibrationSettings(**calibration)
    to: dict[str, Any] = {"name": name, "out": out.expanduser() if out else None, "force": force}
    shard = _bytes(max_shard_size)
    tune = tune_options(**training, max_shard_bytes=shard)
    dense = opened = session.open(model_choice, remember=True)
    if choice["min_expert_tokens"] is not None:
        opened.require_experts("--min-expert-tokens")
    before: list[Outcome] = []
    stayed: tuple[int, ...] | None = None

    def after(made: Outcome) -> list[Outcome]:
        if tune is None:
            return [made]
        return [tuned(session, dense, made.artifact, specs[0], drawn, tune, blocks=stayed, **to), made]

    if units:
        opened, before = structured.without_blocks(
            session, opened, specs[0], drawn, units, max_shard_bytes=shard, **_target(to, tune)
        )
        stayed = blocks_that_stayed(before[-1].artifact) if before else None
        if not units.units:
            session.show([*after(before[0]), *before[1:]])
            return
        chooser = units.chooser(opened)
    assert chooser is not None  # noqa: S101 - one of the two
    settled = _apply_settings(update or chooser.method.update, _solving(choice), max_shard_size)
    how = PruneSettings(chooser, settled, drawn, propagated)
    made = prune(session.workspace, opened, specs[0], how, session.reporter, **_target(to, tune))
    linears = read_pruned(made.model.artifact)
    if not session.json:
        print_pruned(linears, made.seconds)
    blocks = [{"block": block, "seconds": round(seconds, 3)} for block, seconds in made.seconds.items()]
    session.show([*after(made.model), *made.parents, *before], layers=[vars(each) for each in linears], blocks=blocks)


def _target(to: dict[str, Any], tune: TuneOptions | None) -> dict[str, Any]:
    """Return where a model goes: the name and folder that were asked for are the tuned one's where it is to be tuned."""
    return {"name": None, "out": None, "force": to["force"]} if tune else to


def settings_of(
    *, pattern: str, sparsity: float | None, group: str | None, ties: str | None, exclude: str | None,
    refine: str | None, allocation: str, **solving: Any,  # noqa: ANN401 - of `_solving`
) -> MaskSettings:  # fmt: skip
    """Return how weights are to be chosen; raises UsageError and LangpruneError for values that do not exist."""
    from langprune_cli.numerics.patterns import parse_pattern  # noqa: PLC0415
    from langprune_cli.refinements.refinement import get_refinement  # noqa: PLC0415
    from langprune_cli.stages.choosing import MaskSettings  # noqa: PLC0415

    groups: Any = one_of("--group", group, ("row", "layer"))
    tie_rule: Any = one_of("--ties", ties, ("exact", "together"))
    return MaskSettings(
        parse_pattern(pattern, sparsity),
        groups,
        tie_rule,
        exclude,
        allocation,
        get_refinement(refine) if refine else None,
        _solving(solving),
    )


def _of_weights(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the options that only patterns of single weights have, by name."""
    spread = choice["allocation"] if choice["allocation"] != "uniform" else None
    return {"--allocation": spread} | {f"--{each}": choice[each] for each in ("group", "ties", "exclude", "refine")}


def method_of(name: str, settings: MaskSettings, *, variant: bool) -> Method:
    """Return the method; --variant is Wanda's, and goes with unstructured pruning only."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415

    if variant and (name not in {"wanda", "wanda-variant"} or settings.pattern.m):
        raise UsageError("--variant goes with --method wanda and --pattern unstructured only: leave it out")
    return get_method("wanda-variant" if variant else name)


def _apply_settings(update: str, solving: Solving, max_shard_size: str) -> Any:  # noqa: ANN401 - not imported yet
    from langprune_cli.stages.apply import ApplySettings  # noqa: PLC0415

    return ApplySettings(update, solving, _bytes(max_shard_size))


def _solving_given(choice: dict[str, Any]) -> bool:
    return choice["damping"] is not None or choice["min_expert_tokens"] is not None


def _solving(choice: dict[str, Any]) -> Solving:
    """Return what solvers are told by the options that were given, the others being None."""
    from langprune_cli.stages.sites import Solving  # noqa: PLC0415

    damping = choice["damping"]
    if damping is not None and not 0 < damping <= 1:
        raise UsageError(
            f"--damping {damping:g} is not a share of the Hessian's mean diagonal: give one above 0, up to 1"
        )
    return Solving(**{name: choice[name] for name in ("damping", "min_expert_tokens") if choice[name] is not None})


def _bytes(text: str) -> int:
    """Read a size such as 500MB (powers of ten, as transformers counts); raises UsageError for anything else."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(f"--max-shard-size {text!r} is not a size: write it as 500MB or 2GB")
    return size
