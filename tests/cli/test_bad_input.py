"""Whatever is wrong with what a user gives, the answer is one sentence, and nothing is left behind or changed."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.support.command import DRAW, langprune, one_sentence, snapshot, tree
from tests.support.text.text_corpora import write_jsonl

SMALL = {
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
T5 = {"vocab_size": 400, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def changed(model: Path, to: Path, change: Callable[[Any], None]) -> None:
    """Copy a model and change one of its linears."""
    shutil.copytree(model, to)
    tensors = load_file(model / "model.safetensors")
    change(tensors["model.layers.0.mlp.up_proj.weight"])
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory, pico_model: Path, pico_text: Path) -> Path:
    """Make a folder full of models and texts with something wrong about them."""
    here = tmp_path_factory.mktemp("bad")
    (here / "empty").mkdir()
    transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).save_pretrained(here / "bert")
    transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)).save_pretrained(here / "t5")
    weights = (pico_model / "model.safetensors").read_bytes()
    for name, data in {"header": b"\xff" * 9 + weights[9:], "truncated": weights[:-100], "nothing": b""}.items():
        shutil.copytree(pico_model, here / name)
        (here / name / "model.safetensors").write_bytes(data)
    changed(pico_model, here / "other", lambda weight: weight.mul_(2))
    changed(pico_model, here / "nan", lambda weight: weight[3, 3].fill_(torch.nan))
    shutil.copytree(pico_model, here / "config")
    (here / "config/config.json").write_text("{")
    shutil.copytree(pico_model, here / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    (here / "latin1.txt").write_bytes("Ångström".encode("latin-1"))
    (here / "cp1251.jsonl").write_bytes('{"text": "калина"}\n'.encode("cp1251"))
    (here / "empty.jsonl").touch()
    (here / "blank.txt").write_text(" \n\n ")
    write_jsonl(here / "short.jsonl", ["калина", "вітер і пісня"])
    save_file({"windows": torch.full((2, 16), 4000, dtype=torch.int32)}, here / "foreign.safetensors")
    (here / "uk.jsonl").symlink_to(pico_text / "uk.jsonl")
    return here


UK = ["--lang", "uk", "--data", "BAD/uk.jsonl", *DRAW]
SHORT = ["--data", "BAD/short.jsonl"]
MASK = ["mask", "--stats", "uk"]
# (what the user types; BAD is the folder above), exit code, and what the sentence must say
CASES: list[tuple[list[str], int, str]] = [
    # models
    (["calibrate", *UK, "-m", "BAD/nowhere"], 1, r"there is no folder .*nowhere"),
    (["calibrate", *UK, "-m", "BAD/othr"], 1, r"did you mean .*other\?"),
    (
        ["calibrate", *UK, "-m", "owner/name"],
        1,
        r"the model owner/name is not complete in the cache, and HF_HUB_OFFLINE",
    ),
    (["calibrate", *UK, "-m", "BAD/empty"], 1, r"has no config\.json"),
    (["calibrate", *UK, "-m", "BAD/uk.jsonl"], 1, r"is a file: name the folder"),
    (["calibrate", *UK, "-m", "BAD/bert"], 1, r"is not a causal language model \(BertForMaskedLM\)"),
    (["calibrate", *UK, "-m", "BAD/t5"], 1, r"is not a causal language model \(T5ForConditionalGeneration\)"),
    (["calibrate", *UK, "-m", "BAD/header"], 1, r"model\.safetensors is corrupt or truncated"),
    (["calibrate", *UK, "-m", "BAD/truncated"], 1, r"model\.safetensors is corrupt or truncated"),
    (["calibrate", *UK, "-m", "BAD/nothing"], 1, r"model\.safetensors is corrupt or truncated"),
    (["calibrate", *UK, "-m", "BAD/config"], 1, r"transformers cannot open .*config\.json"),
    (["calibrate", *UK, "-m", "BAD/mute"], 1, r"has no readable tokenizer"),
    (["score", "-m", "BAD/nan", "--method", "magnitude"], 1, r"up_proj\.weight holds values that are not finite"),
    (["mask", "-m", "BAD/nan", "--method", "magnitude"], 1, r"up_proj\.weight holds values that are not finite"),
    ([*MASK, "-m", "BAD/other"], 1, r"stats uk was made for another model"),
    (["mask", "--scores", "uk-wanda", "-m", "BAD/other"], 1, r"scores uk-wanda was made for another model"),
    (["apply", "-m", "BAD/other"], 1, r"masks uk-wanda-2x4 was made for another model"),
    (["apply", "-m", "BAD/other", "--out", "mine"], 1, r"masks uk-wanda-2x4 was made for another model"),
    (
        ["eval", "-m", "BAD/other", "--mask", "uk-wanda-2x4", *UK[:4], "--seqlen", "16"],
        1,
        r"was made for another model",
    ),
    # texts
    (["calibrate", "--lang", "uc"], 2, r"'uc' is no language: write a tag"),
    (["calibrate", "--lang", "uk", "--corpus", "c5"], 2, r"--corpus 'c5' is unknown: did you mean c4\?"),
    (["calibrate", *UK, "--corpus", "c4"], 2, r"--corpus c4 says where the text of each --lang comes from"),
    (["eval", "--lang", "de", "--corpus", "ubertext"], 1, r"ubertext has no text in German \(de\).*--data FILE"),
    (["calibrate", "--lang", "Ukriane"], 2, r"'Ukriane' is no language: .*did you mean uk \(Ukrainian\)"),
    (["calibrate"], 2, r"name a language with --lang or a text with --data"),
    (["calibrate", *UK, "--lang", "en"], 2, r"--lang was given 2 times and --data 1 time"),
    (["calibrate", "--lang", "uk"], 1, r"cannot be read offline"),
    (["calibrate", "--data", "BAD/latin1.txt"], 1, r"latin1\.txt is not UTF-8 at byte 0 \(0xc5\)"),
    (["eval", "--data", "BAD/cp1251.jsonl"], 1, r"cp1251\.jsonl is not UTF-8 at byte 10"),
    (["calibrate", "--data", "BAD/empty.jsonl"], 1, r"empty\.jsonl holds no text"),
    (["eval", "--data", "BAD/blank.txt"], 1, r"blank\.txt holds no text"),
    (
        ["calibrate", *SHORT, *DRAW, "--sampling", "document"],
        1,
        r"6 windows need as many documents of more than 16 tokens",
    ),
    (["calibrate", *SHORT, "--seqlen", "60"], 1, r"the whole text has \d+ tokens"),
    (["calibrate", *SHORT, "--seqlen", "60", "--sampling", "concat"], 1, r"the whole text has \d+ tokens"),
    (["eval", *SHORT, "--seqlen", "60"], 1, r"too few for one window of 60"),
    (["calibrate", "--data", "BAD/foreign.safetensors"], 1, r"the token id 4000 lies outside the vocabulary"),
    (["eval", "--data", "BAD/other/model.safetensors"], 1, r"has no tensor `windows`"),
    (["calibrate", "--data", "BAD/nowhere.jsonl"], 1, r"there is no file or folder .*nowhere\.jsonl"),
    (["calibrate", *UK[:-2], "--seqlen", "65"], 1, r"--seqlen 65 is longer than the context of pico, 64 tokens"),
    (["eval", *UK[:4], "--seqlen", "1000"], 1, r"longer than the context"),
    # settings
    (["score", "--method", "wonda"], 1, r"--method 'wonda' is unknown: did you mean wanda"),
    ([*MASK, "--method", "wandavariant"], 1, r"did you mean wanda-variant"),
    ([*MASK, "-s", "-0.1"], 1, r"--sparsity -0\.1 is not a fraction removed between 0 and 1"),
    ([*MASK, "-s", "1.5"], 1, r"--sparsity 1\.5 is not a fraction"),
    ([*MASK, "-s", "nan"], 1, r"--sparsity nan is not a fraction"),
    ([*MASK, "-p", "4:4"], 1, r"4:4 .*removes nothing"),
    ([*MASK, "-p", "4:2"], 1, r"4:2 .*removes nothing"),
    ([*MASK, "-p", "0:4"], 1, r"0:4 keeps none"),
    ([*MASK, "-p", "2x4"], 2, r"--pattern '2x4' is unknown: give unstructured, N:M.*, vocab$"),
    ([*MASK, "-p", "2:4", "-s", "0.6"], 2, r"--sparsity 0\.6 contradicts --pattern 2:4"),
    ([*MASK, "-p", "2:4", "--group", "row"], 2, r"--group row does not go with --pattern 2:4"),
    ([*MASK, "--group", "rows"], 2, r"--group 'rows' is unknown: did you mean row"),
    ([*MASK, "--exclude", "["], 2, r"--exclude '\[' is not a regular expression"),
    ([*MASK, "--exclude", "(.|[a-z])*[A-Z]"], 2, "--exclude .* takes more than 1 second to match one name"),
    ([*MASK, "--exclude", "proj"], 1, r"leaves nothing to prune"),
    ([*MASK, "--scores", "uk-wanda"], 2, r"--scores .*--stats"),
    (["calibrate", *UK, "--dtype", "float31"], 2, r"--dtype 'float31' is unknown: did you mean float32"),
    (["calibrate", *UK, "--device", "coda"], 1, r"this machine has no --device coda"),
    (["calibrate", *UK, "--device", "meta"], 1, r"this machine has no --device meta"),
    (["calibrate", *UK, "--sampling", "tokens"], 2, "--sampling 'tokens' is unknown"),
    (["apply", "--max-shard-size", "lots"], 2, r"--max-shard-size 'lots' is not a size"),
    # names
    ([*MASK, "--name", "../../mine"], 2, r"'\.\./\.\./mine' cannot name an artifact"),
    (["apply", "--out", "mine", "--name", "/mine"], 2, r"'/mine' cannot name an artifact"),
    (["rm", "masks/../stats"], 2, r"cannot name an artifact"),
    (["mask", "--stats", "ukr"], 1, r"no stats artifact is called 'ukr': did you mean uk\?"),
    (["mask", "--scores", "uk-wnada"], 1, r"did you mean uk-wanda\?"),
    (["apply", "--mask", "uk-wanda-2x"], 1, r"did you mean uk-wanda-2x4\?"),
    (["eval", "--mask", "uk-wanda-2x", *UK[:4]], 1, r"did you mean uk-wanda-2x4\?"),
    (["export", "--model", "uk-wanda-24", "--out", "mine"], 1, r"did you mean uk-wanda-2x4\?"),
    (["show", "uk-wanda-24"], 1, r"no artifact is called 'uk-wanda-24': did you mean uk-wanda-2x4"),
    (["show", "stats/ukr"], 1, r"no stats artifact is called 'ukr': did you mean uk\?"),
    (["rm", "stats/ukr"], 1, r"no stats artifact is called 'ukr': did you mean uk\?"),
    (["rm", "uk", "nothing"], 1, r"no artifact is called 'nothing'"),  # and uk stays
    (["ls", "mask"], 2, r"'mask' is not a kind of artifact: did you mean masks"),
]


@pytest.mark.parametrize(("words", "code", "says"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip # noqa: E501
def test_one_sentence_and_nothing_changed(
    workspace: Path, bad: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    before = snapshot(tmp_path)
    one_sentence(langprune(*(word.replace("BAD", str(bad)) for word in words), "-w", workspace), code, says)
    assert snapshot(tmp_path) == before
    assert {path.name for path in (workspace / "masks").iterdir()} == {"uk-wanda-2x4"}
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["score"], r"has no stats: run langprune calibrate --lang LANGUAGE first"),
        (["mask"], r"has no stats: run langprune calibrate --lang LANGUAGE first"),
        (["apply"], r"has no masks: run langprune mask first"),
        (["export", "--out", "mine"], r"has no models: run langprune apply first"),
        (["show", "uk"], r"no artifact is called 'uk': langprune-workspace is empty"),
    ],
)
def test_stages_before_their_time(tmp_path: Path, words: list[str], says: str) -> None:
    one_sentence(langprune(*words), 1, says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["export"], "--out"),
        (["mask", "--patern", "2:4"], "--pattern"),
        (["prun"], "prun"),
        (["show"], "NAME"),
        (["calibrate", "--nsamples", "0"], "--nsamples"),
        (["eval", "--seqlen", "1"], "--seqlen"),
        (["mask", "-s", "half"], "--sparsity"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage(tmp_path: Path, words: list[str], names: str) -> None:
    done = langprune(*words)
    assert (done.code, done.out) == (2, "")
    assert names.lower() in done.err.splitlines()[-1].lower()
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 7, "tool": "langprune 9"}'])
def test_damaged_manifest(workspace: Path, text: str, bad: Path) -> None:
    (workspace / "stats/uk/manifest.json").write_text(text)
    before = tree(workspace)
    says = (
        r"has schema 7, this langprune .* reads schema 1"
        if "7" in text
        else r"manifest\.json is not a langprune manifest"
    )
    one_sentence(langprune("mask", "-w", workspace, "--stats", "uk"), 1, says)
    one_sentence(langprune("calibrate", "-w", workspace, *(w.replace("BAD", str(bad)) for w in UK)), 1, says)
    one_sentence(langprune("show", "-w", workspace, "stats/uk"), 1, says)
    assert tree(workspace) == before


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_manifest_with_what_is_no_number(workspace: Path, number: str) -> None:
    """Python reads these from JSON, and nothing can be hashed of them."""
    manifest = workspace / "stats/uk/manifest.json"
    manifest.write_text(manifest.read_text().replace('"about": {', f'"about": {{"x": {number}, '))
    says = r"manifest\.json is not a langprune manifest"
    one_sentence(langprune("mask", "-w", workspace, "--stats", "uk"), 1, says)
    assert "is not a langprune manifest" in langprune("verify", "-w", workspace, "--all").out


def test_damaged_part(workspace: Path) -> None:
    path = workspace / "stats/uk/block-001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = langprune("mask", "-w", workspace, "--stats", "uk", "-p", "4:8")
    one_sentence(
        done,
        1,
        r"uk/block-001\.safetensors is damaged \(\d+ bytes where \d+ were written\): run langprune calibrate again",
    )


@pytest.mark.parametrize("named", [[], ["-m", "BAD/other"]], ids=["remembered", "named"])
def test_damaged_record_of_the_model(workspace: Path, bad: Path, named: list[str]) -> None:
    (workspace / "workspace.json").write_text("{")
    before = snapshot(workspace)
    words = [word.replace("BAD", str(bad)) for word in [*UK, "--seed", "5", *named]]
    one_sentence(langprune("calibrate", "-w", workspace, *words), 1, r"workspace\.json is damaged: remove it")
    assert snapshot(workspace) == before


def test_workspace_that_is_a_file(tmp_path: Path, pico_model: Path, bad: Path) -> None:
    (tmp_path / "ws").write_text("mine")
    words = [word.replace("BAD", str(bad)) for word in UK]
    one_sentence(langprune("calibrate", "-w", tmp_path / "ws", "-m", pico_model, *words), 1, str(tmp_path / "ws"))
    assert (tmp_path / "ws").read_text() == "mine"


def test_the_exit_code_of_the_process(tmp_path: Path) -> None:
    for words, code in ((["mask", "-p", "4:4"], 1), (["export"], 2)):
        command = [sys.executable, "-m", "langprune_cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
