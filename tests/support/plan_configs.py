"""What tests of `plan` share: a config.json by itself, and the parameters that a real model has."""

import json
from pathlib import Path
from typing import Any

import transformers

from tests.support.pico import EVERY_FAMILY

TIMED = {"seconds": 0, "flops_per_second": 0}  # what is measured anew each time


def config_file(folder: Path, kind: str, settings: dict[str, Any], **more: Any) -> Path:
    """Write a config.json and nothing else, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **settings, **more}))
    return folder


def count(family: str, **settings: Any) -> int:
    """Count the parameters of a real model, weights and all."""
    kind, base = EVERY_FAMILY[family]
    config = getattr(transformers, kind)(**base | settings)
    return sum(parameter.numel() for parameter in transformers.AutoModelForCausalLM.from_config(config).parameters())
