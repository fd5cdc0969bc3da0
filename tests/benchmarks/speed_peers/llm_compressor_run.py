"""llm-compressor on the benchmark's model and windows. Runs in llm-compressor's own virtual environment, by its path.

python llm_compressor_run.py MODEL WINDOWS wanda|sparsegpt OUT REPORT
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MODIFIERS = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}


def main() -> None:
    """Prune one model, and write to REPORT how long it took from reading to having written it."""
    source, windows, method, out, report = sys.argv[1:]
    begun = time.perf_counter()
    ids = load_file(windows)["windows"]
    oneshot(
        model=LlamaForCausalLM.from_pretrained(source, dtype="auto"),
        # oneshot insists on a tokenizer, though the windows are token ids already: any will do.
        processor=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({}))),
        dataset=Dataset.from_dict({"input_ids": ids.tolist()}),
        # With only `lm_head` the head is pruned all the same: names are matched with a dot behind them.
        recipe=MODIFIERS[method](sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["re:.*lm_head"]),
        pipeline="sequential",
        batch_size=1,  # the fastest of 1, 4 and 8 on a CPU
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
        shuffle_calibration_samples=False,
        output_dir=out,
        save_compressed=False,
    )
    seconds = time.perf_counter() - begun
    versions = {name: version(name) for name in ("llmcompressor", "torch", "transformers")}
    Path(report).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
