"""combine stats: sums of several texts are those of one calibration on all windows, in whatever order they are named."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.stages.combine import combine_stats
from langprune_cli.stages.statistics import read_block_stats
from langprune_cli.stages.token_counts import read_token_counts
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.workspace import Workspace
from tests.conftest import DRAW, did, langprune, one_sentence, tree
from tests.interrupting import Interrupting
from tests.pico import save_pico

BLOCKS = [f"block-{index:03d}.safetensors" for index in range(3)]


def stats(workspace: Path, name: str) -> Artifact:
    return Workspace(workspace).find("stats", name)


@pytest.fixture
def texts(pico_text: Path) -> list[Any]:
    return ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", pico_text / "en.jsonl"]


@pytest.fixture
def hessians(workspace: Path, texts: list[Any]) -> Path:
    did("calibrate", "-w", workspace, *texts, *DRAW, "--collect", "hessian")
    return workspace


def test_sums_are_those_of_one_calibration_on_all_windows(hessians: Path) -> None:
    made = did("combine", "stats", "uk-hessian", "en-hessian", "-w", hessians, "--json").json
    assert (made["kind"], made["name"], made["cached"]) == ("stats", "en-hessian+uk-hessian", False)
    joined = stats(hessians, made["name"])
    ids = load_file(joined.folder / "windows.safetensors")["windows"]
    parents = sorted((stats(hessians, "uk-hessian"), stats(hessians, "en-hessian")), key=lambda parent: parent.key)
    own = [load_file(parent.folder / "windows.safetensors")["windows"] for parent in parents]
    assert torch.equal(ids, torch.cat(own))
    assert joined.manifest.inputs["stats"] == [parent.key for parent in parents]
    again = did(
        "calibrate", "-w", hessians, "--data", joined.folder / "windows.safetensors", "--collect", "hessian", "--json"
    )
    once = Artifact(Path(again.json["path"]), stats(hessians, again.json["name"]).manifest)
    assert once.manifest.inputs["text"] == joined.manifest.inputs["text"]
    assert once.key != joined.key
    for part in BLOCKS:
        found, expected = read_block_stats(joined, part), read_block_stats(once, part)
        assert found.sites == expected.sites
        assert found.windows == expected.windows == 12
        assert found.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            if name.endswith("/tokens"):
                assert torch.equal(found.tensors[name], tensor)
            else:
                exact = 1e-12 if tensor.dtype == torch.float64 else 1e-6
                assert found.tensors[name].dtype == tensor.dtype
                torch.testing.assert_close(
                    found.tensors[name], tensor, rtol=exact, atol=exact * float(tensor.abs().max())
                )


def test_each_sum_is_rounded_once(hessians: Path, texts: list[Any]) -> None:
    did("calibrate", "-w", hessians, *texts[:4], *DRAW, "--seed", "7", "--collect", "hessian", "--name", "third")
    names = ["uk-hessian", "third", "en-hessian"]
    did("combine", "stats", *names, "-w", hessians, "--name", "sum")
    parents = sorted((stats(hessians, name) for name in names), key=lambda parent: parent.key)
    for part in BLOCKS:
        found, tensors = stats(hessians, "sum").tensors(part), [parent.tensors(part) for parent in parents]
        for name, tensor in found.items():
            one, two, three = (each[name] for each in tensors)
            if name.endswith("/hessian"):
                assert torch.equal(tensor, ((one.double() + two.double()) + three.double()).float())
            else:
                assert torch.equal(tensor, (one + two) + three)


def test_order_does_not_matter(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "other")
    did("combine", "stats", "uk", "en", "-w", workspace)
    did("combine", "stats", "en", "uk", "-w", tmp_path / "other")
    assert tree(workspace) == tree(tmp_path / "other")
    assert "already there, nothing to do" in did("combine", "stats", "en", "uk", "-w", workspace).out
    assert "12 windows of 16 tokens, of 2 texts, float32" in did("ls", "-w", workspace).out


def test_interrupted_and_run_again_is_byte_identical(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "other")
    did("combine", "stats", "uk", "en", "-w", workspace)
    expected, here = tree(workspace), Workspace(tmp_path / "other")
    for block in (1, 2, 3):
        parents = [here.find("stats", name) for name in ("uk", "en")]
        with pytest.raises(KeyboardInterrupt):
            combine_stats(here, parents, Interrupting(block))
        assert sorted(path.name for path in tmp_path.glob("other/stats/en+uk/block*")) == BLOCKS[:block]
        assert tree(tmp_path / "other") != expected
    did("combine", "stats", "uk", "en", "-w", tmp_path / "other")
    assert tree(tmp_path / "other") == expected


def test_masks_and_models_say_all_their_texts(hessians: Path, pico_text: Path, tmp_path: Path) -> None:
    did("combine", "stats", "uk-hessian", "en-hessian", "-w", hessians, "--name", "both")
    for words in ("--method sparsegpt --pattern 2:4", "--pattern blocks:0.34", "--pattern channels:0.34 --round-to 8"):
        did("mask", "-w", hessians, "--stats", "both", *words.split())
    did("apply", "-w", hessians, "--mask", "both-sparsegpt-2x4", "--update", "pcg", "--stats", "both")
    did("export", "-w", hessians, "--out", tmp_path / "shared")
    card = (tmp_path / "shared/README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| calibration text |"))
    assert re.search(r"en, en\.jsonl: 6 windows of 16 tokens", row)
    assert re.search(r"uk, uk\.jsonl: 6 windows of 16 tokens", row)
    assert 'language:\n- "en"\n- "uk"\n' in card
    for path in (tmp_path / "shared").glob("*.*"):
        assert str(pico_text).encode() not in path.read_bytes()


def test_what_does_not_add_up_is_refused(hessians: Path, texts: list[Any], tmp_path: Path) -> None:
    def refused(code: int, says: str, *names: str) -> None:
        before = tree(hessians)
        one_sentence(langprune("combine", "stats", *names, "-w", hessians), code, says)
        assert tree(hessians) == before

    uk = ["calibrate", "-w", hessians, *texts[:4], *DRAW]
    refused(2, "adds up two or more artifacts: name another", "uk")
    refused(2, "stats uk and uk are the same artifact: name it once", "uk", "en", "uk")
    refused(1, r"no stats artifact is called 'ua'", "ua", "en")
    refused(
        1,
        r"their collect differ \((norms and norms, hessian|norms, hessian and norms)\): .* --collect",
        "uk",
        "en-hessian",
    )
    did("combine", "stats", "uk", "en", "-w", hessians)
    refused(2, r"stats en\+uk hold those of uk already: leave uk out", "en+uk", "uk")
    did(*uk, "--dtype", "bfloat16", "--name", "narrow")
    refused(1, r"their dtypes differ \(.*bfloat16.*\): .* --dtype", "narrow", "en")
    did(*uk[:-1], "8", "--name", "short")
    refused(1, r"their tokens per window differ .* --seqlen", "short", "en")
    save_pico("llama", tmp_path / "other", vocab_size=400, tie_word_embeddings=True)
    shutil.copytree(Path(json.loads((hessians / "workspace.json").read_bytes())["model"]["name"]), tmp_path / "t")
    for file in (tmp_path / "t").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "other")
    did(*uk, "--model", tmp_path / "other", "--name", "foreign")
    refused(1, r"made with different models \(.*other.*\): .* one --model", "foreign", "en")
    did("prune", "-w", hessians, "--model", tmp_path / "t", *texts[:4], *DRAW, "--method", "wanda", "--name", "pruned")
    refused(1, "stats .* are of blocks whose inputs came from pruned ones", stats_of_prune(hessians), "en")
    one_sentence(langprune("combine", "masks", "a", "b", "-w", hessians), 2, "KIND 'masks' is unknown")


def stats_of_prune(workspace: Path) -> str:
    """Return the name of the statistics that prune made."""
    (name,) = (
        path.parent.name
        for path in workspace.glob("stats/*/manifest.json")
        if json.loads(path.read_bytes())["params"].get("propagation") == "pruned"
    )
    return name


def test_other_sites_are_refused(workspace: Path) -> None:
    en = stats(workspace, "en")
    recipe = Recipe("stats", en.manifest.inputs, en.manifest.params | {"made": "otherwise"}, en.manifest.about)
    writer = ArtifactWriter(workspace / "stats/odd", recipe)
    writer.write("windows.safetensors", en.read("windows.safetensors"))
    for part in BLOCKS:
        tensors, record = en.tensors_and_record(part)
        sites = {site: linears[:1] for site, linears in record["sites"].items()}
        writer.write_tensors(part, tensors, {"sites": sites} if part == BLOCKS[1] else record)
    writer.finish()
    one_sentence(
        langprune("combine", "stats", "uk", "odd", "-w", workspace),
        1,
        r"gathered at different inputs \(block-001\.safe",
    )


def test_a_damaged_part_says_how_to_make_it(workspace: Path) -> None:
    did("combine", "stats", "uk", "en", "-w", workspace)
    part = workspace / "stats/en+uk/block-001.safetensors"
    part.write_bytes(part.read_bytes()[::-1])
    one_sentence(
        langprune("mask", "-w", workspace, "--stats", "en+uk"), 1, "damaged .* run langprune combine stats again with"
    )
    did("combine", "stats", "uk", "en", "-w", workspace, "--force")
    did("mask", "-w", workspace, "--stats", "en+uk")


@pytest.fixture
def counts(workspace: Path, texts: list[Any]) -> Path:
    did("calibrate", "-w", workspace, *texts, "--collect", "tokens")
    return workspace


def test_counts_stay_apart_by_language(counts: Path, pico_text: Path, tmp_path: Path) -> None:
    uk, en = (read_token_counts(stats(counts, f"{language}-tokens"))[language] for language in ("uk", "en"))
    save_file({"windows": torch.arange(40, dtype=torch.int32).view(4, 10)}, tmp_path / "more.safetensors")
    did(
        "calibrate",
        "-w",
        counts,
        "--lang",
        "uk",
        "--data",
        tmp_path / "more.safetensors",
        "--collect",
        "tokens",
        "--name",
        "more",
    )
    more = read_token_counts(stats(counts, "more"))["uk"]
    did("calibrate", "-w", counts, "--data", pico_text / "en.jsonl", "--collect", "tokens", "--name", "none")
    did("combine", "stats", "uk-tokens", "en-tokens", "more", "-w", counts, "--name", "three")
    found = read_token_counts(stats(counts, "three"))
    assert list(found) == ["en", "uk"]
    assert torch.equal(found["uk"].counts, uk.counts + more.counts)
    assert torch.equal(found["en"].counts, en.counts)
    assert (found["uk"].tokens, found["uk"].documents) == (uk.tokens + 40, uk.documents)
    assert found["uk"].bytes == uk.bytes + more.bytes
    did("combine", "stats", "none", "en-tokens", "-w", counts, "--name", "same-text")
    assert list(read_token_counts(stats(counts, "same-text"))) == ["en"]
    did("combine", "stats", "same-text", "uk-tokens", "-w", counts, "--name", "sums-of-sums")
    again = read_token_counts(stats(counts, "sums-of-sums"))
    assert torch.equal(again["en"].counts, 2 * en.counts)
    assert torch.equal(again["uk"].counts, uk.counts)
    assert [each["source"] for each in stats(counts, "sums-of-sums").manifest.about["text"]["texts"]].count(
        str(pico_text / "en.jsonl")
    ) == 2


def test_counts_of_other_tokenizers_and_of_norms_do_not_add_up(counts: Path) -> None:
    did("calibrate", "-w", counts, "-m", "demo", "--lang", "uk", "--collect", "tokens", "--name", "demo-tokens")
    one_sentence(
        langprune("combine", "stats", "demo-tokens", "en-tokens", "-w", counts),
        1,
        r"different tokenizers \(.*demo.*\): run",
    )
    one_sentence(langprune("combine", "stats", "uk", "en-tokens", "-w", counts), 1, "their collect differ")
