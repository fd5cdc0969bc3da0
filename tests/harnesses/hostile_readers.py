"""Every reader of files and values, with examples of what somebody might give it to do harm: TARGETS."""

import contextlib
import gzip
import io
import json
import tempfile
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from langprune_cli.__main__ import main
from langprune_cli.errors import LangpruneError
from langprune_cli.location.config_only import locate_config
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.model_files import INDEX, SINGLE, tokenizer_digest
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.plan.plan import plan, read_patterns
from langprune_cli.store.artifact import ArtifactWriter, open_artifact
from langprune_cli.store.files import document_digest, readable_json
from langprune_cli.store.manifest import is_artifact
from langprune_cli.store.verifying import places, verify
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.walk import HiddenStates, walk
from langprune_cli.text.sources import read_documents
from langprune_cli.text.windows import evaluation_windows
from langprune_cli.tokens.tokenizer_files import ids_named_in
from langprune_cli.tokens.vocabulary import Vocabulary
from langprune_cli.types import TextSpec
from tests.harnesses.hostile import ESCAPES, NASTY, VALUES, Target, changed_bytes, changed_json
from tests.support.artifact_making import RECIPE, written
from tests.support.pico import EVERY_FAMILY, save_pico
from tests.support.text.text_corpora import byte_level

# --- manifests


@cache
def _manifest() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "x"))
        record: dict[str, Any] = json.loads(Path(folder, "x/manifest.json").read_bytes())
        return record


def _read_artifact(folder: Path, example: bytes) -> None:
    """Put a manifest in a workspace and do everything that reads it, the removal of its parts included."""
    place = folder / "masks/x"
    written(place)
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # as one would forge it
        record = json.loads(example)
        if record["digest"] != _manifest()["digest"]:
            example = readable_json(record | {"digest": document_digest(record)})
    (place / "manifest.json").write_bytes(example)
    is_artifact(place)
    workspace = Workspace(folder)
    workspace.entries()
    for label, each in places(workspace).items():
        verify(label, each)
    _command(["ls", "-w", str(folder)])
    _command(["show", "masks/x", "-w", str(folder)])
    _command(["verify", "--all", "-w", str(folder), "--json"])
    with contextlib.suppress(LangpruneError):
        artifact = open_artifact(place, "masks")
        artifact.is_whole()
        for part in artifact.manifest.parts:
            artifact.read(part)
    ArtifactWriter(place, RECIPE, fresh=True).finish()


# --- models


def _weights() -> bytes:
    tensors = {
        "layers.0.w": torch.arange(6.0).reshape(2, 3),
        "layers.1.w": torch.ones(4, dtype=torch.bfloat16),
        "none": torch.zeros(0),
    }
    return bytes(save(tensors, {"format": "pt"}))


def _header() -> dict[str, Any]:
    data = _weights()
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def _with_header(header: bytes) -> bytes:
    data = _weights()
    return len(header).to_bytes(8, "little") + header + data[8 + int.from_bytes(data[:8], "little") :]


def _open_checkpoint(folder: Path, example: bytes) -> None:
    (folder / "config.json").write_text("{}")
    (folder / SINGLE).write_bytes(example)
    opened = Checkpoint(folder)
    opened.digest()
    opened.read(opened.entries)


def _open_sharded(folder: Path, example: bytes) -> None:
    (folder / "config.json").write_text("{}")
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(save({f"{name}.w": torch.ones(2)}))
    (folder / INDEX).write_bytes(example)
    opened = Checkpoint(folder)
    opened.digest()
    opened.read(opened.entries)


_INDEX = {
    "metadata": {"total_size": 16},
    "weight_map": {"a.safetensors.w": "a.safetensors", "b.safetensors.w": "b.safetensors"},
}


@cache
def _tokenizer() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(byte_level(bos=True).backend_tokenizer.to_str())
    described["model"]["vocab"] = dict(list(described["model"]["vocab"].items())[:280])
    described["model"]["merges"] = described["model"]["merges"][:6]
    return described


_CONFIG = {
    "bos_token": "<bos>", "pad_token_id": 1, "extra_special_tokens": ["<eos>"],
    "added_tokens_decoder": {"0": {"content": "<bos>"}, "1": {"content": "<eos>"}},
}  # fmt: skip


def _read_tokenizer(folder: Path, example: tuple[bytes, bytes]) -> None:
    (folder / "tokenizer.json").write_bytes(example[0])
    (folder / "tokenizer_config.json").write_bytes(example[1])
    with contextlib.suppress(LangpruneError):
        tokenizer_digest(folder)
    with contextlib.suppress(LangpruneError):
        ids_named_in(folder)
    with contextlib.suppress(ValueError, RecursionError):
        described = json.loads(example[0])
        if isinstance(described, dict):
            Vocabulary.of(described).required()


@cache
def _pico(family: str) -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_pico(family, Path(folder))
        config: dict[str, Any] = json.loads(Path(folder, "config.json").read_bytes())
        return config, Path(folder, SINGLE).read_bytes()


# Sizes that a wrong reader would take at their word.
_SIZES = st.sampled_from(
    [0, 1, 3, 33, 2000, 10**4, 10**5, 10**6, 10**9, 2**31, 2**63 - 1, 0.5, "sdpa", "nobody/kernel"]
)


@st.composite
def _configs(draw: st.DrawFn) -> tuple[str, bytes]:
    family = draw(st.sampled_from([*EVERY_FAMILY]))
    return family, draw(changed_json(_pico(family)[0], VALUES | _SIZES))


def _read_config(folder: Path, example: tuple[str, bytes]) -> None:
    """Plan with a configuration and, unless its model is far too large, compute logits with the family's weights."""
    family, config = example
    (folder / "config.json").write_bytes(config)
    (folder / SINGLE).write_bytes(_pico(family)[1])
    with contextlib.suppress(LangpruneError):
        plan(locate_config(str(folder)), read_patterns(["2:4"], None))
    model = StreamedModel(folder)
    states = HiddenStates(model, torch.arange(12).reshape(2, 6), batch_tokens=8)
    for _ in walk(states):
        pass
    for _ in states.logits():
        pass


# --- texts


_TEXT = "".join(json.dumps({"text": f"калина {n}", "other": [n]}, ensure_ascii=False) + "\n" for n in range(4)).encode()


def _read_text(folder: Path, example: tuple[str, bytes]) -> None:
    name, data = example
    (folder / name).write_bytes(data)
    for document in islice(read_documents(str(folder / name)), 1000):
        document.encode()


def _parquet() -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    import pyarrow.parquet as pq  # noqa: PLC0415

    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["калина", None, "вітер"]}), stream)
    return stream.getvalue()


_HOSTILE_LINES = [
    b"\xef\xbb\xbf", b"\xff\xfe\x00\x00", b"\0" * 100, b'{"text": "\\ud83d"}\n', b'{"text": 1}\n', b"[" * 20000,
    b'{"text": "' + b"a" * 100000,
    b'{"text": "\\u0000"}\n', b'{"text": ' + b"9" * 5000 + b"}\n", b"NaN\n", b'{"text": "a", "text": []}\n', b"\r",
    "\u2028".encode(), b"",
]  # fmt: skip


def _texts() -> st.SearchStrategy[tuple[str, bytes]]:
    plain = changed_bytes(_TEXT) | st.lists(st.sampled_from([*_HOSTILE_LINES, _TEXT]), max_size=4).map(b"".join)
    packed = plain.map(gzip.compress) | changed_bytes(gzip.compress(_TEXT))
    return st.one_of(
        st.tuples(st.sampled_from(["a.jsonl", "a.txt", "A.JSONL"]), plain),
        st.tuples(st.sampled_from(["a.jsonl.gz", "a.txt.gz"]), packed),
        st.tuples(st.just("a.parquet"), changed_bytes(_parquet())),
    )


def _read_windows(folder: Path, example: bytes) -> None:
    (folder / "w.safetensors").write_bytes(example)
    evaluation_windows(TextSpec(None, str(folder / "w.safetensors"), "w"), None, seqlen=4, vocab_size=97)


def _windows() -> st.SearchStrategy[bytes]:
    whole = bytes(save({"windows": torch.arange(12, dtype=torch.int32).reshape(3, 4)}))
    shapes = st.sampled_from([(0, 4), (3, 0), (12,), (), (1, 1, 12), (3, 4), (2, 2)])
    dtypes = st.sampled_from([torch.int64, torch.int8, torch.uint8, torch.float16, torch.bool, torch.complex64])
    other = st.builds(lambda shape, dtype: bytes(save({"windows": torch.full(shape, 1).to(dtype)})), shapes, dtypes)
    return changed_bytes(whole, end=120) | other


# --- the command line


_VALUED = {
    "mask": ["--pattern", "--sparsity", "--method", "--name", "--exclude", "--group", "--ties", "--allocation",
             "--stats", "--scores", "--refine"],
    "calibrate": ["--lang", "--data", "--nsamples", "--seqlen", "--seed", "--dtype", "--device", "--sampling",
                  "--collect", "--shard", "--model"],
    "apply": ["--mask", "--update", "--max-shard-size", "--name", "--damping"],
    "show": [], "ls": [], "rm": [], "verify": [], "compare": [],
    "plan": ["--pattern", "--round-to", "--model", "--seqlen"],
    "combine": ["--how", "--weights", "--per", "--name"],
}  # fmt: skip


@st.composite
def _command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(list(_VALUED)))
    # A byte of the command line that is not UTF-8 comes as a lower surrogate, never as an upper one.
    values = NASTY.map(lambda text: text.replace("\ud800", "\udcff")) | st.sampled_from(
        ["0", "-1", "1e9", "nan", "2:4", "9" * 30]
    )
    words = [command]
    if command == "calibrate":
        words += ["--nsamples", "1", "--seqlen", "32"]  # the demo is calibrated where all else is valid
    for _ in range(draw(st.integers(0, 2))):
        if _VALUED[command]:
            words += [draw(st.sampled_from(_VALUED[command])), draw(values)]
    return words + draw(st.lists(values, max_size=2)) * (
        command in {"show", "ls", "rm", "verify", "compare", "combine"}
    )


def _command(words: list[str]) -> int:
    """Run a command line in this process; what it prints must be clean, and an error one that was foreseen."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code in {0, 1, 2}, (words, code)
    assert "to see where" not in err.getvalue(), (words, err.getvalue())
    assert not ESCAPES.search(out.getvalue()), words
    assert not ESCAPES.search(err.getvalue()), words
    (out.getvalue() + err.getvalue()).encode()  # no half of a surrogate pair
    return code


def _run_command(folder: Path, example: list[str]) -> None:
    with contextlib.chdir(folder):
        _command([*example, "-w", str(folder / "ws")])


def _remembered_model(folder: Path, example: bytes) -> None:
    (folder / "workspace.json").write_bytes(example)
    Workspace(folder).model()


TARGETS: dict[str, Target] = {
    "manifest": Target(
        st.deferred(lambda: changed_json(_manifest()) | changed_bytes(readable_json(_manifest()))), _read_artifact
    ),
    "workspace.json": Target(
        changed_json({"schema": 1, "model": {"name": "demo", "revision": None}}) | changed_bytes(b'{"model": {"name": "a"}}'),
        _remembered_model,
    ),
    "safetensors": Target(
        st.deferred(lambda: changed_bytes(_weights()) | changed_json(_header()).map(_with_header)), _open_checkpoint
    ),
    "index": Target(changed_json(_INDEX) | changed_bytes(json.dumps(_INDEX).encode()), _open_sharded),
    "config.json": Target(st.deferred(_configs), _read_config),
    "tokenizer.json": Target(
        st.deferred(lambda: st.tuples(
            changed_json(_tokenizer()) | changed_bytes(json.dumps(_tokenizer()).encode()),
            st.just(json.dumps(_CONFIG).encode()) | changed_json(_CONFIG),
        )),
        _read_tokenizer,
    ),
    "corpus": Target(st.deferred(_texts), _read_text),
    "windows": Target(st.deferred(_windows), _read_windows),
    "command line": Target(_command_lines(), _run_command),
}  # fmt: skip
