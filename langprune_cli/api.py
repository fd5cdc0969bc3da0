"""The Python API: each command as a function, with the command's options as keyword arguments.

Importing it does not import torch. Every function also takes `workspace`, a folder for artifacts, and `reporter`, an object
that gets notes and progress (`store.building.Reporter`); without a reporter, nothing is shown.
"""

from collections.abc import Callable
from functools import update_wrapper
from inspect import Signature, signature
from typing import ParamSpec, TypeVar

from langprune_cli.recipes.running import run_recipe
from langprune_cli.requests import apply as _apply
from langprune_cli.requests import calibrate as _calibrate
from langprune_cli.requests import combine as _combine
from langprune_cli.requests import compare as _compare
from langprune_cli.requests import evaluate as _evaluate
from langprune_cli.requests import export as _export
from langprune_cli.requests import mask as _mask
from langprune_cli.requests import plan as _plan
from langprune_cli.requests import prune as _prune
from langprune_cli.requests import recover as _recover
from langprune_cli.requests import report as _report
from langprune_cli.requests import score as _score
from langprune_cli.requests.shared.options import Request, with_given

__all__ = ["run_recipe"]  # as it is; the others follow

P = ParamSpec("P")
Asked = TypeVar("Asked", bound=Request)
Result = TypeVar("Result")


def _function(ask: Callable[P, Asked], run: Callable[[Asked], Result]) -> Callable[P, Result]:
    """Return a function that makes a request from its keyword arguments, and runs it."""

    def call(*args: P.args, **options: P.kwargs) -> Result:
        return run(with_given(ask(*args, **options), options))

    update_wrapper(call, ask, updated=())  # takes the request's documentation
    call.__name__ = call.__qualname__ = run.__name__
    call.__module__ = __name__
    call.__signature__ = _shown(ask, run)  # type: ignore[attr-defined] # help() and notebooks show it
    return call


def _shown(ask: Callable[..., object], run: Callable[..., object]) -> Signature:
    """Return a function's signature for help(): the options, then workspace and reporter."""
    fields = dict(signature(ask).parameters)
    for own in ("given", "team"):  # filled in by the function, and by the command line under torchrun
        fields.pop(own, None)
    common = [fields.pop("workspace"), fields.pop("reporter")]
    return Signature([*fields.values(), *common], return_annotation=signature(run).return_annotation)


calibrate = _function(_calibrate.CalibrateRequest, _calibrate.calibrate)
score = _function(_score.ScoreRequest, _score.score)
mask = _function(_mask.MaskRequest, _mask.mask)
apply = _function(_apply.ApplyRequest, _apply.apply)
prune = _function(_prune.PruneRequest, _prune.prune)
recover = _function(_recover.RecoverRequest, _recover.recover)
evaluate = _function(_evaluate.EvaluateRequest, _evaluate.evaluate)
export = _function(_export.ExportRequest, _export.export)
plan = _function(_plan.PlanRequest, _plan.plan)
combine = _function(_combine.CombineRequest, _combine.combine)
compare = _function(_compare.CompareRequest, _compare.compare)
report = _function(_report.ReportRequest, _report.report)
