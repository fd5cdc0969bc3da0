"""The dense model as a teacher: whether it fits, which of its tokens are the pruned model's, and what it teaches."""

from collections.abc import Callable

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.protocols import CausalModel
from langprune_cli.stages.recover.divergence import distillation_loss
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import Windows

Divergence = Callable[
    [Tensor], Tensor
]  # of a student's logits [b, t, v] from a teacher's, in nats, summed over positions
# Returns it for windows of the student's tokens: their places in the text int64 [b], and their ids int64 [b, t].
Teacher = Callable[[Tensor, Tensor], Divergence]


class OnlineTeacher:
    """The dense model itself, in memory beside the student."""

    def __init__(self, model: CausalModel, rows: Tensor | None) -> None:
        """Teach with a loaded model. rows: see `distillation_loss`, on the model's device."""
        self._model, self._rows = model, rows

    def __call__(self, places: Tensor, ids: Tensor) -> Divergence:  # noqa: ARG002 - it computes what the place has
        """Compute the model's logits; the divergence from them is over the whole vocabulary."""
        rows = self._rows
        with torch.no_grad():
            logits: Tensor = self._model(input_ids=ids if rows is None else rows[ids], use_cache=False).logits
        return lambda student: distillation_loss(student, logits, rows)


def shared_tokens(student: OpenedModel, teacher: OpenedModel) -> Tensor | None:  # int64 [v]
    """Return the teacher's number of each token of the student, -1 for rows without a token; None if all are the same.

    Raises LangpruneError if the models are of different families or the same, or the student has a token that the teacher lacks.
    """
    ours, theirs = (each.streamed.config.get_text_config() for each in (student, teacher))
    if ours.model_type != theirs.model_type:
        raise LangpruneError(
            f"{teacher.label} is a {theirs.model_type} and {student.label} a {ours.model_type}: name the model that it was "
            "pruned from with --teacher"
        )
    if student.digest == teacher.digest:
        raise LangpruneError(
            f"{student.label} has the very weights of {teacher.label}, so there is nothing to learn: train a pruned model, from "
            "the dense one (--teacher)"
        )
    if student.vocabulary == teacher.vocabulary and ours.vocab_size == theirs.vocab_size:
        return None
    known, own = (_tokens(each, other) for each, other in ((teacher, student), (student, teacher)))
    rows = torch.full((ours.vocab_size,), -1)
    for token, number in own.items():
        if token not in known:
            raise LangpruneError(
                f"{teacher.label} has no token {token!r}, which {student.label} has: name a teacher with its tokenizer with "
                "--teacher"
            )
        if number < ours.vocab_size and known[token] < theirs.vocab_size:
            rows[number] = known[token]
    return rows


def check_tokens(windows: Windows, rows: Tensor | None, student: OpenedModel, teacher: OpenedModel) -> None:
    """Raise LangpruneError for text with a token of the student that the teacher has no row for; rows: see `shared_tokens`."""
    ids = torch.unique(windows.ids).long()
    lacking = [] if rows is None else ids[rows[ids] < 0].tolist()
    if lacking:
        raise LangpruneError(
            f"{windows.spec.source} has token {lacking[0]} of {student.label}, for which {teacher.label} has no embedding: name "
            "a teacher with the same tokens with --teacher"
        )


def _tokens(model: OpenedModel, other: OpenedModel) -> dict[str, int]:
    """Return a model's tokens; raises LangpruneError if it has no tokenizer to compare with the other's."""
    try:
        return model.tokenizer.get_vocab()
    except LangpruneError as error:
        raise LangpruneError(
            f"{model.label} has no readable tokenizer, so that its tokens cannot be compared with those of {other.label}: add "
            "tokenizer.json to its folder"
        ) from error
