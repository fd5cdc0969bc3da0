"""Counts of tokens: what they are, that they need no weights, how they resume, and who refuses them."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.config_only import locate_config
from langprune_cli.location.location import DEMO_FOLDER, ModelLocation
from langprune_cli.stages.calibrate.token_counts import count_tokens
from langprune_cli.stages.statistics.counted_tokens import needed_token_counts, read_token_counts
from langprune_cli.store.artifact import open_artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened_tokenizer import OpenedTokenizer
from langprune_cli.text.sources import read_documents
from langprune_cli.tokens import counting
from langprune_cli.types import TextSpec
from tests.support.command import DRAW, did, langprune, one_sentence, snapshot, tree
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite
from tests.support.interrupting import Interrupting
from tests.support.text.token_literals import demo_documents, dense, literal

hub = hub_fixtures.hub


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches and parts so small that a dozen documents fill several."""
    monkeypatch.setattr(counting, "_BATCH_BYTES", 700)
    monkeypatch.setattr(counting, "_PART_BYTES", 1500)


def opened(folder: Path) -> OpenedTokenizer:
    return OpenedTokenizer(locate_config(str(folder), only="tokenizer"), trust_remote_code=False)


@pytest.mark.parametrize("most", [1, 99, 100, 101, 10**6])
def test_counting_ends_with_the_document_that_reaches_max_tokens(
    pico_model: Path, pico_text: Path, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TextSpec("uk", str(pico_text / "uk.jsonl"), "uk")
    model = opened(pico_model)
    documents, expected, read = list(read_documents(spec.source)), Counter[int](), 0
    while expected.total() < most and read < len(documents):
        expected += literal(model.tokenizer, [documents[read]])
        read += 1
    whole = []
    for batch_bytes in (1, 700, 2**21):
        monkeypatch.setattr(counting, "_BATCH_BYTES", batch_bytes)
        here = Workspace(tmp_path / str(batch_bytes))
        (made,) = count_tokens(here, model, [spec], Interrupting(), max_tokens=most)
        found = read_token_counts(made.artifact)["uk"]
        assert torch.equal(found.counts, dense(expected, model.vocab_size))
        assert (found.tokens, found.documents) == (expected.total(), read)
        assert found.bytes == sum(len(document.encode()) for document in documents[:read])
        whole.append(made.artifact.manifest.about["counted"])
    assert whole[0] == whole[1] == whole[2] == {"uk": {"tokens": found.tokens, "bytes": found.bytes, "documents": read}}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("most", [10**6, 1200])
def test_interrupted_anywhere_and_run_again_is_byte_identical(
    pico_model: Path, pico_text: Path, tmp_path: Path, most: int
) -> None:
    model, spec = opened(pico_model), TextSpec("uk", str(pico_text / "uk.jsonl"), "uk")

    def run(folder: Path, at: int | None) -> Interrupting:
        reporter = Interrupting(at)
        count_tokens(Workspace(folder), model, [spec], reporter, max_tokens=most)
        return reporter

    ticks = run(tmp_path / "whole", None).ticks
    expected = tree(tmp_path / "whole")
    assert ticks > 3
    assert len(expected) > 2  # several parts, and the manifest
    goes_on = 0
    for at in range(1, ticks + 1):
        folder = tmp_path / f"struck{at}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, at)
        goes_on += any("are on disk" in note for note in run(folder, None).notes)
        assert tree(folder) == expected
    assert 0 < goes_on < ticks
    for lost in (tmp_path / "whole/stats/uk-tokens").glob("counts-*"):
        lost.unlink()
        run(tmp_path / "whole", None)
        assert tree(tmp_path / "whole") == expected


@pytest.mark.usefixtures("small_parts")
def test_what_is_on_disk_is_not_tokenised_again(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    model, spec = opened(pico_model), TextSpec("uk", str(pico_text / "uk.jsonl"), "uk")
    with pytest.raises(KeyboardInterrupt):
        count_tokens(Workspace(tmp_path), model, [spec], Interrupting(5))
    on_disk = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("stats/uk-tokens/counts-*")}
    assert on_disk
    count_tokens(Workspace(tmp_path), model, [spec], Interrupting())
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("stats/uk-tokens/counts-*")}
    assert on_disk.items() < after.items()


def test_no_weights_are_needed(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(pico_model, bare, ignore=shutil.ignore_patterns("*.safetensors*"))
    assert not list(bare.glob("*.safetensors*"))
    texts = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", pico_text / "en.jsonl"]
    made = did("calibrate", "-w", "ws", "-m", bare, *texts, "--collect", "tokens", "--json").json
    assert [each["name"] for each in made["artifacts"]] == ["uk-tokens", "en-tokens"]
    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    for each, language in zip(made["artifacts"], ("uk", "en"), strict=True):
        artifact = open_artifact(Path(each["path"]), "stats")
        assert artifact.manifest.inputs.keys() == {"tokenizer", "text"}
        assert artifact.manifest.params["collect"] == ["tokens"]
        (found,) = read_token_counts(artifact).items()
        documents = list(read_documents(str(pico_text / f"{language}.jsonl")))
        assert found[0] == language
        assert torch.equal(found[1].counts, dense(literal(tokenizer, documents), len(tokenizer)))
    before = snapshot(Path("ws"))
    again = did("calibrate", "-w", "ws", *texts, "--collect", "tokens", "--json").json  # the model is remembered
    assert all(each["cached"] for each in again["artifacts"])
    assert {name: digest for name, (digest, _) in snapshot(Path("ws")).items()} == {
        n: d for n, (d, _) in before.items()
    }


def test_a_vocabulary_is_as_large_as_the_embeddings(pico_model: Path, pico_text: Path, tmp_path: Path) -> None:
    shutil.copytree(pico_model, tmp_path / "padded")
    config = json.loads((pico_model / "config.json").read_bytes())
    (tmp_path / "padded/config.json").write_text(json.dumps(config | {"vocab_size": 512}))
    one, other = opened(pico_model), opened(tmp_path / "padded")
    assert (one.vocab_size, other.vocab_size, one.digest) == (400, 512, other.digest)
    spec, here = TextSpec("uk", str(pico_text / "uk.jsonl"), "uk"), Workspace(tmp_path / "ws")
    small, large = (count_tokens(here, each, [spec], Interrupting())[0].artifact for each in (one, other))
    assert small.key != large.key
    counts = [read_token_counts(each)["uk"].counts for each in (small, large)]
    assert torch.equal(counts[0], counts[1][:400])
    assert (len(counts[1]), int(counts[1][400:].sum())) == (512, 0)


def test_the_demo_model_counts_its_own_text() -> None:
    did("calibrate", "--lang", "uk", "--lang", "en", "--collect", "tokens", "--max-tokens", "20000")
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    workspace = Workspace(Path("langprune-workspace"))
    for language in ("uk", "en"):
        found = read_token_counts(workspace.find("stats", f"{language}-tokens"))[language]
        counted = demo_documents(language)[: found.documents]
        assert torch.equal(found.counts, dense(literal(tokenizer, counted), len(found.counts)))
        assert 20000 <= found.tokens < 20000 + literal(tokenizer, counted[-1:]).total()
    listed = did("ls", "stats").out
    assert f"{found.tokens:,} tokens of en, counted over a vocabulary of 2,048" in listed
    assert "collect" in did("show", "uk-tokens").out


def test_given_windows_are_counted_as_they_are(pico_model: Path, tmp_path: Path) -> None:
    ids = torch.randint(0, 400, (5, 12), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    save_file({"windows": ids}, tmp_path / "some.safetensors")
    words = ["calibrate", "-m", pico_model, "--data", "some.safetensors", "--collect", "tokens", "--json"]
    for more, windows in ([], 5), (["--max-tokens", "24"], 2), (["--max-tokens", "25"], 3):
        made = did(*words, *more).json
        found = read_token_counts(open_artifact(Path(made["path"]), "stats"))["some"]
        assert torch.equal(found.counts, torch.bincount(ids[:windows].flatten(), minlength=400))
        assert (found.tokens, found.documents) == (12 * windows, 0)
    save_file({"windows": ids + 1}, tmp_path / "some.safetensors")
    one_sentence(langprune(*words), 1, "token id 400 lies outside the vocabulary of 400")


def test_counts_of_another_tokenizer_are_refused(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    did("calibrate", "-w", workspace, *text, "--collect", "tokens")
    here, own = Workspace(workspace), ModelLocation(pico_model, "pico", None, "folder")
    stats = here.find("stats", "uk-tokens")
    assert needed_token_counts("--pattern x", stats, own) is stats
    with pytest.raises(LangpruneError, match=r"hold counts made with another tokenizer \(.*pico\) than demo has: run"):
        needed_token_counts("--pattern x", stats, replace(own, folder=DEMO_FOLDER, id="demo", kind="demo"))
    with pytest.raises(LangpruneError, match="--pattern x needs token counts, and stats uk hold none: run"):
        needed_token_counts("--pattern x", here.find("stats", "uk"), own)
    with pytest.raises(UsageError, match=r"--pattern x needs token counts: run .* or name some with --stats"):
        needed_token_counts("--pattern x", None, own)


@pytest.fixture
def counted(workspace: Path, pico_text: Path) -> Iterator[Path]:
    did("calibrate", "-w", workspace, "--lang", "uk", "--data", pico_text / "uk.jsonl", "--collect", "tokens")
    return workspace


@pytest.mark.parametrize(
    "words",
    [
        "mask --stats uk-tokens", "mask --stats uk-tokens --method sparsegpt", "score --stats uk-tokens",
        "mask --stats uk-tokens --pattern channels:0.34", "mask --stats uk-tokens --pattern blocks:0.34",
        "mask --stats uk-tokens --method magnitude --allocation owl", "apply --stats uk-tokens --update pcg",
        "apply --stats uk-tokens --tune",
    ],
)  # fmt: skip
def test_stages_that_need_norms_say_so(counted: Path, words: str) -> None:
    one_sentence(
        langprune(*words.split(), "-w", counted),
        1,
        "needs statistics of the model, and stats uk-tokens hold only token counts: run",
    )


def test_counts_do_not_stand_before_norms_and_scores(counted: Path) -> None:
    assert "Using scores uk-wanda." in did("mask", "-w", counted, "--pattern", "4:8").err
    assert "Using statistics en." in did("mask", "-w", counted, "--method", "ria", "--pattern", "4:8").err
    did("rm", "stats/uk", "stats/en", "scores/uk-wanda", "-w", counted)
    one_sentence(
        langprune("mask", "-w", counted), 1, "has no stats except token counts: run langprune calibrate --lang"
    )


def test_options_without_effect_are_refused() -> None:
    tokens = ["calibrate", "--lang", "uk", "--collect", "tokens"]
    one_sentence(langprune(*tokens, *DRAW, "--seed", "0"), 2, "leave out --nsamples, --seqlen, --seed$")
    one_sentence(langprune(*tokens, "--device", "cpu", "--dtype", "auto"), 2, "leave out --dtype, --device$")
    one_sentence(langprune("calibrate", "--lang", "uk", "--max-tokens", "5"), 2, "goes with --collect tokens")
    one_sentence(langprune("calibrate", "--lang", "uk", "--collect", "token"), 2, "did you mean tokens")
    assert langprune(*tokens, "--max-tokens", "0").code == 2


def test_a_text_that_cannot_be_read_costs_no_work(pico_model: Path, pico_text: Path) -> None:
    texts = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", "nothing.jsonl"]
    words = ["calibrate", "-w", "ws", "-m", pico_model, *texts, "--collect", "tokens"]
    one_sentence(langprune(*words), 1, "there is no file or folder nothing.jsonl")
    assert not Path("ws").exists()
    shutil.copytree(pico_model, "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    one_sentence(langprune(*words[:4], "bare", *words[5:9], "--collect", "tokens"), 1, "bare has no tokenizer: add")


COUNT = """
import sys
from langprune_cli.__main__ import main
words = ["calibrate", "-m", "owner/model", "--lang", "uk", "--data", "hf:owner/texts", "--collect", "tokens", "--json"]
print(main([*words, *sys.argv[1:]]))
"""


def test_of_a_hub_model_only_small_files_are_fetched(
    hub: HubSite, pico_model: Path, pico_text: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(pico_text / "uk.jsonl", tmp_path / "data/train.jsonl")
    hub.add_model("owner/model", pico_model)
    hub.add_dataset("owner/texts", tmp_path / "data")

    def run(*words: str) -> tuple[Any, int]:
        done = hub.run(COUNT, *words, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        *document, code = done.stdout.splitlines()
        return json.loads("\n".join(document) or "null"), int(code)

    made, code = run()
    assert (code, made["cached"]) == (0, False)
    assert not [name for name in hub.fetched() if "safetensors" in name]
    found = read_token_counts(open_artifact(Path(made["path"]), "stats"))["uk"]
    documents = list(read_documents(str(pico_text / "uk.jsonl")))
    assert torch.equal(found.counts, dense(literal(AutoTokenizer.from_pretrained(pico_model), documents), 400))
    shutil.copy(pico_text / "en.jsonl", tmp_path / "data/train.jsonl")  # another commit: other text, another key
    hub.add_dataset("owner/texts", tmp_path / "data")
    assert run()[0]["key"] != made["key"]
    hub.stop()
    failed, code = run()
    assert (code, failed.keys()) == (1, {"schema", "error", "exit_code"})
