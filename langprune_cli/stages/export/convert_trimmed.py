"""Runs llama.cpp's converter on a model without some tokens; called with CONVERTER DENSE ARGUMENTS...

The converter writes into a GGUF file how text is split before bytes are merged, and knows that by a hash: of the ids that
the tokenizer makes of a test string. Without some tokens these are other ids. How text is split is still the same, so here
the tokenizer of the folder DENSE, which has all tokens, is asked for them.
"""

import importlib.util
import sys
from pathlib import Path

_METHOD = (
    "get_vocab_base_pre"  # its argument is the tokenizer; in convert_hf_to_gguf.py itself, later in conversion/base.py
)


def main() -> None:
    """Import the converter as its own folder has it, and run it; exits with a sentence where it has no such method."""
    converter, dense, *arguments = sys.argv[1:]
    sys.path[0] = str(Path(converter).parent)  # it was the folder of this file, whose modules are not the converter's
    sys.argv = [converter, *arguments]
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", converter)
    module = importlib.util.module_from_spec(spec) if spec and spec.loader else None
    if spec and spec.loader and module:
        sys.modules["convert_hf_to_gguf"] = module
        spec.loader.exec_module(module)
    from transformers import AutoTokenizer  # noqa: PLC0415 - after the path is the converter's

    tokenizer = AutoTokenizer.from_pretrained(dense, local_files_only=True)
    run = getattr(module, "main", None)
    if not _ask_instead(tokenizer) or run is None:
        sys.exit(f"it has no {_METHOD}, by which it would be told the tokenizer: a llama.cpp of this year has")
    run()


def _ask_instead(tokenizer: object) -> bool:
    """Have every class that names tokenizers ask this one; return whether there is any."""
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
