"""`eval --load-bits`: what bitsandbytes leaves of the dense and the pruned model, told from full precision everywhere.

bitsandbytes runs on a CPU as well, and so do these tests, where it is installed.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from langprune_cli.errors import LangpruneError
from langprune_cli.location.location import DEMO_FOLDER, ModelLocation
from langprune_cli.stages.evaluate import loaded
from langprune_cli.stages.evaluate.quantized import (
    QuantizedModel,
    check_quantizable,
    check_quantizer,
    quantization,
    quantized_bytes,
)
from langprune_cli.stages.evaluate.rows import model_label
from langprune_cli.stages.evaluate.subjects import Subject
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.compute import Compute
from langprune_cli.streaming.opened import OpenedModel
from tests.stages.evaluate.test_eval_and_export import PRUNED, texts
from tests.support.command import SEQLEN, did, langprune, one_sentence
from tests.support.pico import save_pico

INSTALLED = all(importlib.util.find_spec(name) for name in ("bitsandbytes", "accelerate"))
needs_bnb = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed: pip install '.[bnb]'")
quiet = pytest.mark.filterwarnings("default")  # of bitsandbytes and accelerate, while they are imported and run
FIVE = ("--seqlen", SEQLEN, "--max-windows", "5")


def model_in(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> OpenedModel:
    save_pico(family, folder, dtype=dtype)
    return OpenedModel(ModelLocation(folder, str(folder), None, "folder"), Compute(device="cpu"))


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_bits_need_bitsandbytes(workspace: Path) -> None:
    done = langprune("eval", "-w", workspace, "--load-bits", "4")
    one_sentence(done, 1, r"--load-bits needs bitsandbytes: pip install '\.\[bnb\]' from")


@pytest.mark.parametrize("bits", ["5", "16", "0"])
def test_other_numbers_of_bits(workspace: Path, bits: str) -> None:
    one_sentence(
        langprune("eval", "-w", workspace, "--load-bits", bits),
        2,
        f"--load-bits {bits} is not supported by bitsandbytes",
    )


@pytest.mark.parametrize(
    ("option", "named"),
    [(("--speed",), "--speed"), (("--semi-structured",), "--speed"), (("--tasks", "arc_uk"), "--tasks")],
)
def test_bits_are_of_perplexity(workspace: Path, option: tuple[str, ...], named: str) -> None:
    done = langprune("eval", "-w", workspace, "--load-bits", "4", *option)
    one_sentence(done, 2, f"--load-bits quantizes for perplexity, and {named} runs models unquantized")


def test_bits_are_not_for_masks(pico_model: Path, opened: Callable[[str, str], Artifact]) -> None:
    model = OpenedModel(ModelLocation(pico_model, str(pico_model), None, "folder"), Compute(device="cpu"))
    mask = opened("masks", PRUNED)
    with pytest.raises(LangpruneError, match=f"run langprune apply --mask {PRUNED}, then eval --model"):
        Subject(model, mask, 4).check()
    Subject(model, mask).check()
    Subject(model, None, 4).check()


def test_experts_would_stay_as_they_are(tmp_path: Path) -> None:
    model = model_in(tmp_path, "mixtral")
    with pytest.raises(LangpruneError, match=r"transformers merges the experts of .*: evaluate it without --load-bits"):
        check_quantizable(model)


def test_bits_are_part_of_what_is_evaluated_and_their_absence_is_not(tmp_path: Path) -> None:
    """Entries of cells, and so keys and ids, of evaluations at full precision stay what they were before there were bits."""
    model = model_in(tmp_path / "model")
    plain = Subject(model).identity
    assert plain == {"model_digest": model.digest, "mask_key": None, "dtype": "float32"}
    assert Subject(model, bits=4).identity == plain | {"bits": 4}
    assert Subject(model, bits=8).identity == plain | {"bits": 8}
    assert Subject(model, bits=8).label == "model, 8 bit"
    assert [model_label({"model": "m"} | bits) for bits in ({}, {"bits": 4})] == ["m", "m, 4 bit"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_of_a_quantized_model_by_its_shapes(family: str, bits: int, tmp_path: Path) -> None:
    """Linears of blocks, transposed ones as well, take `bits` a weight and their scales; the rest keeps its dtype."""
    model = model_in(tmp_path, family, torch.bfloat16)
    tensors = load_file(tmp_path / "model.safetensors")
    linears = {each.name: each.transposed for index in range(3) for each in model.streamed.linears(index)}
    expected = 0
    for name, tensor in tensors.items():
        if name not in linears:
            expected += 2 * tensor.numel()
        elif bits == 4:
            expected += tensor.numel() // 2 + 4 * (tensor.numel() // 64)
        else:
            expected += tensor.numel() + 4 * tensor.shape[1 if linears[name] else 0]
    assert quantized_bytes(model, bits) == expected < sum(2 * each.numel() for each in tensors.values())


def literal_losses(folder: Path, ids: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Return each window's summed loss, from logits of transformers' own quantized model."""
    if bits == 4:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=config, device_map={"": "cpu"}, use_safetensors=True
    )
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("Linear4bit" if bits == 4 else "Linear8bitLt") in kinds
    sums = []
    with torch.no_grad():
        for window in ids.long():
            logits = model(window[None]).logits[0, :-1].float()
            sums.append(cross_entropy(logits, window[1:], reduction="none").double().sum())
    return torch.stack(sums)


@pytest.fixture(scope="module")
def demo_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a workspace with the demo model pruned: bitsandbytes' kernels for CPUs want widths that pico models lack."""
    folder = tmp_path_factory.mktemp("demo")
    did("calibrate", "-w", folder, "--model", "demo", "--lang", "uk", "--nsamples", "4", "--seqlen", "32")
    did("mask", "-w", folder, "--pattern", "2:4")
    did("apply", "-w", folder)
    return folder


@pytest.fixture
def demo(demo_made: Path, tmp_path: Path) -> Path:
    """Copy that workspace."""
    folder = tmp_path / "demo"
    shutil.copytree(demo_made, folder)
    return folder


def evaluated(folder: Path, *words: object, langs: tuple[str, ...] = ("uk",)) -> Any:
    """Evaluate the demo model and what was pruned of it on five windows of built-in text."""
    texts = [word for lang in langs for word in ("--lang", lang)]
    return did("eval", "-w", folder, "--model", PRUNED, *texts, *FIVE, *words, "--json").json


@needs_bnb
@quiet
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_equal_those_of_a_literal_loop(bits: int, dtype: str, demo: Path) -> None:
    done = evaluated(demo, "--dtype", dtype, "--load-bits", bits, langs=("uk", "en"))
    assert [(row["model"], row["bits"], row["dtype"]) for row in done["rows"]] == [
        ("demo", bits, dtype), (PRUNED, bits, dtype),
    ] * 2  # fmt: skip
    for row, number in zip(done["rows"], (0, 0, 1, 1), strict=True):
        folder = DEMO_FOLDER if row["model"] == "demo" else demo / "models" / PRUNED
        ids = load_file(Path(done["path"]) / f"windows-{number}.safetensors")["windows"]
        found = load_file(Path(done["path"]) / f"nats-{row['cell']}.safetensors")["nats"]
        assert found.shape == (5,)
        assert found.dtype == torch.float64
        assert torch.equal(found, literal_losses(folder, ids, bits, getattr(torch, dtype)))
        assert row["nats"] == pytest.approx(float(found.sum()) / row["tokens"], rel=1e-12)


@needs_bnb
@quiet
def test_bits_are_not_confused_with_full_precision(demo: Path, tmp_path: Path) -> None:
    """Neither finds the other's rows, each finds its own, and each is shown as what it is."""
    full = evaluated(demo)
    assert not any("bits" in row for row in full["rows"])
    off = {}
    for bits in (4, 8):
        done = evaluated(demo, "--load-bits", bits)
        assert (done["cached"], done["name"]) == (False, f"{PRUNED}-{bits}bit-uk")
        assert evaluated(demo, "--load-bits", bits)["cached"] is True
        for row, plain in zip(done["rows"], full["rows"], strict=True):
            assert row["fingerprint"] == plain["fingerprint"]
            assert row["cell"] != plain["cell"]
            assert row["nats"] != plain["nats"]
        off[bits] = max(abs(a["nats"] - b["nats"]) for a, b in zip(done["rows"], full["rows"], strict=True))
    assert off[8] < 0.01 < off[4] < 0.3
    again = evaluated(demo)
    assert again["cached"] is True
    assert again["rows"] == full["rows"]
    words = ["eval", "-w", demo, "--model", PRUNED, "--lang", "uk", *FIVE]
    shown = did(*words, "--load-bits", "4").out
    assert f"{PRUNED}, 4 bit" in shown
    assert "2 rows, 4 bit" in shown
    assert "bit" not in did(*words).out
    report = tmp_path / "report.md"
    did("report", "-w", demo, "--eval", f"{PRUNED}-8bit-uk", "--format", "md", "--out", report)
    assert f"{PRUNED}, 8 bit" in report.read_text()
    assert "--load-bits 8" in report.read_text()


@needs_bnb
@quiet
def test_a_second_evaluation_takes_rows_from_the_first(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(demo, "--load-bits", "4")
    losses, computed = QuantizedModel.losses, []

    def watched(self: QuantizedModel, ids: torch.Tensor, tick: Any) -> torch.Tensor:
        computed.append(self.model.label)
        return losses(self, ids, tick)

    monkeypatch.setattr(QuantizedModel, "losses", watched)
    second = evaluated(demo, "--load-bits", "4", langs=("uk", "en"))
    assert computed == ["demo", PRUNED]  # on English
    assert second["rows"][:2] == first["rows"]
    for row in first["rows"]:
        part = f"nats-{row['cell']}.safetensors"
        assert (Path(first["path"]) / part).read_bytes() == (Path(second["path"]) / part).read_bytes()


@needs_bnb
@quiet
def test_figures_do_not_depend_on_micro_batches(demo: Path) -> None:
    few, many = (evaluated(demo, "--load-bits", "8", "--force", "--batch-tokens", each) for each in ("16", "4096"))
    assert few["rows"] == many["rows"]


@needs_bnb
@quiet
def test_a_model_card_has_no_rows_of_quantized_models(demo: Path, tmp_path: Path) -> None:
    full = evaluated(demo)["rows"][1]["ppl"]
    quantized = evaluated(demo, "--load-bits", "4")["rows"][1]["ppl"]
    did("export", "-w", demo, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{full:.3f}" in card
    assert f"{quantized:.3f}" not in card


@needs_bnb
@quiet
def test_a_model_that_does_not_fit_whole(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(loaded, "_MEMORY", memory)
    words = ["eval", "-w", demo, "--model", PRUNED, "--lang", "uk", *FIVE]
    done = langprune(*words, "--load-bits", "4")
    one_sentence(done, 1, r"the weights of demo, 4 bit, loaded whole, need [\d,]+ bytes of memory, and 1,024 are free")
    did(*words)  # block by block it does
    assert len(list((demo / "evals").iterdir())) == 1  # nothing is left of what failed


@needs_bnb
@quiet
def test_shapes_that_bitsandbytes_does_not_take(workspace: Path, pico_text: Path) -> None:
    """Its packed 4-bit weights of CPUs with AVX512-BF16 want inputs in groups of 64, where the pico model has 32."""
    from bitsandbytes import functional  # noqa: PLC0415 - not always installed

    if not getattr(functional, "has_avx512bf16", bool)():
        pytest.skip("this CPU, or this bitsandbytes, has no packed 4-bit weights and takes any shape")
    done = langprune("eval", "-w", workspace, *texts(pico_text, "uk"), *FIVE, "--load-bits", "4")
    one_sentence(
        done, 1, r"bitsandbytes does not run pico, 4 bit on cpu \(.*\): give --load-bits 8, or another --device"
    )


@needs_bnb
@quiet
def test_quantized_checkpoints_stay_refused(workspace: Path, pico_model: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(pico_model, tmp_path / "quantized")
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = quantization(4, torch.float32).to_dict()
    (copied / "config.json").write_text(json.dumps(config))
    done = langprune("eval", "-w", workspace, "--model", copied, "--load-bits", "4", "--lang", "uk", *FIVE)
    one_sentence(done, 1, "is a quantized checkpoint, which cannot be pruned")


@needs_bnb
@quiet
def test_a_device_that_bitsandbytes_does_not_run_on() -> None:
    check_quantizer(torch.device("cpu"))
    with pytest.raises(LangpruneError, match="bitsandbytes does not run on vulkan"):
        check_quantizer(torch.device("vulkan"))
