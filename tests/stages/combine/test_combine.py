"""combine stats: sums of several texts are those of one calibration on all windows, in whatever order they are named."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.stages.combine.combine import combine_stats
from langprune_cli.stages.statistics.collecting import read_block_stats
from langprune_cli.stages.statistics.counted_tokens import read_token_counts
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.workspace import Workspace
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.interrupting import Interrupting
from tests.support.pico import save_pico

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
    refused(2, r"stats en\+uk already contain those of uk: leave uk out", "en+uk", "uk")
    did(*uk, "--dtype", "bfloat16", "--name", "narrow")
    refused(1, r"their dtypes differ \(.*bfloat16.*\): .* --dtype", "narrow", "en")
    did(*uk[:-1], "8", "--name", "short")
    refused(1, r"their tokens per window differ .* --seqlen", "short", "en")
    save_pico("llama", tmp_path / "other", vocab_size=400, tie_word_embeddings=True)
    shutil.copytree(Path(json.loads((hessians / "workspace.json").read_bytes())["model"]["name"]), tmp_path / "t")
    for file in (tmp_path / "t").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "other")
    did(*uk, "--model", tmp_path / "other", "--name", "foreign")
    refused(1, r"made with different models \(.*other.*\): .* the same --model", "foreign", "en")
    did("prune", "-w", hessians, "--model", tmp_path / "t", *texts[:4], *DRAW, "--method", "wanda", "--name", "pruned")
    refused(1, "stats .* come from a model pruned block by block", stats_of_prune(hessians), "en")
    one_sentence(langprune("combine", "scores", "a", "b", "-w", hessians), 2, "KIND 'scores' is unknown")


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
        r"collected at different inputs \(block-001\.safe",
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


def mean_squares(artifact: Artifact, part: str) -> dict[str, torch.Tensor]:
    block = read_block_stats(artifact, part)
    return {
        name: tensor.double() / block.tokens(name.rpartition("/")[0])
        for name, tensor in block.tensors.items()
        if not name.endswith("/tokens")
    }


def test_weights_are_shares_of_the_mean_per_token(hessians: Path, texts: list[Any]) -> None:
    did(
        "calibrate",
        "-w",
        hessians,
        *texts[4:],
        "--nsamples",
        "3",
        "--seqlen",
        "16",
        "--collect",
        "hessian",
        "--name",
        "few",
    )
    did("combine", "stats", "uk-hessian", "few", "--weights", "0.7,0.3", "-w", hessians, "--name", "sum")
    found = stats(hessians, "sum")
    assert found.manifest.inputs["text"]["windows"] == 9
    for part in BLOCKS:
        one, other, both = (mean_squares(stats(hessians, name), part) for name in ("uk-hessian", "few", "sum"))
        assert both.keys() == one.keys()
        for name, mean in both.items():
            exact = 1e-6 if name.endswith("/hessian") else 1e-12
            expected = 0.7 * one[name] + 0.3 * other[name]
            torch.testing.assert_close(mean, expected, rtol=exact, atol=exact * float(expected.abs().max()))
        tokens = {read_block_stats(found, part).tokens(site) for site in read_block_stats(found, part).sites}
        assert tokens == {9 * 16}
        dtypes = {name.rpartition("/")[2]: tensor.dtype for name, tensor in found.tensors(part).items()}
        assert dtypes == {
            "sum_sq": torch.float64, "sum_x": torch.float64, "tokens": torch.int64, "hessian": torch.float32,
        }  # fmt: skip
    did("mask", "-w", hessians, "--stats", "sum", "--method", "sparsegpt", "--pattern", "2:4")


def test_weights_go_with_the_names_and_are_made_to_add_up_to_one(workspace: Path, tmp_path: Path) -> None:
    made = []
    for number, (names, weights) in enumerate([(("uk", "en"), "7,3"), (("en", "uk"), "0.3,0.7")]):
        shutil.copytree(workspace, tmp_path / str(number))
        did("combine", "stats", *names, "--weights", weights, "-w", tmp_path / str(number))
        made.append(tree(tmp_path / str(number)))
    assert made[0] == made[1]
    params = stats(tmp_path / "0", "en+uk").manifest.params
    about = stats(tmp_path / "0", "en+uk").manifest.about
    assert dict(zip(about["stats"], params["weights"], strict=True)) == {"uk": 0.7, "en": 0.3}
    assert params["per"] == "token"
    assert re.search(r"of 2 texts \(.*0\.7 uk.* per token\)", did("ls", "-w", tmp_path / "0").out)
    plain = did("combine", "stats", "uk", "en", "-w", tmp_path / "0", "--json").json
    assert not plain["cached"]
    assert plain["key"] != stats(tmp_path / "0", "en+uk").key


@pytest.mark.parametrize("per", ["token", "window"])
def test_weights_by_size_are_the_plain_sum(workspace: Path, texts: list[Any], per: str) -> None:
    did("calibrate", "-w", workspace, *texts[4:], "--nsamples", "2", "--seqlen", "16", "--name", "few")
    did("combine", "stats", "uk", "few", "--weights", "6,2", "--per", per, "-w", workspace, "--name", "weighted")
    did("combine", "stats", "uk", "few", "-w", workspace, "--name", "plain")
    for part in BLOCKS:
        expected = stats(workspace, "plain").tensors(part)
        for name, tensor in stats(workspace, "weighted").tensors(part).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


@pytest.fixture
def mixture_stats(tmp_path: Path) -> Path:
    """Make statistics of two texts that reach experts unevenly: one has a single window of one token, again and again."""
    save_pico("mixtral", tmp_path / "mixtral")
    save_file({"windows": torch.arange(5, 85, dtype=torch.int32).view(5, 16)}, tmp_path / "many.safetensors")
    save_file({"windows": torch.full((1, 16), 9, dtype=torch.int32)}, tmp_path / "one.safetensors")
    for name in ("many", "one"):
        did("calibrate", "-w", tmp_path / "w", "-m", tmp_path / "mixtral", "--data", tmp_path / f"{name}.safetensors")
    return tmp_path / "w"


@pytest.mark.parametrize("per", ["token", "window"])
def test_experts_have_the_weights_of_the_tokens_that_reached_them(mixture_stats: Path, per: str) -> None:
    did("combine", "stats", "many", "one", "--weights", "0.25,0.75", "--per", per, "-w", mixture_stats, "--name", "sum")
    uneven = alone = 0
    for part in BLOCKS:
        many, one, both = (read_block_stats(stats(mixture_stats, name), part) for name in ("many", "one", "sum"))
        assert both.sites.keys() == many.sites.keys() | one.sites.keys()
        for site in both.sites:
            here = [(block, share, n) for block, share, n in ((many, 0.25, 5), (one, 0.75, 1)) if site in block.sites]
            tokens = [block.tokens(site) for block, _, _ in here]
            assert both.tokens(site) == sum(tokens)
            # What one window of a text brings here counts per window; what one token brings counts per token.
            shares = [
                share * (t / n if per == "window" else 1) for (_, share, n), t in zip(here, tokens, strict=True)
            ]  # fmt: skip
            expected = sum(
                share * block.tensors[f"{site}/sum_sq"] / t
                for (block, _, _), share, t in zip(here, shares, tokens, strict=True)
            ) / sum(shares)
            torch.testing.assert_close(
                both.tensors[f"{site}/sum_sq"] / both.tokens(site), expected, rtol=1e-12, atol=1e-15
            )
            uneven += len(here) == 2 and tokens[0] != 5 * tokens[1]
            alone += len(here) == 1
    assert uneven
    assert alone


def test_weights_that_do_not_fit_are_refused(counts: Path) -> None:
    def refused(says: str, *words: str) -> None:
        one_sentence(langprune("combine", "stats", *words, "-w", counts), 2, says)

    refused("--weights 0.5 has 1 for 2 artifacts: give one for each", "uk", "en", "--weights", "0.5")
    for weights in ("1,0", "1,nan", "inf,1", "1,1e-13"):
        refused("cannot be shares of a sum: give numbers above 0", "uk", "en", "--weights", weights)
    refused("cannot be shares of a sum", "uk", "en", "--weights=-1,2")
    refused("'half,half' are not numbers", "uk", "en", "--weights", "half,half")
    refused("--per 'document' is unknown", "uk", "en", "--weights", "1,1", "--per", "document")
    refused("--per window needs --weights", "uk", "en", "--per", "window")
    refused("token counts stay separate by language: leave them out", "uk-tokens", "en-tokens", "--weights", "1,2")
    refused("combine stats has no use for --how", "uk", "en", "--how", "and")
