"""The text tower of a model that reads images, as a model of its own: where its tensors are, and whether it computes the same."""

import torch

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.models.composites import config_alone
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.units.measured import ROUNDING, apart, drawn, filled, run
from langprune_cli.units.small import build, few_blocks, narrow_widths


def places_alone(model: CausalModel, alone: CausalModel) -> dict[str, str]:
    """Return path in a text tower's own model -> path in the model that reads images, for parameters and buffers of both."""
    towers = [find_blocks(each)[0].rpartition(".")[0] for each in (alone, model)]
    ends = [
        [_path_of(each, each.get_input_embeddings()), _path_of(each, each.get_output_embeddings())]
        for each in (alone, model)
    ]
    pairs = [(one, other) for one, other in zip(*ends, strict=True) if one and other]
    pairs.append((towers[0], towers[1]))
    theirs = {path for path, _ in _kept(model)}
    found = {}
    for path, _ in _kept(alone):
        here, there = next(((one, other) for one, other in pairs if path.startswith(f"{one}.")), ("", ""))
        place = f"{there}.{path.removeprefix(f'{here}.')}"
        if here and place in theirs:
            found[path] = place
    return found


def _kept(model: CausalModel) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _path_of(model: CausalModel, module: torch.nn.Module | None) -> str:
    return next((path for path, each in model.named_modules() if each is module), "")


def _has_tied_head(model: CausalModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def check_alone(config: Configuration, label: str) -> None:
    """Raise LangpruneError unless a text tower alone has the logits of the model that reads images.

    A small model of the same kind is tried, in float32. They differ by rounding at most, which paligemma's do: it numbers tokens
    from 1. label: the model, for messages. Raises as `config_alone` does, too.
    """
    config_alone(config, label, tied=False)
    try:
        small = narrow_widths(few_blocks(config))
        whole = build(small, torch.float32, experts_apart=False)
        alone = build(config_alone(small, label, tied=_has_tied_head(whole)), torch.float32, experts_apart=False)
        places, weights = places_alone(whole, alone), drawn(whole)
        if missing := [path for path, _ in alone.named_parameters() if path not in places]:
            raise _refusal(config, label, f"only alone it has {missing[0]}")
        given = {path: weights[place] for path, place in places.items() if place in weights}
        away = apart(run(filled(alone, given)), run(filled(whole, weights)))
    except Exception as error:
        if isinstance(error, LangpruneError) and error.__cause__ is None:
            raise
        why = f"a small model of this kind does not run without images: {first_line(error.__cause__ or error)}"
        raise _refusal(config, label, why) from error
    if away > ROUNDING:
        raise _refusal(config, label, f"the logits of a small model of this kind differ by {away:.2g} of the largest")


def _refusal(config: Configuration, label: str, why: str) -> LangpruneError:
    return LangpruneError(
        f"the text tower of {label} cannot be written alone, since a {config.get_text_config().model_type} does not compute what "
        f"it does inside of a {config.model_type} ({why}): leave out --text-only"
    )
