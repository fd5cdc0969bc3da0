"""Finds the experts modules of a model and replaces them."""

import inspect
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.conversions import Conversions, Model, row_order
from langprune_cli.layouts.experts import LAST, AnyExperts, Experts, Form, ParallelExperts, SharedExperts

_APART = {
    "gate_up_proj": ("gate_proj", "up_proj")
}  # parameter -> the linears that it concatenates in other checkpoints
_GATED, _UNGATED = "gate_up_proj", "up_proj"


def separate_experts(model: Model, names: Iterable[str] | None = None) -> None:
    """Replace every experts module of a known layout by `Experts`, `ParallelExperts` or `SharedExperts`.

    names: the checkpoint's tensors. Without them, linears are separate tensors if transformers saves them so.
    """
    found = [
        (parent, name, f"{path}.{name}" if path else name, child, _own_parameters(child))
        for path, parent in model.named_modules()
        for name, child in parent.named_children()
    ]
    found = [each for each in found if any(parameter.dim() == 3 for parameter in each[-1].values())]
    if not found:
        return
    rules = Conversions(model)
    merged = None if names is None else rules.merged(names)
    reordered = None if names is None else rules.reordered(names)
    for parent, name, path, child, parameters in found:
        if form := _form(child, parameters):
            whole = f"{path}.{form.first}"
            sources = rules.merges(whole) if merged is None else merged.get(whole, 0)
            linears = _APART.get(form.first, ())
            apart = sources == len(linears) > 1 and not form.transposed
            changed = rules.reorders(whole) if reordered is None else reordered.get(whole)
            order = row_order(model, changed, parameters[form.first].shape[1]) if changed else None
            setattr(parent, name, Experts(child, form, linears if apart else (form.first,), order))
        elif _is_parallel(child, parameters):
            setattr(parent, name, ParallelExperts(child))
        elif _is_shared(child, parameters):
            setattr(parent, name, SharedExperts(child))


def _own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters; none if its submodules have some."""
    if any(True for child in module.children() for _ in child.parameters()):
        return {}
    return dict(module.named_parameters(recurse=False))


def _form(module: nn.Module, parameters: Mapping[str, Tensor]) -> Form | None:
    """Return the layout of an experts module, None for other modules and unknown layouts."""
    first = _GATED if _GATED in parameters else _UNGATED
    weights, biases = {first, LAST}, {f"{first}_bias", f"{LAST}_bias"}
    if parameters.keys() not in (weights, weights | biases) or any(parameters[name].dim() != 3 for name in weights):
        return None
    # Code that came with a checkpoint may compute something else from the same names: it has to declare its layout.
    declared: bool | None = getattr(module, "is_transposed", None)
    if getattr(module, "has_post_expert_norm", False) or (declared is None and not _is_of_transformers(module)):
        return None
    (count, *last), (routed, *rows) = parameters[LAST].shape, parameters[first].shape
    passes_on, gated = hasattr(module, "identity_expert"), first == _GATED
    width = 2 if gated else 1
    fits = {False: rows == [width * last[1], last[0]], True: rows == [last[1], width * last[0]]}
    transposed = fits[True] if declared is None else declared
    takes = len(inspect.signature(type(module).forward).parameters) - 1
    if not fits[transposed] or (routed != count and not passes_on) or takes not in {1, 3}:
        return None
    return Form(first, count, routed, transposed, parameters.keys() > weights, gated, passes_on, takes == 1)


def _is_parallel(module: nn.Module, parameters: Mapping[str, Tensor]) -> bool:
    takes = list(inspect.signature(type(module).forward).parameters)
    return (
        parameters.keys() == {"weight"} and takes == ["self", "inputs", "expert_size"] and _is_of_transformers(module)
    )


def _is_shared(module: nn.Module, parameters: Mapping[str, Tensor]) -> bool:
    takes = list(inspect.signature(type(module).forward).parameters)
    named = parameters.keys() == {*SharedExperts.FIRST, LAST} and takes == ["self", "hidden_states", "gammas"]
    return named and _is_of_transformers(module)


def _is_of_transformers(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.")


def show_experts(model: nn.Module, *, every_token: bool) -> bool:
    """Show each expert of a model every token, or only its own; return whether there are experts.

    Raises LangpruneError if the family cannot show an expert other tokens than its own.
    """
    found = [module for module in model.modules() if isinstance(module, AnyExperts)]
    for module in found:
        if every_token and (isinstance(module, ParallelExperts) or module.form.takes_sorted):
            raise LangpruneError(
                f"{type(model).__name__} hands each expert its own tokens alone, so that --all-experts has no use: leave it out"
            )
        module.every_token = every_token
    return bool(found)
