"""What `plan --recover` says of training, against counts by hand and against what the opened models say."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import langprune_cli
from langprune_cli.defaults import TRAINS
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.plan import recovery
from langprune_cli.stages.recover.memory import CHECKPOINTED, PLAIN, Sizes, recovery_bytes
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico


def test_operations_are_those_counted_by_hand(tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model")  # of 3 blocks, with a context of 64 tokens
    plan = did("plan", "-m", tmp_path / "model", "-p", "channels:0.25", "--recover", "131072", "--json").json[
        "recovery"
    ]
    assert (plan["tokens"], plan["seqlen"]) == (131072, 64)

    def one_pass(ffn: int) -> tuple[int, int, int]:
        linears = (32 + 16 + 16) * 32 + 32 * 32 + 2 * ffn * 32 + 32 * ffn
        return 3 * 2 * linears, 3 * 2 * 64 * 32, 2 * 32 * 97

    linears, attention, head = one_pass(36)
    forward = linears + attention + head + sum(one_pass(48))
    held_out = 17 * 64 * 64  # 64 windows of 64 tokens, looked at before training and sixteen times of 64 steps
    norms = 131072 * (forward + linears + 2 * attention + head) + held_out * (linears + attention + head)
    whole = norms + 131072 * (linears + head)
    found = {each["train"]: each for each in plan["trainings"]}
    assert list(found) == list(TRAINS)
    assert plan["logits_bytes"] == 131072 * (2 * 64 + 2 * 65)
    assert {name: each["flops"] for name, each in found.items()} == {
        "all": whole, "lora": whole - 131072 * head, "norms": norms,
    }  # fmt: skip
    assert all(each["seconds"] == pytest.approx(each["flops"] / plan["flops_per_second"]) for each in found.values())
    block = (32 + 16 + 16) * 32 + 32 * 32 + 3 * 36 * 32
    assert found["all"]["trained"] == 3 * (block + 2 * 32) + 32 + 2 * 97 * 32
    assert found["norms"]["trained"] == 7 * 32
    assert found["lora"]["trained"] == 3 * 16 * (
        64 + 2 * 48 + 64 + 3 * 68
    )  # out and in of q, k and v, o, and the FFN's


@pytest.mark.parametrize(
    ("family", "pattern"),
    [("llama", "channels:0.25"), ("qwen2", "2:4"), ("gpt2", "blocks:0.34"), ("mixtral", "experts:0.5")],
)
def test_memory_is_what_the_opened_models_say(family: str, pattern: str, tmp_path: Path) -> None:
    save_pico(family, tmp_path / "model", dtype=torch.bfloat16)
    ids = torch.randint(3, 97, (8, 16), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    save_file({"windows": ids}, tmp_path / "windows.safetensors")
    plan = did("plan", "-m", tmp_path / "model", "-p", pattern, "--recover", "2M", "--json").json["recovery"]
    cut = langprune_cli.prune(
        model=tmp_path / "model", data=tmp_path / "windows.safetensors", pattern=pattern, name="cut"
    )
    pruned, dense = StreamedModel(cut.artifact.folder), StreamedModel(tmp_path / "model")
    for each in plan["trainings"]:
        sizes = [Sizes.of(model.model, torch.bfloat16) for model in (pruned, dense)]
        for name, way in (("peak_device_bytes", PLAIN), ("checkpointed_device_bytes", CHECKPOINTED)):
            whole = recovery_bytes(
                *sizes,
                each["train"],
                seqlen=64,
                dtype=torch.bfloat16,
                text=2_000_000 // 64 * 64,
                way=way,
            )
            assert each[name] == whole


def test_it_says_what_would_be_trained_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pico("llama", tmp_path / "model", hidden_size=128)
    free = {"bytes": 10**9}
    monkeypatch.setattr(recovery, "free_bytes", lambda _device: free["bytes"])
    asked = ["plan", "-m", tmp_path / "model", "-p", "2:4", "--recover", "4k"]
    plan = did(*asked, "--json").json["recovery"]
    assert (plan["chosen"], plan["free_bytes"]) == ("all", 10**9)
    sizes = {each["train"]: each["checkpointed_ram_bytes"] - recovery.PROCESS_BYTES for each in plan["trainings"]}
    assert sizes["norms"] < sizes["lora"] < sizes["all"]
    lines = did(*asked).out.splitlines()
    at = lines.index("To recover on 4,000 tokens, in windows of 64:")
    assert [line.split()[0] for line in lines[at + 1 : at + 5]] == ["--train", *TRAINS]
    assert f"The dense model's logits take {62 * 64 * (2 * 64 + 2 * 65) / 1e6:,.2f} MB of disk." in lines
    assert lines[-1].endswith("are free on this cpu: recover trains all.")
    free["bytes"] = sizes["lora"]
    assert did(*asked, "--json").json["recovery"]["chosen"] == "lora"
    free["bytes"] = sizes["norms"] - 1
    assert did(*asked, "--json").json["recovery"]["chosen"] is None
    assert did(*asked).out.endswith("are free on this cpu: too little for any of them.\n")


def test_without_it_nothing_is_said_of_training(pico_model: Path) -> None:
    assert "recovery" not in did("plan", "-m", pico_model, "--json").json
    assert "recover" not in did("plan", "-m", pico_model).out


def test_the_python_api_has_the_same(pico_model: Path) -> None:
    plan = langprune_cli.plan(model=pico_model, pattern="2:4", recover="2M").plan.recovery
    assert plan is not None
    assert [each.train for each in plan.trainings] == list(TRAINS)
    assert plan.tokens == 2_000_000


@pytest.mark.parametrize("tokens", ["0", "lots", "-5", "9" * 400])
def test_what_is_no_number_of_tokens(tokens: str, pico_model: Path) -> None:
    refused = langprune("plan", "-m", pico_model, f"--recover={tokens}")
    one_sentence(refused, 2, f"--recover '{tokens[:3]}")
