"""Which linears of each family read the same tensor, as the papers and model files of the architectures say."""

_LLAMA = (
    {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    {"self_attn.o_proj"},
    {"mlp.gate_proj", "mlp.up_proj"},
    {"mlp.down_proj"},
)
_FFN = ({"mlp.dense_h_to_4h"}, {"mlp.dense_4h_to_h"})
_LAYERS = "model.layers"

# family -> (where its checkpoint keeps the blocks, the linears of each input site)
SITES: dict[str, tuple[str, tuple[set[str], ...]]] = {
    "llama": (_LAYERS, _LLAMA),
    "mistral": (_LAYERS, _LLAMA),
    "qwen2": (_LAYERS, _LLAMA),
    "qwen3": (_LAYERS, _LLAMA),
    "cohere": (_LAYERS, (_LLAMA[0] | _LLAMA[2], _LLAMA[1], _LLAMA[3])),  # attention and FFN read the same tensor
    "gemma2": (_LAYERS, _LLAMA),
    "gemma3_text": (_LAYERS, _LLAMA),
    "opt": ("model.decoder.layers", (_LLAMA[0], {"self_attn.out_proj"}, {"fc1"}, {"fc2"})),
    "gpt2": ("transformer.h", ({"attn.c_attn"}, {"attn.c_proj"}, {"mlp.c_fc"}, {"mlp.c_proj"})),
    "gpt_neox": ("gpt_neox.layers", ({"attention.query_key_value"}, {"attention.dense"}, *_FFN)),
    "phi3": (_LAYERS, ({"self_attn.qkv_proj"}, {"self_attn.o_proj"}, {"mlp.gate_up_proj"}, {"mlp.down_proj"})),
    "olmo2": (_LAYERS, _LLAMA),
    "bloom": ("transformer.h", ({"self_attention.query_key_value"}, {"self_attention.dense"}, *_FFN)),
}
