"""`langprune recipe`: the stages behind an artifact, which make it again in an empty workspace; and what has none."""

from pathlib import Path

from langprune_cli.recipes.nodes import Items, Pairs, Text, read_text
from langprune_cli.stages.report.recipe import _text
from tests.support.command import DRAW, did, langprune, one_sentence


def keys(stages: list[dict[str, list[dict[str, str]]]]) -> set[str]:
    return {each["key"] for stage in stages for each in stage["artifacts"]}


def test_a_model_is_made_again_from_its_recipe_alone(pico_model: Path, pico_text: Path) -> None:
    words = [
        "prune",
        "-m",
        pico_model,
        "--data",
        pico_text / "uk.jsonl",
        *DRAW,
        "--pattern",
        "2:4",
        "--exclude",
        "a: [b]#",
    ]
    made = did(*words, "-w", "first", "--json").json
    name = made["name"]
    did("eval", "-w", "first", "--model", name, "--data", pico_text / "en.jsonl", "--seqlen", "16", "--name", "loss")
    did("recipe", f"models/{name}", "-w", "first", "--out", "model.yaml")
    again = did("run", "model.yaml", "-w", "second", "--json").json["stages"]
    assert [stage["command"] for stage in again] == ["prune"]
    assert keys(again) == {each["key"] for each in made["artifacts"]}
    text = did("recipe", "loss", "-w", "first").out
    Path("loss.yaml").write_text(text, encoding="utf-8")
    assert [stage["command"] for stage in did("run", "loss.yaml", "-w", "third", "--json").json["stages"]] == [
        "prune",
        "eval",
    ]
    one_sentence(
        langprune("recipe", "loss", "-w", "first", "--out", "model.yaml"), 1, "model.yaml exists: choose another"
    )
    did("recipe", "loss", "-w", "first", "--out", "model.yaml", "--force")
    assert Path("model.yaml").read_text(encoding="utf-8") == text


def test_what_is_gone_is_said(workspace: Path) -> None:
    did("rm", "stats/uk", "-w", workspace)
    text = did("recipe", "masks/uk-wanda-2x4", "-w", workspace).out
    gone = text.splitlines()[1]
    assert gone.startswith("# Missing: the artifact whose key begins with ")
    assert f"stats: {gone.split()[-1]}" in text


def test_what_one_prune_tuned_after_several_patterns_has_no_recipe(pico_model: Path, pico_text: Path) -> None:
    words = [
        "prune",
        "-m",
        pico_model,
        "--data",
        pico_text / "uk.jsonl",
        *DRAW,
        "--pattern",
        "channels:0.3",
        "--pattern",
        "2:4",
    ]
    did(*words, "--round-to", "2", "--tune", "--epochs", "1", "--name", "last")
    one_sentence(
        langprune("recipe", "models/last"), 1, "models/last was made by one prune of several patterns with --tune"
    )


def test_one_thing_is_written() -> None:
    for words in ([], ["models/a", "--schema"]):
        one_sentence(langprune("recipe", *words), 2, "name an artifact, or give --schema")
    one_sentence(langprune("recipe", "nothing"), 1, "no artifact is called 'nothing'")


def test_texts_are_read_as_they_were_written() -> None:
    hard = [
        "uk:96", "2:4", "no", "Null", "~", "", " a", "a ", "a: b", "a #b", "- a", "[a]", "{a}", "a,b", "*a", "&a", "!a", "'",
        '"', "hf:a/b:c:d#e", "0.5", "1e-4", "\\d+", "a\nb", "a\tb", "\x85\u2028\u2029", "\x7f\x9b", "\ufeff", "їжак", "😀",
        "a:", ":a", "?", "-", "--", "%a", "@a", "`a", "|", ">", "a" * 500,
    ]  # fmt: skip
    for each in hard:
        for shown, node in ((f"k: {_text(each)}", None), (f"k: [{_text(each)}, x]", 0)):
            found = read_text(shown)
            assert isinstance(found, Pairs)
            value = found.pairs["k"]
            if node is not None:
                assert isinstance(value, Items)
                value = value.items[node]
            assert value == Text(1, each), each
