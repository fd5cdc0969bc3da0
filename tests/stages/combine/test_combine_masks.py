"""combine masks: what all, any or K masks keep, bit by bit; exact counts by the masks' own ranks; models that follow them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langprune_cli.errors import UsageError
from langprune_cli.numerics.patterns import Pattern, follows
from langprune_cli.numerics.votes import consensus, normalised_ranks, votes
from langprune_cli.stages.combine.combine_masks import Vote, combine_masks
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.model_choice import ModelChoice
from langprune_cli.streaming.opened import OpenedModel, open_model
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.interrupting import Interrupting

NAMES = ("uk-half", "en-half", "size")


@pytest.fixture(scope="module")
def made_masks(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make masks of two languages and of none, half of each row, 2:4, and channels."""
    folder = tmp_path_factory.mktemp("masks") / "workspace"
    shutil.copytree(made, folder)
    for language in ("uk", "en"):
        did("mask", "-w", folder, "--stats", language, "--method", "wanda", "--name", f"{language}-half")
        did("mask", "-w", folder, "--stats", language, "--pattern", "2:4", "--name", f"{language}-2x4")
        did("mask", "-w", folder, "--stats", language, "--pattern", "channels:0.5", "--method", "wanda-sp", "--round-to",
            "8", "--name", f"{language}-channels")  # fmt: skip
    did("mask", "-w", folder, "--method", "magnitude", "--group", "row", "--name", "size")
    return folder


@pytest.fixture
def masks(made_masks: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_masks, tmp_path / "w")
    return tmp_path / "w"


def model_of(workspace: Path) -> OpenedModel:
    here = Workspace(workspace)
    named = here.model()
    assert named
    return open_model(here, ModelChoice(str(named["name"])), Compute(), Interrupting(99))


def bits(workspace: Path, name: str) -> dict[str, Tensor]:
    reader = MaskReader(Workspace(workspace).find("masks", name), model_of(workspace))
    return {linear: keep for index in range(3) for linear, keep in reader.by_name(index).items()}


def each_linear(workspace: Path, *names: str) -> Iterator[tuple[Tensor, ...]]:
    found = [bits(workspace, name) for name in names]
    for name in found[0]:
        yield tuple(mask[name] for mask in found)


@pytest.mark.parametrize(("how", "least"), [("and", 3), ("or", 1), ("vote:2", 2), ("vote", 2)])
def test_votes_bit_by_bit(masks: Path, how: str, least: int) -> None:
    did("combine", "masks", *NAMES, "--how", how, "-w", masks, "--name", "one")
    for one, other, third, found in each_linear(masks, *NAMES, "one"):
        assert torch.equal(found, one.int() + other.int() + third.int() >= least)
    manifest = Workspace(masks).find("masks", "one").manifest
    assert (manifest.params["pattern"], manifest.params["sparsity"]) == ("unstructured", None)
    removed = sum(int((~keep).sum()) for keep in bits(masks, "one").values())
    assert manifest.about["removed"] == removed
    assert manifest.inputs["masks"] == sorted(Workspace(masks).find("masks", name).key for name in NAMES)


def test_and_of_masks_is_within_or(masks: Path) -> None:
    for how in ("and", "or"):
        did("combine", "masks", "uk-half", "en-half", "--how", how, "-w", masks, "--name", how)
    for one, other, every, some in each_linear(masks, "uk-half", "en-half", "and", "or"):
        assert torch.equal(every, one & other)
        assert torch.equal(some, one | other)


@pytest.mark.parametrize("how", ["and", "or", "vote:2"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_sparsity_is_met_exactly_in_every_row(masks: Path, how: str, sparsity: float) -> None:
    did("combine", "masks", *NAMES, "--how", how, "--sparsity", sparsity, "-w", masks, "--name", "one")
    least = Vote.parse(how, 3).least
    for one, other, third, found in each_linear(masks, *NAMES, "one"):
        assert (~found).sum(dim=1).eq(int(found.shape[1] * sparsity + 1e-9)).all()
        reached = (one.int() + other.int() + third.int()) >= least
        # In each row either all that reach the votes stay, or nothing else does.
        assert ((~reached | found).all(dim=1) | (~found | reached).all(dim=1)).all()


def test_ranks_are_those_of_the_masks_own_scores(masks: Path) -> None:
    did("combine", "masks", "uk-half", "en-half", "--how", "and", "-s", "0.4", "-w", masks, "--name", "one")
    did("score", "-w", masks, "--stats", "en")
    here = Workspace(masks)
    found = bits(masks, "one")
    for index in range(3):
        part = f"block-{index:03d}.safetensors"
        scores = [here.find("scores", f"{language}-wanda").tensors(part) for language in ("uk", "en")]
        for name in scores[0]:
            own = [bits_of.get(name) for bits_of in (bits(masks, "uk-half"), bits(masks, "en-half"))]
            ranks = sum(each[name].argsort(dim=1).argsort(dim=1).double() / each[name].shape[1] for each in scores) / 2
            key = ranks + (own[0] & own[1])  # type: ignore[operator] # both have it
            width = key.shape[1]
            threshold = key.sort(dim=1).values[:, int(width * 0.4)]
            assert (key[found[name]] >= threshold.repeat_interleave(found[name].sum(dim=1))).all()
    assert here.find("masks", "one").manifest.params["ranked_by"] == "scores"


def test_scores_or_statistics_give_the_same_mask(masks: Path) -> None:
    words = ("combine", "masks", "uk-half", "en-half", "-s", "0.4", "-w", masks)
    did(*words, "--name", "by-stats")
    for language in ("uk", "en"):
        did("score", "-w", masks, "--stats", language, "--force")
        did("rm", f"stats/{language}", "-w", masks)
    did(*words, "--name", "by-scores")
    for one, other in each_linear(masks, "by-stats", "by-scores"):
        assert torch.equal(one, other)


def test_without_scores_votes_come_first_and_then_size(masks: Path) -> None:
    did("rm", "stats/uk", "scores/uk-wanda", "-w", masks)
    made = did("combine", "masks", *NAMES, "--how", "or", "-s", "0.6", "-w", masks, "--name", "one")
    assert "votes and sizes decide" in made.err
    assert Workspace(masks).find("masks", "one").manifest.params["ranked_by"] == "magnitude"
    checkpoint = model_of(masks).streamed.checkpoint
    found = [bits(masks, name) for name in (*NAMES, "one")]
    for name, keep in found[-1].items():
        size = checkpoint.read([name])[name].abs()
        kept_by = sum(mask[name].int() for mask in found[:-1])
        for row in range(len(keep)):
            # To mypy a lambda's default has no type, and a sum may be of nothing.
            order = sorted(range(keep.shape[1]), key=lambda j, r=row: (int(kept_by[r, j]), float(size[r, j])))  # type: ignore[misc, index]
            assert set(order[: int(keep.shape[1] * 0.6)]) == set((~keep[row]).nonzero().flatten().tolist())


def test_masks_of_one_n_of_m_meet_it_again(masks: Path) -> None:
    words = ("combine", "masks", "uk-2x4", "en-2x4", "-w", masks)
    did(*words, "--how", "vote:2", "--name", "one")
    manifest = Workspace(masks).find("masks", "one").manifest
    assert (manifest.params["pattern"], manifest.params["sparsity"], manifest.about["removed"]) == (
        "2:4", 0.5, manifest.about["weights"] // 2,
    )  # fmt: skip
    for one, other, found in each_linear(masks, "uk-2x4", "en-2x4", "one"):
        assert follows(found, Pattern(0.5, (2, 4)))
        assert torch.equal(found | (one & other), found)  # what both keep is never more than two of four
    assert "has no N:M pattern" in did(*words, "--how", "or", "--name", "some").err
    assert Workspace(masks).find("masks", "some").manifest.params["pattern"] == "unstructured"
    did("apply", "-w", masks, "--mask", "one")
    did("apply", "-w", masks, "--mask", "some")


def test_channels_keep_their_number(masks: Path) -> None:
    did("combine", "masks", "uk-channels", "en-channels", "-w", masks, "--name", "one")
    manifest = Workspace(masks).find("masks", "one").manifest
    assert manifest.params["kept"] == {"channels": 24}
    for one, other, found in each_linear(masks, "uk-channels", "en-channels", "one"):
        assert found[0].sum() == 24
        assert torch.equal(found, found[:1].expand(found.shape))
        assert (found[0] | ~(one & other)[0]).all()
        assert (~found[0] | (one | other)[0]).all()
    smaller = did("apply", "-w", masks, "--mask", "one", "--json").json
    assert json.loads((Path(smaller["path"]) / "config.json").read_bytes())["intermediate_size"] == 24


def test_a_dense_linear_is_kept_whole_by_its_mask(masks: Path) -> None:
    did("mask", "-w", masks, "--stats", "en", "--exclude", "mlp", "--name", "attention")
    for how in ("and", "or"):
        did("combine", "masks", "uk-half", "attention", "--how", how, "-w", masks, "--name", how)
    for name, keep in bits(masks, "and").items():
        if "mlp" in name:
            assert torch.equal(keep, bits(masks, "uk-half")[name])
            assert bits(masks, "or")[name].all()
    did("combine", "masks", "uk-half", "attention", "-s", "0.25", "-w", masks, "--name", "quarter")
    assert Workspace(masks).find("masks", "quarter").manifest.about["removed"] == sum(
        keep.numel() // 4 for keep in bits(masks, "uk-half").values()
    )


def test_apply_and_eval_and_card(masks: Path, pico_text: Path, tmp_path: Path) -> None:
    made = did("combine", "masks", "uk-half", "en-half", "--how", "and", "-w", masks, "--json").json
    assert (made["kind"], made["name"]) == ("masks", "en-half+uk-half-and")
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--seqlen", "16", "--max-windows", "4"]
    model = did("apply", "-w", masks, "--json").json
    on_the_fly = did("eval", "-w", masks, "--mask", made["name"], *text, "--json").json["rows"][-1]
    written = did("eval", "-w", masks, "--model", model["name"], *text, "--json").json["rows"][-1]
    assert on_the_fly["nats"] == written["nats"]
    did("export", "-w", masks, "--out", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "| method | and of 2 masks |" in card
    assert 'language:\n- "en"\n- "uk"\n' in card
    listed = did("ls", "masks", "-w", masks).out
    assert "and of 2 masks unstructured from" in listed


def test_order_does_not_matter_nor_an_interruption(masks: Path, tmp_path: Path) -> None:
    for folder in ("other", "third"):
        shutil.copytree(masks, tmp_path / folder)
    words = ("--how", "vote:2", "-s", "0.5")
    did("combine", "masks", *NAMES, *words, "-w", masks)
    did("combine", "masks", *reversed(NAMES), *words, "-w", tmp_path / "other")
    assert tree(masks) == tree(tmp_path / "other")
    here = Workspace(tmp_path / "third")
    parents = [here.find("masks", name) for name in NAMES]
    with pytest.raises(KeyboardInterrupt):
        combine_masks(here, model_of(tmp_path / "third"), parents, "vote:2", Interrupting(2), sparsity=0.5)
    assert tree(masks) != tree(tmp_path / "third")
    did("combine", "masks", *NAMES, *words, "-w", tmp_path / "third")
    assert tree(masks) == tree(tmp_path / "third")
    assert "already there" in did("combine", "masks", *NAMES, *words, "-w", masks).out


def test_what_cannot_be_combined_is_refused(masks: Path, pico_text: Path) -> None:
    did("mask", "-w", masks, "--stats", "uk", "--pattern", "blocks:0.34", "--name", "short")
    did("mask", "-w", masks, "--stats", "uk", "--pattern", "channels:0.25", "--method", "wanda-sp", "--round-to", "4",
        "--name", "wide")  # fmt: skip
    did("prune", "-w", masks, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW, "--pattern", "channels:0.5",
        "--round-to", "8", "--method", "wanda-sp", "--name", "small")  # fmt: skip
    did("mask", "-w", masks, "--model", "small", "--method", "magnitude", "--name", "of-small")

    def refused(code: int, says: str, *words: Any) -> None:
        one_sentence(langprune("combine", "masks", *words, "-w", masks), code, says)

    refused(2, "combine masks needs two or more artifacts: name another", "size")
    refused(2, "masks size and size are the same artifact", "size", "size")
    refused(2, "--how 'xor' is unknown", *NAMES, "--how", "xor")
    refused(2, "--how 'and:2' is unknown", *NAMES, "--how", "and:2")
    refused(2, "--how vote:4 is impossible with 3 masks: give vote:1 to vote:3", *NAMES, "--how", "vote:4")
    refused(1, "--sparsity 1.5 is not a fraction", *NAMES, "-s", "1.5")
    refused(1, "mask short removes whole blocks", "short", "size")
    refused(1, "of-small was made for another model", "size", "of-small")
    refused(1, "keep different numbers of units .*channels:0.* one --round-to", "uk-channels", "wide")
    refused(1, "keep different numbers of units", "uk-channels", "size")
    refused(2, "--how and would give blocks different widths", "uk-channels", "en-channels", "--how", "and")
    refused(2, "--sparsity 0.5 would give blocks", "uk-channels", "en-channels", "-s", "0.5")
    refused(2, "combine masks has no use for --weights", *NAMES, "--weights", "1,1,1")


def test_votes_are_settled_by_what_was_asked() -> None:
    assert [Vote.parse("vote", masks).least for masks in (2, 3, 4, 5)] == [2, 2, 3, 3]
    assert Vote.parse("vote", 3) == Vote.parse("vote:2", 3)
    with pytest.raises(UsageError):
        Vote.parse("vote:", 3)


def test_consensus_puts_votes_before_importance() -> None:
    kept_by = votes([torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])])
    assert kept_by.tolist() == [[2, 1, 0]]
    importance = normalised_ranks(torch.tensor([[0.0, 1.0, 9.0]]), "row")
    assert consensus(kept_by, 2, 2, importance=importance)[0].argsort().tolist() == [1, 2, 0]
    assert consensus(kept_by, 2, 2, size=importance)[0].argsort().tolist() == [2, 1, 0]
    assert normalised_ranks(torch.tensor([[1.0, 1.0], [0.0, 3.0]]), "layer").tolist() == [
        [1.5 / 4, 1.5 / 4],
        [0, 3 / 4],
    ]


def test_a_damaged_mask_says_what_to_do(masks: Path) -> None:
    did("combine", "masks", "uk-half", "en-half", "-w", masks, "--name", "one")
    for name, again in (("uk-half", "langprune mask"), ("one", "langprune combine masks")):
        part = masks / "masks" / name / "block-001.safetensors"
        part.write_bytes(part.read_bytes()[:-1])
        done = langprune("combine", "masks", name, "size", "-w", masks)
        one_sentence(done, 1, f"block-001.safetensors is damaged .* run {again} again with --force")
