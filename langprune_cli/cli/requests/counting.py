"""`calibrate --collect tokens`: what the command line says, then the stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.defaults import MAX_TOKENS
from langprune_cli.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from collections.abc import Collection

    from langprune_cli.cli.requests.session import Session

# Options that are about windows, or about running a model.
WITHOUT_EFFECT = (
    "--nsamples",
    "--seqlen",
    "--seed",
    "--sampling",
    "--dtype",
    "--device",
    "--batch-tokens",
    "--all-experts",
)


def count_tokens(
    session: Session, model: str | None, revision: str | None, lang: list[str], data: list[str],
    corpus: str | None, *, given: Collection[str], max_tokens: int | None, name: str | None, force: bool,
) -> None:  # fmt: skip
    """Count the tokens of texts. given: the options that stood on the command line; those without effect are refused."""
    from langprune_cli.stages.calibrate.token_counts import count_tokens  # noqa: PLC0415
    from langprune_cli.streaming.opened import open_tokenizer  # noqa: PLC0415

    needless = [option for option in WITHOUT_EFFECT if option in given]
    if needless:
        raise UsageError(f"--collect tokens runs no model and draws no windows: leave out {', '.join(needless)}")
    choice = session.choose(model, revision)
    specs = session.texts(lang, data, corpus, choice, given=given)
    if specs[0].parts:
        raise UsageError(f"--collect tokens draws no windows, and --lang {lang[0]} says how many: leave out the number")
    opened = open_tokenizer(session.workspace, choice, session.compute, session.reporter)
    session.remember(choice, opened.location.about)
    most = MAX_TOKENS if max_tokens is None else max_tokens
    session.show(
        count_tokens(session.workspace, opened, specs, session.reporter, max_tokens=most, name=name, force=force)
    )
