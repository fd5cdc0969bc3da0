"""The option of each parameter of a manifest, in one table, so that a command can be rebuilt from any manifest."""

from collections.abc import Callable, Iterable
from functools import partial

from langprune_cli.defaults import COVERAGE, DAMPING, MAX_TOKENS, MIN_EXPERT_TOKENS
from langprune_cli.methods.method import methods
from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.records import Params
from langprune_cli.stages.apply.apply import own_update
from langprune_cli.stages.recover.block_tuning import TuneSettings
from langprune_cli.structured_patterns.pattern import patterns_of
from langprune_cli.tokens.choice import ROUND_TO
from langprune_cli.unit_methods.method import unit_methods

Words = list[str]


# By kind: parameter -> option. None: no option sets it, since it follows from other parameters or from the inputs.
OPTIONS: dict[str, dict[str, str | None]] = {
    "stats": {
        "collect": "--collect", "dtype": "--dtype", "experts": "--all-experts", "max_tokens": "--max-tokens",
        "weights": "--weights", "per": "--per", "propagation": "--propagation", "pruned_with": None, "vocab_size": None,
    },
    "scores": {"method": "--method"},
    "masks": {
        "method": "--method", "pattern": "--pattern", "sparsity": "--sparsity", "coverage": "--coverage",
        "vocab_size": "--vocab-size", "group": "--group", "ties": "--ties", "allocation": "--allocation", "refine": "--refine",
        "damping": "--damping", "min_expert_tokens": "--min-expert-tokens", "exclude": "--exclude", "round_to": "--round-to",
        "round": "--round", "keep_chat": "--keep-chat", "kept": None, "held": None, "adaptive": None, "ranked_by": None,
    },
    "models": {
        "update": "--update", "damping": "--damping", "epochs": "--epochs", "learning_rate": "--learning-rate",
        "max_shard_bytes": "--max-shard-size", "text_only": "--text-only", "min_expert_tokens": None, "step_windows": None,
        "blocks": None, "tokens": "--tokens", "train": "--train", "batch_tokens": "--batch-tokens", "seed": "--seed",
        "dtype": "--dtype",
    },
    "evals": {"bpb": None, "intervals": None},
}  # fmt: skip

# Defaults of options.
_DEFAULTS = {
    "--damping": DAMPING, "--min-expert-tokens": MIN_EXPERT_TOKENS, "--coverage": COVERAGE, "--max-tokens": MAX_TOKENS,
    "--round": "down", "--epochs": TuneSettings.epochs, "--allocation": "uniform",
    "--seed": 0,
}  # fmt: skip


def words_of(kind: str, params: Params, *, without: Iterable[str] = (), of_mask: Params | None = None) -> Words:
    """Return the options for the parameters of an artifact of `kind`, without defaults.

    without: options that the command does not have. of_mask: the parameters of a model's mask.
    """
    words: Words = []
    for param, name in OPTIONS[kind].items():
        value: object = params.get(param)
        if name and name not in without and value is not None:
            special = partial(_update, of_mask=of_mask) if param == "update" else _SPECIAL.get((kind, param))
            words += special(name, params) if special else option(name, None if _DEFAULTS.get(name) == value else value)
    return words


def option(name: str, value: object = None) -> Words:
    """Return an option with its exact value; nothing without a value."""
    return [] if value is None else [name, str(value)]


def _collect(name: str, params: Params) -> Words:
    return option(name, next((each for each in params["collect"] if each != "norms"), None))


def _switch(name: str, _params: Params) -> Words:
    return [name]


def _propagation(name: str, params: Params) -> Words:
    """Return how `prune` collected statistics, if that is not the method's own way; statistics of `calibrate` have none."""
    if "pruned_with" not in params:
        return []
    method = params["pruned_with"]["method"]
    known = methods().get(method) or unit_methods().get(method)
    return [] if known and known.propagation == params["propagation"] else [name, params["propagation"]]


def _weights(name: str, params: Params) -> Words:
    return [name, ",".join(map(str, params["weights"]))]


def _method(name: str, params: Params) -> Words:
    structured = patterns_of(params["pattern"])
    return [] if structured and not structured[0].method else [name, params["method"]]


def _pattern(name: str, params: Params) -> Words:
    """Return every pattern, the first structured one with its exact share."""
    first, *others = params["pattern"].split("+")
    structured = patterns_of(params["pattern"])
    if structured and structured[0].share:
        first = f"{structured[0].name}:{params['sparsity']}"
    words = [word for each in (first, *others) for word in (name, each)]
    return words + [word for each in structured for word in each.words(params)]


def _sparsity(name: str, params: Params) -> Words:
    spread = params["pattern"] == "unstructured" or params["pattern"].startswith("N:")
    return option(name, params["sparsity"]) if spread else []


def _group(name: str, params: Params) -> Words:
    known = methods().get(params["method"])
    return [] if known and known.group == params["group"] else [name, params["group"]]


def _ties(name: str, params: Params) -> Words:
    known = methods().get(params["method"])
    usual = params["group"] == "row" or (known and known.ties == params["ties"])
    return [] if usual else [name, params["ties"]]


def _round_to(name: str, params: Params) -> Words:
    of_rows = any(each.trims_tokenizer for each in patterns_of(params["pattern"]))
    return [] if of_rows and params["round_to"] == ROUND_TO else [name, str(params["round_to"])]


def _update(name: str, params: Params, of_mask: Params | None) -> Words:
    """Return the update if it is not the method's own."""
    update = params["update"].removesuffix("tune").removesuffix(", ") or "none"
    own = own_update(of_mask) if of_mask else None
    return [] if update == own else [name, update]


def _of_recovery(name: str, params: Params) -> Words:
    """Return an option that `recover` has, and tuning has not."""
    value: object = params.get(name.removeprefix("--"))
    return option(name, None if "train" not in params or _DEFAULTS.get(name) == value else value)


def _by_itself(_name: str, _params: Params) -> Words:
    """Return nothing: it is on by default, and the pattern's own options turn it off."""
    return []


def _shards(name: str, params: Params) -> Words:
    size = params["max_shard_bytes"]
    if size == MAX_SHARD_BYTES:
        return []
    number, unit = next(
        (size // each, unit) for each, unit in ((10**9, "GB"), (10**6, "MB"), (1, "")) if size % each == 0
    )
    return [name, f"{number}{unit}" if unit else f"{size / 1000!r}KB"]


_SPECIAL: dict[tuple[str, str], Callable[[str, Params], Words]] = {
    ("stats", "collect"): _collect,
    ("stats", "experts"): _switch,
    ("stats", "weights"): _weights,
    ("stats", "propagation"): _propagation,
    ("masks", "method"): _method,
    ("masks", "pattern"): _pattern,
    ("masks", "sparsity"): _sparsity,
    ("masks", "group"): _group,
    ("masks", "ties"): _ties,
    ("masks", "round_to"): _round_to,
    ("masks", "keep_chat"): _by_itself,
    ("models", "max_shard_bytes"): _shards,
    ("models", "text_only"): _switch,
    ("models", "seed"): _of_recovery,
    ("models", "dtype"): _of_recovery,
}
