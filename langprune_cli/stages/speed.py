"""How fast models run in stock transformers, and what they take: `eval --speed`."""

import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import DTYPES, Checkpoint
from langprune_cli.models.model_files import weight_files
from langprune_cli.models.skeleton import read_config

_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Speed:
    """One model's speed and size; the seconds of every repeat, so that their spread can be seen."""

    parameters: int  # tied ones once
    weight_bytes: int  # of the parameters in memory
    file_bytes: int  # of the safetensors files on disk
    dtype: str
    device: str
    batch: int  # sequences at a time
    prompt: int  # tokens of each that are read at once
    new_tokens: int  # tokens of each that are made one by one
    prefill_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]

    @property
    def prefill(self) -> float:
        """Return the tokens of prompts that were read in a second, of all sequences together."""
        return self.batch * self.prompt / median(self.prefill_seconds)

    @property
    def decode(self) -> float:
        """Return the tokens that were made in a second, of all sequences together."""
        return self.batch * self.new_tokens / median(self.decode_seconds)


def compare(
    folders: dict[str, Path],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch: int = 1,
    prompt: int = 512,
    new_tokens: int = 32,
    repeats: int = 5,
    trust_remote_code: bool = False,
) -> dict[str, Speed]:
    """Measure models, all of them in memory, turn by turn, so that a machine that slows down meanwhile slows all alike.

    folders: label -> folder. dtype: to compute in, None for each checkpoint's own. One repeat reads `batch` prompts of
    `prompt` random tokens, the same for all models, and then makes `new_tokens` more of each, the likeliest one every time,
    from the cache of keys and values; a token that ends a text does not end this. The first repeat is a warm-up and does
    not count. What is run is `AutoModelForCausalLM.from_pretrained`, and of a prompt only the last position's logits are
    made, as `generate` does.

    Raises LangpruneError for what `Checkpoint` and `read_config` refuse, numbers below 1, more tokens than a model's
    context, a model that does not load, and models that do not fit in memory together.
    """
    device = torch.device(device)
    for name, number in {"batch": batch, "prompt": prompt, "new tokens": new_tokens, "repeats": repeats}.items():
        if number < 1:
            raise LangpruneError(f"{number} {name} leaves nothing to measure: give 1 or more")
    configs = {label: read_config(each, trust_remote_code=trust_remote_code) for label, each in folders.items()}
    for label, config in configs.items():
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        if context and prompt + new_tokens > context:
            raise LangpruneError(
                f"{prompt} tokens and {new_tokens} new ones are more than the context of {label}, {context}: ask for fewer"
            )
    sizes = {label: weight_bytes(each, dtype) for label, each in folders.items()}
    _check_memory(sizes, device)
    for label, size in sizes.items():  # each is read into the memory of the CPU, and moved from there
        _check_memory({label: size}, torch.device("cpu"))
    vocabulary = min((config.get_text_config().vocab_size for config in configs.values()), default=1)
    ids = torch.randint(0, vocabulary, (batch, prompt), generator=torch.Generator().manual_seed(0)).to(device)
    models = {label: _load(each, device, dtype, trust=trust_remote_code) for label, each in folders.items()}
    seconds: dict[str, list[tuple[float, float]]] = {label: [] for label in models}
    for _ in range(1 + repeats):
        for label, model in models.items():
            seconds[label].append(timed_run(model, ids, new_tokens)[1])
    return {
        label: Speed(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
            file_bytes=sum((folders[label] / file).stat().st_size for file in weight_files(folders[label])),
            dtype=str(model.dtype).removeprefix("torch."),
            device=device.type,
            batch=batch,
            prompt=prompt,
            new_tokens=new_tokens,
            prefill_seconds=tuple(prefill for prefill, _ in seconds[label][1:]),
            decode_seconds=tuple(decode for _, decode in seconds[label][1:]),
        )
        for label, model in models.items()
    }


def speed_rows(speeds: dict[str, Speed]) -> list[dict[str, Any]]:
    """Return one row per model, ready for JSON.

    The factors are how many times as fast as the first model it is, the median over repeats: the two turns of one repeat
    were taken side by side, and share what else the machine was doing.
    """
    rows, first = [], None
    for label, speed in speeds.items():
        first = first or speed
        rows.append(
            {
                "model": label,
                "parameters": speed.parameters,
                "weight_bytes": speed.weight_bytes,
                "file_bytes": speed.file_bytes,
                "prefill": speed.prefill,
                "prefill_factor": _factor(first.prefill_seconds, speed.prefill_seconds),
                "decode": speed.decode,
                "decode_factor": _factor(first.decode_seconds, speed.decode_seconds),
                "dtype": speed.dtype,
                "device": speed.device,
                "batch": speed.batch,
                "prompt": speed.prompt,
                "new_tokens": speed.new_tokens,
                "prefill_seconds": list(speed.prefill_seconds),
                "decode_seconds": list(speed.decode_seconds),
            }
        )
    return rows


def _factor(first: tuple[float, ...], seconds: tuple[float, ...]) -> float:
    return median(a / b for a, b in zip(first, seconds, strict=True))


def timed_run(
    model: Any,  # noqa: ANN401 - transformers is untyped
    ids: Tensor,  # int64 [b, p], on the model's device
    new_tokens: int,
) -> tuple[Tensor, tuple[float, float]]:  # int64 [b, 1 + new_tokens]; seconds
    """Read prompts and go on from them; return what was made, and the seconds of reading and of making.

    Reading gives the first token after the prompts; each step that follows reads one and gives the next.
    """
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    made = []
    with torch.inference_mode():
        begun = _now(ids.device)
        output = model(input_ids=ids, use_cache=True, **only_last)
        made.append(output.logits[:, -1:].argmax(-1))
        read = _now(ids.device)
        for _ in range(new_tokens):
            output = model(input_ids=made[-1], past_key_values=output.past_key_values, use_cache=True)
            made.append(output.logits[:, -1:].argmax(-1))
        done = _now(ids.device)
    return torch.cat(made, dim=1), (read - begun, done - read)


def _now(device: torch.device) -> float:
    """Return the time once the device has done all that it was told to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def weight_bytes(folder: Path, dtype: torch.dtype | None) -> int:
    """Return the bytes of a checkpoint's tensors in `dtype`, None for their own; raises LangpruneError as `Checkpoint`."""
    checkpoint = Checkpoint(folder)
    return sum(
        checkpoint.elements(name) * (dtype or DTYPES[entry.dtype]).itemsize
        for name, entry in checkpoint.entries.items()
    )


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is to be had on a device, None where that cannot be known."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # not on every system
        return None


def _check_memory(sizes: dict[str, int], device: torch.device) -> None:
    """Raise LangpruneError where the weights alone take more memory than there is."""
    free, need = free_bytes(device), sum(sizes.values())
    if free is not None and need > free:
        raise LangpruneError(
            f"the weights of {' and '.join(sizes)} take {need:,} bytes of memory and {free:,} are free on {device.type}: end "
            "other programs, choose a smaller --dtype, or measure on another machine"
        )


def _load(folder: Path, device: torch.device, dtype: torch.dtype | None, *, trust: bool) -> Any:  # noqa: ANN401 - untyped
    """Load a model as its users do, tensor by tensor; raises LangpruneError where transformers cannot."""
    with _no_bars():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or "auto", local_files_only=True, use_safetensors=True, trust_remote_code=trust
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise LangpruneError(f"{folder} does not load in transformers ({reason}): check the model") from error
    return model.eval().to(device)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' own progress bars off the screen."""
    shown = logging.is_progress_bar_enabled()
    restore: Callable[[], None] = logging.enable_progress_bar if shown else logging.disable_progress_bar
    logging.disable_progress_bar()
    try:
        yield
    finally:
        restore()
