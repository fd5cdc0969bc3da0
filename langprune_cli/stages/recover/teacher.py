"""The dense model as a teacher: whether it fits, and which of its tokens are the pruned model's."""

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.streaming.opened import OpenedModel


def shared_tokens(student: OpenedModel, teacher: OpenedModel) -> Tensor | None:  # int64 [v]
    """Return the teacher's number of each token of the student, -1 for rows without a token; None if all are the same.

    Raises LangpruneError if the models are of different families, or the student has a token that the teacher lacks.
    """
    ours, theirs = (each.streamed.config.get_text_config() for each in (student, teacher))
    if ours.model_type != theirs.model_type:
        raise LangpruneError(
            f"{teacher.label} is a {theirs.model_type} and {student.label} a {ours.model_type}: name the model that it was "
            "pruned from with --teacher"
        )
    if student.vocabulary == teacher.vocabulary and ours.vocab_size == theirs.vocab_size:
        return None
    known = teacher.tokenizer.get_vocab()
    rows = torch.full((ours.vocab_size,), -1)
    for token, number in student.tokenizer.get_vocab().items():
        if token not in known:
            raise LangpruneError(
                f"{teacher.label} has no token {token!r}, which {student.label} has: name a teacher with its tokenizer with "
                "--teacher"
            )
        if number < ours.vocab_size and known[token] < theirs.vocab_size:
            rows[number] = known[token]
    return rows
