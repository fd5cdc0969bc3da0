"""Measures the speed and size of models in stock transformers: `eval --speed`."""

import inspect
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import weight_files
from langprune_cli.models.skeleton import context_of, read_config
from langprune_cli.stages.evaluate.loaded import check_memory, load_whole, weight_bytes
from langprune_cli.stages.evaluate.rows import ConvertedLinears, SpeedRow
from langprune_cli.stages.evaluate.semi_structured import held_bytes, kernel_errors, semi_structured_twin


@dataclass(frozen=True)
class Speed:
    """One model's speed and size, with the seconds of every repeat to show their spread."""

    parameters: int  # tied ones once
    weight_bytes: int  # of the parameters in memory
    file_bytes: int  # of the safetensors files on disk
    dtype: str
    device: str
    batch: int  # sequences at a time
    prompt: int  # tokens read at once, of each
    new_tokens: int  # tokens generated one by one, for each
    prefill_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]
    semi_structured: tuple[int, int] | None = None  # (converted, all) 2:4 linears; None: the model unchanged

    @property
    def prefill(self) -> float:
        """Return the prompt tokens read per second, over all sequences."""
        return self.batch * self.prompt / median(self.prefill_seconds)

    @property
    def decode(self) -> float:
        """Return the tokens generated per second, over all sequences."""
        return self.batch * self.new_tokens / median(self.decode_seconds)


@dataclass
class _Run:
    """A loaded model and its measurements."""

    label: str
    folder: Path
    model: nn.Module
    semi_structured: tuple[int, int] | None = None
    seconds: list[tuple[float, float]] = field(default_factory=list)  # of every repeat, with the warm-up


@dataclass(frozen=True)
class Workload:
    """The work of each model."""

    batch: int = 1  # prompts at a time
    prompt: int = 512  # tokens of each
    new_tokens: int = 32  # generated for each
    repeats: int = 5


WORKLOAD = Workload()


def compare(
    folders: dict[str, Path],
    load: Workload = WORKLOAD,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    semi_structured: bool = False,
) -> dict[str, Speed]:
    """Measure models, all in memory and in turns, so that a machine that slows down slows all alike.

    folders: label -> folder. dtype: of computation, None for each checkpoint's own. Each repeat reads prompts of random tokens,
    the same for all models, and then generates new tokens greedily with the cache of keys and values; an end-of-text token
    does not stop it. The first repeat is a warm-up and does not count. Models load with
    `AutoModelForCausalLM.from_pretrained`, and a prompt gives only its last position's logits, as in `generate`.

    semi_structured: measure each model with 2:4 linears again, right after itself, with these as torch's semi-structured
    tensors; both
    share the other weights in memory.

    Raises LangpruneError as `Checkpoint` and `read_config` do, and for numbers below 1, more tokens than a model's context, a
    model that does not load, and models that do not fit into memory together.
    """
    device = torch.device(device)
    configs = {label: read_config(each, trust_remote_code=trust_remote_code) for label, each in folders.items()}
    contexts = {label: context_of(config) for label, config in configs.items()}
    _check_numbers(contexts, {name.replace("_", " "): number for name, number in asdict(load).items()})
    sizes = {label: weight_bytes(each, dtype) for label, each in folders.items()}
    check_memory(sizes, device)
    for label, size in sizes.items():  # each is read into CPU memory, and moved from there
        check_memory({label: size}, torch.device("cpu"))
    vocabulary = min((config.get_text_config().vocab_size for config in configs.values()), default=1)
    ids = torch.randint(0, vocabulary, (load.batch, load.prompt), generator=torch.Generator().manual_seed(0)).to(device)
    runs = []
    for label, folder in folders.items():
        model = load_whole(folder, device, dtype, trust=trust_remote_code)
        runs.append(_Run(label, folder, model))
        if semi_structured:
            with kernel_errors(label):
                twin = semi_structured_twin(model)
                if twin:
                    timed_run(twin.model, ids, 1)  # shows before measuring what the kernels refuse
                    name = f"{label}, {twin.converted} of {twin.linears} linears semi-structured"
                    runs.append(_Run(name, folder, twin.model, (twin.converted, twin.linears)))
    for _ in range(1 + load.repeats):
        for run in runs:
            run.seconds.append(timed_run(run.model, ids, load.new_tokens)[1])
    return {
        run.label: Speed(
            parameters=sum(parameter.numel() for parameter in run.model.parameters()),
            weight_bytes=sum(held_bytes(parameter) for parameter in run.model.parameters()),
            file_bytes=sum((run.folder / file).stat().st_size for file in weight_files(run.folder)),
            dtype=str(run.model.dtype).removeprefix("torch."),
            device=device.type,
            batch=load.batch,
            prompt=load.prompt,
            new_tokens=load.new_tokens,
            prefill_seconds=tuple(prefill for prefill, _ in run.seconds[1:]),
            decode_seconds=tuple(decode for _, decode in run.seconds[1:]),
            semi_structured=run.semi_structured,
        )
        for run in runs
    }


def _check_numbers(contexts: dict[str, int | None], numbers: dict[str, int]) -> None:
    """Raise LangpruneError for numbers below 1, and for more tokens than a model's context."""
    for name, number in numbers.items():
        if number < 1:
            raise LangpruneError(f"{number} {name} leaves nothing to measure: give 1 or more")
    prompt, new_tokens = numbers["prompt"], numbers["new tokens"]
    for label, context in contexts.items():
        if context and prompt + new_tokens > context:
            raise LangpruneError(
                f"{prompt} tokens and {new_tokens} new ones exceed the context of {label}, {context}: ask for fewer"
            )


def speed_rows(speeds: dict[str, Speed]) -> list[SpeedRow]:
    """Return one row per model, ready for JSON.

    The factors are speeds relative to the first model, as medians over repeats: both turns of one repeat run under the same
    load of the
    machine.
    """
    rows: list[SpeedRow] = []
    first = None
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
                "semi_structured": _converted(*speed.semi_structured) if speed.semi_structured else None,
                "prefill_seconds": list(speed.prefill_seconds),
                "decode_seconds": list(speed.decode_seconds),
            }
        )
    return rows


def _converted(converted: int, linears: int) -> ConvertedLinears:
    return {"converted": converted, "linears": linears}


def _factor(first: tuple[float, ...], seconds: tuple[float, ...]) -> float:
    return median(a / b for a, b in zip(first, seconds, strict=True))


def timed_run(
    model: nn.Module,
    ids: Tensor,  # int64 [b, p], on the model's device
    new_tokens: int,
) -> tuple[Tensor, tuple[float, float]]:  # int64 [b, 1 + new_tokens]; seconds
    """Read prompts and continue them; return the new tokens, and the seconds of reading and of generating.

    Reading gives the first token after the prompts; each later step reads one token and gives the next.
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
    """Return the time after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
