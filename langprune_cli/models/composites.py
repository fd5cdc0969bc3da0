"""Models that read images as well as text: the class that opens them, and the text tower inside of them."""

from collections.abc import Callable
from typing import Protocol

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

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
