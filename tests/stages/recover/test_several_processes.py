"""`recover` shared by several processes: the losses and weights of one, to rounding, and one end for all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from langprune_cli.stages.recover import distilling, memory
from langprune_cli.store.artifact import open_artifact
from langprune_cli.store.manifest import read_manifest
from tests.stages.recover import recovering
from tests.stages.recover.recovering import LENGTH, looks, pruned, recovered
from tests.support.command import did, ran, tree, two
from tests.support.interrupting import Interrupting
from tests.support.reporting import PRUNED

data = recovering.data  # a fixture
MODELS = Path("langprune-workspace/models")

# Training with a state saved after every step, in which the process of the first word is killed before its sixth backward pass.
KILLED = """
import os, signal, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
import torch
from langprune_cli.__main__ import main
from langprune_cli.stages.recover import distilling

def backward(*words, real=torch.autograd.backward, **more):
    passes.append(0)
    if len(passes) == 6 and os.environ["RANK"] == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*words, **more)

passes = []
torch.autograd.backward = backward
distilling.SAVE_AFTER_SECONDS = 0.0
sys.exit(main(sys.argv[2:]))
"""
# A command with micro-batches of 16 tokens.
SMALL = """
import os, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
from langprune_cli.__main__ import main
from langprune_cli.stages.recover import memory

memory._MICRO_TOKENS = 16
sys.exit(main(sys.argv[1:]))
"""
# What each of two processes takes as free where the first has 1,000 bytes and the second 3,000, on one device and on two.
FREE = """
import torch
from langprune_cli.machine.team import Team
from langprune_cli.stages.recover import memory

team = Team.join()
memory.free_bytes = lambda _device: 1000 + 2000 * team.rank
print(*(memory._free_bytes(torch.device(each), team) for each in ("cpu", f"cuda:{team.rank}")))
team.leave()
"""


def asked(data: Path, name: str, *words: object, batch_tokens: int = 7 * LENGTH) -> list[object]:
    """Return a command that trains for 2,240 tokens: by default 7 windows a step, which 2 and 3 do not divide."""
    line = ["recover", "-m", "cut", "--data", data, "--tokens", "2240", "--batch-tokens", batch_tokens]
    return [*line, "--learning-rate", "3e-3", "--dtype", "float32", "--name", name, *words]


def tensors(name: str) -> dict[str, Tensor]:
    return {
        key: each for path in sorted((MODELS / name).glob("*.safetensors")) for key, each in load_file(path).items()
    }


def same_training(name: str, other: str) -> None:
    """Check that two models were trained the same way but for rounding, with the same zeros, and under the same key."""
    one, several = (open_artifact(MODELS / each, "models") for each in (name, other))
    assert several.key == one.key
    assert len(looks(one)) == len(looks(several)) > 7
    for mine, theirs in zip(looks(one), looks(several), strict=True):
        assert {**theirs, "loss": theirs["loss"] or 0.0} == pytest.approx(
            {**mine, "loss": mine["loss"] or 0.0}, rel=1e-4
        )
    before, expected, found = tensors("cut"), tensors(name), tensors(other)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-4 * float(tensor.abs().max()))
        if tensor.dim() == 2 and (before[key] == 0).float().mean() > 0.4:
            assert torch.equal(found[key] == 0, before[key] == 0), key
    assert min(look["held_out"] for look in looks(one)) < 0.9 * looks(one)[0]["held_out"]


@pytest.mark.parametrize(("family", "processes", "words"), [
    ("llama", 2, []),
    pytest.param("gemma2", 3, ["--online"], marks=pytest.mark.slow),
    pytest.param("llama", 2, ["--train", "lora"], marks=pytest.mark.slow),
    pytest.param("qwen3_moe", 2, ["--online"], marks=pytest.mark.slow),
])  # fmt: skip
def test_training_is_that_of_one_process(family: str, processes: int, words: list[object], data: Path) -> None:
    pruned(family, "2:4", data)
    document = ran(*asked(data, "several", *words, "--json"), processes=processes)
    (made,) = json.loads(document)["artifacts"]
    assert (made["name"], made["cached"]) == ("several", False)
    did(*asked(data, "one", *words))
    same_training("one", "several")
    assert list(MODELS.glob("*/resume*")) == []


@pytest.mark.slow
def test_more_processes_than_windows_of_a_step(data: Path) -> None:
    pruned("llama", "2:4", data)
    first, second = two(*[asked(data, "several", batch_tokens=LENGTH)] * 2)
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, ""), first.stderr
    assert "A step has 1 window, so that 1 of 2 processes have no work: a larger --batch-tokens" in first.stderr
    did(*asked(data, "one", batch_tokens=LENGTH))
    same_training("one", "several")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "train"), [("qwen3_moe", "all"), ("llama", "lora")])
def test_gradients_of_several_micro_batches_add_up(
    family: str, train: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of one window each: an expert may be reached by the first of a process and not by its last."""
    pruned(family, "2:4", data)
    words = asked(data, "several", "--train", train)
    first, second = two(words, words, program=("-c", SMALL))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    monkeypatch.setattr(memory, "_MICRO_TOKENS", LENGTH)
    did(*asked(data, "one", "--train", train))
    same_training("one", "several")


@pytest.mark.slow
def test_logits_are_those_of_one_process(data: Path) -> None:
    """Three processes share 33 windows, of which 31 fit into the first part, and the first process has none of the second."""
    ids = torch.randint(3, 97, (33, 4096), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    save_file({"windows": ids}, data)
    pruned("llama", "2:4", data, max_position_embeddings=4096)
    words = ["recover", "-m", "cut", "--data", data, "--tokens", "4096", "--batch-tokens", "4096", "--train", "norms"]
    ran(*words, "--name", "several", processes=3)
    (folder,) = Path("langprune-workspace/logits").iterdir()
    several = tree(folder)
    assert [name for name in sorted(several) if "-" in name] == [
        "logits-000000.safetensors",
        "logits-000031.safetensors",
    ]
    did(*words, "--name", "one", "--force")
    assert tree(folder) == several


def test_what_is_free_is_shared_by_the_processes_of_a_device() -> None:
    first, second = two([], [], program=("-c", FREE))
    assert (first.stdout, second.stdout) == ("500 1000\n", "500 1000\n"), first.stderr + second.stderr


def state(name: str) -> dict[str, Tensor]:
    """Return the saved state of a training that was interrupted."""
    (path,) = (MODELS / name).glob("resume*")
    return load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_run_is_gone_on_with_by_two_processes_or_by_one(rank: int, data: Path) -> None:
    pruned("llama", "2:4", data)
    ran(*asked(data, "whole"))
    for name in ("by-two", "by-one"):
        killed = two(*[[rank, *asked(data, name)]] * 2, program=("-c", KILLED))
        assert killed[rank].returncode == -9
        assert killed[1 - rank].returncode == 1
        said = killed[1 - rank].stderr
        assert rank == 0 or said.splitlines()[-1].startswith("error: another process of this run ended ("), said
        assert "Traceback" not in said
        assert not read_manifest(MODELS / name).complete
        assert state(name)["place"].tolist()[0] == 5
    first, second = two(*[asked(data, "by-two")] * 2)
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, ""), first.stderr
    assert "Resuming by-two: " in first.stderr
    assert tree(MODELS / "whole") == tree(MODELS / "by-two")
    did(*asked(data, "by-one"))
    same_training("whole", "by-one")


@pytest.mark.slow
def test_what_was_begun_by_one_process_two_go_on_with(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have saved the same: AdamW hardly minds gradients that are too large by a factor, but its averages show them."""
    pruned("llama", "2:4", data)
    did(*asked(data, "whole"))
    two(*[[1, *asked(data, "by-two")]] * 2, program=("-c", KILLED))
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(data, name="begun", tokens="2240", batch_tokens=7 * LENGTH, dtype="float32", reporter=Interrupting(6))
    own, of_two = state("begun"), state("by-two")
    assert own.keys() == of_two.keys()
    for key, tensor in own.items():
        tolerance = 1e-4 * float(tensor.double().nan_to_num().norm())
        torch.testing.assert_close(of_two[key], tensor, rtol=0, atol=tolerance, equal_nan=True)
    first, second = two(*[asked(data, "begun")] * 2)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "Resuming begun: " in first.stderr
    same_training("whole", "begun")


@pytest.mark.slow
def test_prune_and_apply_go_on_to_train_in_all_processes(workspace: Path, pico_text: Path) -> None:
    asked = ["prune", "-w", workspace, "--lang", "uk", "--data", pico_text / "uk.jsonl", "--pattern", "2:4"]
    asked += ["--method", "wanda", "--seqlen", "16", "--nsamples", "8", "--recover", "2100", "--json"]
    several = json.loads(ran(*asked))["artifacts"]
    assert all(each["cached"] for each in did(*asked).json["artifacts"])
    one = did(*asked, "--force").json["artifacts"]
    assert [each["key"] for each in one] == [each["key"] for each in several]
    applied = json.loads(ran("apply", "-w", workspace, "--mask", PRUNED, "--recover", "2100", "--json"))["artifacts"]
    assert [each["name"] for each in applied] == [f"{PRUNED}-recovered", PRUNED]
    plain = json.loads(ran("apply", "-w", workspace, "--mask", PRUNED, "--json"))
    assert plain["artifacts"][0]["cached"]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), [
    (["--learning-rate", "0.9", "--dtype", "float16"], "tokens is not finite: give a smaller --learning-rate, or"),
    (["--teacher", "cut"], "has the very weights of cut"),
])  # fmt: skip
def test_what_is_refused_is_said_once(words: list[object], sentence: str, data: Path) -> None:
    pruned("llama", "2:4", data)
    first, second = two(*[asked(data, "new", *words)] * 2)
    said = first.stderr + second.stderr
    assert 0 not in (first.returncode, second.returncode), said
    assert said.lower().count("error:") == 1, said
    assert sentence in said
    assert [path.name for path in MODELS.iterdir()] == ["cut"]
