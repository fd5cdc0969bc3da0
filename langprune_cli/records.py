"""What manifests say, as types: their inputs, params and about. docs/format.md specifies each field.

One type serves all five kinds of artifacts, so no field is required; an older version wrote fewer of them.
"""

from typing import Literal, NotRequired, TypedDict


class BlockRecord(TypedDict, total=False):
    """What is written with the tensors of a block."""

    sites: dict[str, list[str]]  # the linears that read each
    damping: dict[str, float]  # by site, as it was used


class ModelRecord(TypedDict, total=False):
    """Which model it is."""

    name: str
    revision: str | None


class TextIdentity(TypedDict):
    """What identifies a text as far as results go: its language and the very tokens."""

    language: str | None
    fingerprint: str
    windows: int
    seqlen: int


class TextRecord(TypedDict, total=False):
    """What is known of a text, or in `texts` of each text that it is made of."""

    language: str | None
    name: str
    fingerprint: str
    windows: int
    seqlen: int
    source: str
    sampling: str
    seed: int | None
    documents: int
    shard: list[int]  # which part, of how many, of how many windows
    texts: list["TextRecord"]


def texts_of(text: TextRecord) -> list[TextRecord]:
    """Return the texts that a text is made of; it alone where it is made of no others."""
    return text.get("texts") or [text]


def languages_of(text: TextRecord) -> set[str]:
    """Return the languages of a text, as far as they are known."""
    return {language for each in texts_of(text) if (language := each.get("language"))}


class SubjectIdentity(TypedDict):
    """What decides the losses of a model, with or without a mask, beside the text."""

    model_digest: str
    mask_key: str | None
    dtype: str
    untied: NotRequired[bool]
    bits: NotRequired[int]


class CellRecord(SubjectIdentity, TextIdentity):
    """A model on a text: what decides a row of an evaluation."""


class TaskModel(TypedDict):
    """A model that benchmark tasks were run on."""

    model_digest: str
    tokenizer: str
    dtype: str


class TasksRecord(TypedDict):
    """Which benchmark tasks were run, on which models."""

    models: list[TaskModel]
    names: list[str]
    harness: str


Unit = str  # what patterns of units remove, as one number of config.json counts it: "channels", "expert-channels", "kv-groups"


class Inputs(TypedDict, total=False):
    """What an artifact was made from: digests and keys."""

    model: str
    tokenizer: str
    text: TextRecord
    stats: str | list[str] | None  # a list where statistics were added up
    allocation_stats: str
    masks: list[str]
    mask: str
    pruned: str
    cells: list[CellRecord]
    tasks: TasksRecord


class IntervalsRecord(TypedDict):
    """How the intervals of an evaluation were made."""

    method: str
    level: float
    resamples: int
    seed: int


def stats_key(inputs: Inputs) -> str | None:
    """Return the key of the statistics among the inputs of an artifact; None if there are none or several."""
    key = inputs.get("stats")
    return key if isinstance(key, str) else None


class Params(TypedDict, total=False):
    """The settings that change the result."""

    collect: list[str]
    propagation: str
    pruned_with: "Params"
    dtype: str
    experts: str
    max_tokens: int
    vocab_size: int
    weights: list[float]
    per: Literal["token", "window"]
    method: str
    pattern: str
    kept: dict[Unit, int]
    sparsity: float | None
    coverage: float
    round_to: int | None
    round: str
    keep_chat: int
    exclude: str | None
    group: Literal["row", "layer"]
    ties: Literal["exact", "together"]
    allocation: str
    refine: str
    damping: float
    min_expert_tokens: int
    adaptive: bool
    ranked_by: str
    untied: bool
    update: str
    max_shard_bytes: int
    epochs: int
    learning_rate: float | None  # None: by the model's width
    step_windows: int
    seed: int
    blocks: list[int]
    bpb: bool
    intervals: IntervalsRecord
    allocation_stats: str | None  # with `pruned_with`: the key of the statistics that the allocation looked at


class MaskRecord(Params, total=False):
    """The name and the params of a mask, as the models that follow it record them."""

    name: str


class BaseRecord(TypedDict, total=False):
    """What is known of a base model that was pruned itself."""

    mask: MaskRecord


class CheckedRecord(TypedDict, total=False):
    """What was read back from a model's files."""

    linear_weights: int
    pruned_weights: int
    zeros: int
    sparsity: float
    untouched_tensors: int
    parameters_before: int
    parameters_after: int


class TunedRecord(TypedDict, total=False):
    """How a model's blocks were trained after pruning."""

    model: ModelRecord
    text: TextRecord
    epochs: int
    learning_rate: float | None  # None: by the model's width
    step_windows: int
    seed: int


class LanguageTokens(TypedDict):
    """How much of a language's text the tokens that stay make up."""

    language: str
    tokens: int
    covered: float
    seen: int
    lost: int


class VocabularyRecord(TypedDict, total=False):
    """What a mask of tokens leaves."""

    rows_before: int
    rows_after: int
    required: int
    chat: int | None
    languages: list[LanguageTokens]


class CountedRecord(TypedDict):
    """How much of a text was counted."""

    tokens: int
    bytes: int
    documents: int


class ReturnedRecord(TypedDict, total=False):
    """How many weights a mask removes, of a block or with `blocks` of a model; how many of them had come back by training."""

    block: int
    masked: int
    returned: int
    blocks: list["ReturnedRecord"]


class About(TypedDict, total=False):
    """What an artifact says for people: names, sources, counts."""

    model: ModelRecord
    models: dict[str, ModelRecord]
    text: TextRecord | None
    stats: str | list[str] | None
    masks: list[str]
    weights_sha256: str | dict[str, str]
    blocks: int
    expert_tokens: dict[str, list[int]]
    experts_by_magnitude: dict[str, list[int]]
    removed_blocks: list[int]
    linears: int
    weights: int
    removed: int
    dense_tail_columns: dict[str, int]
    vocabulary: VocabularyRecord
    rounding: Params
    mask: MaskRecord
    base: BaseRecord
    checked: CheckedRecord
    tuned: TunedRecord
    reapplied: ReturnedRecord
    more_damping: dict[str, float]
    paper: str
    counted: dict[str, CountedRecord]
    rows: int


class Saved(TypedDict):
    """What a langprune.json says of the model that was exported, as far as its masks are concerned."""

    inputs: Inputs
    about: About
