"""`mask` and `prune` for tokens: what was left out is found here, then the stages are called."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.defaults import COVERAGE, MAX_TOKENS
from langprune_cli.errors import LangpruneError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from collections.abc import Callable
    from pathlib import Path

    from langprune_cli.cli.requests.session import Session
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.streaming.opened import ModelChoice, OpenedModel
    from langprune_cli.tokens.choice import VocabularyChoice, VocabularyTarget
    from langprune_cli.tokens.vocabulary import Kind
    from langprune_cli.types import TextSpec

_MUCH_NEW = 0.005  # of a text: what a coverage of 0.9999 promises is far from kept


def vocabulary_target(
    patterns: list[str],
    *,
    coverage: float | None,
    vocab_size: int | None,
    keep_chat: bool | None,
    round_to: int | None,
) -> tuple[VocabularyTarget | None, list[str]]:
    """Return what is said of tokens, None where they are not to leave, and the other patterns.

    Raises UsageError for values out of range, and for options about tokens where they are not to leave.
    """
    from langprune_cli.stages.structured.structures import VOCABULARY  # noqa: PLC0415
    from langprune_cli.tokens.choice import ROUND_TO, VocabularyTarget  # noqa: PLC0415

    others = [pattern for pattern in patterns if pattern != VOCABULARY]
    if len(others) == len(patterns):
        keeping = f"--{'' if keep_chat else 'no-'}keep-chat"
        for option, value in (("--coverage", coverage), ("--vocab-size", vocab_size), (keeping, keep_chat)):
            if value is not None:
                raise UsageError(f"{option} goes with --pattern {VOCABULARY} only: leave it out")
        return None, others
    if len(others) < len(patterns) - 1:
        raise UsageError(f"--pattern {VOCABULARY} is given twice: once is enough")
    if coverage is not None and vocab_size is not None:
        raise UsageError("--coverage and --vocab-size both say how many tokens stay: give one of them")
    wanted = COVERAGE if coverage is None else coverage
    share = wanted if vocab_size is None else None
    return VocabularyTarget(share, vocab_size, round_to or ROUND_TO, keep_chat is not False), others


def mask(
    session: Session, model: str | None, revision: str | None, stats: str | None, target: VocabularyTarget, *,
    name: str | None, force: bool,
) -> None:  # fmt: skip
    """Run stage 3."""
    made_from = token_counts(session, stats)
    opened = session.open(session.choose(model, revision, made_from), remember=model is not None)
    session.show([_masked(session, opened, made_from, target, name=name, force=force)])


def without_tokens(
    session: Session, model: OpenedModel, specs: list[TextSpec], target: VocabularyTarget, *, max_tokens: int | None,
    max_shard_bytes: int, name: str | None, out: Path | None, force: bool,
) -> tuple[OpenedModel, list[Outcome]]:  # fmt: skip
    """Make a model without the tokens that the texts do not use, and open it; return it, and what was made: itself first."""
    from langprune_cli.stages.apply.apply import ApplySettings, apply  # noqa: PLC0415
    from langprune_cli.stages.calibrate.token_counts import count_tokens  # noqa: PLC0415
    from langprune_cli.stages.combine.combine import combine_stats  # noqa: PLC0415
    from langprune_cli.streaming.opened import ModelChoice, OpenedTokenizer  # noqa: PLC0415

    workspace, reporter = session.workspace, session.reporter
    most = max_tokens or MAX_TOKENS
    tokenizer = OpenedTokenizer(model.location, trust_remote_code=model.compute.trust_remote_code)
    counted = count_tokens(workspace, tokenizer, specs, reporter, max_tokens=most, force=force)
    stats = counted[0].artifact
    joined: list[Outcome] = []
    if len(counted) > 1:
        joined = [combine_stats(workspace, [each.artifact for each in counted], reporter, force=force)]
        stats = joined[0].artifact
    masked = _masked(session, model, stats, target, name=None, force=force)
    settings = ApplySettings(max_shard_bytes=max_shard_bytes)
    made = apply(workspace, model, masked.artifact, reporter, settings, name=name, out=out, force=force)
    smaller = session.open(ModelChoice(str(made.artifact.folder)))
    return smaller, [made, *counted, *joined, masked]


def token_counts(session: Session, named: str | None) -> Artifact:
    """Return the token counts that were named, else the newest; raises LangpruneError where there are none."""
    from langprune_cli.stages.statistics.collecting import of_norms  # noqa: PLC0415

    if named:
        return session.workspace.find("stats", named)
    newest = session.workspace.newest("stats", where=lambda manifest: not of_norms(manifest))
    if newest is None:
        raise LangpruneError(
            f"the workspace {session.workspace.root} has no token counts: run langprune calibrate --lang LANGUAGE --collect "
            "tokens first"
        )
    session.reporter.note(f"Using token counts {newest.name}.")
    return newest


def planned_tokens(
    session: Session, choice: ModelChoice, target: VocabularyTarget, stats: str | None
) -> tuple[int, int | None]:
    """Return how many tokens would stay, and how many of them for chats: a size needs no counts, where none are named.

    None of chats where it is not known, or none are kept for them.
    """
    from langprune_cli.stages.calibrate.token_counts import needed_token_counts  # noqa: PLC0415
    from langprune_cli.stages.mask.vocabulary import vocabulary_of  # noqa: PLC0415
    from langprune_cli.streaming.opened import open_tokenizer  # noqa: PLC0415
    from langprune_cli.tokens.vocabulary import Vocabulary  # noqa: PLC0415

    if target.size is not None and stats is None:
        with suppress(LangpruneError):  # a config.json alone says how large the model becomes, and has no tokenizer
            tokenizer = open_tokenizer(session.workspace, choice, session.compute, session.reporter).tokenizer
            _note_gguf(session, Vocabulary.opened(tokenizer).kind)
        return -(-target.size // target.round_to) * target.round_to, None
    counts = token_counts(session, stats)
    opened = open_tokenizer(session.workspace, choice, session.compute, session.reporter)
    needed_token_counts("--pattern vocab", counts, opened.location)
    chosen = vocabulary_of(opened, counts, target, opened.vocab_size)
    _note(session, chosen)
    if not session.json:
        print_vocabulary(chosen.record() | {"chat": None})  # the plan says that with its bytes
        print_line("")
    return len(chosen.stay), chosen.chat


def _masked(
    session: Session, model: OpenedModel, stats: Artifact, target: VocabularyTarget, *, name: str | None, force: bool
) -> Outcome:
    """Make the mask of tokens, its table first: of one that is there already as it is on record."""
    from langprune_cli.stages.mask.vocabulary import mask_vocabulary  # noqa: PLC0415

    made = mask_vocabulary(session.workspace, model, stats, target, _shown(session), name=name, force=force)
    if made.cached and not session.json:
        print_vocabulary(made.artifact.manifest.about["vocabulary"])
    return made


def _shown(session: Session) -> Callable[[VocabularyChoice], None]:
    def show(choice: VocabularyChoice) -> None:
        _note(session, choice)
        if not session.json:
            print_vocabulary(choice.record())

    return show


def _note(session: Session, choice: VocabularyChoice) -> None:
    """Say before the work what the smaller model would be bad at."""
    _note_gguf(session, choice.kind)
    for each, new in zip(choice.languages, choice.new, strict=True):
        if new > _MUCH_NEW:
            session.reporter.note(
                f"About {new:.1%} of other text in {each.language} is tokens that leave, which the {each.tokens:,} counted are "
                "too few to show: count more text, or keep more tokens with --vocab-size."
            )


def _note_gguf(session: Session, kind: Kind) -> None:
    """Say before the work where the smaller model cannot become GGUF."""
    from langprune_cli.stages.export.gguf import trimmed_hindrance  # noqa: PLC0415

    if hindrance := trimmed_hindrance(kind):
        session.reporter.note(f"export --format gguf will not take a model without these tokens: {hindrance}.")


def print_vocabulary(record: dict[str, Any]) -> None:
    """Print how many tokens stay, and language by language what they cover and what is lost."""
    before, after = record["rows_before"], record["rows_after"]
    print_line(
        f"{after:,} of {before:,} rows stay ({1 - after / before:.2%} leave), {record['required']:,} of them whatever the text."
    )
    if record.get("chat"):
        print_line(f"{record['chat']:,} stay only for chats, Markdown and code (--no-keep-chat lets them go).")
    rows = [
        [
            each["language"],
            f"{each['tokens']:,}",
            f"{each['covered']:.4%}",
            f"{1 - each['covered']:.4%}",
            f"{each['seen']:,}",
            f"{each['lost']:,}",
        ]
        for each in record["languages"]
    ]
    print_table(["language", "tokens counted", "covered", "lost", "different tokens", "of these lost"], rows)
