"""Channels, KV groups and blocks leave from the command line: a smaller model that stock transformers opens and runs."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from langprune_cli.models.families import FAMILIES as CUTTABLE
from tests.support.command import did, langprune, one_sentence, snapshot, tree
from tests.support.pico import FAMILIES, MIXTURES, save_pico
from tests.support.pruned_models import weight_of

BOTH = ["--pattern", "channels:0.34", "--pattern", "kv-groups:0.5", "--round-to", "8"]
READERS = {"opt": "fc2", "gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h"}
WITH_HEADS = [family for family in CUTTABLE if family not in READERS]


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("windows") / "windows.safetensors"
    torch.manual_seed(1)
    save_file({"windows": torch.randint(3, 97, (6, 24), dtype=torch.int32)}, file)
    return file


def opened(folder: Path) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def logits(model: Any) -> Tensor:
    torch.manual_seed(2)
    ids = torch.randint(3, 97, (2, 12))
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def blocks_of(model: Any) -> nn.ModuleList:
    return next(each for each in model.modules() if isinstance(each, nn.ModuleList))


def without_columns(model: Any, masks: dict[str, Tensor]) -> Any:
    """Zero the columns that leave in the readers of an unpruned model."""
    modules = {f"{name}.weight": module for name, module in model.named_modules()}
    for name, keep in masks.items():
        weight = weight_of(modules[name] if name in modules else modules[f"transformer.{name}"])
        weight.mul_(keep.to(weight.dtype))
    return model


def masks_in(folder: Path, model: Any) -> dict[str, Tensor]:
    """Return the columns that stay of each reader, bool [i], unpacked by hand."""
    found = {}
    state = model.state_dict()
    for part in sorted(folder.glob("block-*.safetensors")):
        for name, packed in load_file(part).items():
            weight = state[name if name in state else f"transformer.{name}"]
            bits = torch.tensor([[byte >> bit & 1 for bit in range(8)] for byte in packed[0].tolist()]).flatten()
            width = weight.shape[0] if "c_proj" in name else weight.shape[1]
            found[name] = bits[:width].bool()
    return found


@pytest.mark.parametrize("family", sorted(CUTTABLE.keys() - MIXTURES.keys()))
def test_every_family_becomes_smaller_and_computes_what_it_would_without_these_columns(
    family: str, tmp_path: Path, windows: Path
) -> None:
    dense = save_pico(family, tmp_path / "dense", **({"n_inner": 48} if family == "gpt2" else {}))
    patterns = BOTH if family in WITH_HEADS else BOTH[:2] + BOTH[4:]
    words = ["-m", tmp_path / "dense", "--data", windows, "--method", "magnitude", "--update", "none"]
    made = did("prune", *words, *patterns, "-w", tmp_path / "w", "--json").json
    smaller = opened(Path(made["path"]))
    (masks,) = [each for each in made["artifacts"] if each["kind"] == "masks"]
    keep = masks_in(Path(masks["path"]), dense)
    channels = [each for name, each in keep.items() if READERS.get(family, "mlp.down_proj") in name]
    assert [int(each.sum()) for each in channels] == [32] * 3
    before, after = (sum(each.numel() for each in model.state_dict().values()) for model in (dense, smaller))
    assert after < before
    if family == "olmo2":  # its norms over all heads see fewer of them
        assert torch.isfinite(logits(smaller)).all()
    else:
        torch.testing.assert_close(logits(smaller), logits(without_columns(dense, keep)), rtol=1e-4, atol=1e-5)
    assert smaller.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False).shape[1] > 3


def test_a_fresh_process_without_langprune_opens_it(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    words = ["-m", tmp_path / "dense", "--data", windows, *BOTH, "-w", tmp_path / "w", "--out", tmp_path / "out"]
    did("prune", *words)
    code = (
        "import sys; sys.modules['langprune_cli'] = None; from transformers import AutoModelForCausalLM as A; "
        f"m = A.from_pretrained({str(tmp_path / 'out')!r}); print(m.config.intermediate_size, m.config.num_key_value_heads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["32", "1"]


@pytest.mark.parametrize("method", ["osscar", "flap", "wanda-sp", "magnitude"])
def test_dense_propagation_is_the_chained_stages(method: str, tmp_path: Path, windows: Path) -> None:
    save_pico("qwen2", tmp_path / "dense")
    model = ["-m", tmp_path / "dense"]
    once = did(
        "prune",
        *model,
        "--data",
        windows,
        "--method",
        method,
        *BOTH,
        "--propagation",
        "dense",
        "-w",
        tmp_path / "a",
        "--json",
    ).json
    did("calibrate", *model, "--data", windows, "--collect", "hessian", "-w", tmp_path / "b")
    did("mask", "--method", method, *BOTH, "-w", tmp_path / "b")
    chained = did("apply", "-w", tmp_path / "b", "--json").json
    for name in ("model.safetensors", "config.json"):
        assert (Path(once["path"]) / name).read_bytes() == (Path(chained["path"]) / name).read_bytes()


def test_osscar_s_least_squares_beat_the_same_columns_without(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    words = ["-m", tmp_path / "dense", "--data", windows, *BOTH, "--propagation", "dense"]
    found = {
        update: did("prune", *words, "--update", update, "-w", tmp_path / update, "--json").json["layers"]
        for update in ("least-squares", "none")
    }
    for better, worse in zip(*found.values(), strict=True):
        assert better["linear"] == worse["linear"]
        assert better["error"] < worse["error"]


def test_blocks_leave_and_the_others_stay_as_they_are(tmp_path: Path, windows: Path) -> None:
    dense = save_pico("gemma2", tmp_path / "dense")
    model = ["-m", tmp_path / "dense"]
    for method in ("search", "influence"):
        words = ["--pattern", "blocks:0.34", "--method", method, "-w", tmp_path / method]
        made = did("prune", *model, "--data", windows, *words, "--json").json
        (masks,) = [each for each in made["artifacts"] if each["kind"] == "masks"]
        stay = json.loads((Path(masks["path"]) / "blocks.json").read_text())["stay"]
        assert len(stay) == 2
        smaller = opened(Path(made["path"]))
        expected = save_pico("gemma2", tmp_path / "again")
        kept = nn.ModuleList([blocks_of(expected)[index] for index in stay])
        expected.model.layers = kept
        expected.config.num_hidden_layers = 2
        expected.config.layer_types = [dense.config.layer_types[index] for index in stay]
        torch.testing.assert_close(logits(smaller), logits(expected))


def test_files_are_as_large_as_asked_where_blocks_leave(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    words = ["-m", tmp_path / "dense", "--data", windows, "-w", tmp_path / "w", "--max-shard-size", "40KB"]
    made = did("prune", *words, "--pattern", "blocks:0.34", "--json").json
    assert len(list(Path(made["path"]).glob("model-*.safetensors"))) > 1
    opened(Path(made["path"]))


def test_blocks_and_units_in_one_command_then_2_4_on_the_smaller_model(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    words = ["-m", tmp_path / "dense", "--data", windows, "-w", tmp_path / "w", "--json"]
    made = did("prune", *words, "--pattern", "blocks:0.34", *BOTH).json
    config = json.loads((Path(made["path"]) / "config.json").read_text())
    shape = (
        config["num_hidden_layers"],
        config["intermediate_size"],
        config["num_key_value_heads"],
        config["head_dim"],
    )
    assert shape == (2, 32, 1, 8)
    assert config["num_attention_heads"] == 2
    sparse = did("prune", "-m", made["name"], *words[2:], "--pattern", "2:4").json
    weights = load_file(Path(sparse["path"]) / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert weights.shape == (32, 32)
    assert int((weights.view(32, 8, 4) != 0).sum(2).max()) <= 2
    opened(Path(sparse["path"]))


def test_run_again_it_is_there_and_forced_it_is_the_same(tmp_path: Path, windows: Path) -> None:
    save_pico("phi3", tmp_path / "dense")
    words = ["prune", "-m", tmp_path / "dense", "--data", windows, *BOTH, "-w", tmp_path / "w", "--json"]
    first = did(*words).json
    files = tree(Path(first["path"]))
    assert did(*words).json["cached"]
    assert tree(Path(did(*words, "--force").json["path"])) == files


def test_eval_takes_the_mask_as_zeroed_columns(tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    where = ["-w", tmp_path / "w"]
    did("mask", "-m", tmp_path / "dense", "--method", "magnitude", *BOTH, *where, "--name", "cut")
    did("apply", *where, "--name", "small")
    rows = did("eval", "--mask", "cut", "--data", windows, *where, "--json").json["rows"]
    small = did("eval", "--model", "small", "--data", windows, *where, "--json").json["rows"]
    assert rows[0]["nats"] == pytest.approx(small[0]["nats"])
    assert rows[1]["nats"] == pytest.approx(small[1]["nats"], rel=1e-5)
    did("calibrate", "-m", tmp_path / "dense", "--data", windows, *where)
    did("mask", "--pattern", "blocks:0.34", "--name", "shorter", *where)
    one_sentence(langprune("eval", "--mask", "shorter", "--data", windows, *where), 1, "langprune apply --mask shorter")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--pattern", "channels:0.999", "--round", "nearest", "--round-to", "8"], 2, "units would stay"),
        (["--pattern", "channels", "--round-to", "64"], 2, "cannot be rounded"),
        (["--pattern", "channels:1.5"], 1, "not a fraction"),
        (["--pattern", "channels:x"], 2, "needs a number after the colon"),
        (["--pattern", "channels:0.2", "--sparsity", "0.3"], 2, "has no effect"),
        (["--pattern", "channels", "--pattern", "channels:0.2"], 2, "twice"),
        (["--pattern", "2:4", "--pattern", "4:8"], 2, "both prune single weights"),
        (["--pattern", "channels", "--method", "wanda"], 1, "--pattern channels has no method 'wanda'"),
        (["--pattern", "channels", "--refine", "dsnot"], 2, "--refine"),
        (["--pattern", "channels", "--exclude", "x"], 2, "--exclude"),
        (["--pattern", "blocks:0.01"], 1, "removes none"),
        (["--pattern", "blocks:0.4", "--method", "osscar"], 1, "--pattern blocks has no method 'osscar'"),
        (["--round-to", "8"], 2, "--round-to"),
        (["--pattern", "channels", "--round", "up"], 2, "--round"),
    ],
)
def test_what_cannot_be(words: list[str], code: int, says: str, tmp_path: Path, windows: Path) -> None:
    save_pico("llama", tmp_path / "dense")
    done = langprune("prune", "-m", tmp_path / "dense", "--data", windows, *words, "-w", tmp_path / "w")
    one_sentence(done, code, says)
    assert not list((tmp_path / "w").rglob("model*.safetensors"))


def test_families_that_cannot(tmp_path: Path, windows: Path) -> None:
    for family, pattern, says in (
        ("bloom", "channels", "no number of its configuration counts them"),
        ("gpt2", "kv-groups:0.5", "fewer heads"),
    ):
        save_pico(family, tmp_path / family)
        before = snapshot(tmp_path / family)
        words = ["-m", tmp_path / family, "--data", windows, "--pattern", pattern, "-w", tmp_path / "w"]
        one_sentence(langprune("prune", *words), 1, says)
        assert snapshot(tmp_path / family) == before
    save_pico("llama", tmp_path / "one", num_key_value_heads=1)
    words = ["-m", tmp_path / "one", "--data", windows, "--pattern", "kv-groups:0.5", "-w", tmp_path / "w"]
    one_sentence(langprune("prune", *words), 1, "a single KV group")
    assert set(FAMILIES) - set(CUTTABLE) == {"bloom"}


@pytest.mark.parametrize(("share", "stay"), [(0.25, 4), (0.4, 4), (0.6, 4), (0.65, 2), (0.8, 2), (0.85, 1)])
def test_the_nearest_number_of_kv_groups_on_request(share: float, stay: int, tmp_path: Path, windows: Path) -> None:
    """A llama's heads must divide its hidden size, 32: of 8 groups 4, 2 or 1 can stay; `plan` says the same."""
    dense = save_pico("llama", tmp_path / "dense", num_attention_heads=8, num_key_value_heads=8, head_dim=8)
    pattern = ["-m", tmp_path / "dense", "--pattern", f"kv-groups:{share}"]
    words = [*pattern, "--data", windows, "-w", tmp_path / "w", "--method", "magnitude", "--update", "none", "--json"]
    if math.ceil(8 * (1 - share)) not in {4, 2, 1}:
        one_sentence(langprune("prune", *words), 1, "or --round nearest for the nearest of these")
    made = did("prune", *words, "--round", "nearest").json
    assert json.loads((Path(made["path"]) / "config.json").read_text())["num_key_value_heads"] == stay
    planned = did("plan", *pattern, "--round", "nearest", "--json").json
    assert planned["axes"][0]["after"] == stay
    assert planned["parameters_after"] == sum(each.numel() for each in opened(Path(made["path"])).parameters())
    mask = tmp_path / "w" / "masks" / made["name"]
    torch.testing.assert_close(
        logits(opened(Path(made["path"]))), logits(without_columns(dense, masks_in(mask, dense)))
    )
    manifest = json.loads((mask / "manifest.json").read_text())
    assert manifest["params"]["kept"] == {"kv-groups": stay}
    assert manifest["about"]["rounding"] == {"round_to": None, "round": "nearest"}


def test_rounding_to_the_nearest_where_nothing_is_in_the_way(tmp_path: Path, windows: Path) -> None:
    """Both ways give the same model, and the same artifact, where they keep the same number."""
    save_pico("llama", tmp_path / "dense")
    words = ["prune", "-m", tmp_path / "dense", "--data", windows, "-w", tmp_path / "w", "--method", "magnitude"]
    words += ["--update", "none", "--pattern", "kv-groups:0.5", "--json"]
    made = did(*words).json
    assert did(*words, "--round", "nearest").json["key"] == made["key"]
    one_sentence(langprune(*words, "--round-to", "8"), 2, "--round-to 8 is for channels: add --pattern channels")
