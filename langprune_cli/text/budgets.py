"""Mixtures, `--lang uk:96 --lang en:32`: one calibration text with a given number of windows of each language."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.text.windows import fingerprint
from langprune_cli.types import Budget, TextSpec, Windows

_BUDGET = re.compile(r"(.*):([0-9]+)")


def split_budgets(languages: Sequence[str]) -> tuple[list[str], list[int]]:
    """Split the values of --lang into tags and numbers of windows; return no numbers if none are given.

    Raises UsageError if only some values have a number, and for 0 windows.
    """
    found = [_BUDGET.fullmatch(each) for each in languages]
    if not any(found):
        return list(languages), []
    without = [each for each, match in zip(languages, found, strict=True) if not match]
    if without:
        given = next(each for each, match in zip(languages, found, strict=True) if match)
        raise UsageError(
            f"--lang {given} says how many windows are drawn, and --lang {without[0]} does not: write {without[0]}:32, say"
        )
    pairs = [(match[1], int(match[2])) for match in found if match]
    if nothing := next((tag for tag, count in pairs if count < 1), None):
        raise UsageError(f"--lang {nothing}:0 asks for no windows: give 1 or more, or leave it out")
    return [tag for tag, _ in pairs], [count for _, count in pairs]


def mixture(specs: Sequence[TextSpec], windows: Sequence[int]) -> TextSpec:
    """Return the text that mixes the given number of windows of each text, in order, named uk+en."""
    languages = {spec.language for spec in specs}
    return TextSpec(
        language=languages.pop() if len(languages) == 1 else None,
        source=" + ".join(spec.source for spec in specs),
        name="+".join(spec.name for spec in specs),
        parts=tuple(Budget(spec, count) for spec, count in zip(specs, windows, strict=True)),
    )


def mixed(spec: TextSpec, parts: Sequence[Windows]) -> Windows:
    """Return the windows of a mixture, text after text; of a file of windows the first ones.

    Raises LangpruneError for a file with too few windows, or windows of another length than the other texts'.
    """
    taken = [_first(windows, budget.windows) for windows, budget in zip(parts, spec.parts, strict=True)]
    for windows in taken:
        if windows.seqlen != taken[0].seqlen:
            raise LangpruneError(
                f"{windows.spec.source} gives windows of {windows.seqlen} tokens and {taken[0].spec.source} of "
                f"{taken[0].seqlen}: give them one length with --seqlen"
            )
    if len(taken) == 1:
        return taken[0]
    ids = torch.cat([windows.ids for windows in taken])
    samplings, seeds = {windows.sampling for windows in taken}, {windows.seed for windows in taken}
    return Windows(
        ids,
        fingerprint(ids),
        spec,
        sampling=samplings.pop() if len(samplings) == 1 else "mixed",
        seed=seeds.pop() if len(seeds) == 1 else None,
        documents=sum(windows.documents for windows in taken),
        notes=tuple(note for windows in taken for note in windows.notes),
        parts=tuple(taken),
    )


def _first(windows: Windows, count: int) -> Windows:
    if windows.count < count:
        raise LangpruneError(
            f"{windows.spec.source} holds {windows.count} windows, and {count} were asked for: ask for no more than there are"
        )
    ids = windows.ids[:count].clone()
    return replace(windows, ids=ids, fingerprint=fingerprint(ids))
