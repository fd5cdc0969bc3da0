"""Frozen records shared by several layers. Letters: o outputs, i inputs, n windows, t tokens of a window."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TextSpec:
    """One text to read: its language, its source, and the default name of its artifacts."""

    language: str | None  # BCP-47 tag, None if only --data was given
    source: str  # a file, a folder, hf:owner/name[:config][:split[/half]][#column], or builtin:<language>
    name: str  # default artifact name: the language, else the file's stem
    parts: tuple["Budget", ...] = ()  # of a mixture of several texts, which counts as one text

    @property
    def singles(self) -> tuple["TextSpec", ...]:
        """The texts of a mixture, or this text itself."""
        return tuple(budget.spec for budget in self.parts) or (self,)


@dataclass(frozen=True)
class Budget:
    """One text of a mixture."""

    spec: TextSpec
    windows: int  # how many windows to draw from it


@dataclass(frozen=True)
class Windows:
    """Token windows drawn from one text, ready for a model."""

    ids: Tensor  # int32 [n, t]
    fingerprint: str  # sha256 over shape and ids: the identity of the text for results
    spec: TextSpec
    sampling: str  # "document", "concat", "contiguous" (evaluation), "given" (a file of token ids) or "mixed"
    seed: int | None  # None if nothing was drawn at random
    documents: int  # documents read from the source; 0 for a file of token ids
    notes: tuple[str, ...] = field(default=())  # for the user, one sentence each
    parts: tuple["Windows", ...] = ()  # of a mixture: the windows of each text, in order
    shard: tuple[int, int, int] | None = None  # (part, parts, windows of all parts), counted from 1

    @property
    def count(self) -> int:
        """Number of windows n."""
        return self.ids.shape[0]

    @property
    def seqlen(self) -> int:
        """Tokens per window t."""
        return self.ids.shape[1]
