"""Tiny models that read images, with random weights, and what they read."""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

ROWS = 97  # of the vocabulary; the last is that of images
_TEXT = {
    "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
# As many blocks as the text tower has.
_VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
_PATCHES = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
_LLAVA = {
    "text_config": {"model_type": "llama", **_TEXT},
    "vision_config": {"model_type": "clip_vision_model", **_VISION},
    "image_token_id": ROWS - 1,
    "image_seq_length": 16,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": ("LlavaConfig", _LLAVA),
    "llava-mixtral": (
        "LlavaConfig",
        _LLAVA | {"text_config": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, **_TEXT}},
    ),
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": {"model_type": "gemma3_text", **_TEXT},
            "vision_config": {"model_type": "siglip_vision_model", **_VISION},
            "image_token_id": ROWS - 1,
            "mm_tokens_per_image": 16,
            "boi_token_index": ROWS - 2,
            "eoi_token_index": ROWS - 3,
        },
    ),
    "mistral3": (
        "Mistral3Config",
        {
            "text_config": {"model_type": "mistral", **_TEXT},
            "vision_config": {"model_type": "pixtral", "head_dim": 8, **_VISION},
            "image_token_id": ROWS - 1,
            "spatial_merge_size": 2,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {"model_type": "qwen2_5_vl_text", **_TEXT, **_ROPE},
            "vision_config": {
                "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                "window_size": 16, "fullatt_block_indexes": [1], **_PATCHES,
            },
            "image_token_id": ROWS - 1, "video_token_id": ROWS - 2, "vision_start_token_id": ROWS - 3,
            "vision_end_token_id": ROWS - 4,
        },
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {
            "text_config": {"model_type": "qwen3_vl_text", **_TEXT, **_ROPE},
            "vision_config": {
                "depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], **_PATCHES,
            },
            "image_token_id": ROWS - 1, "video_token_id": ROWS - 2, "vision_start_token_id": ROWS - 3,
            "vision_end_token_id": ROWS - 4,
        },
    ),
}  # fmt: skip
_TOKENS = {"mistral3": 4, "qwen2_5_vl": 4, "qwen3_vl": 4}  # of an image; of others 16
PROCESSOR = b'{"image_processor_type": "CLIPImageProcessor", "size": {"height": 16, "width": 16}}'


def save(family: str, folder: Path, *, rows: int = ROWS) -> None:
    """Save a tiny model with random weights, and a file of its processor; the last of its rows is that of images."""
    kind, settings = copy.deepcopy(CONFIGS[family])
    settings["text_config"]["vocab_size"] = rows
    settings |= {
        name: value + rows - ROWS for name, value in settings.items() if name.endswith(("_token_id", "_token_index"))
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(getattr(transformers, kind)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(PROCESSOR)


def read_with(family: str, seed: int, image: int = ROWS - 1, most: int = 90) -> dict[str, Tensor]:
    """Return what a model reads of an image and some text: the arguments of its forward pass.

    image: the id of the image's tokens; ids of text are below `most`.
    """
    generator = torch.Generator().manual_seed(seed)
    count = _TOKENS.get(family, 16)
    text = torch.randint(3, most, (14,), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([text[:2], torch.full((count,), image), text[2:]])[None]
    pixels = torch.randn(1, 3, 16, 16, generator=generator)
    found = {"input_ids": ids, "pixel_values": pixels}
    of_image = (ids == image).long()
    if family == "gemma3":
        found["token_type_ids"] = of_image
    if family == "mistral3":
        found["image_sizes"] = torch.tensor([[16, 16]])
    if family.startswith("qwen"):
        found["pixel_values"] = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        found["image_grid_thw"] = torch.tensor([[1, 4, 4]])
        found["mm_token_type_ids"] = of_image
    return found


def some_windows(path: Path, count: int = 4) -> Path:
    """Write windows of random ids of text to a file, and return it."""
    ids = torch.randint(3, 90, (count, 24), generator=torch.Generator().manual_seed(1))
    save_file({"windows": ids}, path)
    return path
