"""Pico models of every supported family, made on the spot: real transformers classes, random weights, no network."""

from pathlib import Path
from typing import Any

import torch
import transformers

_SMALL = {"vocab_size": 97, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = _SMALL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_HEADS = {"head_dim": 8}
_GPT2 = _SMALL | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_OPT = {"ffn_dim": 48, "word_embed_proj_dim": 24, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_NEOX = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_SLIDING = {"sliding_window": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_DEEPSEEK = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 2,
    "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip

# family -> (configuration class, settings)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "mistral": ("MistralConfig", _LLAMA | _SLIDING),
    "qwen2": ("Qwen2Config", _LLAMA | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", _LLAMA | _HEADS),
    "cohere": ("CohereConfig", _LLAMA),
    "gemma2": ("Gemma2Config", _LLAMA | _HEADS | _SLIDING | {"query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", _LLAMA | _HEADS | _SLIDING | {"query_pre_attn_scalar": 8}),
    "opt": ("OPTConfig", _SMALL | _OPT),
    "gpt2": ("GPT2Config", _GPT2),
    "gpt_neox": ("GPTNeoXConfig", _SMALL | _NEOX),
    "phi3": ("Phi3Config", _LLAMA),
    "olmo2": ("Olmo2Config", _LLAMA),
    "bloom": ("BloomConfig", {"vocab_size": 97, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
}
# the same for mixtures of experts, some with dense blocks among the others
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("Qwen2MoeConfig", _LLAMA | _MOE | {"shared_expert_intermediate_size": 40, "decoder_sparse_step": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", _LLAMA | _HEADS | _MOE | {"mlp_only_layers": [0]}),
    "olmoe": ("OlmoeConfig", _LLAMA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": ("DeepseekV3Config", _LLAMA | _DEEPSEEK),
}
# those whose blocks compute by their number or by how many there are, and state space models
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
_JAMBA = {
    "attn_layer_period": 4,
    "attn_layer_offset": 1,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "mamba_dt_rank": 4,
}
_GEMMA3N = {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0}
_RANKS = {key: _DEEPSEEK[key] for key in ("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "minicpm3": ("MiniCPM3Config", _LLAMA | _RANKS | {"v_head_dim": 8, "num_key_value_heads": 4}),
    "beam": ("BeamConfig", _LLAMA),
    "diffllama": ("DiffLlamaConfig", _LLAMA),
    "jamba": ("JambaConfig", _LLAMA | _JAMBA | {"mamba_d_state": 4, "num_hidden_layers": 4}),
    "gemma3n_text": ("Gemma3nTextConfig", _LLAMA | _HEADS | _GEMMA3N | {"vocab_size_per_layer_input": 97}),
    "mamba": ("MambaConfig", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4}),
    "rwkv": ("RwkvConfig", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "attention_hidden_size": 32}),
    "recurrent_gemma": ("RecurrentGemmaConfig", _LLAMA | {"attention_window_size": 8, "lru_width": 32}),
    "cpmant": (
        "CpmAntConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "dim_head": 8,
            "dim_ff": 48,
            "num_hidden_layers": 3,
        },
    ),
    "xlm": ("XLMConfig", {"vocab_size": 97, "emb_dim": 32, "n_layers": 3, "n_heads": 4}),
    "bert-generation": (
        "BertGenerationConfig",
        _SMALL
        | {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "is_decoder": True,
        },
    ),
    "falcon_mamba": (
        "FalconMambaConfig",
        {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    ),
    "mamba2": (
        "Mamba2Config",
        {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8},
    ),
    "bamba": ("BambaConfig", _LLAMA | _MAMBA2 | {"attn_layer_indices": [1]}),
}
# those whose channels and KV groups are in no table
_PAIRS = {"partial_rotary_factor": 0.5}
_NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
_HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 40,
}  # fmt: skip
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2, "topk_group": 1}
FOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm3": ("SmolLM3Config", _LLAMA | {"num_hidden_layers": 4}),
    "glm": ("GlmConfig", _LLAMA | _HEADS | {"attention_bias": True}),
    "glm4": ("Glm4Config", _LLAMA | _HEADS),
    "granite": ("GraniteConfig", _LLAMA | {"attention_multiplier": 0.5, "residual_multiplier": 0.7}),
    "exaone4": ("Exaone4Config", _LLAMA | _SLIDING | {"sliding_window_pattern": 2}),
    "olmo": ("OlmoConfig", _LLAMA),
    "olmo3": ("Olmo3Config", _LLAMA | _SLIDING),
    "helium": ("HeliumConfig", _LLAMA | _HEADS),
    "ernie4_5": ("Ernie4_5Config", _LLAMA | _HEADS | {"use_bias": True}),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", _LLAMA | _HEADS),
    "seed_oss": ("SeedOssConfig", _LLAMA | _HEADS),
    "arcee": ("ArceeConfig", _LLAMA),
    "apertus": ("ApertusConfig", _LLAMA),
    "ministral": ("MinistralConfig", _LLAMA | _HEADS | _SLIDING),
    "cohere2": ("Cohere2Config", _LLAMA | _SLIDING),
    "stablelm": ("StableLmConfig", _LLAMA | _PAIRS),
    "starcoder2": ("Starcoder2Config", _LLAMA),
    "falcon": ("FalconConfig", _SMALL | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}),
    "nemotron": ("NemotronConfig", _LLAMA | _PAIRS),
    "phi": ("PhiConfig", _LLAMA | _PAIRS),
    "gptj": ("GPTJConfig", _GPT2 | {"rotary_dim": 4}),
    "codegen": ("CodeGenConfig", _GPT2 | {"rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeConfig", _GPT2),
    "gpt_neo": ("GPTNeoConfig", _SMALL | _NEO),
    "xglm": ("XGLMConfig", _SMALL | {"d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4}),
    "biogpt": ("BioGptConfig", _SMALL | _NEOX),
    "gemma": ("GemmaConfig", _LLAMA | _HEADS),
    "bitnet": ("BitNetConfig", _LLAMA),
    "gpt_oss": ("GptOssConfig", _LLAMA | _HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "lfm2": ("Lfm2Config", _LLAMA | {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 16}),
    "falcon_h1": ("FalconH1Config", _LLAMA | _HEADS | _MAMBA2 | {"mamba_d_ssm": 64}),
    "dots1": ("Dots1Config", _LLAMA | _HEADS | _ROUTED | {"first_k_dense_replace": 1, "n_shared_experts": 2}),
    "glm4_moe": ("Glm4MoeConfig", _LLAMA | _HEADS | _ROUTED | {"first_k_dense_replace": 1, "n_shared_experts": 1}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig", _LLAMA | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1}
    ),
    "minimax": ("MiniMaxConfig", _LLAMA | _HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8}),
    "qwen3_next": ("Qwen3NextConfig", _LLAMA | _HEADS | _MOE | _LINEAR | _HYBRID),
}  # fmt: skip
EVERY_FAMILY = FAMILIES | MIXTURES
# mixtures whose checkpoints keep the experts of a block in one tensor
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LLAMA4 = {
    "intermediate_size_mlp": 40,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 16,
    "num_hidden_layers": 4,
}
_GRANITE_HYBRID = _MAMBA2 | {
    "mamba_expand": 2,
    "shared_intermediate_size": 40,
    "layer_types": ["mamba", "attention", "mamba"],
}
_JETMOE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "kv_channels": 8,
}
_DSA = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2, "indexer_types": ["full"] * 3}
MERGED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_oss": ("GptOssConfig", _LLAMA | _HEADS | _LOCAL | _SLIDING),
    "granitemoe": ("GraniteMoeConfig", _LLAMA | _LOCAL),
    "granitemoeshared": ("GraniteMoeSharedConfig", _LLAMA | _LOCAL | {"shared_intermediate_size": 40}),
    "granitemoehybrid": ("GraniteMoeHybridConfig", _LLAMA | _LOCAL | _GRANITE_HYBRID),
    "llama4_text": ("Llama4TextConfig", _LLAMA | _HEADS | _LOCAL | _LLAMA4),
    "aria_text": ("AriaTextConfig", _LLAMA | {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}),
    "minimax_m3_vl_text": ("MiniMaxM3VLTextConfig", _LLAMA | _HEADS | _LOCAL),
    "hy_v4": ("HYV4Config", _LLAMA | _DEEPSEEK | _DSA),
    "inkling2_text": ("Inkling2TextConfig", _LLAMA | _HEADS | {"n_routed_experts": 4, "num_experts_per_tok": 2}),
    "jetmoe": ("JetMoeConfig", _SMALL | _JETMOE | _LOCAL),
}
# whose parameters transformers makes of several tensors, or whose blocks have matrices that no linear holds
_DELTA_HEADS = {
    f"linear_{key}": value for key, value in {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 8}.items()
}
_DELTA = _DELTA_HEADS | {"linear_value_head_dim": 8}
_QWEN = _MOE | _DELTA | {"shared_expert_intermediate_size": 24, "num_hidden_layers": 4}
_NEMOTRON = {
    "layers_block_type": ["mamba", "moe", "attention", "moe"], "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 40, "mamba_num_heads": 8,
    "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
}  # fmt: skip
_LONGCAT = {"num_layers": 2, "zero_expert_num": 2, "moe_topk": 2, "expert_ffn_hidden_size": 24, "ffn_hidden_size": 48}
_INKLING = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2, "swa_head_dim": 8, "d_rel": 4, "rel_extent": 32,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}  # fmt: skip
_WIDTHS = {
    key: _DEEPSEEK[key] for key in ("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
}
_KIMI = {key: each for key, each in _WIDTHS.items() if key != "q_lora_rank"} | {
    "linear_num_heads": 4,
    "linear_head_dim": 8,
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nemotron_h": ("NemotronHConfig", _LLAMA | _HEADS | _NEMOTRON),
    "kimi_linear": ("KimiLinearConfig", _LLAMA | _MOE | _KIMI | {"num_key_value_heads": 4}),
    "olmo_hybrid": (
        "OlmoHybridConfig",
        _LLAMA
        | _DELTA
        | {"linear_num_key_heads": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    ),
    "bailing_hybrid": (
        "BailingHybridConfig",
        _LLAMA | _MOE | _WIDTHS | {"n_group": 2, "topk_group": 1, "num_key_value_heads": 4, "num_hidden_layers": 4},
    ),
    "longcat_flash": (
        "LongcatFlashConfig",
        _SMALL
        | _WIDTHS
        | _LONGCAT
        | {"hidden_size": 32, "num_attention_heads": 4, "n_routed_experts": 4, "head_dim": 8},
    ),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", _LLAMA | _HEADS | _QWEN),
    "deepseek_v4": ("DeepseekV4Config", _LLAMA | _LOCAL | {"n_routed_experts": 4}),
    "recurrent_gemma": ("RecurrentGemmaConfig", _LLAMA | _HEADS | {"lru_width": 32, "attention_window_size": 16}),
    "rwkv": ("RwkvConfig", {"vocab_size": 97, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 3}),
    "zaya": ("ZayaConfig", _LLAMA | _HEADS | {"num_experts": 4, "moe_intermediate_size": 24}),
    "inkling_text": ("InklingTextConfig", _LLAMA | _HEADS | _INKLING),
    "hrm_text": ("HrmTextConfig", _LLAMA | _HEADS),
}


def save_pico(
    family: str, folder: Path, *, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **settings: Any
) -> Any:
    """Make a pico model with seeded random weights, norms and biases included, save it, and return it."""
    kind, base = (EVERY_FAMILY | OTHERS | FOUND | MERGED | LAYOUTS)[family]
    config = getattr(transformers, kind)(**base | settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh models have all-one norms and all-zero biases, which hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model
