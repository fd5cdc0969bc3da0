"""The dense model's most likely tokens on disk: what they are, when they are used, and what is done about bad ones."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import langprune_cli
from langprune_cli.stages.recover import cached_logits, memory
from langprune_cli.stages.recover.cached_logits import token_bytes
from langprune_cli.stages.recover.text import held_out_places
from langprune_cli.store.artifact import Artifact, open_artifact
from langprune_cli.store.locks import being_made
from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming import resuming
from langprune_cli.streaming.opened_tokenizer import read_tokenizer
from tests.stages.recover import recovering
from tests.stages.recover.recovering import looks, pruned, recovered
from tests.support.artifact_making import sign
from tests.support.command import did, langprune, one_sentence, snapshot, tree
from tests.support.interrupting import Interrupting
from tests.support.pico import save_pico

data = recovering.data  # a fixture
INF, NAN = math.inf, math.nan
EQUAL = torch.full((32, 16, 65), -math.log(65)).half()  # log-probabilities
HALF_ULP = 2**-11  # how far float16 is from a number, as a share of it


def logits_of(root: Path = Path("langprune-workspace")) -> list[Artifact]:
    return [open_artifact(folder, "logits") for folder in sorted((root / "logits").glob("[!.]*"))]


def distributions(made: Artifact) -> tuple[Tensor, Tensor]:
    """Return (tokens int64 [n, t, k], log-probabilities float64 [n, t, k + 1]) of all parts, in order."""
    parts = [load_file(made.folder / part) for part in sorted(made.manifest.parts) if part.startswith("logits-")]
    return torch.cat([part["tokens"].long() for part in parts]), torch.cat(
        [part["log_probs"] for part in parts]
    ).double()


def of_transformers(folder: Path, ids: Tensor) -> Tensor:
    """Return the log-probabilities that stock transformers gives, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: Tensor = model(ids.long()).logits.double().log_softmax(-1)
    return found


def check_most_likely(tokens: Tensor, values: Tensor, expected: Tensor) -> None:
    """Compare with the log-probabilities `expected` [n, t, v]: the most likely tokens, and the others as one."""
    k = tokens.shape[-1]
    wanted = expected.topk(k, dim=-1).values
    torch.testing.assert_close(expected.gather(-1, tokens), wanted, rtol=0, atol=1e-5)  # equals may change places
    torch.testing.assert_close(values[..., :-1], wanted, rtol=HALF_ULP, atol=1e-5)
    rest = expected.scatter(-1, tokens, -torch.inf).logsumexp(-1).clamp(min=-65504.0)
    torch.testing.assert_close(values[..., -1], rest, rtol=HALF_ULP, atol=1e-5)
    assert (tokens.sort(-1).values.diff(dim=-1) > 0).all()  # each once


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_they_are_those_of_stock_transformers(family: str, data: Path) -> None:
    pruned(family, "2:4", data)
    recovered(data, tokens="100", dtype="float32")
    (made,) = logits_of()
    tokens, values = distributions(made)
    ids = load_file(data)["windows"]
    assert (tokens.shape, values.shape) == ((*ids.shape, 64), (*ids.shape, 65))
    check_most_likely(tokens, values, of_transformers(data.parent / "model", ids))
    assert torch.equal(made.tensors("windows.safetensors")["windows"], ids)
    stored = sum(made.manifest.parts[part]["size"] for part in made.manifest.parts if part.startswith("logits-"))
    assert ids.numel() * token_bytes(64, 97) <= stored < ids.numel() * token_bytes(64, 97) + 1000


def test_what_a_look_finds_is_the_loss_from_them(data: Path) -> None:
    """Before training, the loss on held-out windows is the divergence with all but the most likely tokens as one."""
    cut = pruned("llama", "2:4", data)
    found = looks(recovered(data, dtype="float32"))
    ids = load_file(data)["windows"]
    held = ids[held_out_places(len(ids))]
    theirs, own = of_transformers(data.parent / "model", held), of_transformers(cut.folder, held)
    values, tokens = theirs.topk(64, dim=-1)
    rest, ours = (each.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True) for each in (theirs, own))
    p = torch.cat([values, rest], dim=-1)
    expected = float((p.exp() * (p - torch.cat([own.gather(-1, tokens), ours], dim=-1))).sum() / held.numel())
    assert found[0]["held_out"] == pytest.approx(expected, rel=1e-3)
    whole = float((theirs.exp() * (theirs - own)).sum() / held.numel())
    assert found[0]["held_out"] < whole
    assert looks(recovered(data, dtype="float32", online=True))[0]["held_out"] == pytest.approx(whole, rel=1e-4)


def test_a_vocabulary_smaller_than_what_is_kept(data: Path) -> None:
    """All of it is kept, nothing is left to the rest, and the loss is that over the whole vocabulary."""
    ids = load_file(data)["windows"] % 37 + 3
    save_file({"windows": ids}, data)
    save_pico("llama", data.parent / "model", vocab_size=40)
    langprune_cli.prune(
        model=data.parent / "model", data=data, pattern="2:4", method="magnitude", update="none", name="cut"
    )
    found, online = (looks(recovered(data, dtype="float32", online=each)) for each in (False, True))
    (made,) = logits_of()
    tokens, values = distributions(made)
    assert made.manifest.params["top"] == tokens.shape[-1] == 40
    assert (values[..., -1] == -65504).all()
    assert found[0]["held_out"] == pytest.approx(online[0]["held_out"], rel=1e-3)
    assert min(look["held_out"] for look in found) < 0.9 * found[0]["held_out"]


def test_of_a_smaller_vocabulary_they_are_over_the_tokens_that_stayed(
    workspace: Path, pico_model: Path, pico_text: Path
) -> None:
    text = pico_text / "uk.jsonl"
    langprune_cli.prune(
        model=pico_model, data=text, pattern=["vocab", "2:4"], method="magnitude", update="none", keep_chat=False, round_to=8,
        seqlen=16, nsamples=8, name="small", workspace=workspace,
    )  # fmt: skip
    asked = {"data": text, "tokens": "2k", "batch_tokens": 64, "seqlen": 16, "dtype": "float32", "workspace": workspace}
    small, large = (langprune_cli.recover(model=each, **asked).artifact for each in ("small", "uk-wanda-2x4"))  # type: ignore[arg-type]
    both = logits_of(workspace)
    assert len(both) == 2  # another vocabulary has logits of its own
    by_key = {each.key: each for each in both}
    assert small.manifest.inputs["logits"] != large.manifest.inputs["logits"]
    made = by_key[small.manifest.inputs["logits"]]
    ours, theirs = (read_tokenizer(each, trust_remote_code=False).get_vocab() for each in (small.folder, pico_model))
    size = json.loads((small.folder / "config.json").read_text())["vocab_size"]
    rows = torch.full((size,), -1)
    for token, number in ours.items():
        rows[number] = theirs[token]
    shared = (rows >= 0).nonzero().flatten()
    ids = made.tensors("windows.safetensors")["windows"].long()
    wide = of_transformers(pico_model, rows[ids])
    expected = torch.full((*ids.shape, size), -torch.inf, dtype=torch.float64)
    expected[..., shared] = wide[..., rows[shared]].log_softmax(-1)
    check_most_likely(*distributions(made), expected)


def test_one_artifact_serves_every_recovery_of_a_text(data: Path) -> None:
    pruned("llama", "2:4", data)
    recovered(data, name="first")
    (made,) = logits_of()
    before = {name: each for name, each in snapshot(made.folder).items() if name != "manifest.json"}
    langprune_cli.prune(
        model=data.parent / "model", data=data, pattern="unstructured", method="magnitude", update="none", name="other"
    )
    for options in ({"train": "norms"}, {"learning_rate": 1e-3}, {"tokens": "2k"}, {"model": "other"}):
        model = recovered(data, **options)
        assert model.manifest.inputs["logits"] == made.key
    assert [each.key for each in logits_of()] == [made.key]
    after = snapshot(made.folder)
    assert {name: after[name] for name in before} == before  # nothing was written again


def test_another_teacher_text_or_dtype_has_another(data: Path) -> None:
    pruned("llama", "2:4", data)
    keys = [recovered(data).manifest.inputs["logits"]]
    windows = load_file(data)["windows"]
    save_file({"windows": windows.flip(0).contiguous()}, data)
    keys.append(recovered(data).manifest.inputs["logits"])
    tuned = data.parent / "tuned"
    save_pico("llama", tuned, initializer_range=0.05)
    keys.append(recovered(data, teacher=tuned).manifest.inputs["logits"])
    keys.append(recovered(data, dtype="bfloat16").manifest.inputs["logits"])
    assert len(set(keys[:3])) == 3
    assert keys[3] == keys[1]  # a model in float32 computes in float32 all the same
    assert len(logits_of()) == 3


def test_online_has_the_recipe_that_it_had_before(data: Path) -> None:
    """So that what was recovered before there were logits on disk is found by --online."""
    pruned("llama", "2:4", data)
    model = recovered(data, online=True)
    assert not logits_of()
    assert set(model.manifest.inputs) == {"model", "teacher", "pruned", "mask", "text"}
    assert set(model.manifest.params) == {
        "tokens", "train", "batch_tokens", "learning_rate", "seed", "dtype", "max_shard_bytes", "update",
    }  # fmt: skip
    cached = recovered(data)
    assert cached.key != model.key
    assert set(cached.manifest.inputs) == {"model", "teacher", "pruned", "mask", "text", "logits"}
    assert set(cached.manifest.params) == set(model.manifest.params)


def test_parts_of_any_size_give_the_same_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    whole = recovered(data, name="whole")
    before = [each.clone() for each in distributions(logits_of()[0])]
    did("rm", f"logits/{logits_of()[0].name}")
    monkeypatch.setattr(cached_logits, "_PART_BYTES", 5 * 16 * token_bytes(64, 97))
    again = recovered(data, name="again")
    (made,) = logits_of()
    assert [part for part in made.manifest.parts if part.startswith("logits-")] == [
        f"logits-{first:06d}.safetensors" for first in range(0, 32, 5)
    ]
    assert all(torch.equal(one, other) for one, other in zip(before, distributions(made), strict=True))
    assert tree(whole.folder) == tree(again.folder)


def test_hidden_states_in_a_file_give_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a text's hidden states are more than memory should hold, they go to a file, which is gone afterwards."""
    pruned("llama", "2:4", data)
    recovered(data)
    (made,) = logits_of()
    before = tree(made.folder)
    did("rm", f"logits/{made.name}")
    monkeypatch.setattr(memory, "STATES_BYTES", 1)
    recovered(data, learning_rate=1e-3)
    assert tree(made.folder) == before


@pytest.mark.parametrize("at", [1, 2, 3])
def test_interrupted_while_they_are_made(at: int, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned("llama", "2:4", data)
    recovered(data)
    expected = tree(Path("langprune-workspace/logits"))
    did("rm", f"logits/{logits_of()[0].name}")
    monkeypatch.setattr(resuming, "SAVE_AFTER_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        recovered(data, learning_rate=1e-3, reporter=Interrupting(at))
    assert not any(
        read_manifest(path.parent).complete for path in Path().glob("langprune-workspace/logits/*/manifest.json")
    )
    recovered(data, learning_rate=1e-3)
    assert tree(Path("langprune-workspace/logits")) == expected


def test_a_damaged_part_is_one_sentence(data: Path) -> None:
    pruned("llama", "2:4", data)
    recovered(data)
    (made,) = logits_of()
    part = made.folder / "logits-000000.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    asked = ["recover", "-m", "cut", "--data", data, "--tokens", "4k", "--batch-tokens", "64", "--name", "next"]
    one_sentence(
        langprune(*asked), 1, r"logits-000000.safetensors is damaged .*: run langprune recover again with --force"
    )
    assert not list(Path("langprune-workspace/models").glob("next"))
    did(*asked, "--force")
    assert part.read_bytes() == whole
    part.write_bytes(whole[:100])  # what is shorter is seen without --force, and made again
    did(*asked[:-1], "third")
    assert part.read_bytes() == whole


@pytest.mark.parametrize(
    "tensors",
    [
        {"tokens": torch.zeros(32, 16, 64, dtype=torch.uint16)},
        {"tokens": torch.zeros(32, 16, 64, dtype=torch.int32), "log_probs": torch.zeros(32, 16, 65).half()},
        {"tokens": torch.zeros(31, 16, 64, dtype=torch.uint16), "log_probs": torch.zeros(31, 16, 65).half()},
        {"tokens": torch.full((32, 16, 64), 97).to(torch.uint16), "log_probs": EQUAL},
        {"tokens": torch.arange(64).repeat(32, 16, 1).to(torch.uint16), "log_probs": EQUAL.clone().fill_(NAN)},
        {"tokens": torch.arange(64).repeat(32, 16, 1).to(torch.uint16), "log_probs": EQUAL.clone().fill_(-INF)},
        {"tokens": torch.arange(64).repeat(32, 16, 1).to(torch.uint16), "log_probs": EQUAL + 0.02},
    ],
    ids=[
        "no values",
        "another dtype",
        "a window less",
        "tokens that there are not",
        "NaN",
        "no probability",
        "too much",
    ],
)
def test_a_forged_part_is_one_sentence(tensors: dict[str, Tensor], data: Path) -> None:
    pruned("llama", "2:4", data)
    recovered(data)
    (made,) = logits_of()
    part, manifest = made.folder / "logits-000000.safetensors", made.folder / "manifest.json"
    save_file(tensors, part)
    record = json.loads(manifest.read_bytes())
    data_now = part.read_bytes()
    record["parts"][part.name] = {"sha256": hashlib.sha256(data_now).hexdigest(), "size": len(data_now)}
    sign(manifest, record)
    asked = ["recover", "-m", "cut", "--data", data, "--tokens", "4k", "--batch-tokens", "64", "--name", "next"]
    one_sentence(langprune(*asked), 1, "does not hold what belongs there: run langprune recover again with --force")


def test_two_recoveries_of_one_text_at_once(data: Path) -> None:
    """The second is told to wait, and of no option: none chooses the place of logits."""
    pruned("llama", "2:4", data)
    recovered(data)
    (made,) = logits_of()
    did("rm", f"logits/{made.name}")
    before = tree(Path("langprune-workspace/models"))
    asked = ["recover", "-m", "cut", "--data", data, "--tokens", "4k", "--batch-tokens", "64", "--name", "next"]
    with being_made(made.folder, "logits", Workspace(Path("langprune-workspace"))):
        says = rf"another langprune \(process \d+ on .+\) is making logits/{made.name}: wait for it$"
        one_sentence(langprune(*asked), 1, says)
        assert tree(Path("langprune-workspace/models")) == before
        did(*asked, "--online")
    did(*asked[:-1], "later")
    assert [each.key for each in logits_of()] == [made.key]


def test_they_are_listed_shown_checked_and_have_no_recipe(data: Path) -> None:
    pruned("llama", "2:4", data)
    recovered(data)
    (made,) = logits_of()
    what = "64 tokens of each position, 32 windows of 16, float32"
    (row,) = did("ls", "logits", "--json").json["artifacts"]
    assert (row["kind"], row["what"], row["model"], row["bytes"]) == ("logits", what, "model", made.size())
    assert what in did("show", made.name).out
    did("verify", f"logits/{made.name}")
    one_sentence(langprune("recipe", f"logits/{made.name}"), 1, "are made by recover on its way: ask for the recipe of")


def test_a_dry_run_says_what_would_be_made(data: Path) -> None:
    pruned("llama", "2:4", data)
    asked = ["recover", "-m", "cut", "--data", data, "--tokens", "4k", "--batch-tokens", "64", "--dry-run", "--json"]
    before = tree(Path("langprune-workspace"))
    planned = did(*asked).json
    assert [each["kind"] for each in planned["artifacts"]] == ["logits", "models"]
    assert [each["kind"] for each in did(*asked, "--online").json["artifacts"]] == ["models"]
    assert tree(Path("langprune-workspace")) == before
    did(*asked[:-2])
    (made,) = logits_of()
    assert {made.key} < {each["key"] for each in planned["artifacts"]}


def test_the_command_of_each_is_told_apart(data: Path) -> None:
    """The recipe behind a model that had its teacher beside it says --online, and both recipes give the same keys."""
    pruned("llama", "2:4", data)
    for online in (False, True):
        model = recovered(data, online=online, name=f"model-{online}")
        recipe = did("recipe", f"models/{model.name}").out
        assert ("online: true" in recipe) is online
        Path("r.yaml").write_text(recipe, encoding="utf-8")
        last = did("run", "r.yaml", "--workspace", f"fresh-{online}", "--json").json["stages"][-1]
        assert last["artifacts"][0]["key"] == model.key
