"""Watches a model run: which module reads and which puts out the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from langprune_cli.models.protocols import CausalModel


class Seen:
    """The first input and output of each module of a model that runs."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what passes the modules inside this context."""
        handles = [
            module.register_forward_hook(self._keep, with_kwargs=True) for module in list(self._model.modules())[1:]
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        first = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
        made = output[0] if isinstance(output, tuple) and output else output
        if first is not None:
            self.inputs.setdefault(module, first)
        if isinstance(made, Tensor):
            self.outputs.setdefault(module, made)

    def read_by(self, module: nn.Module, norms: Mapping[str, nn.Module]) -> str:
        """Return the path of the norm whose output a module reads, "" for none."""
        return self._same(self.inputs.get(module), norms, self.outputs)

    def reader_of(self, module: nn.Module, norms: Mapping[str, nn.Module]) -> str:
        """Return the path of the norm that reads a module's output, "" for none."""
        return self._same(self.outputs.get(module), norms, self.inputs)

    @staticmethod
    def _same(tensor: Tensor | None, norms: Mapping[str, nn.Module], of: Mapping[nn.Module, Tensor]) -> str:
        if tensor is None:
            return ""
        flat = tensor.flatten()
        alike = (path for path, norm in norms.items() if norm in of and torch.equal(of[norm].flatten(), flat))
        return next(alike, "")
