"""Masks and perplexities of a small real bilingual model, against those of the published Wanda code and of a literal one.

The goldens and the script-made windows behind them are described in the fixtures' own FIXTURES.md.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langprune_cli.location.location import ModelLocation
from langprune_cli.methods.method import get_method
from langprune_cli.numerics.packing import unpack_mask
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate
from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.stages.evaluate.evaluate import Row, evaluate
from langprune_cli.stages.evaluate.subjects import Subject
from langprune_cli.stages.mask.mask import MaskSource, mask
from langprune_cli.stages.solving.choosing import MaskSettings, WeightChooser
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Silent
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import TextSpec
from tests.support.paths import FIXTURES, NO_FIXTURES

pytestmark = [pytest.mark.skipif(not FIXTURES.is_dir(), reason=NO_FIXTURES), pytest.mark.slow]

GOLDENS = FIXTURES / "goldens"
LANGUAGES = ("uk", "en")
PATTERNS = {
    "0.5": Pattern(0.5),
    "0.6": Pattern(0.6),
    "2x4": Pattern(0.5, (2, 4)),
    "4x8": Pattern(0.5, (4, 8)),
}


class Run:
    """The model in float32, and what the stages made of it in one workspace."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.model = OpenedModel(
            ModelLocation(FIXTURES / "model", "fixture", None, "folder"), Compute(dtype="float32", device="cpu")
        )
        self.stats = functools.cache(self._stats)
        self.mask = functools.cache(self._mask)
        self.rows = functools.cache(self._rows)

    def _stats(self, language: str) -> Artifact:
        spec = TextSpec(language, str(FIXTURES / f"windows.{language}.safetensors"), language)
        (outcome,) = calibrate(self.workspace, self.model, [spec], CalibrationSettings(), Silent())
        return outcome.artifact

    def _mask(self, language: str, case: str) -> Artifact:
        method, _, pattern = case.rpartition("-")
        source = MaskSource(None if method == "magnitude" else self.stats(language))
        chooser = WeightChooser.of(get_method(method), MaskSettings(PATTERNS[pattern]))
        return mask(self.workspace, self.model, source, chooser, Silent()).artifact

    def _rows(self, language: str, case: str, texts: tuple[str, ...]) -> dict[str, Row]:
        """Return the rows of one mask (the dense model's for the case "dense") by text."""
        subject = Subject(self.model, None if case == "dense" else self.mask(language, case))
        specs = [TextSpec(text, str(FIXTURES / f"windows.{text}.test.safetensors"), text) for text in texts]
        evaluation = evaluate(self.workspace, [subject], specs, Silent()).artifact
        return {row["text"]: row for row in read_rows(evaluation)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("goldens"))


def agreement(run: Run, ours: Artifact, golden: str) -> float:
    """Return the share of weights on which a mask and a golden say the same."""
    expected = load_file(GOLDENS / golden)
    same = total = 0
    seen = set()
    for index in range(len(run.model.streamed.blocks)):
        for name, packed in ours.tensors(block_part(index)).items():
            columns = run.model.streamed.checkpoint.entries[name].shape[1]
            keep, wanted = unpack_mask(packed, columns), unpack_mask(expected[name], columns)
            same += int((keep == wanted).sum())
            total += keep.numel()
            seen.add(name)
    assert seen == expected.keys()
    return same / total


@pytest.mark.parametrize("case", ["wanda-0.5", "wanda-0.6", "wanda-2x4", "wanda-4x8"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_wanda_masks_of_the_dense_model(language: str, case: str, run: Run) -> None:
    share = agreement(run, run.mask(language, case), f"masks.{language}.dense.{case}.safetensors")
    print(f"{language} {case}: {share:.6%} of the weights agree")  # noqa: T201 - shown with -rP
    assert share >= 0.9995


def test_the_magnitude_mask_of_the_published_code(run: Run) -> None:
    assert agreement(run, run.mask("uk", "magnitude-0.5"), "masks.uk.pruned.magnitude-0.5.safetensors") == 1


def test_statistics_are_of_the_very_windows(run: Run) -> None:
    windows = load_file(FIXTURES / "windows.uk.safetensors")["windows"]
    stats = run.stats("uk")
    assert torch.equal(stats.tensors("windows.safetensors")["windows"], windows)
    assert stats.manifest.inputs["text"]["windows"] == len(windows)
    tensors = stats.tensors(block_part(7))
    assert {int(tensor) for name, tensor in tensors.items() if name.endswith("/tokens")} == {windows.numel()}


@functools.cache
def golden_ppl() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    return json.loads((GOLDENS / "ppl.json").read_text())


@pytest.mark.parametrize("text", LANGUAGES)
def test_dense_perplexity(text: str, run: Run) -> None:
    row = run.rows("", "dense", (text,))[text]
    assert row["ppl"] == pytest.approx(golden_ppl()["dense"][text], rel=1e-4)
    assert (row["windows"], row["seqlen"], row["tokens"], row["mask"]) == (240, 256, 240 * 255, None)


@pytest.mark.parametrize(("case", "text"), [("wanda-0.5", "uk"), ("wanda-2x4", "uk")])
def test_perplexity_of_dense_wanda_masks(case: str, text: str, run: Run) -> None:
    found = run.rows("uk", case, (text,))[text]["ppl"]
    assert found == pytest.approx(golden_ppl()["uk"]["dense"][case][text], rel=0.005)


def test_perplexity_of_wandas_variant(run: Run) -> None:
    """The golden is of propagation pruned, so that statistics of the dense model come near it, not to it."""
    found = run.rows("uk", "wanda-variant-0.5", ("uk",))["uk"]["ppl"]
    assert found == pytest.approx(golden_ppl()["uk"]["pruned"]["wanda-variant-0.5"]["uk"], rel=0.01)


def test_what_pruning_for_a_language_costs_the_other(run: Run) -> None:
    """Masks made from Ukrainian text lose more on English, and the other way round: the point of all this."""
    uk, en = (
        agreement(run, run.mask(mine, "wanda-0.5"), f"masks.{mine}.dense.wanda-0.5.safetensors") for mine in LANGUAGES
    )
    crossed = agreement(run, run.mask("uk", "wanda-0.5"), "masks.en.dense.wanda-0.5.safetensors")
    assert crossed < 0.97 < min(uk, en)
