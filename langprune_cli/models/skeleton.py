"""A model's modules without its weights: parameters on the meta device, buffers real."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from langprune_cli.errors import LangpruneError
from langprune_cli.models.experts import separate_experts


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module registers on meta and leave buffers where they are.

    Building under torch.device("meta") would also lose buffers that no checkpoint holds: rotary frequencies, ALiBi
    slopes, embedding scales.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign] # the one hook that all modules share
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign] # as above


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401 - transformers is untyped
    """Return the configuration of a causal language model.

    Raises LangpruneError for an unreadable config.json, an unknown or another kind of model, or quantized
    weights.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise LangpruneError(
                f"{folder} needs Python code of its own to run: read that code, then add --trust-remote-code"
            ) from error
        reason = str(error).strip().splitlines()[0][:200]
        raise LangpruneError(
            f"{path} does not describe a model that transformers knows ({reason}): name another, or upgrade "
            "transformers where the model is newer than it"
        ) from error
    if raw.get("quantization_config"):
        raise LangpruneError(f"{folder} is a quantized checkpoint, which cannot be pruned: name the original model")
    kind = next(iter(raw.get("architectures") or []), "")
    known = type(config) in AutoModelForCausalLM._model_mapping or hasattr(config, "auto_map")  # noqa: SLF001 - no public list
    if (
        not known
        or getattr(config, "is_encoder_decoder", False)
        or (kind and not kind.endswith(("CausalLM", "LMHeadModel")))
    ):
        raise LangpruneError(
            f"{folder} is not a causal language model ({kind or config.model_type}): name one that generates text"
        )
    return config


def stated_dtype(config: Any) -> torch.dtype | None:  # noqa: ANN401 - transformers is untyped
    """Return the dtype that the configuration states for the weights, None where it states none."""
    dtype: torch.dtype | str | None = getattr(config, "dtype", None)
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def build_skeleton(
    config: Any,  # noqa: ANN401 - transformers is untyped
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
) -> Any:  # noqa: ANN401 - transformers is untyped
    """Return the model in evaluation mode with parameters of `dtype` on meta and real buffers, in the usual dtype.

    Experts that transformers would merge are modules of their own, see `models/experts.py`.
    """
    with _parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    separate_experts(model)
    return model.eval().requires_grad_(requires_grad=False)


def find_blocks(model: Any) -> tuple[str, nn.ModuleList]:  # noqa: ANN401 - transformers is untyped
    """Return the name of the outermost module list that has one entry per decoder layer, and the list.

    Raises LangpruneError when there is none.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise LangpruneError(
            f"no list of {count} blocks was found in {type(model).__name__}: this family is not supported"
        )
    return min(lists, key=lambda found: found[0].count("."))
