"""Several processes share the windows of one run: the same sums to rounding, the same files, and a clean end when one dies."""

import json
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.machine.team import PeerLostError, Team
from langprune_cli.store.manifest import read_manifest
from tests.support.command import alone, did, langprune, one_sentence, ran, torchrun, tree, two
from tests.support.pico import save_pico


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("windows") / "windows.safetensors"
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (7, 24), dtype=torch.int32)}, file)  # not a multiple of the processes
    return file


@pytest.mark.parametrize(("family", "processes"), [("llama", 2), pytest.param("qwen3_moe", 3, marks=pytest.mark.slow)])
def test_statistics_are_those_of_one_process(family: str, processes: int, tmp_path: Path, windows: Path) -> None:
    save_pico(family, tmp_path / "model")
    words = ["calibrate", "-m", tmp_path / "model", "--data", windows, "--collect", "hessian", "--batch-tokens", "24"]
    ran(*words, "-w", tmp_path / "team", processes=processes)
    alone(*words, "-w", tmp_path / "alone")
    (folder,) = (tmp_path / "alone" / "stats").iterdir()
    other = tmp_path / "team" / "stats" / folder.name
    one, several = read_manifest(folder), read_manifest(other)
    assert several.key == one.key
    assert several.about.get("expert_tokens") == one.about.get("expert_tokens")
    for part in one.parts:
        expected, found = load_file(folder / part), load_file(other / part)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            if name.endswith("/hessian"):
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6 * float(tensor.abs().max()))
            elif name.endswith(("/sum_sq", "experts/outputs")):
                torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=0)
            elif name.endswith("/sum_x"):
                scale = float(expected[name.replace("sum_x", "sum_sq")].max())
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12 * scale)
            else:
                assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("words", [
    ["--method", "wanda", "--pattern", "2:4"],
    pytest.param(["--method", "sparsegpt", "--sparsity", "0.5"], marks=pytest.mark.slow),
    pytest.param(["--method", "wanda", "--sparsity", "0.6", "--allocation", "fisher"], marks=pytest.mark.slow),
    pytest.param(["--pattern", "channels:0.34", "--pattern", "kv-groups:0.5"], marks=pytest.mark.slow),
    pytest.param(
        ["--pattern", "blocks:0.34", "--pattern", "2:4", "--method", "wanda", "--tune", "--epochs", "1"],
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_models_are_those_of_one_process_but_for_rounding(words: list[str], tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    options = ["prune", "-m", tmp_path / "model", "--data", windows, *words]
    ran(*options, "-w", tmp_path / "team")
    alone(*options, "-w", tmp_path / "alone")
    models = sorted((tmp_path / "alone" / "models").iterdir())
    assert [each.name for each in models] == sorted(each.name for each in (tmp_path / "team" / "models").iterdir())
    folder = max(models, key=lambda each: (each / "manifest.json").stat().st_mtime_ns)
    expected = load_file(folder / "model.safetensors")
    found = load_file(tmp_path / "team" / "models" / folder.name / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        same = ((found[name] == 0) == (tensor == 0)).float().mean()
        assert same > 0.995, name  # sums differ in their last bits, and with them a choice between near equals
        close = (found[name] - tensor).abs() <= 1e-3 * tensor.abs().max()
        assert close.float().mean() > 0.98, name


@pytest.mark.slow
def test_an_interrupted_team_is_gone_on_with_by_one_process_and_the_other_way_round(
    tmp_path: Path, windows: Path
) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["prune", "-m", tmp_path / "model", "--data", windows, "--method", "sparsegpt", "-w", tmp_path / "w"]
    alone(*words)
    (stats,) = (tmp_path / "w" / "stats").iterdir()
    (model,) = (tmp_path / "w" / "models").iterdir()
    before = load_file(model / "model.safetensors")
    (stats / "block-002.safetensors").unlink()
    (model / "model.safetensors").unlink()
    ran(*words)
    after = load_file(model / "model.safetensors")
    for name, tensor in before.items():
        assert (after[name] - tensor).abs().max() <= 0.05 * tensor.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_two_processes_left_two_go_on_with_to_the_same_bytes(method: str, tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["prune", "-m", tmp_path / "model", "--data", windows, "--method", method, "-w", tmp_path / "w"]
    ran(*words)
    whole = tree(tmp_path / "w")
    (stats,) = (tmp_path / "w" / "stats").iterdir()
    (masks,) = (tmp_path / "w" / "masks").iterdir()
    (model,) = (tmp_path / "w" / "models").iterdir()
    for part in (stats / "block-002.safetensors", masks / "block-001.safetensors", model / "model.safetensors"):
        part.unlink()
    ran(*words)
    made = tree(tmp_path / "w")
    assert {name: made[name] for name in whole} == whole


@pytest.mark.slow
def test_one_document_is_printed_and_one_log_kept(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["prune", "-m", tmp_path / "model", "--data", windows, "--method", "wanda", "-w", tmp_path / "w", "--json"]
    document = json.loads(ran(*words))
    assert [each["kind"] for each in document["artifacts"]] == ["models", "stats", "masks"]
    assert len(list((tmp_path / "w" / "logs").iterdir())) == 1
    assert list((tmp_path / "w").rglob("*lock")) == []
    again = json.loads(ran(*words))
    assert all(each["cached"] for each in again["artifacts"])


@pytest.mark.slow
def test_what_has_no_windows_to_share_is_done_once(tmp_path: Path) -> None:
    words = ["calibrate", "--lang", "uk", "--max-tokens", "2000", "--collect", "tokens", "-w", tmp_path / "w", "--json"]
    first, second = two(words, words)
    assert (first.returncode, second.returncode, second.stdout, second.stderr) == (0, 0, "", "")
    assert json.loads(first.stdout)["kind"] == "stats"
    first, second = two(["ls", "-w", tmp_path / "w"], ["ls", "-w", tmp_path / "w"])
    assert (first.returncode, second.returncode, second.stdout, second.stderr) == (0, 0, "", "")
    assert "uk-tokens" in first.stdout
    assert first.stderr == "ls does not share work between processes: the first one runs it alone.\n"


@pytest.mark.slow
def test_a_recipe_is_shared_stage_by_stage(tmp_path: Path, windows: Path) -> None:
    """Stages that gather statistics share their windows; the others, in between, run in the first process."""
    save_pico("llama", tmp_path / "model")
    recipes = [tmp_path / "shared.yaml", tmp_path / "alone.yaml"]
    for recipe in recipes:
        recipe.write_text(
            f"""\
workspace: {recipe.with_suffix("")}
model: {tmp_path / "model"}
stages:
  - calibrate: {{data: {windows}, name: sums}}
  - mask: {{sparsity: 0.5}}
  - apply
  - recover: {{data: {windows}, tokens: "336", batch-tokens: 48, learning-rate: 0.001}}
  - prune: {{data: {windows}, pattern: "channels:0.25", name: narrow}}
  - export: {{model: narrow, out: {recipe.with_suffix(".out")}}}
""",
            encoding="utf-8",
        )
    document = json.loads(ran("run", recipes[0], "--json"))  # one document, of the first process
    assert [each["command"] for each in document["stages"]] == [
        "calibrate",
        "mask",
        "apply",
        "recover",
        "prune",
        "export",
    ]
    alone("run", recipes[1])
    shared, one = (tree(recipe.with_suffix("")) for recipe in recipes)
    assert shared.keys() == one.keys()
    masks = {name for name in shared if name.startswith("masks") and name.endswith(".safetensors")}
    assert masks
    assert all(shared[name] == one[name] for name in masks)


@pytest.mark.parametrize(("option", "largest_file", "sentence"), [
    (["--device", "cuda:99"], None, "this machine has no --device cuda:99: use cpu or auto"),
    # while the first process waits for its sums
    pytest.param(["--max-memory", "1KB"], 64, "File too large", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_second_process_that_fails_says_so_and_ends_the_first(
    option: list[object], largest_file: int | None, sentence: str, tmp_path: Path, windows: Path
) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["calibrate", "-m", tmp_path / "model", "--data", windows, "-w", tmp_path / "w", "--json"]
    first, second = two(words, [*words, *option], largest_file=largest_file)
    said = first.stderr + second.stderr
    assert 0 not in (first.returncode, second.returncode), said
    assert said.lower().count("error:") == 1, said
    assert sentence in said
    (document,) = filter(None, [first.stdout, second.stdout])
    assert sentence in json.loads(document)["error"]
    assert not (tmp_path / "w" / "stats").exists() or not list((tmp_path / "w" / "stats").iterdir())


@pytest.mark.slow
def test_another_model_in_the_second_process_is_noticed(tmp_path: Path, windows: Path) -> None:
    for name, size in (("one", 32), ("two", 48)):
        save_pico("llama", tmp_path / name / "model", intermediate_size=size)
    words = ["calibrate", "-m", "model", "--data", windows, "-w", tmp_path / "w"]
    first, second = two(words, words, folders=(tmp_path / "one", tmp_path / "two"))
    assert (first.returncode, second.returncode) == (1, 1)
    sentence = "error: model is not the same model on all machines: give them the same files\n"
    assert sorted([first.stderr, second.stderr]) == ["", sentence]
    assert not (tmp_path / "w" / "stats").exists()


@pytest.mark.slow
def test_more_processes_than_windows(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    save_file({"windows": load_file(windows)["windows"][:1]}, tmp_path / "one.safetensors")
    process = torchrun(
        "calibrate", "-m", tmp_path / "model", "--data", tmp_path / "one.safetensors", "-w", tmp_path / "w"
    )
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert err.count("error: 1 windows cannot be shared by 2 processes: start fewer of them") == 1
    assert not (tmp_path / "w" / "stats").exists() or not list((tmp_path / "w" / "stats").iterdir())


def test_only_an_error_of_gloo_says_that_another_process_is_gone() -> None:
    team = Team(0, 2)
    with pytest.raises(PeerLostError, match="another process of this run ended"), team.collectives():
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(RuntimeError, match="out of memory"), team.collectives():
        raise RuntimeError("CUDA out of memory")


def _opened_by(process: psutil.Process) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{process.pid}/fd").iterdir() if each.is_symlink()]


def _is_without_a_name(file: str, folder: Path) -> bool:
    return Path(file).parent == folder and file.endswith("(deleted)")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_what_is_on_disk_is_gone_on_with(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model", num_hidden_layers=24, hidden_size=256, intermediate_size=1024)
    torch.manual_seed(1)
    file = tmp_path / "windows.safetensors"
    save_file({"windows": torch.randint(3, 97, (64, 64), dtype=torch.int32)}, file)
    words = ["calibrate", "-m", tmp_path / "model", "--data", file, "--collect", "hessian", "-w", tmp_path / "w"]
    process = torchrun(*words, "--max-memory", "1KB")
    part = tmp_path / "w" / "stats" / "windows-hessian" / "block-002.safetensors"
    while not part.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
    both = psutil.Process(process.pid).children()
    assert [sum(_is_without_a_name(fd, part.parent) for fd in _opened_by(each)) for each in both] == [1, 1]
    followers = [child for child in both if child.environ().get("RANK") == "1"]
    followers[0].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert err.count("error:") <= 1, err  # torchrun may end the other one before it can say so
    assert "langprune_cli/" not in err  # torchrun shows a traceback of its own, we none
    assert not read_manifest(part.parent).complete
    alone(*words)
    assert read_manifest(part.parent).complete


def test_shards_of_machines_that_know_of_no_other_add_up(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "model")
    words = ["calibrate", "-m", tmp_path / "model", "--data", windows, "--collect", "hessian", "--batch-tokens", "24"]
    words += ["-w", tmp_path / "w"]
    did(*words)
    names = [did(*words, "--shard", f"{part}/3", "--json").json["name"] for part in (1, 2, 3)]
    assert names == [f"windows-{part}-of-3-hessian" for part in (1, 2, 3)]
    made = did("combine", "stats", *names, "-w", tmp_path / "w", "--json").json
    whole = tmp_path / "w" / "stats" / "windows-hessian"
    for part in sorted(whole.glob("block-*")):
        expected, found = load_file(part), load_file(Path(made["path"]) / part.name)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            tolerance = 1e-6 if name.endswith("/hessian") else 1e-12
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance * float(tensor.abs().max()) * 24 * 7)
    for wrong in ("0/3", "4/3", "x", "1", "1/0"):
        one_sentence(langprune(*words, "--shard", wrong), 2, "must be i/n, such as 1/4")
    one_sentence(langprune(*words, "--shard", "1/8"), 1, "7 windows cannot be split into 8 shards")
