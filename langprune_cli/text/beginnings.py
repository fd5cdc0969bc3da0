"""Reads and tokenises the beginning of a text: as much of it as consecutive windows need."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.text.sampling import JOIN
from langprune_cli.tokens.encoding import encode
from langprune_cli.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Beginning:
    """The tokens of the beginning of a text."""

    ids: Tensor  # int32 [t]
    documents: int
    size: int  # UTF-8 bytes
    whole: bool  # whether that is all of the text
    budget: int  # bytes that were read at most

    def cut(self, seqlen: int, most: int | None, source: object) -> Tensor:  # int32 [n, t]
        """Return consecutive windows, `most` at most; raises LangpruneError if there is no whole one."""
        count = len(self.ids) // seqlen
        if not count:
            raise LangpruneError(
                f"{source} has {len(self.ids)} tokens in {self.documents} documents, too few for one window of {seqlen}: "
                f"give more text, or a --seqlen of at most {len(self.ids)}"
            )
        count = count if most is None else min(count, most)
        return self.ids[: count * seqlen].view(count, seqlen).clone()


def read_beginning(
    documents: Callable[[], Iterator[str]],  # opens the text anew
    tokenizer: Tokenizer,
    budgets: tuple[int, int],  # bytes to begin with, and at most
    enough: int | None,  # tokens; None: as many as the budget has
) -> Beginning:
    """Join documents and tokenise them; where a prefix has too few tokens, take twice as much text."""
    budget, most = budgets
    while True:
        text, count, whole = _joined(documents(), budget)
        ids = encode(tokenizer, text)
        if whole or budget >= most or (enough is not None and len(ids) >= enough):
            return Beginning(ids, count, len(text.encode()), whole, budget)
        budget = min(2 * budget, most)


def _joined(documents: Iterator[str], most: int) -> tuple[str, int, bool]:
    """Join documents up to `most` bytes; return the text, the number of documents, and whether it is the whole text."""
    parts: list[str] = []
    size = 0
    for document in documents:
        if size >= most:
            return JOIN.join(parts), len(parts), False
        raw = document.encode()
        if len(raw) > most - size:
            parts.append(raw[: most - size].decode(errors="ignore"))
            return JOIN.join(parts), len(parts), False
        parts.append(document)
        size += len(raw) + len(JOIN)
    return JOIN.join(parts), len(parts), True
