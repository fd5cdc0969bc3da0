"""Frozen records that several layers share. Letters: o outputs, i inputs, n windows, t tokens of a window."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TextSpec:
    """One text to read: a language, where its documents lie, and the name that artifacts made of it get."""

    language: str | None  # BCP-47 tag, None where only --data was given
    source: str  # a file, a folder, hf:owner/name[:config][:split[/half]][#column], or builtin:<language>
    name: str  # default artifact name: the language, else the file's stem
    parts: tuple["Budget", ...] = ()  # of a mixture of several texts, which is one text to all that is made of it

    @property
    def singles(self) -> tuple["TextSpec", ...]:
        """The texts that a mixture is made of; a text that is none is its own."""
        return tuple(budget.spec for budget in self.parts) or (self,)


@dataclass(frozen=True)
class Budget:
    """One text of a mixture."""

    spec: TextSpec
    windows: int  # how many of the mixture's are drawn from it


@dataclass(frozen=True)
class Windows:
    """Token windows drawn from one text, ready to be fed to a model."""

    ids: Tensor  # int32 [n, t]
    fingerprint: str  # sha256 over shape and ids: the identity of the text as far as results go
    spec: TextSpec
    sampling: str  # "document", "concat", "contiguous" (evaluation), "given" (a file of token ids) or "mixed"
    seed: int | None  # None where nothing was drawn at random
    documents: int  # documents read from the source; 0 for a file of token ids
    notes: tuple[str, ...] = field(default=())  # what a user should know, one sentence each
    parts: tuple["Windows", ...] = ()  # of a mixture: those of each text, in order
    shard: tuple[int, int, int] | None = (
        None  # which part of how many these are, counted from 1, and of how many windows
    )

    @property
    def count(self) -> int:
        """Number of windows n."""
        return self.ids.shape[0]

    @property
    def seqlen(self) -> int:
        """Tokens per window t."""
        return self.ids.shape[1]
