"""Linears that transformers makes of the rows of other tensors on loading, replaced by linears as the checkpoint has them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from langprune_cli.layouts.conversions import Conversions, Model, Target, rows_made


class Composed(nn.Module):
    """Replaces a linear: concatenates the outputs of linears, and orders them as transformers orders their rows."""

    def __init__(self, sources: nn.ModuleList, order: Tensor | None, bias: nn.Parameter | None) -> None:
        """Take the place of a linear.

        sources: linears as the checkpoint has them, which several such modules may share; order: int, the row of theirs that
        each row is, None if all are in place; bias: of the linear that was here.
        """
        super().__init__()
        self.sources = sources
        self.order = order
        self.bias = bias

    def forward(
        self,
        x: Tensor,  # [*, i]
    ) -> Tensor:  # [*, o]
        """Return the outputs in the order of the linear that was here."""
        made = [source(x) for source in self.sources]
        whole = torch.cat(made, -1) if len(made) > 1 else made[0]
        whole = whole if self.order is None else whole[..., self.order]
        return whole if self.bias is None else whole + self.bias


def compose_linears(model: Model, names: Iterable[str] | None = None) -> None:
    """Replace every linear that transformers makes of other tensors' rows, and of nothing else, by `Composed`.

    names: the checkpoint's tensors. Without them, transformers' own layout on saving counts. One tensor may become the rows of
    several linears, or several tensors those of one; then they have equally many rows, or loading reports the shape.
    """
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    rules = Conversions(model)
    for targets in _made(rules, names, linears):
        paths = [path for each in targets[0].paths if (path := _spelled(rules, each, linears))]
        if len(paths) < len(targets[0].paths) or (len(paths) > 1 and len(targets) > 1):
            continue
        here = [linears[path] for path in paths]
        inputs, total = here[0].in_features, sum(each.out_features for each in here)
        if any(each.in_features != inputs for each in here) or total % len(targets):
            continue
        orders = rows_made(model, targets, total)
        if orders is None:
            continue
        dtype = here[0].weight.dtype
        sources = nn.ModuleList(
            nn.Linear(inputs, total // len(targets), bias=False, device="meta", dtype=dtype) for _ in targets
        )
        for path, linear, order in zip(paths, here, orders, strict=True):
            same = torch.equal(order, torch.arange(total, device="cpu"))
            model.set_submodule(path, Composed(sources, None if same else order, linear.bias))


def _made(rules: Conversions, names: Iterable[str] | None, linears: Iterable[str]) -> Iterator[list[Target]]:
    """Yield the targets of all tensors that a parameter, and perhaps others, are made of, in the rule's order."""
    if names is None:
        yield from (found for path in linears if (found := rules.composes(f"{path}.weight")))
        return
    groups: dict[str, list[Target]] = {}
    for target in rules.targets(names).values():
        if target.is_composed:
            groups.setdefault(target.path, []).append(target)
    for path, found in groups.items():
        rule = found[0].rule
        if rule and path.endswith("weight") and len(found) == len(rule.source_patterns):
            yield sorted(found, key=lambda each: each.source)


def _spelled(rules: Conversions, path: str, linears: Iterable[str]) -> str | None:
    """Return the path of the linear whose weight is at `path`."""
    spelled = (each.removesuffix(".weight") for each in rules.spellings(path))
    return next((each for each in spelled if each in linears), None)
