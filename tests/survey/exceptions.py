"""Types whose tiny configuration takes more than small sizes: what is set besides, by type."""

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {"rope_parameters": _ROPE | {"mrope_section": [2, 1, 1]}}
_BY_TYPE = {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2}
_SHARED_KV = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": 4}
_IMAGE_TOKENS = {"<image>": 431, "<|extra_200|>": 430, "IMGIMGA": 428, "<|visual token 000000|>": 429}
_SLIDING = {
    f"swa_{name}": size
    for name, size in {
        "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "head_dim": 16,
        "qk_nope_head_dim": 8, "v_head_dim": 8,
    }.items()
}  # fmt: skip

# "default" holds what the class needs to be made at all.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": _IMAGE_TOKENS},
    "cohere_compass_text": _BY_TYPE,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}},
    "deepseek_v2": _EXPERTS,
    "dots1": _EXPERTS | {"n_shared_experts": 1},
    "gemma4_assistant": {
        "default": {"text_config": {"model_type": "gemma4_text", **_SHARED_KV, "num_kv_shared_layers": 30}},
        "text_config": _SHARED_KV,
    },
    "dots3_note_text": _SLIDING,
    "emu3": {"vocabulary_map": _IMAGE_TOKENS},
    "ernie4_5_vl_moe_text": {"rope_parameters": _ROPE | {"mrope_section": [1, 1, 2]}},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["full_attention", "sliding_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_neox_japanese": {"intermediate_multiple_size": 2},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64}, "deepstack_layer_map": [[0, 0], [1, 1]], "spatial_target_layers": [2, 3]},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "paddleocr_vl_text"), _MROPE),
    "glm4v_text": _MROPE,
    "glm4v_moe_text": {"head_dim": 16, **_MROPE},
    "glm46v_text": _MROPE,
    "glm_ocr_text": _MROPE,
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "hunyuan_vl_text": _MROPE,
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "mamba2": {"num_heads": 8},
    "qwen2_5_vl": {"text_config": _MROPE},
    "qwen2_vl": {"text_config": _MROPE},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 4, "ngram_vocab_size_base": 50, "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
    },
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "hash_seed": 0},
    "solar_open": {"num_experts_per_tok": 4},  # of 4: else one token is as near to two experts as rounding
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "mamba_dt_rank": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]},
}  # fmt: skip
