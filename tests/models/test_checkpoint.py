"""Reading checkpoints: the values, the digest that tells them apart, and every way in which a file can be broken."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
Tensors = dict[str, Tensor]


def some_tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {
        "embed.weight": torch.randn(9, 4, generator=generator),
        "layers.0.w": torch.randn(5, 7, generator=generator).bfloat16(),
        "layers.1.w": torch.randn(5, 7, generator=generator).half(),
        "layers.1.count": torch.tensor(3),
        "layers.1.flags": torch.tensor([True, False]),
        "layers.1.none": torch.zeros(0, 4),
        "big.weight": torch.randn(60, 100, generator=generator),  # larger than the digest's samples
    }


def save_single(folder: Path, tensors: Tensors, config: str = '{"a": 1}') -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(config)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def save_sharded(folder: Path, tensors: Tensors, shards: int) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    places = {name: f"part-{k % shards}.safetensors" for k, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    write_index(folder, places)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("shards", [0, 1, 2, 4])
def test_values_are_those_of_safetensors(tmp_path: Path, shards: int) -> None:
    tensors = some_tensors()
    save_sharded(tmp_path, tensors, shards) if shards else save_single(tmp_path, tensors)
    opened = Checkpoint(tmp_path)
    expected: Tensors = {}
    for file in tmp_path.glob("*.safetensors"):
        expected |= load_file(file)
    found = opened.read(tensors)
    assert found.keys() == expected.keys() == opened.entries.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.shape == expected[name].shape
        assert torch.equal(bits(tensor), bits(expected[name]))
        assert opened.elements(name) == tensor.numel()
    assert opened.read([]) == {}


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    tensors = some_tensors()
    opened = Checkpoint(save_single(tmp_path, tensors))
    found = opened.read(["embed.weight"])["embed.weight"]
    found += 1  # a copy: neither the file nor a later read changes
    assert torch.equal(opened.read(["embed.weight"])["embed.weight"], tensors["embed.weight"])
    (tmp_path / SINGLE).write_bytes(b"")
    assert torch.equal(found, tensors["embed.weight"] + 1)


def digest_of(folder: Path) -> str:
    return Checkpoint(folder).digest()


def test_the_digest_does_not_depend_on_the_sharding(tmp_path: Path) -> None:
    tensors = some_tensors()
    backwards = dict(reversed(tensors.items()))
    folders = [save_single(tmp_path / "one", tensors), *(save_sharded(tmp_path / f"{n}", backwards, n) for n in (2, 5))]
    assert len({digest_of(folder) for folder in folders}) == 1
    assert digest_of(save_single(tmp_path / "again", tensors)) == digest_of(folders[0])


def test_the_digest_tells_checkpoints_apart(tmp_path: Path) -> None:
    tensors = some_tensors()
    variants = [tensors]
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.dtype.is_floating_point:
            for place in (0, tensor.numel() // 2, tensor.numel() - 1):
                changed = tensor.clone()
                changed.view(-1)[place] += 1
                variants.append(tensors | {name: changed})
        variants.append({key: value for key, value in tensors.items() if key != name})
        variants.append({f"x.{key}" if key == name else key: value for key, value in tensors.items()})
    same_bytes = tensors["layers.0.w"]
    variants.append(tensors | {"layers.0.w": same_bytes.view(7, 5)})
    variants.append(tensors | {"layers.0.w": same_bytes.view(torch.float16)})
    variants.append(tensors | {"layers.0.w": tensors["embed.weight"], "embed.weight": same_bytes})
    digests = [digest_of(save_single(tmp_path / f"{k}", variant)) for k, variant in enumerate(variants)]
    digests.append(digest_of(save_single(tmp_path / "config", tensors, config='{"a": 2}')))
    assert len(set(digests)) == len(digests)


# --- broken files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a file that is in order."""
    return (save_single(tmp_path_factory.mktemp("whole"), some_tensors()) / SINGLE).read_bytes()


def open_and_read(folder: Path) -> None:
    opened = Checkpoint(folder)
    opened.digest()
    opened.read(opened.entries)


def assert_refused(folder: Path, file: str) -> LangpruneError:
    with pytest.raises(LangpruneError) as caught:
        open_and_read(folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def with_bytes(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / SINGLE).write_bytes(data)
    return folder


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_truncated_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    size = data.draw(st.one_of(st.integers(0, 40), st.integers(0, len(whole) - 1)))
    assert_refused(with_bytes(tmp_path_factory.getbasetemp() / "cut", whole[:size]), SINGLE)


def test_a_file_with_more_at_its_end_is_refused(tmp_path: Path, whole: bytes) -> None:
    for more in (b"\0", b" " * 8, whole):
        assert_refused(with_bytes(tmp_path, whole + more), SINGLE)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_a_changed_header_is_refused_or_still_reads(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    """A flip may leave a valid file (a tensor of another name); what it may never do is end in another exception."""
    end = 8 + int.from_bytes(whole[:8], "little")
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, end - 1))] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from(b'{}[]",:-0.9'))
        )
    folder = with_bytes(tmp_path_factory.getbasetemp() / "flipped", bytes(changed))
    try:
        open_and_read(folder)
    except LangpruneError as error:
        assert str(folder / SINGLE) in str(error)  # noqa: PT017 - no error is as good here


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 10**7, 3])
def test_a_header_length_that_cannot_be(tmp_path: Path, whole: bytes, length: int) -> None:
    assert_refused(with_bytes(tmp_path, length.to_bytes(8, "little") + whole[8:]), SINGLE)


RECORD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"[" * 100_000,
        json.dumps({"a": []}).encode(),
        json.dumps({"a": None}).encode(),
        json.dumps({"a": {}}).encode(),
        *(
            json.dumps({"a": RECORD | change}).encode()
            for change in (
                {"dtype": None}, {"dtype": ["F32"]}, {"dtype": {}}, {"dtype": "F33"},
                {"shape": None}, {"shape": 6}, {"shape": "23"}, {"shape": ["2", "3"]}, {"shape": [2, None]},
                {"shape": [2.0, 3.0]}, {"shape": [-2, -3]}, {"shape": [2, 4]}, {"shape": []}, {"shape": [2, 3, 0]},
                {"shape": [[2, 3]]}, {"shape": [10**30, 10**30]}, {"shape": [True, 6]},
                {"data_offsets": None}, {"data_offsets": 24}, {"data_offsets": [24]}, {"data_offsets": []},
                {"data_offsets": [24, 0]}, {"data_offsets": [0, 23]}, {"data_offsets": [0, 25]},
                {"data_offsets": ["0", "24"]}, {"data_offsets": [0.0, 24.0]}, {"data_offsets": [-24, 0]},
                {"data_offsets": [0, 24, 48]}, {"data_offsets": [4, 28]}, {"data_offsets": [0, 10**30]},
            )
        ),
        json.dumps({"a": RECORD, "b": RECORD}).encode(),  # two tensors in one place
        json.dumps({"a": RECORD, "b": RECORD | {"data_offsets": [-12, 12]}}).encode(),
    ],
)  # fmt: skip
def test_a_header_that_is_not_one(tmp_path: Path, header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(24)
    assert_refused(with_bytes(tmp_path, data), SINGLE)


def test_a_dtype_that_cannot_be_pruned_says_so(tmp_path: Path) -> None:
    save_single(tmp_path, {"layers.0.w": torch.zeros(2, 3).to(torch.float8_e4m3fn)})
    assert "layers.0.w as F8_E4M3: quantized" in str(assert_refused(tmp_path, SINGLE))


def test_no_weights_at_all(tmp_path: Path) -> None:
    assert_refused(tmp_path, SINGLE)
    (tmp_path / SINGLE).mkdir()
    assert_refused(tmp_path, SINGLE)


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_sharded(tmp_path, tensors, 2)
    places = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    write_index(tmp_path, places | {"layers.9.w": "part-1.safetensors"})
    assert "layers.9.w, which part-1.safetensors does not hold" in str(assert_refused(tmp_path, INDEX))
    write_index(tmp_path, places | {"layers.9.w": "part-2.safetensors"})
    assert_refused(tmp_path, "part-2.safetensors")
    write_index(tmp_path, places)
    shutil.copy(tmp_path / "part-1.safetensors", tmp_path / "kept")
    (tmp_path / "part-1.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:-1])
    assert_refused(tmp_path, "part-1.safetensors")
    (tmp_path / "part-1.safetensors").unlink()
    assert_refused(tmp_path, "part-1.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "../part-0.safetensors", "/etc/passwd", "a/part-0.safetensors", "./part-0.safetensors", "..", ".", "", "a\0b",
        "\ud800.safetensors", "x" * 5000, 7, None, ["part-0.safetensors"], {"part": 0},
    ],
)  # fmt: skip
def test_shard_names_that_are_no_plain_file_names(tmp_path: Path, name: Any) -> None:
    folder = save_sharded(tmp_path / "model", some_tensors(), 1)
    shutil.copy(folder / "part-0.safetensors", tmp_path / "part-0.safetensors")
    (folder / "a").mkdir()
    shutil.copy(folder / "part-0.safetensors", folder / "a")
    write_index(folder, {"embed.weight": name})
    assert_refused(folder, "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"weight_map": 7}', '{"weight_map": ["a"]}', "\ud800", "[" * 100_000]
)
def test_an_index_that_is_not_one(tmp_path: Path, text: str) -> None:
    folder = save_sharded(tmp_path, some_tensors(), 1)
    (folder / INDEX).write_bytes(text.encode(errors="surrogatepass"))
    assert_refused(folder, INDEX)


def test_values_that_vanish_after_opening(tmp_path: Path) -> None:
    opened = Checkpoint(save_single(tmp_path, some_tensors()))
    data = (tmp_path / SINGLE).read_bytes()
    for change in (lambda path: path.write_bytes(data[:-9]), lambda path: path.write_bytes(b""), Path.unlink):
        change(tmp_path / SINGLE)
        with pytest.raises(LangpruneError, match=r"model\.safetensors"):
            opened.read(opened.entries)


def test_expecting_tensors_changes_nothing(tmp_path: Path) -> None:
    """Whether the system reads ahead cannot be seen; that missing files and other systems do no harm can."""
    save_file({"a": torch.arange(5.0), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.expect(["a", "b"])
    assert torch.equal(checkpoint.read(["a"])["a"], torch.arange(5.0))
    (tmp_path / "model.safetensors").unlink()
    checkpoint.expect(["a"])
