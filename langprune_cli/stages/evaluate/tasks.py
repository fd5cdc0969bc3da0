"""Runs benchmark tasks of EleutherAI's lm-evaluation-harness on models on disk: `eval --tasks`."""

import gc
import hashlib
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict, cast

from torch import nn

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.models.composites import auto_class
from langprune_cli.models.model_files import tokenizer_digest
from langprune_cli.records import TasksRecord
from langprune_cli.stages.evaluate.rows import TaskRow
from langprune_cli.store.written import Written
from langprune_cli.streaming.opened import OpenedModel

_Results = TypedDict(  # the part of the harness's result that is read here
    "_Results",
    {
        "results": dict[str, dict[str, object]],
        "n-samples": dict[str, dict[str, int]],
        "n-shot": dict[str, int],
        "higher_is_better": dict[str, dict[str, bool]],
    },
)

# HFLM pads a batch; with batches of one, figures depend neither on other examples nor on the machine's memory.
_BATCH = 1


def check_tasks(names: Sequence[str]) -> None:
    """Raise LangpruneError if the harness is not installed, UsageError for a task that it does not know."""
    harness_version()
    builtin = [name for name in names if not _is_file(name)]
    if not builtin:
        return
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - optional, and takes seconds

    with redirect_stdout(sys.stderr):
        known = TaskManager().all_tasks
    for name in builtin:
        if name not in known:
            raise UsageError(
                f"lm-evaluation-harness {harness_version()} has no task {name!r} ({near_matches(name, known)}): "
                "name one of its tasks, or your own .yaml file"
            )


def harness_version() -> str:
    """Return the version of the harness; raises LangpruneError if it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise LangpruneError(
            "--tasks needs lm-evaluation-harness: pip install '.[harness]' from the root of a clone"
        ) from error


def tasks_identity(models: Sequence[OpenedModel], names: Sequence[str]) -> TasksRecord:
    """Return what decides the results: checkpoints, tokenizers, dtypes, tasks and the harness."""
    return {
        "models": [
            {
                "model_digest": model.digest,
                "tokenizer": tokenizer_digest(model.location.folder),
                "dtype": str(model.streamed.dtype).removeprefix("torch."),
            }
            for model in models
        ],
        "names": [hashlib.sha256(Path(name).read_bytes()).hexdigest() if _is_file(name) else name for name in names],
        "harness": harness_version(),
    }


def run_tasks(model: OpenedModel, names: Sequence[str]) -> list[TaskRow]:
    """Return a row for each task and metric, groups of tasks after their own.

    transformers loads the model whole. Tasks set the examples in the prompt, and the harness sets seeds. Raises LangpruneError
    if a task
    fails, for example for missing data.
    """
    from lm_eval import simple_evaluate  # noqa: PLC0415 - optional, and takes seconds
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # keeps stdout for our results
            Written(model.location.folder).check_all()
            adapter = HFLM(pretrained=_loaded(model), tokenizer=model.tokenizer, batch_size=_BATCH)
            results = simple_evaluate(model=adapter, tasks=list(names), log_samples=False)
    except (LangpruneError, MemoryError):
        raise
    except Exception as error:  # tasks run their own code, and may fail in any way
        raise LangpruneError(
            f"lm-evaluation-harness could not run {', '.join(names)} on {model.label}: {error}"
        ) from error
    finally:
        adapter = None
        gc.collect()  # frees memory for the next model
    return _rows(model, cast("_Results", results))


def _loaded(model: OpenedModel) -> nn.Module:
    whole = auto_class(model.streamed.config).from_pretrained(
        model.location.folder, dtype=model.streamed.dtype, trust_remote_code=model.compute.trust_remote_code
    )
    return whole.to(model.streamed.device).eval()


def _rows(model: OpenedModel, results: _Results) -> list[TaskRow]:
    """Return each task's {"acc,none": value, "acc_stderr,none": error} as rows."""
    rows: list[TaskRow] = []
    for task, figures in results["results"].items():
        for key, value in figures.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = figures.get(f"{metric}_stderr,{filtered}")
                rows.append(
                    {
                        "model": model.label,
                        "task": task,
                        "metric": metric,
                        "filter": filtered,
                        "value": value if isinstance(value, (int, float)) and math.isfinite(value) else None,
                        "stderr": error if isinstance(error, float) else None,  # else "N/A"
                        "examples": results["n-samples"].get(task, {}).get("effective"),
                        "shots": results["n-shot"].get(task),
                        "higher_is_better": results["higher_is_better"].get(task, {}).get(metric),
                    }
                )
    return rows


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()
