"""Models that read images as well as text: the class that opens them, the text tower inside of them, and that tower alone."""

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.protocols import CausalModel, Configuration


class AutoClass(Protocol):
    """A class of transformers that opens models of many types."""

    from_config: Callable[..., CausalModel]
    from_pretrained: Callable[..., nn.Module]


def auto_class(config: Configuration) -> AutoClass:
    """Return the class of transformers that opens a model as what its configuration says it is."""
    found: AutoClass = AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM
    return found


def reads_images(config: Configuration) -> bool:
    """Return whether a configuration is of a whole model that reads images.

    Some types have a class of their text tower alone too; then `architectures` says which one it is.
    """
    kind = type(config)
    whole, towers = AutoModelForImageTextToText._model_mapping, AutoModelForCausalLM._model_mapping  # noqa: SLF001 - no public lists
    if kind not in whole:
        return False
    stated: list[str] = getattr(config, "architectures", None) or []
    name: str = whole[kind].__name__
    return kind not in towers or not stated or stated[0] == name


def tower_path(model: CausalModel) -> str:
    """Return the path of the text tower in a model that reads images, "" in others.

    A vision tower may have as many blocks as the text tower, so that their number does not tell them apart.
    """
    if not reads_images(model.config):
        return ""
    tower = model.get_decoder()
    path: str = next(path for path, module in model.named_modules() if module is tower)
    return path


def text_paths(model: CausalModel, blocks: str) -> tuple[str, ...]:
    """Return how the paths of parameters begin that a pass over text alone may use; blocks: the path of the blocks.

    It uses embeddings, the tower and the head. Vision towers and projectors are used for images alone.
    """
    tower = tower_path(model) or blocks.rpartition(".")[0]
    if not tower or not reads_images(model.config):
        return ("",)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return (
        f"{tower}.",
        *(f"{path}." for path, module in model.named_modules() if any(module is each for each in ends)),
    )


def held_blocks(config: Configuration) -> frozenset[int]:
    """Return the blocks that have to stay where they are, since code puts what it sees of images between them by number.

    Those are qwen3_vl's first ones, after each of which it adds what one block of the vision tower put out, and in
    granite4_vision all up to the last that it adds to.
    """
    if not reads_images(config):
        return frozenset()
    added = len(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ())
    named = [block for _, block in getattr(config, "deepstack_layer_map", None) or ()]
    named += getattr(config, "spatial_target_layers", None) or ()
    return frozenset(range(max([added, *(block + 1 for block in named)])))


def blocks_of_images(config: Configuration) -> tuple[int, ...]:
    """Return the blocks that see only images, by cross-attention, and that code passes over for text alone: mllama's."""
    return (
        tuple(getattr(config.get_text_config(), "cross_attention_layers", None) or ()) if reads_images(config) else ()
    )


def config_alone(config: Configuration, label: str, *, tied: bool) -> Configuration:
    """Return the configuration of the text tower of a model that reads images, as a causal language model.

    label: the model, for messages; tied: whether the head has the values of the embeddings.
    Raises UsageError for a model that reads no images, and LangpruneError where transformers has no class for the tower.
    """
    if not reads_images(config):
        raise UsageError(f"--text-only has no effect on {label}, which reads no images: leave it out")
    text = config.get_text_config()
    classes = AutoModelForCausalLM._model_mapping  # noqa: SLF001 - no public list
    if text is config or type(text) not in classes:
        what = (
            "no text model of its own" if text is config else f"no causal language model of the type {text.model_type}"
        )
        raise LangpruneError(
            f"the text tower of {label} cannot be written alone, since transformers has {what}: leave out --text-only"
        )
    alone = copy.deepcopy(text)
    alone.architectures = [classes[type(text)].__name__]
    alone.tie_word_embeddings = tied
    if getattr(config, "dtype", None) is not None:
        alone.dtype = config.dtype
    alone.name_or_path = config.name_or_path
    return alone


def unread(parameter: nn.Parameter, device: torch.device | str = "cpu") -> nn.Parameter:
    """Return a parameter for one that text does not use: NaN, in a single value's memory, so that a use would show."""
    nothing = torch.full((), torch.nan, dtype=parameter.dtype, device=device)
    return nn.Parameter(nothing.expand(parameter.shape), requires_grad=False)
