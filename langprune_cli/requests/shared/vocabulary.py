"""Translates a request's options for pruning tokens, and finds the token counts."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from langprune_cli.defaults import COVERAGE, MAX_TOKENS
from langprune_cli.errors import LangpruneError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.choice import PatternOptions
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.target import Target
    from langprune_cli.streaming.model_choice import ModelChoice
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.tokens.choice import VocabularyChoice, VocabularyTarget
    from langprune_cli.tokens.vocabulary import Kind
    from langprune_cli.types import TextSpec

_MUCH_NEW = 0.005  # of a text: far more than a coverage of 0.9999 promises to lose


def vocabulary_target(patterns: list[str], request: PatternOptions) -> tuple[VocabularyTarget | None, list[str]]:
    """Return the options for tokens, None without `vocab` among the patterns, and the other patterns.

    Raises UsageError for values out of range, and for options of tokens without `vocab`.
    """
    from langprune_cli.structured_patterns.vocab import PATTERN  # noqa: PLC0415
    from langprune_cli.tokens.choice import ROUND_TO, VocabularyTarget  # noqa: PLC0415

    others = [pattern for pattern in patterns if pattern != PATTERN.name]
    coverage, vocab_size, keep_chat = request.coverage, request.vocab_size, request.keep_chat
    if len(others) == len(patterns):
        keeping = f"--{'' if keep_chat else 'no-'}keep-chat"
        for option, value in (("--coverage", coverage), ("--vocab-size", vocab_size), (keeping, keep_chat)):
            if value is not None:
                raise UsageError(f"{option} goes with --pattern {PATTERN.name} only: leave it out")
        return None, others
    if len(others) < len(patterns) - 1:
        raise UsageError(f"--pattern {PATTERN.name} is given twice: once is enough")
    if coverage is not None and vocab_size is not None:
        raise UsageError("--coverage and --vocab-size both set the number of tokens: give one of them")
    wanted = COVERAGE if coverage is None else coverage
    share = wanted if vocab_size is None else None
    return VocabularyTarget(share, vocab_size, request.round_to or ROUND_TO, keep_chat is not False), others


def counted(run: Run, model: OpenedModel, specs: list[TextSpec], max_tokens: int | None, to: Target) -> list[Outcome]:
    """Count the tokens of each text; the last of what is returned has the counts of all of them."""
    from langprune_cli.stages.calibrate.token_counts import count_tokens  # noqa: PLC0415
    from langprune_cli.stages.combine.combine import combine_stats  # noqa: PLC0415
    from langprune_cli.streaming.opened_tokenizer import OpenedTokenizer  # noqa: PLC0415

    most = max_tokens or MAX_TOKENS
    tokenizer = OpenedTokenizer(model.location, trust_remote_code=model.compute.trust_remote_code)
    found = count_tokens(run.workspace, tokenizer, specs, run.reporter, max_tokens=most, to=to)
    if len(found) > 1:
        found.append(combine_stats(run.workspace, [each.artifact for each in found], run.reporter, to=to))
    return found


def token_counts(run: Run, named: str | None) -> Artifact:
    """Return the named token counts, else the newest; raises LangpruneError if there are none."""
    from langprune_cli.stages.statistics.collecting import of_norms  # noqa: PLC0415

    if named:
        return run.workspace.find("stats", named)
    newest = run.workspace.newest("stats", where=lambda manifest: not of_norms(manifest))
    if newest is None:
        raise LangpruneError(
            f"the workspace {run.workspace.root} has no token counts: run langprune calibrate --lang LANGUAGE --collect "
            "tokens first"
        )
    run.reporter.note(f"Using token counts {newest.name}.")
    return newest


def planned_tokens(
    run: Run, choice: ModelChoice, target: VocabularyTarget, stats: str | None
) -> tuple[int, VocabularyChoice | None]:
    """Return how many tokens would stay, and which; with a size and no named counts, only how many."""
    from langprune_cli.stages.statistics.counted_tokens import needed_token_counts  # noqa: PLC0415
    from langprune_cli.stages.structured.vocabulary_choosing import vocabulary_of  # noqa: PLC0415
    from langprune_cli.streaming.opened_tokenizer import open_tokenizer  # noqa: PLC0415
    from langprune_cli.tokens.vocabulary import Vocabulary  # noqa: PLC0415

    if target.size is not None and stats is None:
        with suppress(LangpruneError):  # a config.json alone is enough for the size, and has no tokenizer
            tokenizer = open_tokenizer(run.workspace, choice, run.compute, run.reporter).tokenizer
            _note_gguf(run, Vocabulary.opened(tokenizer).kind)
        return -(-target.size // target.round_to) * target.round_to, None
    counts = token_counts(run, stats)
    opened = open_tokenizer(run.workspace, choice, run.compute, run.reporter)
    needed_token_counts("--pattern vocab", counts, opened.location)
    chosen = vocabulary_of(opened, counts, target, opened.vocab_size)
    note(run, chosen)
    return len(chosen.stay), chosen


def masked(run: Run, model: OpenedModel, stats: Artifact, target: VocabularyTarget, to: Target) -> Outcome:
    """Make the mask of tokens, after notes on the smaller model's weaknesses."""
    from langprune_cli.stages.mask.whole import mask_whole  # noqa: PLC0415
    from langprune_cli.stages.structured.removals import Removal  # noqa: PLC0415
    from langprune_cli.stages.structured.vocabulary_choosing import choosing_tokens  # noqa: PLC0415
    from langprune_cli.structured_patterns.vocab import PATTERN  # noqa: PLC0415

    choosing = choosing_tokens(model, stats, Removal(PATTERN.name, 0.0, target), partial(note, run))
    return mask_whole(run.workspace, model, choosing, to)


def note(run: Run, choice: VocabularyChoice) -> None:
    """Note the smaller model's weaknesses before the work."""
    _note_gguf(run, choice.kind)
    for each, new in zip(choice.languages, choice.new, strict=True):
        if new > _MUCH_NEW:
            run.reporter.note(
                f"About {new:.1%} of other text in {each.language} needs pruned tokens, as {each.tokens:,} counted tokens are "
                "too few: count more text, or keep more tokens with --vocab-size."
            )


def _note_gguf(run: Run, kind: Kind) -> None:
    """Note before the work if the smaller model cannot become GGUF."""
    from langprune_cli.stages.export.gguf import trimmed_hindrance  # noqa: PLC0415

    if hindrance := trimmed_hindrance(kind):
        run.reporter.note(f"export --format gguf will not work for the model without these tokens: {hindrance}.")
