"""Files written block by block are, byte for byte, what safetensors itself would have written."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.shards import index_json, plan_shards, write_shard, write_tensors
from langprune_cli.models.tensor_entry import DTYPES, TensorEntry
from tests.support.pico import save_pico

SPELLING = {dtype: spelling for spelling, dtype in DTYPES.items()}
Group = dict[str, Tensor]


def entries_of(group: Group) -> dict[str, TensorEntry]:
    """Return the entries of tensors as some checkpoint holds them; their old places do not matter."""
    return {name: TensorEntry("old", SPELLING[t.dtype], tuple(t.shape), 77, t.nbytes) for name, t in group.items()}


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 100, shape, generator=generator)
    return values.to(dtype) if not dtype.is_floating_point else (values / 7).to(dtype)


def by_safetensors(tensors: Group) -> bytes:
    return save(tensors, metadata={"format": "pt"})


def written(folder: Path, groups: list[Group], **options: int) -> dict[str, bytes]:
    shards = plan_shards([entries_of(group) for group in groups], **options)
    for shard in shards:
        write_shard(folder / shard.file, shard, (groups[index] for index in shard.groups))
        assert (folder / shard.file).stat().st_size == shard.size
    return {shard.file: (folder / shard.file).read_bytes() for shard in shards}


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@settings(deadline=None, max_examples=100)
@given(
    plans=st.dictionaries(names, st.tuples(shapes, dtypes), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    split=st.integers(1, 3),
)
def test_any_order_of_arrival_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    plans: dict[str, tuple[tuple[int, ...], torch.dtype]],
    order: object,
    split: int,
) -> None:
    tensors = {name: random_tensor(shape, dtype, seed) for seed, (name, (shape, dtype)) in enumerate(plans.items())}
    shuffled = list(tensors)
    order.shuffle(shuffled)  # type: ignore[attr-defined] # a Random, which hypothesis draws
    groups = [{name: tensors[name] for name in shuffled[start::split]} for start in range(split)]
    files = written(tmp_path_factory.mktemp("shards"), groups)
    assert files == {"model.safetensors": by_safetensors(tensors)}


@pytest.mark.parametrize("backwards", [False, True])
def test_every_dtype_in_the_order_of_the_format(tmp_path: Path, *, backwards: bool) -> None:
    tensors = {f"{k % 3}.{dtype}": random_tensor((3, k + 1), dtype, k) for k, dtype in enumerate(SPELLING)}
    if backwards:
        tensors = dict(reversed(tensors.items()))
    assert written(tmp_path, [tensors])["model.safetensors"] == by_safetensors(tensors)


def test_weights_that_are_views_are_written_as_they_are_seen(tmp_path: Path) -> None:
    whole = random_tensor((6, 4), torch.float32, 0)
    views = {"transposed": whole.t(), "slice": whole[1:5:2], "scalar": whole[2, 3]}
    copies = {name: tensor.clone().contiguous() for name, tensor in views.items()}
    assert written(tmp_path, [views])["model.safetensors"] == by_safetensors(copies)


def test_bits_survive(tmp_path: Path) -> None:
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-40])
    written(tmp_path, [{"a": special}])
    found = load_file(tmp_path / "model.safetensors")["a"]
    assert torch.equal(found.view(torch.int32), special.view(torch.int32))


def groups_of(sizes: list[int]) -> list[Group]:
    return [{f"layers.{k}.w": torch.full((size,), float(k))} for k, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([10, 10, 10], 120, [(0, 1, 2)]),
        ([10, 10, 10], 119, [(0, 1), (2,)]),
        ([10, 10, 10], 80, [(0, 1), (2,)]),
        ([10, 10, 10], 79, [(0,), (1,), (2,)]),
        ([30, 10, 10, 5], 80, [(0,), (1, 2), (3,)]),  # a group that is too large has a file to itself
        ([5, 30, 5], 80, [(0,), (1,), (2,)]),
    ],
)
def test_plans_keep_the_order_and_the_size(sizes: list[int], most: int, expected: list[tuple[int, ...]]) -> None:
    groups = groups_of(sizes)
    shards = plan_shards([entries_of(group) for group in groups], most)
    assert [shard.groups for shard in shards] == expected
    total = len(expected)
    names = [f"model-{k:05d}-of-{total:05d}.safetensors" for k in range(1, total + 1)]
    assert [shard.file for shard in shards] == (names if total > 1 else ["model.safetensors"])
    for shard in shards:
        assert list(shard.entries) == [f"layers.{k}.w" for k in shard.groups]
        assert all(entry.file == shard.file for entry in shard.entries.values())


def test_shards_open_as_a_checkpoint(tmp_path: Path) -> None:
    groups = groups_of([7, 3, 9, 1])
    shards = plan_shards([entries_of(group) for group in groups], 40)
    written(tmp_path, groups, max_bytes=40)
    (tmp_path / "model.safetensors.index.json").write_bytes(index_json(shards))
    opened = Checkpoint(tmp_path)
    assert opened.entries == {name: entry for shard in shards for name, entry in shard.entries.items()}
    assert sum(entry.size for entry in opened.entries.values()) == 80
    for group in groups:
        for name, tensor in opened.read(group).items():
            assert torch.equal(tensor, group[name])


def test_what_does_not_fit_the_plan_is_refused(tmp_path: Path) -> None:
    group = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    (shard,) = plan_shards([entries_of(group)])
    path = tmp_path / shard.file
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3).bfloat16(), torch.zeros(2, 3, dtype=torch.int32)):
        with pytest.raises(ValueError, match="a was planned as F32"):
            write_shard(path, shard, [group | {"a": wrong}])
    with pytest.raises(ValueError, match="no values were given for b"):
        write_shard(path, shard, [{"a": group["a"]}])


@pytest.mark.parametrize("most", [20_000, 10_000_000])
def test_transformers_opens_what_was_written(tmp_path: Path, most: int) -> None:
    whole = save_pico("llama", tmp_path / "original")
    tensors = load_file(tmp_path / "original" / "model.safetensors")
    groups = [{n: t for n, t in tensors.items() if ".layers." not in n}]
    groups += [{n: t for n, t in tensors.items() if f".layers.{k}." in n} for k in range(3)]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((tmp_path / "original" / "config.json").read_bytes())
    files = written(copy, groups, max_bytes=most)
    shards = plan_shards([entries_of(group) for group in groups], most)
    if len(shards) > 1:
        (copy / "model.safetensors.index.json").write_bytes(index_json(shards))
        index = json.loads(index_json(shards))
        assert index["metadata"] == {"total_size": sum(t.nbytes for t in tensors.values())}
        assert index["weight_map"].keys() == tensors.keys()
        assert list(index["weight_map"]) == sorted(tensors)
        assert set(index["weight_map"].values()) == files.keys()
    else:
        save_file(tensors, tmp_path / "again.safetensors", metadata={"format": "pt"})
        assert (tmp_path / "again.safetensors").read_bytes() == files["model.safetensors"]
    opened = AutoModelForCausalLM.from_pretrained(copy)
    for name, parameter in whole.state_dict().items():
        assert torch.equal(opened.state_dict()[name], parameter)


def test_tensors_at_hand_are_written_as_safetensors_does(tmp_path: Path) -> None:
    """Scalars, views that are not contiguous, tensors without values, and two names of one tensor among them."""
    matrix = random_tensor((4, 6), torch.float32, 1)
    tensors = {
        "scalar": torch.tensor(3.5),
        "place": torch.tensor([1, 2]),
        "empty": torch.empty(0, dtype=torch.float64),
        "turned": matrix.t(),
        "rows": matrix[1:3],
        "same": matrix,
        "half": random_tensor((3,), torch.bfloat16, 2),
    }
    write_tensors(tmp_path / "file", tensors)
    apart = {name: each.contiguous().clone() for name, each in tensors.items()}
    assert (tmp_path / "file").read_bytes() == by_safetensors(apart)
