"""Models quantized on load with bitsandbytes, by transformers: what a pruned model loses once quantized as well."""

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
    """Raise LangpruneError where bitsandbytes and what it needs are not installed, or where it does not run on a device."""
    quantizer_environment()
    import bitsandbytes  # noqa: PLC0415 - optional, and takes a second

    if device.type not in bitsandbytes.supported_torch_devices:
        raise LangpruneError(
            f"bitsandbytes does not run on {device.type}: give --load-bits another --device, such as cpu"
        )


def quantizer_environment() -> dict[str, str]:
    """Return the version of what quantizes; raises LangpruneError where it is not installed."""
    try:
        version("accelerate")  # which transformers loads quantized models with
        return {"bitsandbytes": version("bitsandbytes")}
    except PackageNotFoundError as error:
        raise LangpruneError("--load-bits needs bitsandbytes: pip install '.[bnb]' from the root of a clone") from error


def check_quantizable(model: OpenedModel) -> None:
    """Raise LangpruneError for a model most of which would stay as it is."""
    if model.streamed.has_experts:
        raise LangpruneError(
            f"transformers merges the experts of {model.label} when it loads it whole, and bitsandbytes quantizes none of them: "
            "evaluate it without --load-bits"
        )


def quantized_bytes(model: OpenedModel, bits: int) -> int:
    """Return the bytes that a model's weights take once the linears of its blocks are quantized, with their scales."""
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
    """Return what is done: 4 bits are NF4, computed in `dtype`; 8 are LLM.int8() with its threshold of 6 for outliers."""
    if bits == 4:
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return BitsAndBytesConfig(load_in_8bit=True)


class QuantizedModel:
    """A model that is loaded whole, and quantized, when its losses are first asked for."""

    def __init__(self, model: OpenedModel, bits: int) -> None:
        self.model = model
        self.bits = bits

    @cached_property
    def _loaded(self) -> nn.Module:
        """Raises LangpruneError where its weights do not fit, or do not load."""
        gc.collect()  # the quantized model before this one, which its cycles keep
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
        """Return each window's summed loss over its predicted tokens; raises LangpruneError where the model does not run.

        Window by window: LLM.int8() takes as outliers the columns that hold one in any token of a batch, and figures are not
        to depend on what else is in it.
        """
        windows = ids.to(torch.int64).unsqueeze(1).unbind()  # [1, t] each

        def logits() -> Iterator[tuple[int, int, Tensor]]:
            for number, window in enumerate(windows):
                yield number, 0, self._loaded(input_ids=window.to(self.model.streamed.device), use_cache=False).logits
                tick(0, window.numel())

        try:
            with torch.no_grad():
                return torch.cat(summed_losses(windows, logits()))
        except (RuntimeError, AssertionError) as error:  # its kernels for CPUs do not take every shape
            label, device = with_bits(self.model.label, self.bits), self.model.streamed.device.type
            raise LangpruneError(
                f"bitsandbytes does not run {label} on {device} ({first_line(error)}): give --load-bits {12 - self.bits}, or "
                "another --device"
            ) from error
