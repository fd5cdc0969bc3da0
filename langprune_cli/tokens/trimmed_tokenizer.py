"""A trimmed tokenizer: `tokenizer.json` for the kept ids, and the map from old ids to new ones.

A token's new id is the position of its old id among the kept ids, in ascending order.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from langprune_cli.tokens.json_values import JsonObject, items, members
from langprune_cli.tokens.vocabulary import Vocabulary, bpe_pieces, id_places, merge_pairs


def trimmed(
    described: JsonObject,
    stay: Sequence[int],  # ascending, completed by `Vocabulary.required` and `Vocabulary.closed`
) -> JsonObject:
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
    kept = copy.deepcopy({key: part for key, part in described.items() if key != "model"})
    kept["model"] = model = dict(members(described["model"]))
    for place in id_places(kept):
        place.replace(new[place.id])
    if vocabulary.kind == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(items(model["vocab"])) if i in new]
    else:
        pieces: JsonObject = {piece: new[i] for piece, i in bpe_pieces(model).items() if i in new}
        merges = zip(items(model["merges"]), merge_pairs(model["merges"]), strict=True)
        model["merges"] = [merge for merge, (a, b) in merges if pieces.keys() >= {a, b, a + b}]
        model["vocab"] = pieces
    return {key: kept[key] for key in described}  # parts in the order of the file


def id_map(
    stay: Sequence[int],  # ascending
    size: int,
) -> Tensor:  # int64 [size]
    """Return the new id of each old one, -1 for pruned ones."""
    new = torch.full((size,), -1, dtype=torch.int64)
    new[torch.tensor(stay, dtype=torch.int64)] = torch.arange(len(stay))
    return new
