"""What `recover` refuses: one sentence that says what is wrong with what, and nothing is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from langprune_cli.stages.recover import distilling
from tests.stages.recover import recovering
from tests.stages.recover.recovering import LENGTH, pruned, recovered
from tests.support.command import did, langprune, one_sentence, snapshot
from tests.support.interrupting import Interrupting
from tests.support.pico import save_pico
from tests.support.reporting import PRUNED
from tests.support.text.text_corpora import byte_level

data = recovering.data  # a fixture
UK = "--lang", "uk", "--data"


def refuses(workspace: Path, code: int, says: str, *words: object) -> None:
    """Check that a recovery of the workspace's model is refused, and changes nothing."""
    before = snapshot(workspace)
    one_sentence(langprune("recover", "-w", workspace, "-m", PRUNED, "--seqlen", "16", *words), code, says)
    assert snapshot(workspace) == before


def other_tokens(folder: Path) -> None:
    """Give a model's tokenizer another spelling of one token."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {"ЖЖ" if each == "+" else each: number for each, number in vocabulary.items()}
    path.write_text(json.dumps(tokenizer))


def no_tokens(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


SIZE = {"vocab_size": len(byte_level()), "max_position_embeddings": 64}
TEACHERS: dict[str, tuple[str, dict[str, int], Callable[[Path], None] | None, str]] = {
    "another family": ("gpt2", {"n_positions": 64}, None, f"teacher is a gpt2 and {PRUNED} a llama: name the model that"),
    "other tokens": ("llama", {}, other_tokens, rf"teacher has no token '\+', which {PRUNED} has: name a teacher with"),
    "fewer embeddings": (
        "llama", {"vocab_size": 100}, None, rf"uk\.jsonl has token \d+ of {PRUNED}, for which teacher has no embedding: name a",
    ),
    "no tokenizer": ("llama", {}, no_tokens, f"teacher has no readable tokenizer, .* those of {PRUNED}: add tokenizer.json"),
    "a short context": ("llama", {"max_position_embeddings": 8}, None, "windows of 16 tokens, and the context of teacher is 8"),
}  # fmt: skip


@pytest.mark.parametrize("what", TEACHERS)
def test_teachers_that_do_not_fit(what: str, workspace: Path, pico_text: Path, tmp_path: Path) -> None:
    family, settings, change, says = TEACHERS[what]
    folder = tmp_path / "teacher"
    size = SIZE | settings
    save_pico(family, folder, **size)
    byte_level().save_pretrained(folder)
    if change:
        save_pico(family, folder, **size | {"vocab_size": SIZE["vocab_size"] + 1})  # or equal sizes would do
        change(folder)
    refuses(workspace, 1, says, *UK, pico_text / "uk.jsonl", "--tokens", "4k", "--teacher", folder)


@pytest.mark.parametrize("teacher", [PRUNED, "FOLDER"])
def test_a_model_is_not_its_own_teacher(teacher: str, workspace: Path, pico_text: Path) -> None:
    named = teacher.replace("FOLDER", str(workspace / "models" / PRUNED))
    text = *UK, pico_text / "uk.jsonl", "--tokens", "4k"
    refuses(
        workspace,
        1,
        f"has the very weights of {PRUNED}, .* train a pruned model, from the dense",
        *text,
        "--teacher",
        named,
    )


def test_models_whose_dense_one_is_not_known(workspace: Path, pico_text: Path, pico_model: Path) -> None:
    text = *UK, pico_text / "uk.jsonl"
    near = rf"uk-wanda is no model of the workspace \(did you mean {PRUNED}\?.*name that with --teacher"
    refuses(workspace, 1, near, *text, "-m", "uk-wanda")
    refuses(workspace, 1, "pico is no model of the workspace, so its dense model is not known", *text, "-m", pico_model)


@pytest.mark.parametrize("tokens", ["0", "lots", "-5", "1e6", "2 M", "9" * 400])
def test_what_is_no_number_of_tokens(tokens: str, workspace: Path, pico_text: Path) -> None:
    says = f"--tokens '{tokens[:5]}.*' is no number of tokens: write it as 300k or 2M"
    refuses(workspace, 2, says, *UK, pico_text / "uk.jsonl", f"--tokens={tokens}")


def test_fewer_tokens_than_a_step_has(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    """Said before any work, also by the commands that would first make a model."""
    text = *UK, pico_text / "uk.jsonl"
    refuses(
        workspace, 2, "--tokens 20 is less than one step of 64 tokens", *text, "--tokens", "20", "--batch-tokens", "64"
    )
    before = snapshot(workspace)
    for words in (("prune", "-m", pico_model, *text), ("apply",), ("plan",)):
        asked = langprune(*words, "-w", workspace, "--recover", "500")
        one_sentence(asked, 2, "--recover 500 is less than one step of 512 tokens: raise it")
    assert snapshot(workspace) == before


def windows(folder: Path, name: str, count: int, token: int) -> Path:
    save_file({"windows": torch.full((count, LENGTH), token, dtype=torch.int32)}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def test_text_that_is_too_short_to_hold_any_out(workspace: Path, tmp_path: Path) -> None:
    uk, en = (windows(tmp_path, name, 1, token) for name, token in (("uk", 5), ("en", 6)))
    says = "gave {} and recovery needs one to train on and one to hold out of the same text: give more text"
    refuses(workspace, 1, says.format("1 window,"), *UK, uk)
    refuses(workspace, 1, says.format("2 windows,"), *UK, uk, "--lang", "en", "--data", en)
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text("\n")
    short.write_text("мати")
    refuses(workspace, 1, "empty.txt holds no text", *UK, empty)
    refuses(workspace, 1, "too few for one window of 16: give more text, or a --seqlen of at most", *UK, short)


def test_two_texts_of_which_one_can_hold_out(workspace: Path, tmp_path: Path) -> None:
    uk, en = windows(tmp_path, "uk", 2, 5), windows(tmp_path, "en", 1, 6)
    texts = "--lang", "uk:2", "--data", uk, "--lang", "en:1", "--data", en
    did("recover", "-w", workspace, "-m", PRUNED, *texts, "--tokens", "64", "--batch-tokens", "32")


def test_nothing_to_train(data: Path) -> None:
    """OLMo's layer norms have no weights, and it has no biases."""
    pruned("olmo", "2:4", data)
    asked = langprune("recover", "-m", "cut", "--data", data, "--tokens", "4k", "--train", "norms")
    one_sentence(
        asked, 1, "--train norms has nothing to train, as the model has no norms and no biases: choose another --train"
    )
    assert [path.name for path in Path("langprune-workspace/models").iterdir()] == ["cut"]
    assert recovered(data).manifest.params["train"] == "all"


def test_losses_that_are_not_finite_leave_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a state that the same command would go on from, only to end the same way."""
    pruned("llama", "2:4", data)
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    asked = "recover", "-m", "cut", "--data", data, "--tokens", "8k", "--batch-tokens", "64"
    refused = langprune(*asked, "--learning-rate", "0.9", "--dtype", "float16")
    one_sentence(
        refused, 1, r"the loss after [1-9]\d* tokens is not finite: give a smaller --learning-rate, or --dtype float32"
    )
    assert [path.name for path in Path("langprune-workspace/models").iterdir()] == ["cut"]


def test_room_for_the_state_of_training(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is injected: there is room for the model, and for one state, but not for the next beside it."""
    pruned("llama", "2:4", data)
    free = {"bytes": 10**9}
    monkeypatch.setattr("shutil.disk_usage", lambda _place: type("Usage", (), {"free": free["bytes"]}))
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(data, name="large", reporter=Interrupting(30))
    state = next(Path("langprune-workspace/models/large").glob("resume*")).stat().st_size
    model = Path("langprune-workspace/models/cut/model.safetensors").stat().st_size
    free["bytes"] = 10_000_000 + model + state + state // 2
    asked = langprune("recover", "-m", "cut", "--data", data, "--tokens", "4k", "--batch-tokens", "64")
    one_sentence(asked, 1, "MB will be written and the disk has")
    assert sorted(path.name for path in Path("langprune-workspace/models").iterdir()) == ["cut", "large"]
    free["bytes"] = 10_000_000 + model + 2 * state
    recovered(data)
