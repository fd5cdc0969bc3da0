"""`export --format gguf`, and options of `export` that do not go together.

The converter here is a stand-in that records its arguments: llama.cpp's own is not at hand.
"""

import json
from pathlib import Path

import pytest
import yaml

from langprune_cli.store.artifact import open_artifact
from tests.conftest import Done, did, langprune, one_sentence

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
        ([], "name a folder with --out, or a repository with --push-to-hub|give one, or both"),
        (["--out", "x", "--public"], "--public goes with --push-to-hub"),
        (["--out", "x", "--converter", "c.py"], "--converter goes with --format gguf"),
        (["--out", "x", "--format", "gguf"], "github.com/ggml-org/llama.cpp, and give its path with --converter"),
        (["--out", "x", "--format", "gguf", "--converter", "c.py"], "--converter c.py is no file"),
        (["--out", "x", "--format", "ggfu"], "did you mean gguf"),
    ],
)
def test_options_that_do_not_go_together(workspace: Path, words: list[str], says: str) -> None:
    one_sentence(langprune("export", "-w", workspace, *words), 2, says)
