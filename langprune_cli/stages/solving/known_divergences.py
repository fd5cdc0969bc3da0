"""Divergences on disk: measured once for a model and its statistics, and read for any sparsity, pattern and method."""

import json
from dataclasses import dataclass

from langprune_cli.allocations.allocation import Trials
from langprune_cli.stages.solving.divergences import Divergence, Measuring
from langprune_cli.stages.statistics.parts import WINDOWS_PART
from langprune_cli.stages.statistics.sites import Solving, block_stats, calibration_text
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import readable_json
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel

PART = "divergences.json"


@dataclass(frozen=True)
class Divergences:
    """What pruning each linear of a model costs, at the trials of an allocation."""

    model: OpenedModel
    stats: Artifact  # of the model, with Hessians
    solving: Solving
    trials: Trials

    def made(self, workspace: Workspace, reporter: Reporter) -> Outcome:
        """Return the artifact, found or made."""
        recipe = Recipe(
            "divergences",
            inputs={"model": self.model.digest, "stats": self.stats.key},
            params={
                "sparsities": list(self.trials.sparsities),
                "dtype": str(self.model.streamed.dtype).removeprefix("torch."),
                **self.solving.params("hessian"),
            },
            about={"model": self.model.about, "stats": self.stats.name, "text": calibration_text(self.stats)},
            environment=self.model.environment(),
        )

        def make(writer: ArtifactWriter) -> Artifact:
            blocks = len(self.model.streamed.blocks)
            reporter.begin(f"divergences of {self.model.label}", blocks, 0)
            found = Measuring(
                self.model,
                self.model.streamed.linears,
                lambda index: block_stats(self.stats, self.model, index),
                self.solving,
                self.trials,
                reporter,
            ).run(self.stats.tensors(WINDOWS_PART)["windows"], writer.folder)
            reporter.end()
            shown = [[{"linears": list(each.linears), "nats": list(each.nats)} for each in block] for block in found]
            writer.write(PART, readable_json({"blocks": shown}))
            return writer.finish()

        return run_stage(recipe, Destination(workspace, self.stats.name), make)

    def read(self, workspace: Workspace, reporter: Reporter) -> list[list[Divergence]]:  # by block
        """Return them, measured if they are not on disk."""
        blocks = json.loads(self.made(workspace, reporter).artifact.read(PART))["blocks"]
        return [[Divergence(tuple(each["linears"]), tuple(each["nats"])) for each in block] for block in blocks]
