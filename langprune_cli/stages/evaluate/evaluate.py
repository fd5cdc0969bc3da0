"""Stage 5, `eval`: perplexity and bits per byte of dense and pruned models on the same windows."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.bootstrap import LEVEL, METHOD, RESAMPLES, SEED
from langprune_cli.numerics.nats import bits_per_byte, perplexity
from langprune_cli.records import CellRecord
from langprune_cli.stages.evaluate.comparing import Measured, compared
from langprune_cli.stages.evaluate.earlier import RESULT, KnownCells, losses_part
from langprune_cli.stages.evaluate.evaluation_text import EvaluationText, evaluation_text, per_original_token
from langprune_cli.stages.evaluate.quantized import quantizer_environment
from langprune_cli.stages.evaluate.rows import CellRow, Labels, PairRow, Result, Row
from langprune_cli.stages.evaluate.subjects import Losses, Subject
from langprune_cli.stages.evaluate.tasks import run_tasks, tasks_identity
from langprune_cli.stages.statistics.parts import text_identity
from langprune_cli.store.artifact import WEIGHTS, Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import canonical_json, readable_json
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.tokens.token_bytes import predicted_bytes
from langprune_cli.types import TextSpec, Windows


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of measuring models."""

    tasks: Sequence[str] = ()  # of lm-evaluation-harness
    seqlen: int | None = None  # None: 2048, or the model's context if that is shorter
    max_windows: int | None = None  # None: all, or the first 256 of a hub dataset


SETTINGS = EvaluationSettings()


def evaluate(
    workspace: Workspace,
    subjects: Sequence[Subject],
    specs: Sequence[TextSpec],
    reporter: Reporter,
    settings: EvaluationSettings = SETTINGS,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Evaluate every subject on every text by the published protocol: texts joined, consecutive windows, tail dropped.

    Tasks run on the subjects' models, without masks. Rows of earlier evaluations in this workspace (same checkpoint, mask,
    dtype, bits
    and token ids) are reused. Raises LangpruneError for text that is unreadable or shorter than a window, and as
    `Subject.check` does.
    """
    tasks = settings.tasks
    for subject in subjects:
        subject.check()
    models = [subject.model for subject in subjects]
    for model in models:
        model.streamed.checkpoint.begin_hashes(on_record=False)
    texts = [
        evaluation_text(models, spec, reporter, seqlen=settings.seqlen, max_windows=settings.max_windows)
        for spec in specs
    ]
    reference, whole = models[0], [subject.model for subject in subjects if not subject.mask]
    cells = [(subject, text) for text in texts for subject in subjects]
    weights = {model.digest: model.streamed.checkpoint.weights_sha256 for model in models}
    recipe = Recipe(
        "evals",
        inputs={"cells": [_identity(subject, text.of(subject.model)) for subject, text in cells]}
        | ({"tasks": tasks_identity(whole, tasks)} if tasks else {}),
        params={
            "bpb": _has_tokenizer(reference),  # without one bpb is unknown; another key lets it be computed later
            "intervals": {"method": METHOD, "level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        },
        about={
            "models": {model.label: model.about for model in models},
            WEIGHTS: weights,
        },
        environment=reference.environment() | (quantizer_environment() if subjects[-1].bits else {}),
    )
    last = subjects[-1]
    default = "-".join(
        [
            last.mask.name if last.mask else last.model.label.replace("/", "-"),
            *([f"{last.bits}bit"] if last.bits else []),
            *(text.reference.spec.name for text in texts),
            *(Path(task).stem for task in tasks),
        ]
    )
    known = KnownCells(workspace, weights, none=to.force)

    def make(writer: ArtifactWriter) -> Artifact:
        for number, text in enumerate(texts):
            for other, windows in enumerate(text.windows.values()):
                name = f"windows-{number}-{other}.safetensors" if other else f"windows-{number}.safetensors"
                writer.write_tensors(name, {"windows": windows.ids})
        rows: list[Row] = []
        pairs: list[PairRow] = []
        one_by_one = (Losses(subject, reporter) for subject in subjects)  # quantized models: one in memory at a time
        measured = [[_measured(writer, losses, text, known) for text in texts] for losses in one_by_one]
        for of_subjects in zip(*measured, strict=True):
            of_text, among = compared(of_subjects)
            rows += of_text
            pairs += among
        result: Result = {"rows": rows, "compare": pairs}
        if tasks:
            result["tasks"] = [row for model in whole for row in run_tasks(model, tasks)]
        writer.write(RESULT, readable_json({"schema": 1, **result}))
        return writer.finish(rows=len(rows))

    return run_stage(recipe, Destination.of(workspace, default, to), make)


def _identity(subject: Subject, windows: Windows) -> CellRecord:
    return {**subject.identity, **text_identity(windows)}


def _cell_of(subject: Subject, windows: Windows) -> str:
    identity = _identity(subject, windows)
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def _known_bpb(subject: Subject, windows: Windows, row: Row, losses: bytes) -> float | None:
    """Return a known row's bpb, computed now if there was no tokenizer then."""
    if row["bpb"] is not None:
        return float(row["bpb"])
    return _bits_per_byte(subject.model, windows, float(load(losses)["nats"].sum()))


def _measured(
    writer: ArtifactWriter,
    losses: Losses,
    text: EvaluationText,
    known: KnownCells,
) -> Measured:
    """Return one row with its losses per window, and write these as a part."""
    subject = losses.subject
    windows = text.of(subject.model)
    row = _cell(writer, losses, windows, known)
    nats = Artifact(writer.folder, writer.manifest).tensors(losses_part(row["cell"]))["nats"]
    return Measured({**row, **per_original_token(text, subject.model, row)}, subject.model, windows, nats)


def _cell(
    writer: ArtifactWriter,
    losses: Losses,
    windows: Windows,
    known: KnownCells,
) -> CellRow:
    """Return one row, and write its losses per window as a part."""
    subject = losses.subject
    cell = _cell_of(subject, windows)
    labels: Labels = {
        "model": subject.model.label,
        "mask": subject.mask.name if subject.mask else None,
        "text": windows.spec.name,
        "source": windows.spec.source,
    }
    part = losses_part(cell)
    if not writer.has(part) and (before := known.row(cell)):
        row, nats_part = before
        writer.write(part, nats_part)
        return {
            **labels,
            **_identity(subject, windows),
            "cell": cell,
            "tokens": row["tokens"],
            "nats": row["nats"],
            "ppl": row["ppl"],
            "bpb": _known_bpb(subject, windows, row, nats_part),
        }
    if writer.has(part):
        nats = Artifact(writer.folder, writer.manifest).tensors(part)["nats"]
    else:
        nats = losses.on(windows, writer.folder)
        writer.write_tensors(part, {"nats": nats})
    total, tokens = float(nats.sum()), windows.count * (windows.seqlen - 1)
    ppl = perplexity(total, tokens)
    return {
        **labels,
        **_identity(subject, windows),
        "cell": cell,
        "tokens": tokens,
        "nats": total / tokens,
        "ppl": ppl if math.isfinite(ppl) else None,  # JSON has no infinity
        "bpb": _bits_per_byte(subject.model, windows, total),
    }


def _has_tokenizer(model: OpenedModel) -> bool:
    """Return whether the model's tokenizer opens; given token ids need none."""
    try:
        return model.tokenizer is not None
    except LangpruneError:
        return False


def _bits_per_byte(model: OpenedModel, windows: Windows, nats: float) -> float | None:
    """Return bpb, None for token ids without a tokenizer, or token ids that are no text."""
    try:
        text_bytes = predicted_bytes(model.tokenizer, windows.ids)
    except LangpruneError:
        return None
    return bits_per_byte(nats, text_bytes) if text_bytes else None
