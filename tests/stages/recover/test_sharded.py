"""Matrices sharded over processes: gradients, losses and weights of replicas, to rounding; each has a share of the numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from langprune_cli.defaults import Train
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.recover import distilling
from langprune_cli.stages.recover.student import Student
from tests.stages.recover import recovering
from tests.stages.recover.recovering import LENGTH, pruned, recovered
from tests.stages.recover.test_several_processes import KILLED, MODELS, asked, same_training, state
from tests.support.command import did, ran, tree, two
from tests.support.interrupting import Interrupting
from tests.support.pico import save_pico

data = recovering.data  # a fixture

# Memory is too short for anything but shares.
SHORT = """
import os, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
from langprune_cli.stages.recover import memory

memory.recovery_bytes = lambda *_, way, **more: 0 if way.processes > 1 else 1 << 60
"""
SHARDED = f"""{SHORT}
from langprune_cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
# The first process saves the gradients of a sharded model in one step, of which each process has the window of its number. Then
# both load the model as a whole, and say whether it gives the same logits; and how many numbers each had to train.
GRADIENTS = """
import os, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
import torch
from pathlib import Path
from safetensors.torch import save_file
from langprune_cli.machine.sharding import gathered, own
from langprune_cli.machine.team import Team
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.recover.student import Student, checkpointed, in_memory

folder, train, *windows = sys.argv[1:]
team = Team.join()
model = StreamedModel(Path(folder), dtype=torch.float32)
ids = torch.tensor([list(map(int, windows[team.rank].split(",")))])
with in_memory(model, team, sharded=True) as parameters:
    student = Student(model, parameters, train, seed=0)
    with checkpointed(model.blocks):
        logits = student.logits(ids)
        logits.logsumexp(-1).square().mean().backward()
    student.clip(1e9, team)
    there = {name: each.grad for name, each in student.trained.items() if each.grad is not None}
    found = {name: gathered(student.joined(name, each)) for name, each in there.items()}
    if team.leads:
        save_file({name: each.contiguous() for name, each in found.items()}, Path(folder, "gradients"))
    held = sum(own(each).numel() for each in parameters.values())
    trained = sum(each.numel() for each in student.trained.values())
    student.release()
with model.whole(), torch.no_grad():
    print(held, trained, torch.allclose(model.model(input_ids=ids).logits, logits), type(model.blocks[0]).__name__)
team.leave()
"""
# What two processes on one device choose where it has the memory for all weights in copies, with checkpointing, a byte less, the
# memory for shares, and a byte less than that.
CHOSEN = """
import os, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
import torch
from pathlib import Path
from langprune_cli.defaults import TRAINS
from langprune_cli.machine.team import Team
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.recover import memory

team = Team.join()
model = StreamedModel(Path(sys.argv[1]), dtype=torch.float32)
asked = dict(seqlen=16, dtype=torch.float32, text=16)
sizes = memory.Sizes.of(model.model, torch.float32)
copies = memory.recovery_bytes(sizes, sizes, "all", way=memory.CHECKPOINTED, **asked) + 4 * sizes.weights
shares = memory.recovery_bytes(sizes, sizes, "all", way=memory.Way(checkpointing=True, processes=2), **asked)
for free in (copies, copies - 1, shares, shares - 1):
    memory.free_bytes = lambda _device: 2 * free
    train, way = memory.what_fits(model, model, TRAINS, team=team, **asked)
    print(train, way.checkpointing, way.processes)
team.leave()
"""


@pytest.mark.parametrize(("family", "words"), [
    ("llama", []),
    pytest.param("gemma2", ["--online"], marks=pytest.mark.slow),
    pytest.param("qwen3_moe", [], marks=pytest.mark.slow),
    pytest.param("gpt2", ["--train", "lora"], marks=pytest.mark.slow),
    pytest.param("llama", ["--train", "norms", "--learning-rate", "3e-2", "--online"], marks=pytest.mark.slow),
])  # fmt: skip
def test_training_is_that_of_replicas(family: str, words: list[object], data: Path) -> None:
    pruned(family, "2:4", data)
    first, second = two(*[asked(data, "sharded", *words)] * 2, program=("-c", SHARDED))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "each of 2 processes has its share of the weights" in first.stderr
    ran(*asked(data, "replicas", *words))
    same_training("replicas", "sharded")
    assert list(MODELS.glob("*/resume*")) == []


def gradients(folder: Path, train: Train, windows: list[list[int]]) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """Return the gradients of each window by itself, in one process, and the numbers of what is trained."""
    model, found = StreamedModel(folder, dtype=torch.float32), []
    with model.whole() as parameters:
        student = Student(model, parameters, train, seed=0)
        for window in windows:
            loss = student.logits(torch.tensor([window])).logsumexp(-1).square().mean()
            loss.backward()  # type: ignore[no-untyped-call] # torch's own
            found.append({name: each.grad for name, each in student.trained.items() if each.grad is not None})
            for each in student.trained.values():
                each.grad = None
        student.release()
    return found, {name: each.numel() for name, each in student.trained.items()}


def matrices_and_vectors(folder: Path) -> tuple[int, int]:
    """Return how many numbers a model's parameters of two dimensions and of one have, without those that are tied to others."""
    with StreamedModel(folder, dtype=torch.float32).whole() as parameters:
        once = {id(each): each for each in parameters.values()}.values()
        return tuple(sum(each.numel() for each in once if (each.dim() > 1) is matrix) for matrix in (True, False))


@pytest.mark.parametrize("family", ["qwen3_moe", "gemma2", "gpt2"])
@pytest.mark.parametrize("train", ["all", pytest.param("lora", marks=pytest.mark.slow)])
def test_gradients_are_means_over_processes_and_each_has_its_share(family: str, train: Train, tmp_path: Path) -> None:
    """Of two windows of one token: some experts are reached by one process, some by none."""
    save_pico(family, tmp_path)
    both = two(*[[tmp_path, train, "5", "50"]] * 2, program=("-c", GRADIENTS))
    assert [each.returncode for each in both] == [0, 0], both[0].stderr + both[1].stderr
    (first, second), numbers = gradients(tmp_path, train, [[5], [50]])
    found = load_file(tmp_path / "gradients")
    assert found.keys() == first.keys() | second.keys()
    for name, gradient in found.items():
        mean = sum(each[name] for each in (first, second) if name in each) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)
    if family == "qwen3_moe":
        assert first.keys() - second.keys()
        assert second.keys() - first.keys()
        assert numbers.keys() - found.keys()
    matrices, vectors = matrices_and_vectors(tmp_path)
    for each in both:
        held, trained, same, block = each.stdout.split()
        assert abs(int(held) - vectors - matrices / 2) < 0.02 * matrices
        share = matrices / 2 + vectors if train == "all" else sum(numbers.values())
        assert abs(int(trained) - share) < 0.02 * matrices
        assert (same, block.startswith("FSDP")) == ("True", False)


def test_shares_are_tried_before_less_is_trained(tmp_path: Path) -> None:
    save_pico("llama", tmp_path, num_hidden_layers=12)
    first, second = two([tmp_path], [tmp_path], program=("-c", CHOSEN))
    chosen = ["all True 1", "all True 2", "all True 2", "norms True 1"]
    assert first.stdout.splitlines() == second.stdout.splitlines() == chosen, first.stderr + second.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_run_is_gone_on_with_in_shares_or_in_one_process(rank: int, data: Path) -> None:
    pruned("llama", "2:4", data)
    words = asked(data, "whole")
    assert [each.returncode for each in two(words, words, program=("-c", SHARDED))] == [0, 0]
    for name in ("by-two", "by-one"):
        killed = two(*[[rank, *asked(data, name)]] * 2, program=("-c", SHORT + KILLED))
        assert (killed[rank].returncode, killed[1 - rank].returncode) == (-9, 1)
        said = killed[1 - rank].stderr
        assert rank == 0 or said.splitlines()[-1].startswith("error: another process of this run ended ("), said
        assert "Traceback" not in said
        assert state(name)["place"].tolist()[0] == 5
    again = asked(data, "by-two")
    first, second = two(again, again, program=("-c", SHARDED))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "Resuming by-two: " in first.stderr
    assert tree(MODELS / "whole") == tree(MODELS / "by-two")
    assert "Resuming by-one: " in did(*asked(data, "by-one")).err
    same_training("whole", "by-one")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "train"), [("qwen3_moe", "all"), ("gemma2", "all"), ("llama", "lora")])
def test_the_saved_state_is_that_of_one_process(
    family: str, train: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And shares go on with that of one: AdamW hardly minds gradients that are too large by a factor; its averages show them."""
    pruned(family, "2:4", data)
    options = ["--train", train]
    did(*asked(data, "whole", *options))
    two(*[[1, *asked(data, "by-two", *options)]] * 2, program=("-c", SHORT + KILLED))
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(
            data,
            name="begun",
            tokens="2240",
            batch_tokens=7 * LENGTH,
            dtype="float32",
            train=train,
            reporter=Interrupting(6),
        )
    one, of_two = state("begun"), state("by-two")
    assert one.keys() == of_two.keys()
    for key, tensor in one.items():
        tolerance = 1e-4 * float(tensor.double().nan_to_num().norm())
        torch.testing.assert_close(of_two[key], tensor, rtol=0, atol=tolerance, equal_nan=True)
    words = asked(data, "begun", *options)
    first, second = two(words, words, program=("-c", SHARDED))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "Resuming begun: " in first.stderr
    same_training("whole", "begun")
