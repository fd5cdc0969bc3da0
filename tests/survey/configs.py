"""Tiny configurations of any model type: the defaults of its class, with every size made small by what its name says."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from transformers import CONFIG_MAPPING, PreTrainedConfig

from tests.survey.exceptions import EXCEPTIONS

TOKENS = 432  # rows of the vocabulary: the tokenizer's, which has the tokens that stand for images and the like last
SPARE = 8  # rows without a token: some tokenizers add tokens of their own
_PARTS = range(TOKENS - 32 - SPARE, TOKENS - SPARE)  # ids of tokens that stand for no text
_BLOCKS = 4
_WIDTH = 32

# Size by name, the first that fits; a size that is smaller already stays.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab", TOKENS),
    (r"mamba_d_head|mamba_headdim|attention_head_dim", 8),
    (r"mamba_d_ssm", 64),
    (r"rotary_dim", 4),
    (r"(sliding|attention|window).*window|window_(size|len)|sliding_window|local_attention$|attention_chunk_size", 8),
    (r"position|n_ctx|n_positions|context_length|model_max_length|seq_len", 64),
    (r"num_hidden_layers|n_layers?$|num_layers$|(en|de)coder_layers|num_blocks|depth$|layers_per_stack", _BLOCKS),
    (r"_layers$", 2),
    (r"topk_group", 1),
    (r"index_topk|index_kpool", 8),
    (r"per_tok|top_?k$|top_?k_|k_per|moe_k$", 2),
    (r"(num|n)_(shared|group|expert_group)|n_shared|zero_expert", 2),
    (r"experts?$|expert_num", 4),
    (r"(kv|key_value)_heads|kv_n_heads|query_groups|ngroups|n_groups|num_groups", 2),
    (r"mamba.*heads|linear_num_value_heads", 8),
    (r"heads?(_per_layer)?$", 4),
    (r"(moe|expert|shared).*(intermediate|ffn|dim|hidden)", 32),
    (r"intermediate|ffn|dff|n_inner|dim_ff|d_ff|d_inner|feed_forward|mlp_dim|mlp_hidden", 64),
    (r"head_?dim|kv_channels|d_kv|dim_head|head_size|d_head|qk_\w*dim|v_dim", 8),
    (r"rank|lora", 16),
    (r"(d|ssm_state|state|time_step)_(state|size|rank)|state_size|d_state", 8),
    (r"chunk_size|chunk_length|index_topk", 8),
    (r"hidden_size_per_layer_input", 8),
    (
        r"hidden|d_model|n_embd|embd|emb_dim|embed_dim|embedding_(size|dim)|lru_width|(in|out)(put)?_dim|adapter_input_size|dim_model|width$",
        _WIDTH,
    ),
    (r"(out|in|mid)_channels|projection|projector_\w*dim|channel", _WIDTH),
    (r"latents|num_queries|num_query_tokens|num_centroids|num_prompt", 4),
)
_BLOCK_COUNT = re.compile(r"num_hidden_layers|n_layers?$|num_layers$|decoder_layers|layers_per_stack")
_NAMED = tuple((re.compile(pattern), size) for pattern, size in _SIZES)
_TOKEN = re.compile(r"(token_?(id|index)s?|_tokens?|_id|_index|_patch_id)$")
# What classes leave out although their code wants it.
_NEEDED = {"head_dim": 8, "num_key_value_heads": 2}
_COMMON = {"bos_token_id": 0, "eos_token_id": 1}


def tiny(kind: str, *, decoder: bool = True) -> PreTrainedConfig:
    """Return a small configuration of a model type.

    decoder: of types that are encoders unless told otherwise, the one that predicts the next token.
    """
    cls = CONFIG_MAPPING[kind]
    settings = _settings(cls, _default(kind, cls), kind)
    if decoder and "is_decoder" in {field.name for field in dataclasses.fields(cls)}:
        settings["is_decoder"] = True
    return cls(**settings)


def _default(kind: str, cls: type[PreTrainedConfig]) -> PreTrainedConfig:
    return cls(**EXCEPTIONS.get(kind, {}).get("default", {}))


def _settings(cls: type[PreTrainedConfig], default: PreTrainedConfig, kind: str) -> dict[str, Any]:
    """Return keyword arguments for a configuration class; default: what it would be, of which sizes are made small."""
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    small = {name: _small(name, stated, default) for name, stated in fields.items()}
    found = {name: value for name, value in small.items() if value is not None}
    heads, groups = (vars(default).get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if type(heads) is int and type(groups) is int and "num_key_value_heads" in found:
        found["num_key_value_heads"] = 4 if groups == heads else min(groups, 2)
    _number_tokens(found)
    for name, value in EXCEPTIONS.get(kind, {}).items():
        before = found.get(name)
        if name != "default":
            found[name] = before | value if isinstance(value, dict) and isinstance(before, dict) else value
    if (
        type(found.get("n_group")) is int and found["n_group"] > 1
    ):  # of each group two experts stay, where a quarter leaves
        found |= {name: 8 for name in ("n_routed_experts", "num_experts") if name in found}
    return found


def _small(name: str, stated: object, default: PreTrainedConfig) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Return a field's value in a tiny model, None where it is left out. stated: the class's default for it."""
    value = vars(default).get(
        name
    )  # past properties: what differs from block to block refuses to be read as one number
    if isinstance(value, PreTrainedConfig):
        return _settings(type(value), value, value.model_type) | {"model_type": value.model_type}
    if value is None and name in _NEEDED:
        return _NEEDED[name]
    if isinstance(value, dict) and "mrope_section" in value:
        return value | {"mrope_section": [2, 1, 1]}
    if _all(str, value):
        per_block = len(value) == vars(default).get("num_hidden_layers")
        return some_of(value) if per_block and not set(value) <= set(value[:_BLOCKS]) else None
    if _TOKEN.search(name) and value is not None:
        return value  # gets another number
    if stated is None:
        return None  # computed from others
    if _all(int, value) and type(stated) is not int:
        return [size(name, each) for each in value]
    number = value if type(value) is int else stated
    return size(name, number) if type(number) is int else None


def _number_tokens(found: dict[str, Any]) -> None:
    """Give tokens that configurations name ids of the tiny vocabulary: those of texts theirs, others one each."""
    found |= {name: value for name, value in _COMMON.items() if name in found}
    number = iter(reversed(_PARTS))
    for name, value in found.items():
        if _TOKEN.search(name) and type(value) is int and value > 1:
            found[name] = next(number)
        elif _TOKEN.search(name) and isinstance(value, list):
            found[name] = [next(number) for _ in value]


def _all(kind: type, values: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(values, (list, tuple)) and bool(values) and all(type(each) is kind for each in values)


def some_of(values: Sequence[str]) -> list[str]:
    """Return a few kinds of blocks in their order, with one of each kind at least."""
    every = list(dict.fromkeys(values))
    missing = [each for each in every if each not in values[:_BLOCKS]]
    return [*values[: max(_BLOCKS - len(missing), 0)], *missing][-_BLOCKS:] if missing else list(values[:_BLOCKS])


def size(name: str, value: int) -> int:
    """Return how large something of this name is in a tiny model."""
    if name == "vocab_size":
        return TOKENS  # some have fewer
    small = next((small for pattern, small in _NAMED if pattern.search(name)), value)
    return small if small == _BLOCKS and _BLOCK_COUNT.search(name) else min(value, small)
