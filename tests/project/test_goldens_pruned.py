"""`prune`, block by block, on a small real bilingual model: masks and perplexities of the published Wanda and SparseGPT code.

The goldens and the windows behind them are described in the fixtures' own FIXTURES.md.
"""

import functools
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from langprune_cli.location.location import ModelLocation
from langprune_cli.methods.method import get_method
from langprune_cli.numerics.packing import unpack_mask
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.stages.apply.apply import ApplySettings
from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.stages.evaluate.evaluate import evaluate
from langprune_cli.stages.evaluate.subjects import Subject
from langprune_cli.stages.prune.making import PruneOutcome, PruneSettings
from langprune_cli.stages.prune.prune import prune
from langprune_cli.stages.solving.choosing import MaskSettings, WeightChooser
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.building import Silent
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import TextSpec
from tests.support.paths import FIXTURES, NO_FIXTURES

pytestmark = [pytest.mark.skipif(not FIXTURES.is_dir(), reason=NO_FIXTURES), pytest.mark.slow]

GOLDENS = FIXTURES / "goldens"
COMPUTE = Compute(dtype="float32", device="cpu", batch_tokens=8192)
PATTERNS = {"0.5": Pattern(0.5), "2x4": Pattern(0.5, (2, 4))}
LANGUAGES = ("uk", "en")

# The share of weights on which masks must agree. Wanda's choices hang on sums alone; SparseGPT's build on one another, and
# rounding turns the near ones, of 2:4 more than others (of an independent implementation 98.0% agree).
SHARES = {"wanda-0.5": 0.999, "wanda-2x4": 0.999, "sparsegpt-0.5": 0.99, "sparsegpt-2x4": 0.97}

# How far a perplexity may be off on the language of calibration, and on the other. What rounding alone does there, the
# size of batches showed: from 256 to 8192 tokens, SparseGPT's 2:4 for English had 127.0 to 129.0 on Ukrainian.
OWN = 0.005
OTHER = {"sparsegpt-0.5": 0.01, "sparsegpt-2x4": 0.025}

# Equal masks are equal models, where nothing is updated: Wanda's perplexities are not measured.
CELLS = [(language, case, text) for language in LANGUAGES for text in LANGUAGES for case in OTHER]


class Run:
    """What `prune` made of the model, and what that costs, in one workspace."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.model = self.opened(FIXTURES / "model")
        self.pruned = functools.cache(self._pruned)

    @staticmethod
    def opened(folder: Path) -> OpenedModel:
        return OpenedModel(ModelLocation(folder, folder.name, None, "folder"), COMPUTE)

    def _pruned(self, language: str, case: str) -> PruneOutcome:
        method, _, pattern = case.rpartition("-")
        chosen = get_method(method)
        chooser = WeightChooser.of(chosen, MaskSettings(PATTERNS[pattern]))
        how = PruneSettings(chooser, ApplySettings(chosen.update), CalibrationSettings())
        spec = TextSpec(language, str(FIXTURES / f"windows.{language}.safetensors"), language)
        return prune(self.workspace, self.model, spec, how, Silent())

    def ppl(self, language: str, case: str, text: str) -> float:
        subject = Subject(self.opened(self.pruned(language, case).model.artifact.folder))
        spec = TextSpec(text, str(FIXTURES / f"windows.{text}.test.safetensors"), text)
        (row,) = read_rows(evaluate(self.workspace, [subject], [spec], Silent()).artifact)
        assert (row["windows"], row["seqlen"]) == (240, 256)
        return float(row["ppl"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("goldens"))


@functools.cache
def golden_ppl() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads((GOLDENS / "ppl.json").read_text())
    return found


@pytest.mark.parametrize("case", SHARES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_masks_of_the_published_code(language: str, case: str, run: Run) -> None:
    made = run.pruned(language, case)
    mask = next(each.artifact for each in made.parents if each.artifact.manifest.kind == "masks")
    expected = load_file(GOLDENS / f"masks.{language}.pruned.{case}.safetensors")
    same = total = 0
    for index in range(len(run.model.streamed.blocks)):
        for name, packed in mask.tensors(block_part(index)).items():
            columns = run.model.streamed.checkpoint.entries[name].shape[1]
            keep, wanted = (unpack_mask(each, columns) for each in (packed, expected.pop(name)))
            same += int((keep == wanted).sum())
            total += keep.numel()
    assert not expected
    print(f"{language} {case}: {same / total:.4%} of the weights agree")  # noqa: T201 - shown with -rP
    assert same / total >= SHARES[case]


@pytest.mark.parametrize(("language", "case", "text"), CELLS)
def test_perplexities_of_the_published_code(language: str, case: str, text: str, run: Run) -> None:
    found, golden = run.ppl(language, case, text), golden_ppl()[language]["pruned"][case][text]
    print(f"{case} for {language} on {text}: {found:.3f} ({found / golden - 1:+.2%})")  # noqa: T201 - shown with -rP
    assert found == pytest.approx(golden, rel=OWN if text == language else OTHER[case])
