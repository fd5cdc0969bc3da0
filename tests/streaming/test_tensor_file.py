"""Hidden states in a file instead of memory: the same numbers, and no page of them left in the process."""

from pathlib import Path

import pytest
import torch

from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.streaming.tensor_file import TensorFile
from langprune_cli.streaming.walk import HiddenStates, restore_states, save_states, walk
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.pico import save_pico


def test_what_was_put_in_comes_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3, 5), torch.randn(2, 4, 4).bfloat16(), torch.tensor(7), torch.randn(6, 2).t()]
    file = TensorFile(tmp_path)
    for tensor in tensors:
        file.append(tensor)
    assert len(file) == 4
    for index in (3, 0, 2, 1):
        assert file[index].dtype == tensors[index].dtype
        assert torch.equal(file[index], tensors[index])
    file[1] = tensors[1] + 1
    assert torch.equal(file[1], tensors[1] + 1)
    assert torch.equal(file[0], tensors[0])  # the neighbours are as they were
    assert torch.equal(file[2], tensors[2])
    with pytest.raises(ValueError, match=r"only a tensor of torch.float32 \[3, 5\] fits"):
        file[0] = torch.zeros(5, 3)
    with pytest.raises(IndexError):
        file[4]
    assert list(tmp_path.iterdir()) == []  # it has no name
    assert [each.shape for each in file] == [each.shape for each in tensors]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LangpruneError, match="nowhere"):
        TensorFile(tmp_path / "nowhere")


@pytest.mark.parametrize(("saved", "resumed"), [(1, 100), (100, 48), (48, 1)])
def test_states_are_saved_and_restored_across_sizes_of_batches(saved: int, resumed: int, tmp_path: Path) -> None:
    save_pico("llama", tmp_path / "model")
    model = StreamedModel(tmp_path / "model")
    ids = torch.randint(3, 97, (5, 24), generator=torch.Generator().manual_seed(1))
    states = HiddenStates(model, ids, saved, tmp_path)
    for block in walk(states):
        if block.index == 1:
            save_states(tmp_path / "states", [states, states.twin()], 1)
            before = torch.cat([states.hidden[number] for number in range(len(states.ids))])
    for spill in (None, tmp_path):
        others = HiddenStates(model, ids, resumed, spill)
        both = [others, others.twin(spill)]
        assert restore_states(tmp_path / "states", both) == 1
        for each in both:
            assert torch.equal(torch.cat([each.hidden[number] for number in range(len(each.ids))]), before)


@pytest.mark.parametrize("words", [
    ["calibrate", "--collect", "hessian"],
    ["prune", "--method", "sparsegpt", "--pattern", "2:4"],
    ["prune", "--pattern", "blocks:0.34", "--pattern", "channels:0.2"],
])  # fmt: skip
def test_artifacts_do_not_depend_on_where_hidden_states_are(
    words: list[str], tmp_path: Path, pico_model: Path, pico_text: Path
) -> None:
    text = ["-m", pico_model, "--lang", "uk", "--data", pico_text / "uk.jsonl"]
    drawn = [*text, *DRAW, "--batch-tokens", "64"]
    did(*words, *drawn, "-w", tmp_path / "memory")
    did(*words, *drawn, "-w", tmp_path / "file", "--max-memory", "0.001KB")
    kinds = ["stats", "masks", "models"] if words[0] == "prune" else ["stats"]
    for kind in kinds:
        found, expected = (tree(tmp_path / where / kind) for where in ("file", "memory"))
        weights = [name for name in expected if name.endswith(".safetensors")]
        assert weights
        assert all(found[name] == expected[name] for name in weights)
    if words[0] == "prune":
        held = ["--lang", "en", "--data", pico_text / "en.jsonl", "--seqlen", "24"]
        rows = [
            did("eval", *held, "-w", tmp_path / where, "--json", *more).json["rows"]
            for where, more in (("memory", []), ("file", ["--max-memory", "1KB"]))
        ]
        assert [row["nats"] for row in rows[0]] == [row["nats"] for row in rows[1]]


def test_sizes_that_are_none(pico_model: Path) -> None:
    one_sentence(
        langprune("calibrate", "-m", pico_model, "--lang", "uk", "--max-memory", "much"),
        2,
        "--max-memory 'much' is not a size",
    )
