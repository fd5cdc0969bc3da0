"""`recover` on small random models: what it may change, what it must not, and that it ends the same every time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import langprune_cli
from langprune_cli.errors import LangpruneError
from langprune_cli.machine.team import ALONE
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.recover import distilling, memory
from langprune_cli.stages.recover.recover import RecoverSettings
from langprune_cli.stages.recover.student import Student
from langprune_cli.stages.recover.text import held_out_places
from langprune_cli.streaming.compute import slow_bfloat16
from tests.stages.recover import recovering
from tests.stages.recover.recovering import looks, pruned, recovered
from tests.support.command import did, langprune, one_sentence, tree
from tests.support.interrupting import Interrupting
from tests.support.pico import save_pico
from tests.support.reporting import PRUNED

data = recovering.data  # a fixture


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: each for path in sorted(folder.glob("*.safetensors")) for name, each in load_file(path).items()}


def divergence(folder: Path, dense: Path, ids: Tensor) -> float:
    """Return KL(dense || model) in nats per token as stock transformers and float64 have it."""
    own, theirs = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32)(ids.long())
        .logits.detach()
        .double()
        .log_softmax(-1)
        for each in (folder, dense)
    )
    return float((theirs.exp() * (theirs - own)).sum() / ids.numel())


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


FAMILIES = [("llama", torch.bfloat16), ("gpt2", torch.float32), ("gemma2", torch.float32), ("opt", torch.float16),
            ("mixtral", torch.float32), ("qwen2", torch.bfloat16)]  # fmt: skip


@pytest.mark.parametrize(("family", "dtype"), FAMILIES)
def test_zeros_stay_and_the_loss_is_what_stock_transformers_makes_of_the_files(
    family: str, dtype: torch.dtype, data: Path
) -> None:
    cut = pruned(family, "2:4", data, dtype=dtype)
    model = recovered(data, dtype="float32", online=True)
    before, after = tensors(cut.folder), tensors(model.folder)
    assert before.keys() == after.keys()
    zeros = changed = 0
    for name, was in before.items():
        now = after[name]
        assert (now.dtype, now.shape) == (was.dtype, was.shape)
        if was.dim() == 2 and (was == 0).float().mean() > 0.4:
            assert torch.equal(bits(now[was == 0]), bits(was[was == 0])), name
            assert torch.equal(now == 0, was == 0), name  # nor are there more of them
            zeros += int((was == 0).sum())
        changed += not torch.equal(now, was)
    assert zeros
    assert changed
    found = looks(model)
    best = min(look["held_out"] for look in found)
    assert best < 0.9 * found[0]["held_out"]
    ids = load_file(data)["windows"]
    held = ids[held_out_places(len(ids))]
    for folder, expected in ((cut.folder, found[0]["held_out"]), (model.folder, best)):
        assert divergence(folder, data.parent / "model", held) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_in_16_bits_where_weights_are(dtype: torch.dtype, data: Path) -> None:
    pruned("llama", "2:4", data, dtype=dtype)
    slow = slow_bfloat16(torch.device("cpu"))
    expected = "float32" if dtype == torch.float32 or slow else "bfloat16"
    assert recovered(data, tokens="100").manifest.params["dtype"] == expected


@pytest.mark.parametrize(("train", "kinds"), [("all", {1, 2}), ("lora", {2}), ("norms", {1})])
def test_what_is_trained(train: str, kinds: set[int], data: Path) -> None:
    cut = pruned("llama", "2:4", data)
    model = recovered(data, train=train, learning_rate=3e-3 if train == "all" else 1e-2)
    before, after = tensors(cut.folder), tensors(model.folder)
    changed = {name for name, was in before.items() if not torch.equal(bits(was), bits(after[name]))}
    assert {before[name].dim() for name in changed} == kinds
    if train == "lora":
        assert all(".layers." in name for name in changed)
    sparse = {name: was for name, was in before.items() if (was == 0).float().mean() > 0.4}
    assert sparse
    assert all(torch.equal(after[name] == 0, was == 0) for name, was in sparse.items())
    assert looks(model)[-1]["held_out"] < looks(model)[0]["held_out"]
    assert model.manifest.params["train"] == train


@pytest.mark.parametrize("pattern", ["channels:0.25", "kv-groups:0.5", "blocks:0.34", "unstructured"])
def test_smaller_models_learn_too(pattern: str, data: Path) -> None:
    blocks = pattern.startswith("blocks")
    options = {"method": "influence"} if blocks else {"method": "magnitude", "update": "none"}
    save_pico("llama", data.parent / "model")
    cut = langprune_cli.prune(model=data.parent / "model", data=data, pattern=pattern, name="cut", **options).artifact
    model = recovered(data, tokens="8k", learning_rate=1e-3)
    before, after = tensors(cut.folder), tensors(model.folder)
    assert {name: each.shape for name, each in before.items()} == {name: each.shape for name, each in after.items()}
    found = looks(model)
    assert min(look["held_out"] for look in found) < found[0]["held_out"]
    checked = model.manifest.about["checked"]
    assert checked.get("parameters_after") == cut.manifest.about["checked"].get("parameters_after")


@pytest.mark.parametrize(
    ("tokens", "step"),
    [(30_000, 512), (409_599, 512), (409_600, 1024), (819_199, 1024), (819_200, 2048), (10**8, 2048)],
)
def test_few_tokens_have_small_steps_and_low_rates(tokens: int, step: int) -> None:
    assert distilling.step_tokens(tokens) == step
    settings = RecoverSettings(tokens, step)
    rate = settings.rate(576, 512, 1.0)
    assert rate == pytest.approx(2e-4 * (step / 2048) ** 0.5)
    assert settings.rate(1152, 512, 1.0) == pytest.approx(rate / 2)
    assert settings.rate(576, 2048, 1.0) == pytest.approx(2e-4)  # of one window
    assert replace(settings, train="lora").rate(576, 512, 1.0) == pytest.approx(10 * rate)


def test_rates_are_lower_where_little_was_lost() -> None:
    settings = RecoverSettings(100_000, 2048)
    assert settings.rate(576, 512, 0.03) == settings.rate(576, 512, 9.0) == pytest.approx(2e-4)
    assert settings.rate(576, 512, 0.0075) == pytest.approx(1e-4)
    assert settings.rate(576, 512, -1e-9) == 0.0  # what rounding makes of a model that has lost nothing
    assert replace(settings, learning_rate=0.5).rate(576, 512, 0.0075) == 0.5


def test_the_rate_is_on_record(data: Path) -> None:
    pruned("llama", "2:4", data)
    model = recovered(data, learning_rate=None)
    record = json.loads(model.read("recovery.json"))
    rate = RecoverSettings(4000, 64).rate(32, 16, record["looks"][0]["held_out"])
    assert record["learning_rate"] == rate > 0
    assert model.manifest.params["learning_rate"] is None


def test_a_rate_that_ruins_changes_nothing(data: Path) -> None:
    cut = pruned("llama", "2:4", data)
    reporter = Interrupting()
    model = recovered(data, learning_rate=0.9, reporter=reporter)
    before, after = tensors(cut.folder), tensors(model.folder)
    assert all(torch.equal(bits(was), bits(after[name])) for name, was in before.items())
    assert any("no step was better" in note for note in reporter.notes)
    tokens = [look["tokens"] for look in looks(model)]
    assert sum(each > 2000 for each in tokens) == 4  # of 4,000: it ended early
    assert tokens[-1] < 4000 - tokens[1]


@pytest.mark.parametrize("train", ["all", "lora"])
def test_an_interrupted_run_ends_with_the_same_bytes(train: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    whole = recovered(data, train=train, name="whole")
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    for at in (8, 10):
        with pytest.raises(KeyboardInterrupt):
            recovered(data, train=train, name="again", reporter=Interrupting(at))
    reporter = Interrupting()
    again = recovered(data, train=train, name="again", reporter=reporter)
    assert any(note.startswith("Resuming again: ") for note in reporter.notes)
    assert tree(whole.folder) == tree(again.folder)
    assert not list(again.folder.glob("resume*"))
    assert langprune_cli.recover(
        model="cut", data=data, tokens="4k", batch_tokens=64, learning_rate=3e-3, train=train, name="again"
    ).cached


def test_state_that_is_damaged_is_not_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    whole = recovered(data, name="whole")
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(data, name="again", reporter=Interrupting(10))
    (scratch,) = Path("langprune-workspace/models/again").glob("resume*")
    scratch.write_bytes(scratch.read_bytes()[:1000])
    assert tree(whole.folder) == tree(recovered(data, name="again").folder)


def test_fewer_tokens_learn_from_the_teachers_own(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    """Of a smaller vocabulary: the teacher reads its own ids, and its distribution is that over the tokens that stayed."""
    text = pico_text / "uk.jsonl"
    cut = langprune_cli.prune(
        model=pico_model, data=text, pattern=["vocab", "2:4"], method="magnitude", update="none", keep_chat=False, round_to=8,
        seqlen=16, nsamples=8, name="small", workspace=workspace,
    ).artifact  # fmt: skip
    model = langprune_cli.recover(
        model="small", data=text, tokens="4k", batch_tokens=64, seqlen=16, learning_rate=3e-3, workspace=workspace
    ).artifact
    found = looks(model)
    assert min(look["held_out"] for look in found) < found[0]["held_out"]
    assert tensors(model.folder).keys() == tensors(cut.folder).keys()


def test_errors_are_one_sentence(data: Path) -> None:
    pruned("llama", "2:4", data)
    asked = ["recover", "-m", "cut", "--data", data]
    one_sentence(langprune(*asked, "--train", "some"), 2, "--train 'some'")
    one_sentence(langprune(*asked, "--learning-rate", "7"), 2, "--learning-rate 7 is not between 0 and 1")
    assert not list(Path("langprune-workspace/models").glob("*recovered*"))


def test_a_dense_model_that_changed_is_no_teacher(data: Path) -> None:
    pruned("llama", "2:4", data)
    save_pico("llama", data.parent / "model", intermediate_size=64)
    with pytest.raises(LangpruneError, match="was made for another model"):
        recovered(data)


def test_languages_have_their_shares(workspace: Path, pico_text: Path) -> None:
    langs = ["--lang", "uk:3", "--data", pico_text / "uk.jsonl", "--lang", "en:1", "--data", pico_text / "en.jsonl"]
    asked = ["recover", "-w", workspace, *langs, "--tokens", "2k", "--batch-tokens", "64", "--seqlen", "16", "--json"]
    (made,) = did(*asked).json["artifacts"]
    record = json.loads((Path(made["path"]) / "manifest.json").read_bytes())["about"]["recovered"]
    uk, en = (each["windows"] for each in record["text"]["texts"])
    assert uk == 3 * en
    assert record["shares"] == [3, 1]


def test_its_command_and_its_recipe_make_it_again(workspace: Path, pico_text: Path) -> None:
    langs = ["--lang", "uk:3", "--data", pico_text / "uk.jsonl", "--lang", "en:1", "--data", pico_text / "en.jsonl"]
    (made,) = did("recover", "-w", workspace, *langs, "--tokens", "2k", "--batch-tokens", "64", "--seqlen", "16", "--train",
                  "lora", "--seed", "3", "--json").json["artifacts"]  # fmt: skip
    recipe = did("recipe", f"models/{made['name']}", "-w", workspace).out
    Path("r.yaml").write_text(recipe, encoding="utf-8")
    assert "  - recover:" in recipe
    last = did("run", "r.yaml", "--workspace", "fresh", "--json").json["stages"][-1]
    assert last["artifacts"][0]["key"] == made["key"]


def test_prune_and_apply_train_at_once(workspace: Path, pico_text: Path) -> None:
    """The same models as one by one: the last has the name, and finds what was made before."""
    text = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    asked = [
        "prune",
        "-w",
        workspace,
        *text,
        "--pattern",
        "2:4",
        "--method",
        "wanda",
        "--seqlen",
        "16",
        "--nsamples",
        "8",
    ]
    made = did(*asked, "--tune", "--recover", "2100", "--name", "last", "--json").json["artifacts"]
    assert [each["kind"] for each in made][:3] == ["models"] * 3
    assert made[0]["name"] == "last"
    tuned = did(*asked, "--tune", "--json").json["artifacts"][0]
    assert (tuned["cached"], tuned["key"]) == (True, made[1]["key"])
    alone = did("recover", "-w", workspace, "-m", tuned["name"], *text, "--tokens", "2100", "--json").json["artifacts"][
        0
    ]
    assert (alone["cached"], alone["key"]) == (True, made[0]["key"])
    applied = did("apply", "-w", workspace, "--mask", PRUNED, "--recover", "2100", "--name", "two", "--json").json
    assert [each["name"] for each in applied["artifacts"]] == ["two", PRUNED]
    plan = did(*asked, "--recover", "2100", "--seed", "5", "--dry-run", "--json").json
    assert not plan["whole"]


def test_what_is_trained_follows_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device with less and less memory; that little cannot be had here, so what is free is told otherwise."""
    pruned("llama", "2:4", data)
    free = {"all": 1000}
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free["all"])
    sizes: dict[tuple[str, bool], int] = {}
    whole = memory.recovery_bytes
    monkeypatch.setattr(
        memory,
        "recovery_bytes",
        lambda *words, **more: sizes.setdefault((words[2], more["way"].checkpointing), whole(*words, **more)),
    )
    says = "cpu has 0.0 GB free, and recovery takes about: all .*, lora .*, norms "
    with pytest.raises(LangpruneError, match=says):
        recovered(data)
    assert sizes["norms", True] < sizes["all", True] < sizes["all", False]
    free["all"] = sizes["norms", True]
    reporter = Interrupting()
    assert recovered(data, reporter=reporter).manifest.params["train"] == "norms"
    assert "Memory is short: training norms alone (--train)." in reporter.notes
    assert any("computed again for gradients" in note for note in reporter.notes)


@pytest.mark.parametrize("train", ["all", "lora"])
def test_checkpointing_changes_no_byte(train: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    whole = recovered(data, train=train, name="whole")
    monkeypatch.setattr(memory, "recovery_bytes", lambda *_, **more: 0 if more["way"].checkpointing else 1 << 60)
    reporter = Interrupting()
    again = recovered(data, train=train, name="again", reporter=reporter)
    assert any("computed again for gradients" in note for note in reporter.notes)
    assert not any("alone (--train)" in note for note in reporter.notes)
    assert tree(whole.folder) == tree(again.folder)


def test_other_memory_finds_and_resumes_the_same_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    needs = {"all": 1 << 60, "lora": 0, "norms": 0}
    monkeypatch.setattr(memory, "recovery_bytes", lambda *words, **_: needs[words[2]])
    with pytest.raises(KeyboardInterrupt):
        recovered(data, reporter=Interrupting(8))
    needs["all"] = 0  # it would be chosen now
    reporter = Interrupting()
    made = recovered(data, reporter=reporter)
    assert made.manifest.params["train"] == "lora"
    assert any(note.startswith("Resuming ") for note in reporter.notes)
    needs.update(dict.fromkeys(needs, 1 << 60))  # nothing fits, nor has to
    found = recovered(data)
    assert (found.folder, found.manifest.key) == (made.folder, made.manifest.key)
    needs["all"] = 0
    assert recovered(data, train="all").manifest.params["train"] == "all"
    assert recovered(data, force=True).manifest.params["train"] == "all"


def test_a_state_without_averages_of_a_weight_is_gone_on_with(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert that no step has reached has none."""
    pruned("llama", "2:4", data)
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(data, name="begun", reporter=Interrupting(6))
    (path,) = Path("langprune-workspace/models/begun").glob("resume*")
    state = load_file(path)
    name = next(key.removeprefix("exp_avg.") for key in state if key.startswith("exp_avg."))
    save_file({key: each for key, each in state.items() if key.startswith("weight.") or not key.endswith(name)}, path)
    reporter = Interrupting()
    recovered(data, name="begun", reporter=reporter)
    assert any(note.startswith("Resuming begun: ") for note in reporter.notes)


def test_what_is_tied_and_stored_twice_is_as_before_after_a_look(tmp_path: Path) -> None:
    save_pico("gemma2", tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model = StreamedModel(tmp_path, dtype=torch.float32)
    with model.whole() as parameters:
        student = Student(model, parameters, "all", seed=0)
        weight = parameters["lm_head.weight"]
        with torch.no_grad():
            weight += 1e-3
        before = weight.detach().clone()
        rounded = student.rounded()
        with student.as_stored(rounded):
            assert not torch.equal(weight, before)
        assert torch.equal(weight, before)
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= student.whole(rounded, ALONE).keys()
