"""Runs llama.cpp's converter on a model with a trimmed vocabulary; called with CONVERTER DENSE ARGUMENTS...

The converter writes the tokenizer's pre-splitting of text into the GGUF file, and identifies it by a hash of a test string's
token ids. Trimming changes the ids but not the splitting, so this module lets the full tokenizer in the folder DENSE encode the
string.
"""

import importlib.util
import sys
from pathlib import Path

_METHOD = "get_vocab_base_pre"  # gets the tokenizer; in convert_hf_to_gguf.py, in later versions in conversion/base.py


def main() -> None:
    """Import the converter from its own folder and run it; exits with a sentence if it lacks the method."""
    converter, dense, *arguments = sys.argv[1:]
    sys.path[0] = str(Path(converter).parent)  # instead of this file's folder
    sys.argv = [converter, *arguments]
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", converter)
    module = importlib.util.module_from_spec(spec) if spec and spec.loader else None
    if spec and spec.loader and module:
        sys.modules["convert_hf_to_gguf"] = module
        spec.loader.exec_module(module)
    from transformers import AutoTokenizer  # noqa: PLC0415 - after the path is set

    tokenizer = AutoTokenizer.from_pretrained(dense, local_files_only=True)
    run = getattr(module, "main", None)
    if not _ask_instead(tokenizer) or run is None:
        sys.exit(f"the converter has no {_METHOD} to set the tokenizer by: get a recent llama.cpp")
    run()


def _ask_instead(tokenizer: object) -> bool:
    """Make every class that identifies tokenizers use this one; return whether there is any."""
    classes = {
        each for module in list(sys.modules.values()) for each in vars(module).values() if isinstance(each, type)
    }
    found = [each for each in classes if _METHOD in vars(each)]
    for each in found:
        named = getattr(each, _METHOD)
        setattr(each, _METHOD, lambda self, _trimmed, named=named: named(self, tokenizer))
    return bool(found)


if __name__ == "__main__":
    main()
