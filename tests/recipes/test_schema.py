"""The JSON schema of recipes: what it knows of values is what requests take, and it lets the recipes of the tests through."""

import json
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.recipes import schema as module
from langprune_cli.recipes.commands import COMMANDS, Command, Key
from langprune_cli.recipes.schema import schema
from tests.recipes.json_schema import complaints, load_core
from tests.recipes.test_recipe_runs import RECIPE
from tests.recipes.test_recipes_refused import WRONG
from tests.support.command import did

KEYS = [(command, key) for command in COMMANDS.values() for key in command.keys.values()]
NEEDED: dict[str, dict[str, Any]] = {
    "combine": {"kind": "stats", "names": ("a", "b")},
    "compare": {"names": ("a", "b")},
    "export": {"out": "x"},
}


def refused(command: Command, key: Key, value: object) -> str:
    """Return what a request says of one value, "" where it takes it."""
    try:
        of_tuning = {"tune": True} if key.field == "epochs" else {}
        command.ask(**NEEDED.get(command.name, {}) | of_tuning | {key.field: value})
    except LangpruneError as error:
        return str(error)
    return ""


def of_key(command: Command, key: Key) -> dict[str, Any]:
    """Return what the schema says of a key."""
    made: Any = schema()
    stages = made["properties"]["stages"]["items"]["anyOf"][1:]
    options = next(each["properties"][command.name] for each in stages if command.name in each["properties"])
    found: dict[str, Any] = options["properties"][key.name]
    return found


@pytest.mark.parametrize(("command", "key"), KEYS, ids=[f"{command.name}-{key.name}" for command, key in KEYS])
def test_values_are_those_that_the_request_knows(command: Command, key: Key) -> None:
    said = of_key(command, key)
    assert said["description"]
    if words := said.get("enum"):
        assert not any("is unknown" in refused(command, key, each) for each in words)
        assert refused(command, key, 5 if key.field == "load_bits" else "nonsense")
    elif key.type == "text":
        assert "is unknown" not in refused(command, key, "nonsense")
    if key.type == "whole number" and "enum" not in said:
        least = said.get("minimum")
        assert "is too small" not in refused(command, key, 0 if least is None else least)
        assert least is None or "is too small" in refused(command, key, least - 1)


def test_the_recipes_of_the_tests_are_valid() -> None:
    made: Any = schema()
    loaded = load_core(RECIPE)
    assert complaints(loaded, made) == []
    assert complaints({"stages": ["mask", {"eval": None}]}, made) == []


@pytest.mark.parametrize(
    "recipe",
    [
        {}, [], {"stages": []}, {"stages": ["export!"]}, {"stages": [{"mask": {"patern": "2:4"}}]}, {"stage": ["mask"]},
        {"stages": [{"mask": {}, "apply": {}}]}, {"stages": [{"mask": {"sparsity": "half"}}]}, {"stages": ["combine"]},
        {"stages": [{"calibrate": {"nsamples": 0}}]}, {"stages": [{"calibrate": {"dtype": "float33"}}]},
        {"stages": [{"combine": {"kind": "stats"}}]}, {"defaults": {"name": "a"}, "stages": ["mask"]},
        {"stages": [{"calibrate": {"lang": [{"uk": 96}]}}]}, {"stages": [{"report": {"compare": ["a"]}}]},
    ],
)  # fmt: skip
def test_what_is_wrong_is_marked(recipe: Any) -> None:
    assert complaints(recipe, schema())  # type: ignore[arg-type]


def test_unknown_keys_that_a_run_refuses_are_refused_by_the_schema_too() -> None:
    unknown = [text for text, _, says in WRONG if "the key" in says]
    assert len(unknown) > 4
    for text in unknown:
        assert complaints(load_core(text), schema())  # type: ignore[arg-type]


def test_the_command_prints_it_without_torch() -> None:
    assert json.loads(did("recipe", "--schema").out) == json.loads(json.dumps(schema()))
    did("recipe", "--schema", "--out", "schema.json")
    assert json.loads(Path("schema.json").read_text(encoding="utf-8")) == json.loads(json.dumps(schema()))


def test_every_limit_is_of_a_field() -> None:
    fields = {key.field for _, key in KEYS} | {f"{command.name}.{key.field}" for command, key in KEYS}
    assert module.WORDS.keys() | module.LEAST.keys() <= fields
