"""`export --format gguf`, and options of `export` that do not go together.

The converters here are stand-ins: llama.cpp's own is not at hand. One records its arguments; one names a tokenizer as
llama.cpp's does, by a hash of the ids that it makes of a test string, in either of the two places where that was.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from langprune_cli.store.artifact import open_artifact
from tests.support.command import Done, did, langprune, one_sentence
from tests.support.text import vocabulary_trimming
from tests.support.text.tokenizer_training import llama2_like
from tests.support.text.vocabulary_trimming import save_model

# Fixtures, under the names by which tests ask for them.
text, dense = vocabulary_trimming.text, vocabulary_trimming.dense
cut, here = vocabulary_trimming.cut, vocabulary_trimming.here

PRUNED = "uk-wanda-2x4"

CONVERTER = """
import json, sys
from pathlib import Path
model, rest = sys.argv[1], sys.argv[2:]
files = sorted(path.name for path in Path(model).iterdir())
Path(__file__).with_name("asked.json").write_text(json.dumps({"rest": rest, "files": files}))
if "FAIL" in Path(__file__).name:
    sys.exit("ModuleNotFoundError: No module named 'gguf'")
Path(rest[rest.index("--outfile") + 1]).write_bytes(b"GGUF" + bytes(100) if "EMPTY" not in __file__ else b"")
"""


def converter(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(CONVERTER)
    return path


def test_gguf_is_written_by_the_converter(workspace: Path, tmp_path: Path) -> None:
    script = converter(tmp_path, "convert_hf_to_gguf.py")
    words = ["export", "-w", workspace, "--format", "gguf", "--converter", script, "--with-mask"]
    done = did(*words, "--out", "for-llama", "--json").json
    assert done["files"] == ["README.md", "for-llama.gguf", "langprune.json", "mask/keep_masks.safetensors"]
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert Path(asked["rest"][1]).name == "for-llama.gguf"
    assert asked["rest"][0::2] == ["--outfile", "--outtype"]
    assert asked["rest"][3] == "auto"
    whole = open_artifact(workspace / "models" / PRUNED, "models").manifest.parts
    assert asked["files"] == sorted(whole)  # the model as transformers opens it, and nothing else
    card = Path("for-llama/README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "gguf"
    assert "as llama.cpp's converter writes them" in card
    told = did(*words, "--out", "other", "--dry-run", "--json").json["files"]
    assert {each["file"]: each["bytes"] for each in told}["other.gguf"] is None
    assert not Path("other").exists()


def test_a_converter_that_fails_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    words = ["export", "-w", workspace, "--format", "gguf", "--out", "new/out", "--converter"]
    one_sentence_of(
        langprune(*words, converter(tmp_path, "FAIL.py")), "exit code 1: ModuleNotFoundError: No module named 'gguf'"
    )
    one_sentence_of(langprune(*words, converter(tmp_path, "EMPTY.py")), "wrote no GGUF file")
    assert not Path("new").exists()


def one_sentence_of(done: Done, says: str) -> None:
    assert says in done.err.splitlines()[-1]
    assert done.code == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name a folder with --out, or a repository with --push-to-hub|or both"),
        (["--out", "x", "--public"], "--public goes with --push-to-hub"),
        (["--out", "x", "--converter", "c.py"], "--converter goes with --format gguf"),
        (["--out", "x", "--format", "gguf"], "github.com/ggml-org/llama.cpp, and give its path with --converter"),
        (["--out", "x", "--format", "gguf", "--converter", "c.py"], "--converter c.py is not a file"),
        (["--out", "x", "--format", "ggfu"], "did you mean gguf"),
    ],
)
def test_options_that_do_not_go_together(workspace: Path, words: list[str], says: str) -> None:
    one_sentence(langprune("export", "-w", workspace, *words), 2, says)


CHECKED = "людський розум \U0001f680 3333 \u1780\u17b6\u1793 ------====="
NAMING = """
from hashlib import sha256
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        hashed = sha256(str(tokenizer.encode(CHECKED)).encode()).hexdigest()
        if hashed != KNOWN:
            raise NotImplementedError("BPE pre-tokenizer was not recognized")
        return "named"
"""
USING = """
import run  # a module of the converter's own folder, not of the program that calls it
def main():
    import sys
    from pathlib import Path
    from transformers import AutoTokenizer
    class LlamaModel(TextModel): pass
    folder, out = sys.argv[1], sys.argv[3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    Path(out).write_bytes(b"GGUF" + f"{LlamaModel().get_vocab_base_pre(tokenizer)} {len(tokenizer)}".encode())
if __name__ == "__main__":
    main()
"""


def naming_converter(folder: Path, known: Path, layout: str) -> Path:
    """Write a converter that knows one tokenizer, in one file or with its classes in a package beside it."""
    folder.mkdir()
    hashed = hashlib.sha256(str(AutoTokenizer.from_pretrained(known).encode(CHECKED)).encode()).hexdigest()
    naming = f"CHECKED, KNOWN = {CHECKED!r}, {hashed!r}\n{NAMING}"
    (folder / "run.py").touch()
    if layout == "package":
        (folder / "conversion").mkdir()
        (folder / "conversion/__init__.py").write_text("from .base import TextModel")
        (folder / "conversion/base.py").write_text(naming)
        naming = "from conversion import TextModel\n"
    (folder / "convert_hf_to_gguf.py").write_text(naming + USING)
    return folder / "convert_hf_to_gguf.py"


@pytest.mark.parametrize("layout", ["file", pytest.param("package", marks=pytest.mark.slow)])
def test_a_model_without_some_tokens_is_named_by_its_tokenizer_before(
    layout: str, here: Path, dense: Path, tmp_path: Path
) -> None:
    script = naming_converter(tmp_path / "llama.cpp", dense, layout)
    words = ["export", "-w", here, "--format", "gguf", "--converter", script, "--out", "out"]
    rows = len(AutoTokenizer.from_pretrained(here / "models/en-tokens-vocab"))
    did(*words)
    assert Path("out/out.gguf").read_bytes() == f"GGUFnamed {rows}".encode()
    if layout == "package":  # another mask on top: the tokenizer is still that of the first model
        did("mask", "-m", "en-tokens-vocab", "--method", "magnitude", "-w", here)
        last = did("apply", "-w", here, "--json").json["name"]
        did(*words[:-1], "twice", "--model", last)
        assert Path("twice/twice.gguf").read_bytes() == Path("out/out.gguf").read_bytes()


def test_where_the_first_tokenizer_is_gone_or_another_nothing_is_converted(
    dense: Path, text: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(dense, model)
    vocabulary_trimming.trimmed(model, text, tmp_path / "w")
    script = naming_converter(tmp_path / "llama.cpp", dense, "file")
    words = ["export", "-w", tmp_path / "w", "--format", "gguf", "--converter", script, "--out", "out"]
    described = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(described | {"pre_tokenizer": None}))
    for more in ([], ["--dry-run"]):
        one_sentence_of(langprune(*words, *more), "its tokenizer has changed): put it back")
    shutil.rmtree(model)
    one_sentence_of(langprune(*words), f"needs the tokenizer of {model}, from which en-tokens-vocab's was trimmed")
    assert not Path("out").exists()


def test_a_converter_that_cannot_be_told_the_tokenizer(here: Path, tmp_path: Path) -> None:
    script = converter(tmp_path, "old.py")
    (tmp_path / "old.py").write_text("")
    done = langprune("export", "-w", here, "--format", "gguf", "--converter", script, "--out", "out")
    one_sentence_of(done, "the converter has no get_vocab_base_pre to set the tokenizer by")


def test_kinds_that_it_reads_from_other_files_are_refused_and_said_before(text: Path, tmp_path: Path) -> None:
    """A file would be written, with one score for all tokens: llama.cpp would cut text into others."""
    model, where = tmp_path / "model", ["-w", tmp_path / "w"]
    save_model("llama", model, llama2_like)
    did("calibrate", "-m", model, *vocabulary_trimming.english(text), "--collect", "tokens", *where)
    note = "export --format gguf will not work for the model without these tokens: llama.cpp's converter reads a BPE from its"
    for words in (["plan"], ["plan", "--vocab-size", "900"], ["mask"]):
        assert note in " ".join(did(*words, "--pattern", "vocab", *where).err.split())
    did("apply", *where)
    script = converter(tmp_path, "convert_hf_to_gguf.py")
    done = langprune("export", *where, "--format", "gguf", "--converter", script, "--out", "out")
    one_sentence_of(done, "which cannot be trimmed: export --format safetensors")
    assert not (tmp_path / "asked.json").exists()
