"""A trimmed tokenizer: `tokenizer.json` for the kept ids, and the map from old ids to new ones.

A token's new id is the position of its old id among the kept ids, in ascending order.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from langprune_cli.tokens.vocabulary import Vocabulary, id_places, merge_pairs


def trimmed(
    described: dict[str, Any],
    stay: Sequence[int],  # ascending, completed by `Vocabulary.required` and `Vocabulary.closed`
) -> dict[str, Any]:
    """Return the `tokenizer.json` of the kept tokens; `described` is not changed.

    A merge is kept if its parts and its result are; pieces and merges keep their order. A merge that is on no path may be
    kept too: the ranking is still a part of the old one.

    Raises LangpruneError where `Vocabulary.of` does, ValueError for ids that do not ascend or lack a named one.
    """
    if any(a >= b for a, b in pairwise(stay)):
        raise ValueError("the ids that stay have to ascend, or new ids would change places")
    vocabulary = Vocabulary.of(described)
    vocabulary.check(stay)
    new = {old: position for position, old in enumerate(stay)}
    if missing := vocabulary.named - new.keys():
        raise ValueError(f"the id {min(missing)} has to stay: another part of the tokenizer names it")
    kept: dict[str, Any] = copy.deepcopy({key: part for key, part in described.items() if key != "model"})
    kept["model"] = model = dict(described["model"])
    for container, key in id_places(kept):
        container[key] = new[container[key]]
    if vocabulary.kind == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
    else:
        model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
        pairs = merge_pairs(model["merges"])
        model["merges"] = [
            merge
            for merge, (a, b) in zip(model["merges"], pairs, strict=True)
            if a in model["vocab"] and b in model["vocab"] and a + b in model["vocab"]
        ]
    return {key: kept[key] for key in described}  # parts in the order of the file


def id_map(
    stay: Sequence[int],  # ascending
    size: int,
) -> Tensor:  # int64 [size]
    """Return the new id of each old one, -1 for pruned ones."""
    new = torch.full((size,), -1, dtype=torch.int64)
    new[torch.tensor(stay, dtype=torch.int64)] = torch.arange(len(stay))
    return new
