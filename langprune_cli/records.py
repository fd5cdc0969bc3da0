"""Types of records in manifests (docs/format.md): one for all kinds, so that no field is required; older versions wrote fewer."""

from typing import Literal, NotRequired, TypedDict


class BlockRecord(TypedDict, total=False):
    """The record beside the tensors of a block."""

    sites: dict[str, list[str]]  # the linears that read each
    damping: dict[str, float]  # by site, as used


class ModelRecord(TypedDict, total=False):
    """The identity of a model."""

    name: str
    revision: str | None


class TextIdentity(TypedDict):
    """The identity of a text for results: its language and its tokens."""

    language: str | None
    fingerprint: str
    windows: int
    seqlen: int


class TextRecord(TypedDict, total=False):
    """The record of a text, with `texts` for the parts of a mixture."""

    language: str | None
    name: str
    fingerprint: str
    windows: int
    seqlen: int
    source: str
    sampling: str
    seed: int | None
    documents: int
    shard: list[int]  # number of the part, of how many parts, of how many windows
    texts: list["TextRecord"]


def texts_of(text: TextRecord) -> list[TextRecord]:
    """Return the parts of a mixture, or the text itself."""
    return text.get("texts") or [text]


def languages_of(text: TextRecord) -> set[str]:
    """Return the known languages of a text."""
    return {language for each in texts_of(text) if (language := each.get("language"))}


class SubjectIdentity(TypedDict):
    """What decides the losses of a model, with or without a mask, besides the text."""

    model_digest: str
    mask_key: str | None
    dtype: str
    untied: NotRequired[bool]
    bits: NotRequired[int]


class CellRecord(SubjectIdentity, TextIdentity):
    """A model and a text, which decide a row of an evaluation."""


class TaskModel(TypedDict):
    """A model of benchmark tasks."""

    model_digest: str
    tokenizer: str
    dtype: str


class TasksRecord(TypedDict):
    """The benchmark tasks of an evaluation, and their models."""

    models: list[TaskModel]
    names: list[str]
    harness: str


Unit = str  # a kind of unit, as counted by one number of config.json: "channels", "expert-channels", "kv-groups"


class Inputs(TypedDict, total=False):
    """The inputs of an artifact: digests and keys."""

    model: str
    tokenizer: str
    text: TextRecord
    stats: str | list[str] | None  # a list if statistics were added up
    allocation_stats: str
    masks: list[str]
    mask: str
    pruned: str
    teacher: str
    cells: list[CellRecord]
    tasks: TasksRecord


class IntervalsRecord(TypedDict):
    """The method of an evaluation's intervals."""

    method: str
    level: float
    resamples: int
    seed: int


def stats_key(inputs: Inputs) -> str | None:
    """Return the key of an artifact's statistics, None if there are none or several."""
    key = inputs.get("stats")
    return key if isinstance(key, str) else None


class Params(TypedDict, total=False):
    """The settings that change the result."""

    collect: list[str]
    propagation: str
    pruned_with: "Params"
    dtype: str
    top: int
    experts: str
    max_tokens: int
    vocab_size: int
    weights: list[float]
    per: Literal["token", "window"]
    method: str
    pattern: str
    kept: dict[Unit, int]
    sparsity: float | None
    sparsities: list[float]  # of trials
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
    held: list[int]
    update: str
    max_shard_bytes: int
    text_only: bool
    epochs: int
    learning_rate: float | None  # None: by the model's width
    step_windows: int
    seed: int
    blocks: list[int]
    tokens: int
    train: str
    batch_tokens: int
    bpb: bool
    intervals: IntervalsRecord
    allocation_stats: str | None  # with `pruned_with`: the key of the allocation's statistics


class MaskRecord(Params, total=False):
    """The name and the params of a mask, as recorded in its models."""

    name: str


class JudgedRecord(Params, total=False):
    """The text that blocks were judged on without statistics, and the params that statistics of it would have."""

    name: str


class BaseRecord(TypedDict, total=False):
    """The record of a base model that was itself pruned."""

    mask: MaskRecord


class CheckedRecord(TypedDict, total=False):
    """The counts read back from a model's files."""

    linear_weights: int
    pruned_weights: int
    zeros: int
    sparsity: float
    untouched_tensors: int
    parameters_before: int
    parameters_after: int


class TunedRecord(TypedDict, total=False):
    """The settings of tuning a model's blocks after pruning."""

    model: ModelRecord
    text: TextRecord
    epochs: int
    learning_rate: float | None  # None: by the model's width
    step_windows: int
    seed: int


class RecoveredRecord(TypedDict, total=False):
    """The settings of training a pruned model end to end."""

    model: ModelRecord
    teacher: ModelRecord
    text: TextRecord
    shares: list[int]  # of each text, if asked for
    tokens: int
    train: str
    batch_tokens: int
    learning_rate: float | None  # None: by the model's width, the tokens of a step and what was lost
    seed: int
    dtype: str


class LanguageTokens(TypedDict):
    """The share of a language's text that the kept tokens cover."""

    language: str
    tokens: int
    covered: float
    seen: int
    lost: int


class VocabularyRecord(TypedDict, total=False):
    """The result of a mask of tokens."""

    rows_before: int
    rows_after: int
    required: int
    chat: int | None
    languages: list[LanguageTokens]


class CountedRecord(TypedDict):
    """The counted part of a text."""

    tokens: int
    bytes: int
    documents: int


class ReturnedRecord(TypedDict, total=False):
    """The weights that a mask removes, of a block or with `blocks` of a model, and how many of them training brought back."""

    block: int
    masked: int
    returned: int
    blocks: list["ReturnedRecord"]


class About(TypedDict, total=False):
    """Facts about an artifact for people: names, sources, counts."""

    model: ModelRecord
    models: dict[str, ModelRecord]
    text: TextRecord | None
    stats: str | list[str] | None
    judged_on: JudgedRecord
    masks: list[str]
    weights_sha256: str | dict[str, str]
    blocks: int
    expert_tokens: dict[str, list[int]]
    experts_by_magnitude: dict[str, list[int]]
    removed_blocks: list[int]
    removed_experts: dict[str, list[int]]  # by block
    linears: int
    weights: int
    removed: int
    dense_tail_columns: dict[str, int]
    vocabulary: VocabularyRecord
    hidden: dict[str, int]  # size before and after
    rounding: Params
    mask: MaskRecord
    base: BaseRecord
    checked: CheckedRecord
    tuned: TunedRecord
    recovered: RecoveredRecord
    reapplied: ReturnedRecord
    more_damping: dict[str, float]
    paper: str
    counted: dict[str, CountedRecord]
    rows: int


class Saved(TypedDict):
    """The fields about masks in an exported model's langprune.json."""

    inputs: Inputs
    about: About
