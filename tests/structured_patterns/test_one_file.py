"""A structured pattern is one file: two that lie outside of the package are found, and every command takes them."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import langprune_cli.structured_patterns as package
from langprune_cli import registry
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.numerics.pattern_names import check_spelling, structured_names
from langprune_cli.registry import names_in
from langprune_cli.stages.evaluate.ruined import _what_helps
from langprune_cli.stages.report.options import words_of
from langprune_cli.store.workspace import Workspace
from langprune_cli.structured_patterns.pattern import (
    get_pattern,
    method_of,
    need_bits,
    parse_removals,
    patterns_of,
    structured_patterns,
)
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico
from tests.support.pruned_models import weight_of

# Units of every block: of the channels those stay that are evenly spread, every second one at a share of a half.
EVENLY = '''
"""Evenly spread channels stay."""

from langprune_cli.structured_patterns.pattern import of_units
from langprune_cli.units.axes import channel_axes


def methods():
    import torch

    from langprune_cli.unit_methods.method import UnitMethod

    def choose(site, stay):
        keep = torch.zeros(site.units, dtype=torch.bool)
        keep[torch.arange(stay) * site.units // stay] = True
        return keep

    return {"spread": UnitMethod("spread", "nothing", "", choose, "none")}


PATTERN = of_units("evenly", 6, channel_axes, method="spread", methods=methods)
'''
# Chosen for the whole model: the last blocks leave, whatever the text.
TAIL = '''
"""The last blocks leave."""

import json

from langprune_cli.structured_patterns.pattern import Judged, StructuredPattern


def stay_of(model_blocks, sparsity):
    return list(range(model_blocks - round(model_blocks * sparsity)))


def plan(sketch, removal, _rounding):
    from dataclasses import replace

    from langprune_cli.stages.structured.sketch import AxisPlan

    stay = len(stay_of(sketch.layers, removal.sparsity))
    return replace(sketch, blocks=stay, plans=(*sketch.plans, AxisPlan("tail", "blocks", sketch.layers, stay)))


def choosing(model, judged_on, removal, method, reporter):
    from langprune_cli.stages.structured.choosing import Choosing

    def write(writer):
        writer.write("tail.json", json.dumps(stay_of(len(model.streamed.blocks), removal.sparsity)).encode())
        return {"weights": 3, "removed": 1}

    params = {"method": method, "pattern": str(removal), "sparsity": removal.sparsity}
    return Choosing(judged_on, params, f"tail-{removal.sparsity:g}", write)


def cut(model, masks):
    from langprune_cli.stages.structured.cut import readable
    from langprune_cli.stages.structured.narrowed import narrowing_of
    from langprune_cli.stages.structured.narrowing_cut import NarrowingCut

    stay = json.loads(readable(masks).read("tail.json"))
    return NarrowingCut(model, narrowing_of(model, (), {}, stay), masks)


PATTERN = StructuredPattern(
    "tail", "last blocks", 7, Judged(cut, choosing), plan, method="by-number", methods=lambda: {"by-number": None},
    unchanged="All but the last blocks is unchanged.", advice=lambda update: ["another pattern"],
)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put both files into a folder that the package also looks into, as if they lay in its own."""
    folder = tmp_path / "more"
    folder.mkdir()
    for name, text in (("evenly", EVENLY), ("tail", TAIL)):
        (folder / f"{name}.py").write_text(text.lstrip())
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    registry._held.cache_clear()
    yield
    for name in ("evenly", "tail"):
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)
    registry._held.cache_clear()


@pytest.fixture
def here(tmp_path: Path) -> tuple[object, ...]:
    """Return the options of a workspace whose model is a llama, calibrated on windows."""
    save_pico("llama", tmp_path / "dense")
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (6, 24), dtype=torch.int32)}, tmp_path / "windows.safetensors")
    return "-w", tmp_path / "w", "--model", tmp_path / "dense"


def test_names_by_files_are_those_of_records() -> None:
    assert names_in(package) == sorted(structured_patterns()) == structured_names()
    assert list(structured_patterns()) == ["channels", "kv-groups", "hidden", "experts", "blocks", "vocab"]


@pytest.mark.usefixtures("added")
def test_patterns_of_one_file_are_read() -> None:
    assert list(structured_patterns()) == [
        "channels",
        "kv-groups",
        "hidden",
        "experts",
        "blocks",
        "vocab",
        "evenly",
        "tail",
    ]
    check_spelling("evenly:0.5")
    with pytest.raises(UsageError, match="blocks, channels, evenly, experts, hidden, kv-groups, tail, vocab"):
        check_spelling("evnly")
    found = parse_removals(["tail:0.4", "evenly", "channels:0.2"], 0.3)
    assert [str(each) for each in found] == ["channels:0.2", "evenly:0.3", "tail:0.4"]
    assert [each.name for each in patterns_of("channels:0.2+evenly:0.3")] == ["channels", "evenly"]
    assert patterns_of("2:4") == patterns_of("channels:0.2+2:4") == ()
    with pytest.raises(UsageError, match=r"'vocab:0.1' is unknown"):
        parse_removals(["vocab:0.1"], None)


def test_what_was_added_is_gone_afterwards() -> None:
    with pytest.raises(UsageError, match="'evenly' is unknown"):
        get_pattern("evenly")


@pytest.mark.usefixtures("added")
def test_units_of_one_file_go_through_every_stage(here: tuple[object, ...], tmp_path: Path) -> None:
    document = did("plan", *here, "--pattern", "evenly:0.5", "--json").json
    (axis,) = document["axes"]
    assert (axis["pattern"], axis["before"], axis["after"]) == ("evenly", 48, 24)
    both = ("--pattern", "evenly:0.5", "--pattern", "channels:0.5")  # of the same units
    one_sentence(langprune("plan", *here, *both), 2, "--pattern evenly and another pattern both remove channels")
    one_sentence(langprune("mask", *here, *both), 1, "--pattern evenly has no method 'osscar'")
    did("mask", *here, "--pattern", "evenly:0.5")
    did("apply", *here)
    did("prune", *here, "--data", tmp_path / "windows.safetensors", "--pattern", "evenly:0.5", "--name", "at-once")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    for name in ("spread-evenly-0.5", "at-once"):
        folder = tmp_path / "w" / "models" / name
        smaller = AutoModelForCausalLM.from_pretrained(folder)
        parameters = sum(each.numel() for each in smaller.parameters())
        assert parameters == document["parameters_after"]
        for block, other in zip(smaller.model.layers, dense.model.layers, strict=True):
            assert torch.equal(weight_of(block.mlp.down_proj), weight_of(other.mlp.down_proj)[:, ::2])
            assert torch.equal(weight_of(block.mlp.up_proj), weight_of(other.mlp.up_proj)[::2])
    mask = Workspace(tmp_path / "w").find("masks", "spread-evenly-0.5")
    assert mask.manifest.params["pattern"] == "evenly:0.5"
    assert words_of("masks", mask.manifest.params) == ["--method", "spread", "--pattern", "evenly:0.5"]
    assert "--update least-squares" in _what_helps(mask.manifest)
    did("export", "-w", tmp_path / "w", "--model", "at-once", "--out", tmp_path / "shared")
    assert "evenly:0.5 (whole parts left: the model is smaller)" in (tmp_path / "shared" / "README.md").read_text()


@pytest.mark.usefixtures("added")
def test_a_pattern_of_the_whole_model_goes_through_every_stage(here: tuple[object, ...], tmp_path: Path) -> None:
    windows = ("--data", tmp_path / "windows.safetensors")
    (axis,) = did("plan", *here, "--pattern", "tail:0.34", "--json").json["axes"]
    assert (axis["pattern"], axis["before"], axis["after"]) == ("tail", 3, 2)
    did("calibrate", *here, *windows, "--name", "st")
    did("mask", *here, "--pattern", "tail:0.34")
    did("apply", *here)
    did("prune", *here, *windows, "--pattern", "tail:0.34", "--pattern", "evenly:0.5", "--name", "at-once")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").state_dict()
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "w" / "models" / "st-tail-0.34").state_dict()
    assert smaller.keys() == {name for name in dense if not name.startswith("model.layers.2.")}
    assert all(torch.equal(tensor, dense[name]) for name, tensor in smaller.items())
    both = json.loads((tmp_path / "w" / "models" / "at-once" / "config.json").read_text())
    assert (both["num_hidden_layers"], both["intermediate_size"]) == (2, 24)
    mask = Workspace(tmp_path / "w").find("masks", "st-tail-0.34")
    assert _what_helps(mask.manifest)[0] == "another pattern"
    one_sentence(langprune("eval", *here, *windows, "--mask", mask.name), 1, "removes last blocks, which eval cannot")
    with pytest.raises(LangpruneError, match="removes last blocks, and combine compares weights"):
        need_bits("combine", mask)
    one_sentence(
        langprune("mask", *here, "--pattern", "tail", "--pattern", "evenly"), 2, "tail need a mask of their own"
    )
    did("export", "-w", tmp_path / "w", "--model", "st-tail-0.34", "--out", tmp_path / "shared")
    assert "All but the last blocks is unchanged." in (tmp_path / "shared" / "README.md").read_text()


@pytest.mark.usefixtures("added")
def test_methods_belong_to_patterns() -> None:
    removals = parse_removals(["channels", "evenly"], None)
    assert method_of(removals[:1], None) == "osscar"
    assert method_of(removals[1:], None) == "spread"
    with pytest.raises(LangpruneError, match="--pattern evenly has no method 'osscar'"):
        method_of(removals, None)
    with pytest.raises(LangpruneError, match="--pattern channels has no method 'search'"):
        method_of(removals[:1], "search")
