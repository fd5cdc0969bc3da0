"""Recipes that are wrong: one sentence with file, line, stage and key, before any work, and no trace on disk."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.recipes.reading import read
from langprune_cli.recipes.running import run_recipe
from tests.support.command import langprune, one_sentence

MASK = "stages:\n  - calibrate:\n      lang: uk\n  - mask:\n"
TOO_DEEP = "stages:\n  - mask: " + "[" * 5000

# What the file says, the line of the fault, and what the sentence says.
WRONG = [
    ("", 1, "the file is empty"),
    ("# nothing\n", 1, "the file is empty"),
    ("- mask\n", 1, "a recipe is a mapping with `stages:`, and this is a list"),
    ("mask\n", 1, "a recipe is a mapping with `stages:`, and this is a value"),
    ("stages: mask\n", 1, "a recipe needs `stages:`"),
    ("stages: []\n", 1, "a recipe needs `stages:`"),
    ("model: demo\n", 1, "a recipe needs `stages:`"),
    ("stage:\n  - mask\n", 1, "the key 'stage' is unknown: did you mean stages"),
    ("stages:\n  - mask\n---\nstages:\n  - mask\n", 3, "a second document begins"),
    ("stages:\n  - mask\nstages:\n  - apply\n", 3, "stages is given twice, first in line 1"),
    (f"{MASK}      pattern: 2:4\n      sparsity: 0.5\n      pattern: 4:8\n", 7, "pattern is given twice, first in line 5"),
    ("stages:\n  - mask:\n\t  pattern: 2:4\n", 3, "there is a tab: indent with spaces"),
    ("stages:\n  - mask: {pattern: 2:4\n", 3, "this is no YAML"),
    ("stages: [mask\n  - x: :\n", 2, "this is no YAML"),
    ("stages:\n  - mask\n\0", 3, "the character 0x0 may not stand in YAML"),
    ("stages:\n  - mask: &all\n      pattern: 2:4\n", 2, "anchors and aliases are not read"),
    ("a: *x\n", 1, "anchors and aliases are not read"),
    ("stages:\n  - mask:\n      <<: *x\n", 3, "anchors and aliases are not read"),
    ("stages:\n  - !!python/object:os.system mask\n", 2, "the tag tag:yaml.org,2002:python/object:os.system is not read"),
    ("stages:\n  - ? [a]\n    : b\n", 2, "a key is a list: write a name"),
    (TOO_DEEP, 2, "lists and mappings lie too deep in one another"),
    ("stages:\n  - calibrate\n  - maks\n", 3, "stage 2: 'maks' is no command of a recipe: did you mean mask"),
    ("stages:\n  - ls\n", 2, "stage 1: 'ls' is no command of a recipe"),
    ("stages:\n  - [mask]\n", 2, "stage 1: a stage is a command with its options, and this is a list"),
    ("stages:\n  - mask:\n    pattern: 2:4\n", 3, "stage 1: a stage is one command, and this has mask and pattern: indent"),
    ("stages:\n  - mask: 2:4\n", 2, r"stage 1 \(mask\): the options are a value"),
    (f"{MASK}      patern: 2:4\n", 5, r"stage 2 \(mask\): the key 'patern' is unknown: did you mean pattern"),
    (f"{MASK}      pattern: 2:4\n      --sparsity: 0.5\n", 6, r"the key '--sparsity' is unknown: did you mean sparsity"),
    (f"{MASK}      lang: uk\n", 5, r"stage 2 \(mask\): the key 'lang' is unknown"),
    (f"{MASK}      dry-run: true\n", 5, r"stage 2 \(mask\): the key 'dry-run' is unknown"),
    (f"{MASK}      pattern: 2of4\n", 5, r"stage 2 \(mask\): pattern '2of4' is unknown"),
    (f"{MASK}      sparsity: half\n", 5, r"stage 2 \(mask\): sparsity 'half' is not a number"),
    (f"{MASK}      sparsity: nan\n", 5, r"sparsity 'nan' is not a number"),
    (f"{MASK}      sparsity: 0_5\n", 5, r"sparsity '0_5' is not a number"),
    (f"{MASK}      sparsity:\n", 5, r"stage 2 \(mask\): sparsity has no value"),
    (f"{MASK}      name: null\n", 5, r"stage 2 \(mask\): name has no value"),
    (f"{MASK}      sparsity: [0.5]\n", 5, r"sparsity is a list, and a number is wanted"),
    (f"{MASK}      pattern: []\n", 5, r"pattern lists 0 values"),
    (f"{MASK}      variant: maybe\n", 5, r"variant 'maybe' is not true or false"),
    (f"{MASK}      round-to: 1.5\n", 5, r"round-to '1.5' is not a whole number"),
    (f"{MASK}      round: up\n", 5, r"stage 2 \(mask\): round 'up' is unknown"),
    (f"{MASK}      pattern: 2:4\n      method: wonda\n", 6, r"stage 2 \(mask\): method 'wonda' is unknown: did you mean wanda"),
    (f"{MASK}      stats: nothing\n      scores: none\n", 6, r"scores 'none' is no artifact of scores"),
    ("stages:\n  - calibrate:\n      lang: [uk: 96, en: 32]\n", 3, "lang lists a mapping that is no text: .* without a space"),
    ("stages:\n  - calibrate:\n      nsamples: 0\n", 3, "nsamples 0 is too small: give 1 or more"),
    ("stages:\n  - calibrate:\n      seed: 1\n      collect: tokens\n", 3, "collect tokens runs no model .*: leave out seed$"),
    ("stages:\n  - calibrate:\n      model: ../nowhere\n", 3, r"stage 1 \(calibrate\): model: there is no folder \.\./nowhere"),
    ("stages:\n  - prune:\n      epochs: 3\n", 3, "epochs and learning-rate go with tune: add it"),
    ("stages:\n  - prune:\n      max-shard-size: 2\n", 3, "max-shard-size '2' is not a size"),
    ("stages:\n  - combine:\n      kind: scores\n      names: [a, b]\n", 3, "kind 'scores' is unknown"),
    ("stages:\n  - combine:\n      kind: stats\n", 2, "names is missing"),
    ("stages:\n  - combine:\n      kind: stats\n      names: [a, b]\n", 4, "names 'a' is no artifact of stats"),
    ("stages:\n  - export\n", 2, r"stage 1 \(export\): export needs a destination"),
    ("stages:\n  - export:\n      out: x\n", 2, r"stage 1 \(export\): no stage before makes models"),
    ("stages:\n  - apply\n", 2, r"stage 1 \(apply\): no stage before makes masks, .* has none: put a stage mask before"),
    ("stages:\n  - report\n", 2, r"stage 1 \(report\): no stage before makes evals"),
    ("stages:\n  - report:\n      compare: a\n", 3, "compare 'a' is not a list of two"),
    ("stages:\n  - report:\n      compare: [a]\n", 3, "compare lists 1 values: give two values"),
    ("model: demo\nstages:\n  - mask\n", 1, "model is for calibrate, prune, plan without one of their own"),
    ("revision: main\nstages:\n  - calibrate\n", 1, "revision goes with model"),
    ("workspace:\nstages:\n  - calibrate\n", 1, "workspace needs a value"),
    ("workspace: [a]\nstages:\n  - calibrate\n", 1, "workspace needs a value"),
    ("defaults: [a]\nstages:\n  - calibrate\n", 1, "defaults are options, one a line, and this is a list"),
    ("defaults:\n  name: a\nstages:\n  - calibrate\n", 2, "name is no default for several stages"),
    ("defaults:\n  seqlen: 8\n  sqlen: 8\nstages:\n  - calibrate\n", 3, "no stage takes the default 'sqlen': did you mean"),
    ("defaults:\n  damping: 0.1\nstages:\n  - calibrate\n", 2, "no stage takes the default 'damping'"),
    ("defaults:\n  seqlen: x\nstages:\n  - calibrate\n", 2, r"stage 1 \(calibrate\): seqlen 'x' is not a whole number"),
    ("defaults:\n  seqlen: 1\nstages:\n  - calibrate\n", 2, r"stage 1 \(calibrate\): seqlen 1 is too small"),
    (f"{MASK}      name: two\n  - apply:\n      mask: tow\n", 7, r"mask 'tow' is no artifact .*: did you mean two"),
    ("stages:\n  - apply:\n      mask: two\n  - mask:\n      name: two\n", 3, r"stage 1 \(apply\): mask 'two' is no artifact"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "says"), WRONG)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, says: str, tmp_path: Path) -> None:
    Path("wrong.yaml").write_text(text, encoding="utf-8")
    done = langprune("run", "wrong.yaml", "--json")
    one_sentence(done, 2, rf"^error: wrong\.yaml, line {line}: (stage . \(\w+\): )?{says}")
    assert [each.name for each in tmp_path.iterdir()] == ["wrong.yaml"]


def test_all_stages_are_checked_before_the_first_runs(tmp_path: Path) -> None:
    Path("late.yaml").write_text(
        "stages:\n  - calibrate:\n      lang: uk\n  - mask:\n      ties: never\n", encoding="utf-8"
    )
    script = "late.yaml, line 5: stage 2 (mask): ties 'never' is unknown"
    one_sentence(langprune("run", "late.yaml"), 2, re.escape(script))
    assert not (tmp_path / "langprune-workspace").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.yaml", "there is no recipe nowhere.yaml"), ("folder", "folder is a folder, not a file"),
     ("pipe", "pipe is a named pipe, not a file"), ("large", "large is larger than 256 kB")],
)  # fmt: skip
def test_what_is_no_file_of_a_recipe_is_refused(name: str, says: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("large").write_text("stages:\n" + "  - mask\n" * 1_000_000, encoding="utf-8")
    one_sentence(langprune("run", name), 1, says)


def test_bytes_that_are_no_text_are_refused() -> None:
    Path("latin.yaml").write_bytes("stages:\n  - calibrate:\n      name: é\n".encode("latin-1"))
    one_sentence(langprune("run", "latin.yaml"), 2, "latin.yaml, line 3: this is no UTF-8 text")


def test_what_is_wrong_in_a_dictionary_has_no_line() -> None:
    wrong = {"stages": [{"mask": {"sparsity": "half"}}]}
    with pytest.raises(UsageError, match=r"^recipe: stage 1 \(mask\): sparsity 'half' is not a number"):
        run_recipe(wrong)


def test_what_a_stage_cannot_do_is_said_with_its_place() -> None:
    Path("mask.yaml").write_text("stages:\n\n  - mask:\n      method: wanda\n", encoding="utf-8")
    one_sentence(
        langprune("run", "mask.yaml"), 1, r"mask.yaml, line 3: stage 1 \(mask\): the workspace .* has no stats"
    )


WORDS = st.sampled_from(
    ["stages", "mask", "calibrate", "lang", "uk", ":", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&a", "*a", "'", '"', "|", ">",
     "!!x", "#", "%", "2:4", "?", "\t", "---", "...", "é", "\x85", "\ufeff", "0.5", "~"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=30).map("".join))
def test_no_text_makes_more_than_a_sentence(text: str) -> None:
    path = Path("any.yaml")
    path.write_text(text, encoding="utf-8")
    try:
        read(path)
    except LangpruneError as error:
        assert str(error).startswith("any.yaml")  # noqa: PT017 - whatever else is raised fails
