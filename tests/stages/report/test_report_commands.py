"""Every command that a report prints is one that the command line takes, and that gives the same key."""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typer.main

from langprune_cli import records
from langprune_cli.cli.app import app
from langprune_cli.errors import LangpruneError
from langprune_cli.methods.method import methods
from langprune_cli.recipes.running import checked, run_recipe
from langprune_cli.recipes.schema import schema
from langprune_cli.refinements.refinement import refinements
from langprune_cli.requests.shared.results import Made
from langprune_cli.stages.report.collecting import sources_of
from langprune_cli.stages.report.commands import HIDDEN, commands, hidden
from langprune_cli.stages.report.options import OPTIONS
from langprune_cli.stages.report.recipe import recipe_of
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.building import Silent
from langprune_cli.store.files import Parts
from langprune_cli.store.workspace import Workspace
from langprune_cli.unit_methods.method import unit_methods
from tests.recipes.json_schema import complaints, load_core
from tests.support.command import SEQLEN, did

UK, EN = "--lang uk --data TEXT/uk.jsonl", "--lang en --data TEXT/en.jsonl"
DRAWN = f"--nsamples 6 --seqlen {SEQLEN}"
MIXED = f"--lang uk:4 --lang en:2 --data TEXT/uk.jsonl --data TEXT/en.jsonl --seqlen {SEQLEN}"
READ = f"--seqlen {SEQLEN} --max-windows 3"
# What makes one artifact or more each. MODEL: a model's folder; TEXT: the folder of the texts.
MADE = [
    f"calibrate --model MODEL {UK} {EN} {DRAWN} --collect hessian",
    f"calibrate {UK} {DRAWN} --sampling concat --seed 3 --dtype bfloat16 --name drawn",
    *(f"calibrate {UK} {DRAWN} --shard {part}/3" for part in (1, 2, 3)),
    f"calibrate {MIXED} --name mixed",
    f"calibrate {UK} {EN} --collect tokens --max-tokens 5000",
    "calibrate --data WINDOWS/windows.safetensors --name given",
    "combine stats uk-hessian en-hessian",
    "combine stats uk-hessian en-hessian --weights 0.123456789,0.4 --per window --name weighted",
    "combine stats uk-1-of-3 uk-2-of-3 uk-3-of-3",
    "combine stats uk-tokens en-tokens --name counts",
    *(f"mask --stats uk-hessian --method {each} --sparsity 0.3333333" for each in methods()),
    *(f"mask --stats uk-hessian --method {each} --pattern 4:8" for each in methods()),
    *(f"mask --stats uk-hessian --pattern {each} --method wanda" for each in ("2:4", "N:8")),
    "mask --stats uk-hessian --variant --sparsity 0.4",
    *(f"mask --stats uk-hessian --refine {each} --pattern 2:4" for each in refinements()),
    *(f"mask --stats uk-hessian --allocation {each} --pattern N:8" for each in ("owl", "alpha", "search")),
    "mask --stats uk-hessian --method magnitude --allocation owl",
    "mask --stats uk-hessian --group layer --ties together --exclude down_proj$ --name of-layer",
    "mask --stats uk-hessian --method magnitude --group row --name of-rows",
    "mask --stats uk-hessian --method magnitude --ties exact --name counted",
    "mask --stats uk-hessian --method sparsegpt --damping 0.0301 --name damped",
    "score --stats uk-hessian --method ria",
    "mask --scores uk-hessian-ria --pattern 2:4",
    "score --stats uk-hessian --method sparsegpt",
    "mask --scores uk-hessian-sparsegpt --sparsity 0.7 --name by-scores",
    *(f"mask --stats uk-hessian --pattern channels:0.3 --round-to 2 --method {each}" for each in unit_methods()),
    "mask --stats uk-hessian --pattern channels:0.4 --round nearest --name nearest",
    "mask --stats en-hessian --pattern channels:0.3 --round-to 2",
    "mask --stats uk-hessian --pattern channels:0.3333333 --pattern kv-groups:0.5 --round-to 1 --damping 0.02 --name both",
    *(f"mask --stats uk-hessian --pattern blocks:0.34 --method {each}" for each in ("search", "influence")),
    "mask --stats counts --pattern vocab --coverage 0.98",
    "mask --stats counts --pattern vocab --vocab-size 300 --round-to 4 --no-keep-chat --name small",
    "combine masks uk-hessian-wanda-2x4 magnitude-4x8 --how and",
    "combine masks uk-hessian-wanda-2x4 magnitude-4x8 of-rows --how vote:2 --sparsity 0.45 --name voted",
    "combine masks uk-hessian-wanda-4x8 magnitude-4x8 uk-hessian-ria-4x8 --how vote",
    "combine masks uk-hessian-osscar-channels-0.3 en-hessian-osscar-channels-0.3 --how vote",
    "apply --mask uk-hessian-wanda-2x4",
    "apply --mask uk-hessian-wanda-2x4 --update pcg --damping 0.05 --max-shard-size 20KB --name updated",
    "apply --mask damped --update none",
    "apply --mask damped",
    "apply --mask voted --update sparsegpt --stats en-hessian",
    "apply --mask uk-hessian-wanda-2x4 --tune --epochs 1 --learning-rate 0.00012345678 --name tuned",
    "apply --mask uk-hessian-wanda-2x4 --update pcg --stats en-hessian --tune --epochs 1 --name updated-tuned",
    "apply --mask of-rows --stats given --tune --epochs 1 --name tuned-elsewhere",
    "apply --mask both",
    "apply --mask nearest --update none",
    "apply --mask uk-hessian-search-blocks-0.34 --out elsewhere/other --name short",
    "apply --mask small",
    "apply --reapply --model updated --mask of-layer --name again",
    f"prune {UK} {DRAWN} --pattern 2:4 --name at-once",
    f"prune {UK} {DRAWN} --method wanda --update pcg --damping 0.02 --sparsity 0.4 --propagation corrected",
    f"prune {UK} {DRAWN} --sparsity 0.3 --propagation pruned",
    f"prune {UK} {DRAWN} --method magnitude --update pcg --max-shard-size 20KB",
    f"prune {UK} {DRAWN} --method wanda --refine dsnot --allocation owl --exclude o_proj --seed 2",
    f"prune {MIXED} --propagation dense --method sparsegpt",
    f"prune {UK} {DRAWN} --method magnitude --update pcg --propagation dense --allocation owl --name plain",
    f"prune {MIXED} --pattern channels:0.3 --pattern kv-groups:0.5 --pattern N:8 --round-to 2 --method flap --name chain",
    f"prune {UK} {DRAWN} --pattern vocab --pattern blocks:0.34 --pattern 4:8 --vocab-size 300 --name longer",
    f"prune {UK} {DRAWN} --pattern channels:0.3 --round nearest --round-to 2 --tune --epochs 1 --name narrow",
    f"eval --model at-once --model tuned {UK} {EN} {READ}",
    f"eval --mask uk-hessian-wanda-2x4 --mask voted {UK} {READ}",
    "eval --model MODEL --mask of-rows --data WINDOWS/windows.safetensors",
    f"eval --model short {UK} {READ}",
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, pico_model: Path, pico_text: Path) -> dict[str, Path]:
    """Make the workspace once; return where what a report names without its folders lies."""
    root = tmp_path_factory.mktemp("everything")
    stats = did(
        "calibrate", "-w", root / "first", "-m", pico_model, *_filled(f"{EN} {DRAWN}", {"TEXT": pico_text}), "--json"
    ).json
    folders = {"MODEL": pico_model, "TEXT": pico_text, "WINDOWS": Path(stats["path"])}
    for line in MADE:
        did(*_filled(line.replace("elsewhere/", f"{root}/elsewhere/"), folders), "-w", root / "w")
    shutil.copyfile(folders["WINDOWS"] / "windows.safetensors", root / "windows.safetensors")
    texts = {f"{tag}.jsonl": pico_text / f"{tag}.jsonl" for tag in ("uk", "en")}
    return {"": root / "w", "windows.safetensors": root / "windows.safetensors", pico_model.name: pico_model} | texts


def _filled(line: str, folders: dict[str, Path]) -> list[str]:
    """Return a command's words with the folders that it names in capitals."""
    found = []
    for word in shlex.split(line):
        first, slash, rest = word.partition("/")
        found.append(f"{folders[first]}{slash}{rest}" if first in folders else word)
    return found


def artifacts(workspace: Path) -> list[Artifact]:
    kinds = ("stats", "scores", "masks", "models", "evals")
    return [Artifact(each.folder, each.manifest) for kind in kinds for each in Workspace(workspace).entries(kind)]


def test_every_command_gives_the_same_key(places: dict[str, Path]) -> None:
    made = artifacts(places[""])
    printed = dict(commands(made))
    wrong = {}
    keys: set[str] = set()
    for each in made:
        for step in printed[f"{each.manifest.kind}/{each.name}"].split(" && "):
            words = [_found(word, places) for word in shlex.split(step)]
            if not words:
                continue
            assert not [word for word in shlex.split(step) if Path(word).is_absolute()], step
            planned = [] if words[1] in {"combine", "score"} else ["--dry-run"]
            try:
                answer: Any = did(*words[1:], "-w", places[""], *planned, "--json").json
                found = {one["key"] for one in answer["artifacts"]}
            except AssertionError as error:
                wrong[step] = str(error)
                continue
            keys |= found
        if printed[f"{each.manifest.kind}/{each.name}"] and each.key not in found:
            wrong[step] = "another key"
    assert wrong == {}
    assert keys >= {each.key for each in made}


@pytest.mark.slow
def test_every_recipe_gives_the_same_key(places: dict[str, Path], tmp_path: Path) -> None:
    """All recipes share a workspace, so that nothing is made twice; each is first checked to stand on its own."""
    wrong, untold = {}, []
    workspace = Workspace(places[""])
    for each in artifacts(places[""]):
        label = f"{each.manifest.kind}/{each.name}"
        sources = sources_of(workspace, each, Silent())
        try:
            text = recipe_of(each, sources)
        except LangpruneError:
            untold.append(label)
            continue
        assert recipe_of(each, sources, hidden).count("/") <= text.count("/")
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        assert complaints(load_core(text), schema()) == [], text
        try:
            checked(tmp_path / "recipe.yaml", tmp_path / "empty")
            results = [one.result for one in run_recipe(tmp_path / "recipe.yaml", workspace=tmp_path / "again")]
        except LangpruneError as error:
            wrong[label] = str(error)
            continue
        keys = {found.key for one in results if isinstance(one, Made) for found in one.artifacts}
        if each.key not in keys:
            wrong[label] = f"another key: {text}"
    assert wrong == {}
    assert untold == []


def _found(word: str, places: dict[str, Path]) -> str:
    return str(places[word.removeprefix(f"{HIDDEN}/")]) if word.startswith(f"{HIDDEN}/") else word


COMMANDS = {
    "stats": ("calibrate", "combine", "prune"),
    "scores": ("score",),
    "masks": ("mask", "prune"),
    "models": ("apply", "recover"),
}
# What changes no key, or is no parameter but an input.
OTHERS = {
    "--lang", "--corpus", "--data", "--model", "--revision", "--nsamples", "--seqlen", "--seed", "--sampling", "--shard",
    "--device", "--batch-tokens", "--cache-dir", "--trust-remote-code", "--max-memory", "--name", "--force", "--dry-run",
    "--workspace", "--json", "--stats", "--scores", "--mask", "--out", "--variant", "--tune", "--recover", "--reapply",
    "--how", "--teacher", "--log-to", "--online", "--help",
}  # fmt: skip


def test_every_parameter_of_a_manifest_has_an_option_or_follows_from_others(places: dict[str, Path]) -> None:
    for each in artifacts(places[""]):
        unknown = each.manifest.params.keys() - OPTIONS[each.manifest.kind].keys()
        assert not unknown, f"{each.manifest.kind} have {unknown}: say in report_options.py which options ask for them"


def test_every_field_of_a_manifest_has_a_type(places: dict[str, Path]) -> None:
    """What the stages write is what records.py says, down to the last level."""
    unknown = set()
    for each in artifacts(places[""]):
        manifest = each.manifest
        kinds = {"inputs": records.Inputs, "params": records.Params, "about": records.About, "parts": Parts}
        for part, kind in kinds.items():
            unknown |= {f"{manifest.kind}: {part}{path}" for path in _untyped(getattr(manifest, part), kind)}
    assert unknown == set()


def _untyped(value: Any, kind: Any) -> Iterator[str]:
    """Yield the places in a JSON value that a type does not know, or knows as something else."""
    options = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    for one in options:
        if is_typeddict(one) and isinstance(value, dict):
            known = get_type_hints(one)
            yield from (f".{name}" for name in value.keys() - known.keys())
            yield from (
                f".{name}{at}" for name in value.keys() & known.keys() for at in _untyped(value[name], known[name])
            )
            return
        if get_origin(one) is dict and isinstance(value, dict):
            yield from (f"{{}}{at}" for each in value.values() for at in _untyped(each, get_args(one)[1]))
            return
        if get_origin(one) is list and isinstance(value, list):
            yield from (f"[]{at}" for each in value for at in _untyped(each, get_args(one)[0]))
            return
        plain = get_origin(one) is None and not is_typeddict(one)
        if (get_origin(one) is Literal and value in get_args(one)) or (plain and isinstance(value, one)):
            return
    if not (float in options and type(value) is int):  # JSON's 1 may stand for 1.0
        yield f" = {value!r}"


def test_every_option_of_what_makes_an_artifact_is_known() -> None:
    group: Any = typer.main.get_command(app)
    of_table = {option for table in OPTIONS.values() for option in table.values() if option}
    for kind, names in COMMANDS.items():
        taken = {
            option
            for name in names
            for each in group.commands[name].params
            for option in each.opts
            if option[:2] == "--"
        }
        assert {option for option in OPTIONS[kind].values() if option} <= taken
        assert not taken - of_table - OTHERS, (
            f"say in report_options.py which parameters {taken - of_table - OTHERS} are"
        )
