"""Frozen records that several layers share. Letters: o outputs, i inputs, n windows, t tokens of a window."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TextSpec:
    """One text to read: a language, where its documents lie, and the name that artifacts made of it get."""

    language: str | None  # BCP-47 tag, None where only --data was given
    source: str  # a file, a folder, hf:owner/name[:config][:split][#column], or builtin:<language>
    name: str  # default artifact name: the language, else the file's stem


@dataclass(frozen=True)
class Windows:
    """Token windows drawn from one text, ready to be fed to a model."""

    ids: Tensor  # int32 [n, t]
    fingerprint: str  # sha256 over shape and ids: the identity of the text as far as results go
    spec: TextSpec
    sampling: str  # "document", "concat", "contiguous" (evaluation) or "given" (a file of token ids)
    seed: int | None  # None where nothing was drawn at random
    documents: int  # documents read from the source; 0 for a file of token ids
    notes: tuple[str, ...] = field(default=())  # what a user should know, one sentence each

    @property
    def count(self) -> int:
        """Number of windows n."""
        return self.ids.shape[0]

    @property
    def seqlen(self) -> int:
        """Tokens per window t."""
        return self.ids.shape[1]
