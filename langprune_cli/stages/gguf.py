"""GGUF, by llama.cpp's own converter: what a model's tensors are called there, and how tokenizers are told, is its to know."""

import subprocess
import sys
from pathlib import Path

from langprune_cli.errors import LangpruneError, UsageError

CONVERTER = "convert_hf_to_gguf.py"
_MAGIC = b"GGUF"  # the first bytes of such a file
_SOURCE = "https://github.com/ggml-org/llama.cpp"


def check_converter(converter: Path | None) -> Path:
    """Return the converter's path; raises UsageError where none is given, or there is none."""
    if converter is None:
        raise UsageError(
            f"--format gguf is written by llama.cpp's converter: get {_SOURCE}, and give its path with --converter "
            f"llama.cpp/{CONVERTER}"
        )
    if not converter.expanduser().is_file():
        raise UsageError(f"--converter {converter} is no file: give the path of llama.cpp's {CONVERTER}")
    return converter.expanduser().resolve()


def write_gguf(converter: Path, model: Path, file: Path) -> None:
    """Have the converter write the model folder as one GGUF file, in the 16-bit type that loses least (`--outtype auto`).

    It runs in the Python that runs this, with what it needs of packages there. Raises LangpruneError where it fails.
    """
    command = [sys.executable, str(converter), str(model), "--outfile", str(file), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's own converter
    if done.returncode == 0 and file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) == _MAGIC:
                return
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1][:300]
    raise LangpruneError(
        f"{converter} wrote no GGUF file (exit code {done.returncode}: {said}): install what it asks for into this Python, or "
        "export --format safetensors and convert that folder"
    )
