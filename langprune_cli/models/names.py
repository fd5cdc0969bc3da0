"""Maps module paths to checkpoint tensor names."""

from collections.abc import Iterable

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from langprune_cli.models.experts import expert_path
from langprune_cli.models.protocols import CausalModel


class TensorNames:
    """Finds the checkpoint tensor of a parameter.

    Families renamed their modules over the years but not their checkpoints (gpt_neox stores its head as embed_out, mixtral an
    expert's gate as w1), and some checkpoints have the base model's prefix, some not.
    """

    def __init__(self, model: CausalModel, names: Iterable[str]) -> None:
        rules = get_model_conversion_mapping(model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        mergers = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._base = f"{model.base_model_prefix}."
        self._by_path: dict[str, str] = {}
        for name in names:
            path = name
            for rule in renamings:
                path, _ = rule.rename_source_key(path)
            self._by_path[expert_path(mergers, path)] = name

    def find(self, path: str) -> str | None:
        """Return the tensor of the parameter at `path`, None if the checkpoint has none."""
        for candidate in (path, path.removeprefix(self._base), self._base + path):
            if candidate in self._by_path:
                return self._by_path[candidate]
        return None
