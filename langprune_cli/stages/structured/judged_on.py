"""The windows of text that whole blocks are judged on, with the key of their statistics."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from langprune_cli.stages.statistics.collecting import need_norms
from langprune_cli.stages.statistics.parts import WINDOWS_PART, text_about, text_identity
from langprune_cli.stages.statistics.recipe import stats_identity
from langprune_cli.stages.statistics.sites import calibration_text
from langprune_cli.stages.structured.choosing import Basis
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.opened import OpenedModel, check_same_model
from langprune_cli.types import Windows


@dataclass(frozen=True)
class JudgedOn(Basis):
    """Windows of text, from statistics or freshly drawn.

    Only the windows count, not the norms. So fresh windows and statistics of the same windows give the same mask: its key
    contains the key of these statistics, even if they were never collected.
    """

    ids: Callable[[], Tensor]  # reads the windows, int [n, t]
    stats: Artifact | None = None  # statistics of these windows, if they were gathered

    @classmethod
    def of_windows(cls, model: OpenedModel, windows: Windows) -> "JudgedOn":
        """Return windows drawn for a model, without running it."""
        name, recipe = windows.spec.name, stats_identity(model, windows, "norms")
        about = {
            "stats": None,
            "judged_on": {"name": name, **recipe.params},
            "text": {**text_identity(windows), **text_about(windows)},
        }
        return cls(recipe.key, name, about, lambda: windows.ids)

    @classmethod
    def of_stats(cls, model: OpenedModel, stats: Artifact, what: str) -> "JudgedOn":
        """Return the windows of statistics; what: the option that needs them, such as "--method search".

        Raises LangpruneError for token counts, and for statistics of another model.
        """
        need_norms(what, stats)
        check_same_model(stats, model)
        about = {"stats": stats.name, "text": calibration_text(stats)}
        return cls(stats.key, stats.name, about, lambda: stats.tensors(WINDOWS_PART)["windows"], stats)
