"""Models that transformers quantizes on load with bitsandbytes, to measure pruning and quantization together."""

import gc
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.stages.evaluate.loaded import check_memory, load_whole
from langprune_cli.stages.evaluate.rows import with_bits
from langprune_cli.streaming.losses import summed_losses
from langprune_cli.streaming.opened import OpenedModel

_GROUP = 64  # weights of NF4 that share a scale, bitsandbytes' own default


def check_quantizer(device: torch.device) -> None:
    """Raise LangpruneError if bitsandbytes or its requirements are not installed, or it does not support the device."""
    quantizer_environment()
    import bitsandbytes  # noqa: PLC0415 - optional, and takes a second

    if device.type not in bitsandbytes.supported_torch_devices:
        raise LangpruneError(
            f"bitsandbytes does not run on {device.type}: use another --device for --load-bits, such as cpu"
        )


def quantizer_environment() -> dict[str, str]:
    """Return the version of bitsandbytes; raises LangpruneError if it is not installed."""
    try:
        version("accelerate")  # transformers needs it to load quantized models
        return {"bitsandbytes": version("bitsandbytes")}
    except PackageNotFoundError as error:
        raise LangpruneError("--load-bits needs bitsandbytes: pip install '.[bnb]' from the root of a clone") from error


def check_quantizable(model: OpenedModel) -> None:
    """Raise LangpruneError for a model that would mostly stay unquantized."""
    if model.streamed.has_experts:
        raise LangpruneError(
            f"transformers merges the experts of {model.label} on loading, and bitsandbytes cannot quantize merged experts: "
            "evaluate it without --load-bits"
        )


def quantized_bytes(model: OpenedModel, bits: int) -> int:
    """Return the bytes of a model's weights with the linears of its blocks quantized, including scales."""
    streamed = model.streamed
    total = 0
    linears = {linear.name: linear for index in range(len(streamed.blocks)) for linear in streamed.linears(index)}
    for name in streamed.checkpoint.entries:
        elements = streamed.checkpoint.elements(name)
        if name in linears:
            scales = elements // _GROUP if bits == 4 else streamed.shape(linears[name])[0]  # float32
            total += elements * bits // 8 + 4 * scales
        else:
            total += elements * streamed.dtype.itemsize
    return total


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the configuration: 4 bits are NF4, computed in `dtype`; 8 bits are LLM.int8() with its outlier threshold of 6."""
    if bits == 4:
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return BitsAndBytesConfig(load_in_8bit=True)


class QuantizedModel:
    """A model that is loaded whole and quantized on first use."""

    def __init__(self, model: OpenedModel, bits: int) -> None:
        self.model = model
        self.bits = bits

    @cached_property
    def _loaded(self) -> nn.Module:
        """Raises LangpruneError if the weights do not fit or do not load."""
        gc.collect()  # frees the previous quantized model, which has reference cycles
        model, streamed = self.model, self.model.streamed
        label = f"{with_bits(model.label, self.bits)}, loaded whole,"
        check_memory({label: quantized_bytes(model, self.bits)}, streamed.device)
        return load_whole(
            model.location.folder,
            streamed.device,
            streamed.dtype,
            trust=model.compute.trust_remote_code,
            quantization=quantization(self.bits, streamed.dtype),
        )

    def losses(
        self,
        ids: Tensor,  # int [n, t]
        tick: Callable[[int, int], None],
    ) -> Tensor:  # float64 [n]
        """Return each window's summed loss over its predicted tokens; raises LangpruneError if the model does not run.

        Window by window: LLM.int8() finds outlier columns per batch, and a window's loss must not depend on other windows.
        """
        windows = ids.to(torch.int64).unsqueeze(1).unbind()  # [1, t] each

        def logits() -> Iterator[tuple[int, int, Tensor]]:
            for number, window in enumerate(windows):
                yield number, 0, self._loaded(input_ids=window.to(self.model.streamed.device), use_cache=False).logits
                tick(0, window.numel())

        try:
            with torch.no_grad():
                return torch.cat(summed_losses(windows, logits()))
        except (RuntimeError, AssertionError) as error:  # its CPU kernels do not support every shape
            label, device = with_bits(self.model.label, self.bits), self.model.streamed.device.type
            raise LangpruneError(
                f"bitsandbytes does not run {label} on {device} ({first_line(error)}): give --load-bits {12 - self.bits}, or "
                "another --device"
            ) from error
