"""Artifacts whose hashes fit and whose contents do not: what is computed with is of the dtype and shape that belongs there."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from langprune_cli.store.files import canonical_json
from tests.support.artifact_making import sign
from tests.support.command import DRAW, did, langprune, one_sentence

FORGED: dict[str, Callable[[Tensor], Tensor | None]] = {
    "missing": lambda _: None,
    "another dtype": lambda tensor: tensor.to(torch.float16),
    "a row less": lambda tensor: tensor[1:],
    "wider": lambda tensor: torch.cat([tensor, tensor], -1),
    "a scalar": lambda tensor: tensor.flatten()[0],
    "empty": lambda tensor: tensor[:0],
}
_QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize("change", FORGED)
@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("masks/uk-wanda-2x4/block-001.safetensors", _QUERY, ["apply", "--name", "new"]),
        ("masks/uk-wanda-2x4/block-001.safetensors", _QUERY, ["compare", "uk-wanda-2x4", "uk-wanda-2x4"]),
        ("scores/uk-wanda/block-001.safetensors", _QUERY, ["mask", "--scores", "uk-wanda", "--pattern", "4:8"]),
        ("stats/uk/block-001.safetensors", f"{_QUERY}/sum_x", ["mask", "--stats", "uk", "--pattern", "4:8"]),
        ("stats/uk/windows.safetensors", "windows", ["combine", "stats", "uk", "en"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_forged_parts_whose_hashes_fit(workspace: Path, part: str, name: str, words: list[str], change: str) -> None:
    """Another program made them, to do harm or by mistake: what is computed with has the dtype and shape of the format."""
    path = workspace / part
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    tensors = load(data)
    forged = FORGED[change](tensors.pop(name))
    if forged is not None:
        tensors[name] = forged.contiguous()
    path.write_bytes(save(tensors, metadata))
    resealed(path)
    did("verify", "--all", "-w", workspace)
    if change == "missing" and "masks" in part:
        return  # a linear that a mask does not name stays dense
    one_sentence(
        langprune(*words, "-w", workspace), 1,
        rf"{path.name} holds .+ as {re.escape(name)} instead of \w+ \[.*\]: make .+ again with --force$",
    )  # fmt: skip


_DOWN = "model.layers.1.mlp.down_proj.weight"  # of another width than the query
WIDTHS: dict[str, Callable[[dict[str, Tensor], dict[str, list[str]]], object]] = {
    "a column more": lambda tensors, _: tensors.update(_resized(tensors, 33)),
    "half": lambda tensors, _: tensors.update(_resized(tensors, 16)),
    "another site's": lambda tensors, _: tensors.update(_renamed(tensors, _DOWN, _QUERY)),
    "a linear of another width": lambda _, sites: sites[_QUERY].append(sites.pop(_DOWN)[0]),
}


@pytest.mark.parametrize("change", WIDTHS)
@pytest.mark.parametrize("collect", ["norms", "hessian"])
def test_statistics_of_a_width_that_the_model_does_not_have(
    workspace: Path, pico_text: Path, collect: str, change: str
) -> None:
    """They fit each other and their hashes; whatever reads them beside the model, or beside others, says so."""
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW, "--collect", collect]
    did("calibrate", *text, "--name", "forged", "-w", workspace)
    did("calibrate", "--data", pico_text / "en.jsonl", *text[4:], "--name", "other", "-w", workspace)
    path = workspace / "stats/forged/block-001.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    sites = json.loads(header["__metadata__"]["langprune"])["sites"]
    tensors = load(data)
    WIDTHS[change](tensors, sites)
    path.write_bytes(save(tensors, {"langprune": canonical_json({"sites": sites})}))
    resealed(path)
    did("verify", "forged", "-w", workspace)
    method = "wanda" if collect == "norms" else "sparsegpt"
    for words in (
        ["mask", "--stats", "forged", "--method", method],
        ["mask", "--stats", "forged", "--method", method, "--allocation", "owl"],
        ["score", "--stats", "forged", "--method", "ria"] if collect == "norms" else
        ["apply", "--mask", "uk-wanda-2x4", "--update", "sparsegpt", "--stats", "forged", "--name", "new"],
    ):  # fmt: skip
        one_sentence(
            langprune(*words, "-w", workspace), 1,
            rf"{path} holds float64 \[\d+\] as {re.escape(_QUERY)}/sum_sq instead of float64 \[\d+\]: "
            r"make stats/forged again with --force$",
        )  # fmt: skip
    one_sentence(
        langprune("combine", "stats", "other", "forged", "-w", workspace), 1,
        "stats (other and forged|forged and other) do not add up, as they were collected at different inputs",
    )  # fmt: skip
    if change != "a linear of another width":
        one_sentence(
            langprune("compare", "other", "forged", "-w", workspace), 1,
            rf"stats other and forged hold {re.escape(_QUERY)} in two shapes \(\[32\] and \[\d+\]\): make ",
        )  # fmt: skip


def _resized(tensors: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Return the query's statistics as those of `width` columns."""
    sizes = {"sum_sq": width, "sum_x": width, "hessian": width * (width + 1) // 2}
    return {
        name: tensors[name][0].expand(size).clone()
        for what, size in sizes.items()
        if (name := f"{_QUERY}/{what}") in tensors
    }


def _renamed(tensors: dict[str, Tensor], site: str, to: str) -> dict[str, Tensor]:
    """Return one site's statistics under the name of another."""
    return {
        f"{to}/{name.removeprefix(f'{site}/')}": tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(site)
    }


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 40], ids=["empty", "text", "list", "length"]
)
def test_a_forged_part_that_is_no_safetensors_file(workspace: Path, data: bytes) -> None:
    path = workspace / "stats/uk/block-001.safetensors"
    path.write_bytes(data)
    resealed(path)
    done = langprune("mask", "--stats", "uk", "--pattern", "4:8", "-w", workspace)
    one_sentence(done, 1, r"block-001.safetensors is no safetensors file of langprune's: make it again$")


def resealed(part: Path) -> None:
    """Make the manifest beside a part fit it."""
    manifest = json.loads((part.parent / "manifest.json").read_bytes())
    manifest["parts"][part.name] = {
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "size": part.stat().st_size,
    }
    sign(part.parent / "manifest.json", manifest)
