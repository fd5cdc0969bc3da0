"""`langprune run`: the same artifacts as the commands, found again the second time; and what a dry run says."""

import json
from pathlib import Path

import pytest

import langprune_cli
from langprune_cli.recipes.running import Ran, checked
from langprune_cli.requests.shared.results import Made
from tests.support.command import did, langprune, snapshot, tree

RECIPE = """\
workspace: ws
model: demo
defaults:
  seqlen: 32
stages:
  - calibrate:
      lang: [uk:3, en:2]
  - calibrate: {lang: [uk, en], nsamples: 2, name: apart}
  - score:
      stats: apart-uk
  - mask:
      pattern: 2:4
      stats: uk+en
      name: two
  - mask:
      sparsity: 0.50
      method: wanda
      stats: apart-en
      name: half
  - combine:
      kind: masks
      names: [two, half]
      how: and
      name: both
  - compare: {names: [two, half]}
  - apply: {mask: both}
  - eval:
      lang: uk
      max-windows: 2
      name: figures
  - report:
      out: page.md
      format: md
  - export:
      out: shared
"""
COMMANDS = [
    "calibrate --model demo --lang uk:3 --lang en:2 --seqlen 32",
    "calibrate --model demo --lang uk --lang en --nsamples 2 --seqlen 32 --name apart",
    "score --stats apart-uk",
    "mask --pattern 2:4 --stats uk+en --name two",
    "mask --sparsity 0.5 --method wanda --stats apart-en --name half",
    "combine masks two half --how and --name both",
    "apply --mask both",
    "eval --lang uk --seqlen 32 --max-windows 2 --name figures",
]


def of_artifacts(folder: Path) -> dict[str, str]:
    """Return the sha256 of all but what holds times."""
    return {name: digest for name, digest in tree(folder).items() if "indexes" not in name}


def test_a_recipe_makes_what_its_commands_make_and_finds_it_again() -> None:
    Path("r.yaml").write_text(RECIPE, encoding="utf-8")
    done = did("run", "r.yaml")
    assert [line for line in done.out.splitlines() if line.startswith("stage ")][3:5] == [
        "stage 4: mask",
        "stage 5: mask",
    ]
    for line in COMMANDS:
        did(*line.split(), "-w", "by-hand")
    assert of_artifacts(Path("ws")) == of_artifacts(Path("by-hand"))
    before = of_artifacts(Path("ws")) | tree(Path("shared")) | {"page": Path("page.md").read_text(encoding="utf-8")}
    again = did("run", "r.yaml", "--json").json
    assert (again["schema"], again["kind"], [each["command"] for each in again["stages"]]) == (
        1, "recipe",
        ["calibrate", "calibrate", "score", "mask", "mask", "combine", "compare", "apply", "eval", "report", "export"],
    )  # fmt: skip
    assert all(
        each["cached"] for stage in again["stages"] for each in stage.get("artifacts", []) if isinstance(each, dict)
    )
    assert before == of_artifacts(Path("ws")) | tree(Path("shared")) | {
        "page": Path("page.md").read_text(encoding="utf-8")
    }
    there = snapshot(Path())
    planned = did("run", "r.yaml", "--json", "--dry-run").json["stages"]
    assert all(each["cached"] for stage in planned for each in stage.get("artifacts", []))
    assert there == snapshot(Path())


def test_a_dry_run_of_an_empty_workspace_says_what_is_known(tmp_path: Path) -> None:
    Path("r.yaml").write_text(RECIPE, encoding="utf-8")
    stages = did("run", "r.yaml", "--dry-run", "--json").json["stages"]
    named = [[each["name"] for each in stage.get("artifacts", [])] for stage in stages]
    assert named == [["uk+en"], ["apart-uk", "apart-en"], *[[]] * 9]
    assert "is run once the stages before are there." in did("run", "r.yaml", "--dry-run").out
    assert [each.name for each in tmp_path.iterdir()] == ["r.yaml"]


def test_prune_and_what_follows_from_it() -> None:
    recipe = {
        "stages": [
            {"prune": {"model": "demo", "lang": "uk", "nsamples": 2, "seqlen": 32, "pattern": ["channels:0.1", "2:4"],
                       "round-to": 8, "name": "small"}},
            {"eval": {"model": ["small"], "lang": "uk", "seqlen": 32, "max-windows": 1}},
        ]
    }  # fmt: skip
    made, found = (each.result for each in langprune_cli.run_recipe(recipe, workspace="ws"))
    assert isinstance(made, Made)
    assert made.name == "small"
    words = "prune --model demo --lang uk --nsamples 2 --seqlen 32 --pattern channels:0.1 --pattern 2:4 --round-to 8 --name small"
    again = did(*words.split(), "-w", "ws", "--json").json
    assert (again["key"], again["cached"]) == (made.artifact.key, True)
    assert isinstance(found, Made)
    assert not found.cached
    Path("r.json").write_text(json.dumps(recipe), encoding="utf-8")  # which is YAML too
    second = did("run", "r.json", "-w", "ws", "--json").json
    assert all(each["cached"] for stage in second["stages"] for each in stage["artifacts"])


def test_scalars_are_texts_as_they_are_written() -> None:
    """Of YAML 1.1, 2:4 would be 124 and no would be false."""
    Path("r.yaml").write_text(
        "stages:\n- calibrate: {lang: [no, y], data: [1_0.jsonl, 0x1F], corpus: 1:30:00, name: 1e3, seed: 012}\n"
        "- mask: {pattern: [2:4, 0.10], sparsity: 1e-1, keep-chat: no, variant: on, method: 'ria'}\n",
        encoding="utf-8",
    )
    with pytest.raises(langprune_cli.errors.LangpruneError, match=r"pattern '0\.10' is unknown"):
        checked("r.yaml")
    Path("r.yaml").write_text(Path("r.yaml").read_text(encoding="utf-8").replace(", 0.10", ""), encoding="utf-8")
    first, second = (each.request for each in checked("r.yaml").stages)
    asked = {name: getattr(first, name) for name in ("lang", "data", "corpus", "name", "seed")}
    assert asked == {
        "lang": ("no", "y"), "data": ("1_0.jsonl", "0x1F"), "corpus": "1:30:00", "name": "1e3", "seed": 12,
    }  # fmt: skip
    asked = {name: getattr(second, name) for name in ("pattern", "sparsity", "keep_chat", "variant", "method")}
    assert asked == {"pattern": ("2:4",), "sparsity": 0.1, "keep_chat": False, "variant": True, "method": "ria"}
    assert (first.given, second.given >= {"--pattern", "--keep-chat"}) == (
        {"--lang", "--data", "--corpus", "--name", "--seed"}, True,
    )  # fmt: skip


def test_the_workspace_of_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGPRUNE_WORKSPACE", "set")
    text = "stages:\n- calibrate: {model: demo, lang: uk, nsamples: 1, seqlen: 8}\n"
    Path("plain.yaml").write_text(text, encoding="utf-8")
    Path("own.yaml").write_text(f"workspace: own\n{text}", encoding="utf-8")
    for words, folder in (["plain.yaml"], "set"), (["own.yaml"], "own"), (["own.yaml", "-w", "named"], "named"):
        did("run", *words)
        assert (tmp_path / folder / "stats" / "uk").is_dir()
        assert list((tmp_path / folder / "logs").glob("*-run.log"))


def test_a_default_goes_to_the_stages_that_take_it() -> None:
    recipe = {
        "model": "demo",
        "defaults": {"seqlen": 16, "nsamples": 4, "device": "cpu", "damping": 0.5},
        "stages": [
            {"calibrate": {"lang": "uk"}},
            {"calibrate": {"lang": "en", "seqlen": 8}},
            {"mask": {"model": "gpt2"}},
            "eval",
        ],
    }
    one, two, mask, evaluation = (each.request for each in checked(recipe).stages)
    of_windows = [
        (getattr(each, "model", None), getattr(each, "seqlen", None)) for each in (one, two, mask, evaluation)
    ]
    assert of_windows == [("demo", 16), ("demo", 8), ("gpt2", None), ((), 16)]
    assert [getattr(each, "damping", None) for each in (one, mask)] == [None, 0.5]
    assert {getattr(each, "device", "") for each in (one, two, mask, evaluation)} == {"cpu"}
    assert one.given == {"--lang"}  # a default is not refused where it has no effect


def test_an_interrupted_recipe_goes_on() -> None:
    """A stage that fails leaves what was made before it, and the next run finds that."""
    stages = "- calibrate: {model: demo, lang: uk, nsamples: 1, seqlen: 8}\n- mask: {name: a}\n"
    Path("r.yaml").write_text(f"stages:\n{stages}- apply: {{update: pcg}}\n", encoding="utf-8")
    done = langprune("run", "r.yaml")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: r.yaml, line 4: stage 3 (apply): ")
    Path("r.yaml").write_text(f"stages:\n{stages}- apply\n", encoding="utf-8")
    states = [each["cached"] for stage in did("run", "r.yaml", "--json").json["stages"] for each in stage["artifacts"]]
    assert states == [True, True, False]


def test_results_are_those_of_the_functions() -> None:
    ran = langprune_cli.run_recipe({"stages": [{"plan": {"model": "demo", "pattern": "channels:0.1"}}]}, workspace="ws")
    assert [(each.number, each.command) for each in ran] == [(1, "plan")]
    assert isinstance(ran[0], Ran)
    assert "Pruning rate" in _run({"stages": [{"plan": {"model": "demo"}}]})


def _run(recipe: object) -> str:
    Path("any.json").write_text(json.dumps(recipe), encoding="utf-8")
    return did("run", "any.json").out
