"""`demo`: all six stages on the built-in model for two languages, with a table of the effect."""

import time
from math import inf
from pathlib import Path
from typing import TypedDict

from langprune_cli.methods.method import get_method
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.stages.apply.apply import apply
from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate
from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.stages.evaluate.evaluate import EvaluationSettings, evaluate
from langprune_cli.stages.evaluate.rows import Row
from langprune_cli.stages.evaluate.subjects import Subject
from langprune_cli.stages.export.export import export
from langprune_cli.stages.mask.mask import mask, source_of_scores
from langprune_cli.stages.mask.score import score
from langprune_cli.stages.solving.choosing import MaskSettings, WeightChooser
from langprune_cli.store.building import Reporter
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import DEMO, ModelChoice
from langprune_cli.streaming.opened import open_model
from langprune_cli.text.corpora import BUILTIN, resolve_texts

_PATTERN = Pattern(0.5)
_WINDOWS = 128  # of held-out text: enough for a short demo

# float32, since bfloat16 takes ten times as long on a CPU without its units; large batches, since the model is small.
_COMPUTE = Compute(dtype="float32", batch_tokens=8192)


class DemoResult(TypedDict):
    """The demo's result, for --json."""

    schema: int
    texts: list[str]
    table: list[list[str]]
    rows: list[Row]
    verdict: list[str]
    exported: str
    seconds: float


def run_demo(workspace: Workspace, reporter: Reporter) -> DemoResult:
    """Prune the demo model to half for each of its languages and evaluate every mask on every language.

    Returns {"texts", "table" (rows of text), "rows" (as in `eval`), "verdict" (a sentence per language), "seconds",
    "exported"}.
    """
    begun = time.monotonic()
    model = open_model(workspace, ModelChoice(DEMO), _COMPUTE, reporter)
    workspace.remember_model(DEMO, None)
    languages = sorted(BUILTIN, reverse=True)
    texts = resolve_texts(languages, [], evaluation=False, builtin=True)
    reporter.note(f"1 calibrate: run {' and '.join(languages)} text through the model and keep column norms")
    stats = calibrate(workspace, model, texts, CalibrationSettings(), reporter)
    reporter.note("2 score: how important is each weight, by wanda, for each language")
    scores = [score(workspace, model, get_method("wanda"), each.artifact, reporter).artifact for each in stats]
    reporter.note(f"3 mask: keep {1 - _PATTERN.sparsity:.0%} of the weights")
    chooser = WeightChooser.of(get_method("wanda"), MaskSettings(_PATTERN))
    masks = [mask(workspace, model, source_of_scores(workspace, each), chooser, reporter).artifact for each in scores]
    reporter.note("4 apply: write the pruned models and check them")
    models = [apply(workspace, model, each, reporter).artifact for each in masks]
    reporter.note("5 eval: perplexity of the dense model and of each mask, on held-out text of each language")
    subjects = [Subject(model), *(Subject(model, each) for each in masks)]
    held_out = resolve_texts(languages, [], evaluation=True, builtin=True)
    settings = EvaluationSettings(max_windows=_WINDOWS)
    rows = read_rows(evaluate(workspace, subjects, held_out, reporter, settings).artifact)
    reporter.note("6 export: a folder to share, with a model card")
    exported = _export_once(workspace, models[0].name, reporter)
    ppl = {(row["mask"], row["text"]): inf if row["ppl"] is None else row["ppl"] for row in rows}
    labels = ["dense", *(f"pruned for {language}" for language in languages)]
    names = [None, *(each.name for each in masks)]
    table = [
        [label, *(f"{ppl[name, text.name]:.3f}" for text in held_out)]
        for label, name in zip(labels, names, strict=True)
    ]
    return {
        "schema": 1,
        "texts": languages,
        "table": table,
        "rows": rows,
        "verdict": _verdict(ppl, dict(zip(languages, names[1:], strict=True))),
        "exported": str(exported),
        "seconds": time.monotonic() - begun,
    }


def _export_once(workspace: Workspace, name: str, reporter: Reporter) -> Path:
    out = workspace.root / "exports" / name
    if not out.exists():
        export(workspace, workspace.find("models", name), out, reporter)
    return out


def _verdict(ppl: dict[tuple[str | None, str], float], mask_of: dict[str, str | None]) -> list[str]:
    """Return a sentence per language: the rise in its perplexity under its own mask and under the other's."""
    sentences = []
    for language, own in mask_of.items():
        rise = {mask: ppl[mask, language] / ppl[None, language] - 1 for mask in mask_of.values()}
        other = min(rise[mask] for mask in rise if mask != own)
        best = "" if rise[own] < other else ": not as expected"
        sentences.append(f"{language}: ppl {rise[own]:+.1%} under its own mask, {other:+.1%} under the other{best}")
    return sentences
