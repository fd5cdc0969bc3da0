"""Speed: what is measured is counted right, is what stock transformers makes, and changes nothing. No test looks at time."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from langprune_cli.cli.display.speeds import print_speeds
from langprune_cli.errors import LangpruneError
from langprune_cli.stages.evaluate import loaded
from langprune_cli.stages.evaluate.loaded import free_bytes, weight_bytes
from langprune_cli.stages.evaluate.speed import Speed, Workload, compare, speed_rows, timed_run
from tests.support.command import snapshot
from tests.support.pico import FAMILIES, save_pico

CPU = torch.device("cpu")
SHORT: dict[str, int] = {"batch": 2, "prompt": 12, "new_tokens": 3, "repeats": 2}


def measure_speed(folder: Path, *, dtype: torch.dtype | None = None, **load: int) -> Speed:
    """Measure one model."""
    (speed,) = compare({folder.name: folder}, Workload(**load), dtype=dtype).values()
    return speed


def some_ids(sequences: int = 2, tokens: int = 12) -> Tensor:
    return torch.randint(3, 97, (sequences, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_made_are_the_likeliest_ones(family: str, tmp_path: Path) -> None:
    """Against whole forwards without a cache, past a sliding window of 8; a token that ends a text does not end it."""
    model = save_pico(family, tmp_path)
    made, (prefill, decode) = timed_run(model, some_ids(), 6)
    ids = some_ids()
    with torch.no_grad():
        for _ in range(7):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, ids[:, 12:])
    assert prefill > 0
    assert decode > 0
    model.config.eos_token_id = model.generation_config.eos_token_id = int(made[0, 1])
    assert torch.equal(timed_run(model, some_ids(), 6)[0], made)


def test_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = save_pico("gemma3_text", tmp_path)
    before, files = {name: each.clone() for name, each in model.state_dict().items()}, snapshot(tmp_path)
    first = timed_run(model, some_ids(), 3)[0]
    assert torch.equal(timed_run(model, some_ids(), 3)[0], first)  # no cache is left in it
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    measure_speed(tmp_path, **SHORT)
    assert snapshot(tmp_path) == files


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bloom"])
def test_what_is_counted(family: str, tmp_path: Path) -> None:
    """qwen2, gpt2 and bloom have tied embeddings, which take memory once; the files are several."""
    model = save_pico(family, tmp_path, shard_size="20KB")
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    found = measure_speed(tmp_path, **SHORT)
    assert found.parameters == sum(each.numel() for each in model.parameters())
    assert found.weight_bytes == 4 * found.parameters == weight_bytes(tmp_path, None)
    assert found.file_bytes == sum(file.stat().st_size for file in files) > found.weight_bytes
    assert (found.dtype, found.device, found.batch, found.prompt, found.new_tokens) == ("float32", "cpu", 2, 12, 3)
    assert len(found.prefill_seconds) == len(found.decode_seconds) == 2
    assert found.prefill == 2 * 12 / median(found.prefill_seconds) > 0
    assert found.decode == 2 * 3 / median(found.decode_seconds) > 0


def test_another_dtype_than_the_checkpoints(tmp_path: Path) -> None:
    save_pico("llama", tmp_path, dtype=torch.bfloat16)
    own, wide = measure_speed(tmp_path, **SHORT), measure_speed(tmp_path, dtype=torch.float32, **SHORT)
    assert (own.dtype, wide.dtype) == ("bfloat16", "float32")
    assert wide.weight_bytes == 2 * own.weight_bytes == weight_bytes(tmp_path, torch.float32)
    assert (own.parameters, own.file_bytes) == (wide.parameters, wide.file_bytes)


def test_a_smaller_model_beside_its_dense_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pico("llama", tmp_path / "dense")
    save_pico("llama", tmp_path / "small", intermediate_size=32, num_hidden_layers=2)
    capsys.readouterr()
    found = compare({"dense": tmp_path / "dense", "small [0.3]": tmp_path / "small"}, Workload(**SHORT))
    assert capsys.readouterr() == ("", "")  # no bars of transformers
    dense, small = found.values()
    assert list(found) == ["dense", "small [0.3]"]
    assert small.parameters < dense.parameters
    assert small.weight_bytes < dense.weight_bytes
    assert small.file_bytes < dense.file_bytes
    rows = speed_rows(found)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["model"] for row in rows] == list(found)
    assert (rows[0]["prefill_factor"], rows[0]["decode_factor"]) == (1.0, 1.0)
    assert rows[1]["prefill"] == small.prefill
    assert rows[1]["decode"] == small.decode
    print_speeds(rows)
    said, head, first, second = capsys.readouterr().out.splitlines()
    assert "2 x 12 tokens read, 3 generated one by one, float32 on cpu, the median of 2" in said
    assert head.split() == ["model", "parameters", "in", "memory", "files", "prefill", "factor", "decode", "factor"]
    assert first.split()[:2] == ["dense", f"{dense.parameters:,}"]
    assert "x" not in first
    assert second.startswith("small [0.3]")
    assert f"{rows[1]['prefill_factor']:.2f}x" in second


def test_factors_are_of_turns_taken_side_by_side() -> None:
    """A machine that slows down for some repeats slows both, and is no part of the factor."""

    def speed(prefill: tuple[float, ...], decode: tuple[float, ...]) -> Speed:
        return Speed(1, 4, 100, "float32", "cpu", 1, 10, 10, prefill, decode)

    first = speed((1.0, 1.0, 5.0, 5.0, 5.0), (3.0, 3.0, 3.0, 3.0, 3.0))
    second = speed((0.5, 0.5, 2.5, 2.5, 7.0), (6.0, 6.0, 6.0, 6.0, 1.0))
    row = speed_rows({"first": first, "second": second})[1]
    assert (row["prefill_factor"], row["decode_factor"]) == (2.0, 0.5)
    assert row["prefill"] == 4.0


def test_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed_rows(compare({}, Workload(**SHORT))) == []
    print_speeds([])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shown", [True, False])
def test_the_bars_of_transformers_are_shown_again(tmp_path: Path, *, shown: bool) -> None:
    save_pico("llama", tmp_path)
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        measure_speed(tmp_path, **SHORT)
        assert logging.is_progress_bar_enabled() is shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


@pytest.mark.parametrize("name", ["batch", "prompt", "new_tokens", "repeats"])
def test_numbers_below_one(name: str, tmp_path: Path) -> None:
    save_pico("llama", tmp_path)
    with pytest.raises(LangpruneError, match=f"0 {name.replace('_', ' ')} leaves nothing to measure"):
        measure_speed(tmp_path, **SHORT | {name: 0})
    assert measure_speed(tmp_path, **SHORT | {name: 1}).decode > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_context_can_be_filled_and_no_more(family: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path)
    asked = {"batch": 1, "prompt": 60, "repeats": 1}
    assert measure_speed(tmp_path, new_tokens=4, **asked).decode > 0
    with pytest.raises(LangpruneError, match=r"60 tokens and 5 new ones exceed the context of .*, 64: ask for fewer"):
        measure_speed(tmp_path, new_tokens=5, **asked)


def test_models_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either would: together they do not."""
    save_pico("llama", tmp_path / "a")
    save_pico("llama", tmp_path / "b")
    size = weight_bytes(tmp_path / "a", None)
    memory = tmp_path / "meminfo"
    kilobytes = (2 * size - 1) // 1024
    memory.write_text(f"MemTotal:  999999999 kB\nMemAvailable:   {kilobytes} kB\n")
    monkeypatch.setattr(loaded, "_MEMORY", memory)
    assert free_bytes(CPU) == kilobytes * 1024
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    with pytest.raises(LangpruneError, match=f"the weights of a and b need {2 * size:,} bytes of memory, and"):
        compare(folders, Workload(**SHORT))
    assert len(compare(folders, Workload(**SHORT), dtype=torch.bfloat16)) == 2
    assert measure_speed(tmp_path / "a", **SHORT).decode > 0


@pytest.mark.parametrize("text", [None, "", "MemTotal: 12 kB\n", "MemAvailable: much\n", "MemAvailable:\n"])
def test_free_memory_where_proc_does_not_say(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(loaded, "_MEMORY", tmp_path / "meminfo")
    free = free_bytes(CPU)
    assert free is None or free > 1 << 20
    assert free_bytes(torch.device("meta")) is None


def test_models_that_do_not_load_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LangpruneError, match=r"config\.json"):
        measure_speed(tmp_path, **SHORT)
    save_pico("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(47, 32)
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(LangpruneError, match=r"does not load in transformers \(.+\): check the model"):
        measure_speed(tmp_path, **SHORT)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LangpruneError, match="is corrupt or truncated"):
        measure_speed(tmp_path, **SHORT)
