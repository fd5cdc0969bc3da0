"""The model types that the installed transformers has, and tiny checkpoints of them. Nothing here imports langprune."""

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto import modeling_auto

from tests.support.text.text_corpora import byte_level
from tests.survey.configs import SPARE, TOKENS, tiny

AUTO = {"causal": AutoModelForCausalLM, "image-text": AutoModelForImageTextToText}
_MOST_PARAMETERS = 8_000_000


class NotBuiltError(Exception):
    """Stock transformers makes no tiny model of this type that reads text, or does not save it as what it is."""


@dataclass(frozen=True)
class Kind:
    """A model type, and the class of transformers that opens it."""

    name: str
    auto: str  # of AUTO

    def __str__(self) -> str:
        """Return the type, as configurations have it."""
        return self.name


def every_kind() -> list[Kind]:
    """Return all types; one that both classes open as the same model comes once, as what reads images too."""
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    images = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    alone = [name for name in causal if images.get(name) != causal[name]]
    return [Kind(name, "causal") for name in sorted(alone)] + [Kind(name, "image-text") for name in sorted(images)]


def preload(kinds: Iterable[Kind]) -> None:
    """Import the code of types, so that processes forked from this one need not."""
    for kind in kinds:
        AUTO[kind.auto]._model_mapping[CONFIG_MAPPING[kind.name]]


def opened(kind: Kind, folder: Path) -> tuple[PreTrainedModel, dict[str, object]]:
    """Open a folder as anyone would: return the model, and what transformers missed or did not expect."""
    model, info = AUTO[kind.auto].from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    return model.eval(), {what: sorted(map(str, names)) for what, names in info.items() if names}


def save(kind: Kind, folder: Path) -> None:
    """Save a tiny model with random weights, norms and biases included, and its tokenizer.

    Raises NotBuiltError where that cannot be done, or what is opened again is another model.
    """
    try:
        torch.manual_seed(0)
        model = AUTO[kind.auto].from_config(tiny(kind.name), dtype=torch.float32).eval()
        _check_size(model)
        with torch.no_grad():
            for (
                parameter
            ) in model.parameters():  # fresh models have all-one norms and all-zero biases, which hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
        logits = logits_of(model, some_windows(2))
        model.save_pretrained(folder)
        again, problems = opened(kind, folder)
        found = logits_of(again, some_windows(2))
    except NotBuiltError:
        raise
    except Exception as error:
        raise NotBuiltError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if again.config.model_type != kind.name:
        raise NotBuiltError(f"it is saved as {again.config.model_type}")
    if not torch.isfinite(logits).all():
        raise NotBuiltError("its logits are not finite")
    if not torch.allclose(logits, found, rtol=1e-5, atol=1e-6):
        raise NotBuiltError("what transformers saves and opens again computes something else")
    if problems:
        raise NotBuiltError(f"what transformers saves it opens with {problems}"[:200])
    tokenizer().save_pretrained(folder)


def _check_size(model: PreTrainedModel) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MOST_PARAMETERS:
        name, largest = max(model.named_parameters(), key=lambda named: named[1].numel())
        raise NotBuiltError(f"it has {count:,} parameters, {name} {list(largest.shape)}")


def logits_of(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Return the logits [n, t, vocabulary] of windows [n, t]."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=windows, use_cache=False).logits
    if found.shape[:2] != windows.shape:
        raise NotBuiltError(f"its logits are {list(found.shape)} for windows of {list(windows.shape)}")
    return found.float()


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of as many tokens as the models have rows; the last are parts that are no text."""
    made = copy.deepcopy(byte_level())
    made.add_special_tokens({"additional_special_tokens": [f"<part_{n}>" for n in range(TOKENS - SPARE - len(made))]})
    return made


def some_windows(count: int) -> torch.Tensor:
    """Return windows [n, t] of random tokens of text."""
    return torch.randint(10, 390, (count, 24), generator=torch.Generator().manual_seed(1))
