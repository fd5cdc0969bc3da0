"""compare: overlaps, rank correlations and divergences against literal ones, and what the command shows and refuses."""

import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from langprune_cli.numerics.overlap import agreement_of, average_ranks, divergence_of, overlap_of, total
from langprune_cli.numerics.packing import unpack_mask
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.stages.combine.compare import linear_kind
from langprune_cli.stages.statistics.collecting import read_block_stats
from langprune_cli.store.workspace import Workspace
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

BLOCKS = [f"block-{index:03d}.safetensors" for index in range(3)]


def literal_ranks(row: list[float]) -> list[float]:
    return [sum(other < value for other in row) + (row.count(value) - 1) / 2 for value in row]


def literal_spearman(one: list[float], other: list[float]) -> float:
    a, b = literal_ranks(one), literal_ranks(other)
    mean = (len(a) - 1) / 2
    over = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return over / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_ranks_and_correlations_are_the_literal_ones(values: int) -> None:
    draw = torch.Generator().manual_seed(values)
    one, other = (torch.randint(values, (6, 31), generator=draw).float() for _ in range(2))
    for row, expected in zip(average_ranks(one).tolist(), one.tolist(), strict=True):
        assert row == literal_ranks(expected)
    figures = agreement_of(one, other).figures()
    rows = [literal_spearman(*pair) for pair in zip(one.tolist(), other.tolist(), strict=True)]
    assert figures["spearman"] == pytest.approx(sum(rows) / len(rows), abs=1e-12)
    same = agreement_of(one, one * 3).figures()
    assert same["spearman"] == pytest.approx(1)
    assert same["top_half_overlap"] == 1
    assert agreement_of(values - one, one).figures()["spearman"] == pytest.approx(-1)


def test_rows_that_do_not_differ_have_no_correlation() -> None:
    flat = torch.ones(2, 8)
    assert agreement_of(flat, torch.rand(2, 8)).figures()["spearman"] is None
    mixed = torch.stack([torch.ones(8), torch.arange(8.0)])
    assert agreement_of(mixed, mixed).figures()["spearman"] == pytest.approx(1)


def test_upper_halves_are_those_of_the_masks() -> None:
    one, other = torch.rand(8, 20), torch.rand(8, 20)
    kept = [keep_mask(each, Pattern(0.5)) for each in (one, other)]
    expected = int((kept[0] & kept[1]).sum()) / int((kept[0] | kept[1]).sum())
    assert agreement_of(one, other).figures()["top_half_overlap"] == expected


def test_overlap_counts_what_is_removed_and_kept() -> None:
    keep = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)
    other = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1]], dtype=torch.bool)
    figures = overlap_of(keep, other).figures()
    assert (figures["sparsity"], figures["other_sparsity"]) == (4 / 8, 3 / 8)
    assert figures["removed_overlap"] == 2 / 5  # both: 2, either: 4 + 3 - 2
    assert figures["kept_overlap"] == 3 / 6
    assert overlap_of(keep, torch.ones_like(keep)).figures()["removed_overlap"] == 0
    nothing = overlap_of(torch.ones_like(keep), torch.ones_like(keep)).figures()
    assert (nothing["removed_overlap"], nothing["kept_overlap"]) == (None, 1)


@pytest.mark.parametrize(("one", "other"), [(0.5, 0.5), (0.3, 0.7), (0.1, 0.25)])
def test_chance_is_the_formula_and_what_independent_masks_have(one: float, other: float) -> None:
    draw = torch.Generator().manual_seed(0)
    keeps = [keep_mask(torch.rand(200, 400, generator=draw), Pattern(sparsity)) for sparsity in (one, other)]
    figures: dict[str, Any] = overlap_of(*keeps).figures()
    assert figures["removed_overlap_by_chance"] == pytest.approx(one * other / (one + other - one * other), rel=1e-9)
    assert figures["removed_overlap"] == pytest.approx(figures["removed_overlap_by_chance"], abs=0.01)
    assert figures["kept_overlap"] == pytest.approx(figures["kept_overlap_by_chance"], abs=0.01)


def test_chance_is_that_of_each_linear() -> None:
    """A mask that prunes one linear and one that prunes another have nothing in common, by chance neither."""
    dense, half = torch.ones(4, 4, dtype=torch.bool), keep_mask(torch.rand(4, 4), Pattern(0.5))
    figures = total([overlap_of(dense, half), overlap_of(half, dense)]).figures()
    assert (figures["removed_overlap_by_chance"], figures["sparsity"]) == (0, 0.25)


def test_divergence_is_the_literal_one() -> None:
    one, other = [4.0, 1.0, 9.0, 0.0, 0.0, 1.0], [4.0, 4.0, 1.0, 0.0, 2.0, 4.0001]
    found = divergence_of(*(torch.tensor(each, dtype=torch.float64) for each in (one, other)))
    norms, others = [math.sqrt(x) for x in one], [math.sqrt(x) for x in other]
    figures = found.figures()
    dot = sum(x * y for x, y in zip(norms, others, strict=True))
    assert figures["cosine"] == pytest.approx(dot / math.sqrt(sum(one) * sum(other)))
    ratios = [abs(math.log(x / y)) for x, y in zip(norms, others, strict=True) if x and y]
    assert figures["log_ratio"] == pytest.approx(sum(ratios) / 4)
    assert figures["apart"] == 3 / 5  # 9 : 1, 0 : 2, and the last; exactly 2x, as the second is, is not more than 2x
    back = divergence_of(*(torch.tensor(each, dtype=torch.float64) for each in (other, one)))
    assert back.figures() == pytest.approx(figures)
    dead = divergence_of(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)).figures()
    assert dead == {"cosine": None, "log_ratio": None, "apart": 1}


def test_sums_add_up_over_parts() -> None:
    one, other = torch.rand(12, 10), torch.rand(12, 10)
    whole = agreement_of(one, other)
    parts = total([agreement_of(one[:5], other[:5]), agreement_of(one[5:], other[5:])])
    assert parts.figures() == pytest.approx(whole.figures())


def test_linears_are_known_by_their_last_words() -> None:
    assert linear_kind("model.layers.10.self_attn.q_proj.weight") == "self_attn.q_proj"
    assert linear_kind("model.layers.0.block_sparse_moe.experts.7.w1.weight") == "experts.w1"
    assert linear_kind("transformer.h.3.mlp.c_proj.weight") == "mlp.c_proj"


@pytest.fixture
def masks(workspace: Path) -> Path:
    did("mask", "-w", workspace, "--stats", "uk", "--name", "uk-half")
    did("mask", "-w", workspace, "--stats", "en", "--sparsity", "0.3", "--exclude", "q_proj", "--name", "en-some")
    return workspace


def test_masks_by_block_and_linear(masks: Path) -> None:
    done = did("compare", "uk-half", "en-some", "-w", masks, "--json").json
    (pair,) = done["pairs"]
    here = Workspace(masks)
    both = either = 0
    for part in BLOCKS:
        one, other = (here.find("masks", name).tensors(part) for name in ("uk-half", "en-some"))
        for name, packed in one.items():
            width = 48 if "down_proj" in name else 32
            removed = ~unpack_mask(packed, width)
            removed_too = ~unpack_mask(other[name], width) if name in other else torch.zeros_like(removed)
            both += int((removed & removed_too).sum())
            either += int((removed | removed_too).sum())
    assert pair["whole"]["removed_overlap"] == both / either
    assert [each["block"] for each in pair["blocks"]] == [0, 1, 2]
    by_linear = {each["linear"]: each for each in pair["linears"]}
    assert len(by_linear) == 7
    assert by_linear["self_attn.q_proj"]["other_sparsity"] == 0
    assert by_linear["self_attn.k_proj"]["sparsity"] == 0.5
    assert len(pair["cells"]) == 21
    shown = did("compare", "uk-half", "en-some", "-w", masks).out
    assert f"{pair['whole']['removed_overlap']:.2%}" in shown
    assert did("compare", "uk-half", "uk-half", "-w", masks, "--json").json["pairs"][0]["whole"]["removed_overlap"] == 1


def test_every_pair_of_three(masks: Path) -> None:
    names = ["uk-half", "en-some", "uk-wanda-2x4"]
    pairs = did("compare", *names, "-w", masks, "--kind", "masks", "--json").json["pairs"]
    assert [(each["one"], each["other"]) for each in pairs] == [
        ("uk-half", "en-some"), ("uk-half", "uk-wanda-2x4"), ("en-some", "uk-wanda-2x4"),
    ]  # fmt: skip


def test_masks_of_columns_have_their_bits_compared(masks: Path) -> None:
    for name in ("uk", "en"):
        did("mask", "-w", masks, "--stats", name, "--pattern", "channels:0.5", "--method", "wanda-sp", "--round-to", "8",
            "--name", f"{name}-channels")  # fmt: skip
    (pair,) = did("compare", "uk-channels", "en-channels", "-w", masks, "--json").json["pairs"]
    assert [each["linear"] for each in pair["linears"]] == ["mlp.down_proj"]
    assert pair["whole"]["sparsity"] == 0.5


def test_statistics_are_compared_per_token(workspace: Path) -> None:
    did("combine", "stats", "uk", "en", "-w", workspace, "--weights", "1,3", "--name", "both")
    (pair,) = did("compare", "uk", "en", "-w", workspace, "--json").json["pairs"]
    (same,) = did("compare", "uk", "uk", "-w", workspace, "--json").json["pairs"]
    assert same["whole"] == {"cosine": pytest.approx(1), "log_ratio": 0, "apart": 0}
    nearer = did("compare", "en", "both", "-w", workspace, "--json").json["pairs"][0]["whole"]
    assert 0 < nearer["log_ratio"] < pair["whole"]["log_ratio"]
    uk, en = (read_block_stats(Workspace(workspace).find("stats", name), BLOCKS[1]) for name in ("uk", "en"))
    (site,) = (site for site in uk.sites if "down_proj" in site)
    expected = divergence_of(*(each.tensors[f"{site}/sum_sq"] / each.tokens(site) for each in (uk, en))).figures()
    assert {"block": 1, "linear": "mlp.down_proj"} | expected in pair["cells"]


def test_scores(workspace: Path) -> None:
    did("score", "-w", workspace, "--stats", "en")
    (pair,) = did("compare", "uk-wanda", "en-wanda", "-w", workspace, "--json").json["pairs"]
    one, other = (Workspace(workspace).find("scores", name).tensors(BLOCKS[2]) for name in ("uk-wanda", "en-wanda"))
    (name,) = (name for name in one if "o_proj" in name)
    assert {"block": 2, "linear": "self_attn.o_proj"} | agreement_of(one[name], other[name]).figures() in pair["cells"]


def test_what_cannot_be_compared_is_refused(masks: Path, pico_text: Path, tmp_path: Path) -> None:
    def refused(code: int, says: str, *names: object) -> None:
        one_sentence(langprune("compare", *names, "-w", masks), code, says)

    refused(2, "compare needs two or more artifacts", "uk")
    refused(1, "no stats, scores or masks artifact is called 'ukr': did you mean uk", "ukr", "en")
    refused(2, "uk and uk-half are artifacts of several kinds", "uk", "uk-half")
    refused(2, "--kind 'models' is unknown", "uk", "en", "--kind", "models")
    did("mask", "-w", masks, "--stats", "uk", "--name", "uk")
    did("mask", "-w", masks, "--stats", "en", "--name", "en")
    refused(2, "masks and stats have these names: choose one with --kind", "uk", "en")
    did("compare", "uk", "en", "-w", masks, "--kind", "masks")
    did("mask", "-w", masks, "--stats", "uk", "--pattern", "blocks:0.34", "--name", "short")
    refused(1, "mask short removes whole blocks", "short", "uk-half")
    did("calibrate", "-w", masks, "--lang", "uk", "--data", pico_text / "uk.jsonl", "--collect", "tokens")
    refused(1, "stats uk-tokens hold only token counts", "en", "uk-tokens", "--kind", "stats")
    save_pico("llama", tmp_path / "other", vocab_size=400, tie_word_embeddings=True)
    for file in Path(did("show", "uk-half", "-w", masks, "--json").json["about"]["model"]["name"]).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "other")
    did("calibrate", "-w", masks, "--model", tmp_path / "other", "--data", pico_text / "en.jsonl", "--nsamples", "3",
        "--seqlen", "16", "--name", "foreign")  # fmt: skip
    refused(1, "uk and foreign are of different models", "uk", "foreign", "--kind", "stats")


def test_random_masks_of_one_linear_never_disagree_with_sets() -> None:
    draw = random.Random(5)
    for _ in range(50):
        sets = [{i for i in range(24) if draw.random() < draw.choice([0, 0.3, 0.9])} for _ in range(2)]
        one, other = (torch.tensor([[i not in removed for i in range(24)]]) for removed in sets)
        figures = overlap_of(one, other).figures()
        either = sets[0] | sets[1]
        assert figures["removed_overlap"] == (len(sets[0] & sets[1]) / len(either) if either else None)
