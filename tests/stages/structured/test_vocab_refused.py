"""What `--pattern vocab` does not take: options without effect, text, models and statistics that do not go with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.vocabulary_rows import VocabularyRows
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.pico import save_pico
from tests.support.text import vocabulary_trimming
from tests.support.text.text_corpora import word_piece
from tests.support.text.vocabulary_trimming import english

# Fixtures, under the names by which tests ask for them.
text, dense = vocabulary_trimming.text, vocabulary_trimming.dense
cut, here = vocabulary_trimming.cut, vocabulary_trimming.here


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "wanda"], "--method has no use"), (["--sparsity", "0.5"], "--sparsity has no use"),
        (["--variant"], "--variant has no use"), (["--group", "row"], "--group has no use"),
        (["--ties", "exact"], "--ties has no use"), (["--exclude", "x"], "--exclude has no use"),
        (["--refine", "dsnot"], "--refine has no use"), (["--allocation", "owl"], "--allocation has no use"),
        (["--damping", "0.1"], "--damping has no use"), (["--min-expert-tokens", "5"], "--min-expert-tokens has no use"),
        (["--round", "nearest"], "--round has no use"),
        (["--pattern", "2:4"], "tokens need a mask of their own: .* then for 2:4"),
        (["--pattern", "vocab"], "--pattern vocab is given twice"),
        (["--coverage", "0.9", "--vocab-size", "500"], "--coverage and --vocab-size both set"),
        (["--coverage", "0"], "--coverage 0 is no share"), (["--coverage", "nan"], "--coverage nan is no share"),
        (["--coverage", "1.5"], "--coverage 1.5 is no share"), (["--vocab-size", "0"], "--vocab-size 0 is no number"),
        (["--vocab-size", "100", "--round-to", "1"], "--vocab-size 100 is less than the [0-9]+ tokens that have to stay"),
    ],
)  # fmt: skip
def test_what_mask_refuses(words: list[object], says: str, cut: Path) -> None:
    before = tree(cut)
    one_sentence(langprune("mask", "--pattern", "vocab", *words, "-w", cut), 2, says)
    assert tree(cut) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("mask --pattern 2:4 --coverage 0.5", 2, "--coverage goes with --pattern vocab only"),
        ("mask --pattern channels --vocab-size 500", 2, "--vocab-size goes with --pattern vocab only"),
        ("mask --pattern wocab", 2, "'wocab' is unknown"),
        ("apply --tune", 2, "have no effect when tokens are pruned"),
        ("apply --update pcg", 2, "have no effect when tokens are pruned"),
        ("apply --damping 0.1", 2, "have no effect when tokens are pruned"),
        ("apply --stats en-tokens", 2, "--stats en-tokens has no use for --update none"),
        ("eval --mask en-tokens-vocab TEST", 1, "mask en-tokens-vocab removes tokens, which eval cannot do on the fly"),
        ("plan --pattern vocab --sparsity 0.5", 2, "--sparsity 0.5 has no use when only tokens are pruned"),
        ("plan --pattern vocab --round nearest", 2, "--round nearest is for channels"),
        ("plan --stats en-tokens", 2, "--stats en-tokens goes with --pattern vocab only"),
        ("plan --coverage 0.5", 2, "--coverage goes with --pattern vocab only"),
        ("prune TEXT --pattern vocab --tune", 2, "--tune has nothing to train if only tokens leave"),
        ("prune TEXT --pattern vocab --update pcg", 2, "--update has no effect if only tokens leave"),
        ("prune TEXT --pattern vocab --pattern blocks:0.34 --update pcg", 2, "--update pcg goes with patterns of weights"),
        ("prune TEXT --pattern vocab --method admm", 2, "--method has no effect if only tokens leave"),
        ("prune TEXT --pattern vocab --variant", 2, "--variant, --damping and --min-expert-tokens have no effect if only"),
        ("prune TEXT --pattern vocab --damping 0.1", 2, "--variant, --damping and --min-expert-tokens have no effect if only"),
        ("prune TEXT --pattern vocab --group row", 2, "--group has no effect if only tokens leave"),
        ("prune TEXT --pattern vocab --allocation owl", 2, "--allocation has no effect if only tokens leave"),
        ("prune TEXT --pattern vocab --round nearest", 2, "--round nearest is for channels or kv-groups"),
        ("prune TEXT --pattern vocab --nsamples 5 --seqlen 9 --propagation dense", 2, "out --nsamples, --seqlen, --propagation$"),
        ("prune TEXT --pattern 2:4 --max-tokens 50", 2, "--max-tokens goes with --pattern vocab only"),
        ("prune TEXT --pattern 2:4 --coverage 0.5", 2, "--coverage goes with --pattern vocab only"),
        ("prune --data windows.safetensors --pattern vocab --pattern 2:4", 2, "holds ids of the whole vocabulary"),
        ("export --model en-tokens-vocab --out out --with-mask", 1, "removes whole parts of the model"),
    ],
)  # fmt: skip
def test_what_commands_refuse(words: str, code: int, says: str, here: Path, text: Path) -> None:
    save_file({"windows": torch.zeros((4, 16), dtype=torch.int32)}, "windows.safetensors")
    places = {"TEXT": english(text), "TEST": ["--lang", "en", "--data", text / "en.test.jsonl", "--seqlen", "32"]}
    done = langprune(*[part for word in words.split() for part in places.get(word, [word])], "-w", here)
    one_sentence(done, code, says)


def test_windows_of_ids_are_counted(dense: Path, tmp_path: Path) -> None:
    save_file({"windows": torch.arange(60, 92, dtype=torch.int32).view(2, 16)}, tmp_path / "windows.safetensors")
    words = [
        "-m",
        dense,
        "--data",
        "windows.safetensors",
        "--pattern",
        "vocab",
        "--round-to",
        "1",
        "-w",
        tmp_path / "w",
    ]
    assert did("prune", *words, "--json").json["artifacts"][-1]["about"]["vocabulary"]["languages"][0]["tokens"] == 32


def without_fast_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    vocabulary = {f"t{i}": i for i in range(1604)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "CTRLTokenizer", "unk_token": "t0"})
    )


def of_word_pieces(folder: Path) -> None:
    word_piece().save_pretrained(folder)


def too_many(folder: Path) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    described["added_tokens"] += [
        described["added_tokens"][-1] | {"content": f"<{i}>", "id": i} for i in range(1604, 1620)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(described))


def beyond(folder: Path) -> None:
    record = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(record | {"pad_token_id": 5000}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_fast_files, "has no tokenizer.json, without which a vocabulary cannot be trimmed"),
        (of_word_pieces, "describes a WordPiece, whose vocabulary cannot be trimmed"),
        (too_many, "the id 1619 is named by the model's files, and its embeddings have 1616 rows"),
        (beyond, "the id 5000 is named by the model's files, and its embeddings have 1616 rows"),
    ],
)
def test_models_that_cannot_be_trimmed(
    change: Callable[[Path], None], says: str, dense: Path, text: Path, tmp_path: Path
) -> None:
    shutil.copytree(dense, tmp_path / "other")
    change(tmp_path / "other")
    words = ["-m", tmp_path / "other", *english(text), "-w", tmp_path / "w"]
    one_sentence(langprune("prune", *words, "--pattern", "vocab"), 1, says)
    assert not [path for kind in ("masks", "models") for path in (tmp_path / "w" / kind).glob("*/*")]


def test_statistics_that_do_not_fit(here: Path, dense: Path, text: Path, pico_model: Path, pico_text: Path) -> None:
    did("calibrate", "-m", dense, *english(text), *DRAW, "--name", "norms", "-w", here)
    other = ["-m", pico_model, "--lang", "uk", "--data", pico_text / "uk.jsonl"]
    did("calibrate", *other, "--collect", "tokens", "-w", here)
    vocab = ["mask", "--pattern", "vocab", "-w", here]
    one_sentence(
        langprune(*vocab, "--stats", "norms"), 1, "--pattern vocab needs token counts, and stats norms hold none"
    )
    refused = langprune(*vocab, "-m", dense, "--stats", "uk-tokens")
    one_sentence(refused, 1, "stats uk-tokens hold counts made with another tokenizer")
    refused = langprune("mask", "--method", "wanda", "--stats", "en-tokens", "-w", here)
    one_sentence(refused, 1, "needs statistics of the model, and stats en-tokens hold only token counts")
    one_sentence(
        langprune("mask", "--pattern", "vocab", "-w", "empty"), 1, "has no token counts: run langprune calibrate"
    )
    refused = langprune("apply", "--mask", "en-tokens-vocab", "-m", pico_model, "-w", here)
    one_sentence(refused, 1, "masks en-tokens-vocab was made for another model")


def test_a_configuration_that_changed_since_the_mask(here: Path, dense: Path, tmp_path: Path) -> None:
    shutil.copytree(dense, tmp_path / "other")
    record: dict[str, Any] = json.loads((dense / "generation_config.json").read_text())
    gone = next(
        i for i in range(1600) if i not in load_file(here / "masks/en-tokens-vocab/vocabulary.safetensors")["stay"]
    )
    (tmp_path / "other/generation_config.json").write_text(json.dumps(record | {"eos_token_id": gone}))
    refused = langprune("apply", "--mask", "en-tokens-vocab", "-m", tmp_path / "other", "-w", here, "--name", "x")
    one_sentence(refused, 1, f"generation_config.json names the token id {gone}, which the mask does not keep")


def test_numbers_of_each_tokens_experts_are_not_trimmed(tmp_path: Path) -> None:
    save_pico("deepseek_v4", tmp_path)
    with pytest.raises(LangpruneError, match=r"holds model\..*tid2eid, which numbers experts by token"):
        VocabularyRows(StreamedModel(tmp_path), range(96)).names  # noqa: B018 - it is computed when it is read
