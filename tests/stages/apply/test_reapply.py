"""`apply --reapply`: a model is trained on after pruning, and the weights that came back leave again, and are counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.command import did, langprune, one_sentence, snapshot, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level

PRUNED = "uk-wanda-2x4"


def train(folder: Path, out: Path, text: Path) -> Path:
    """Train a pruned model for two steps, as anybody would, without a thought of its zeros."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text.read_text()).input_ids[:64]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture
def tuned(workspace: Path, pico_text: Path, tmp_path: Path) -> Path:
    return train(workspace / "models" / PRUNED, tmp_path / "tuned", pico_text / "uk.jsonl")


def removed_in(masks: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return where a mask's bits are 0, by numpy's own unpacking."""
    return {
        name: np.unpackbits(bits, axis=1, bitorder="little", count=weights[name].shape[1]) == 0
        for name, bits in masks.items()
    }


def masks_of(workspace: Path) -> dict[str, np.ndarray]:
    parts = (workspace / "masks" / PRUNED).glob("block-*.safetensors")
    return {name: bits for part in parts for name, bits in load_arrays(part).items()}


def test_weights_that_came_back_leave_and_are_counted(workspace: Path, tuned: Path) -> None:
    # One layer is as it was pruned, and one weight that had left is -0.0: neither has come back.
    weights = load_file(tuned / "model.safetensors")
    still = "model.layers.1.mlp.up_proj.weight"
    weights[still] = load_file(workspace / "models" / PRUNED / "model.safetensors")[still]
    weights[still][weights[still] == 0] = -0.0
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})

    done = did(
        "apply", "-w", workspace, "--mask", PRUNED, "--model", tuned, "--reapply", "--out", "again", "--json"
    ).json
    before, after = (load_arrays(folder / "model.safetensors") for folder in (tuned, Path("again")))
    removed = removed_in(masks_of(workspace), before)
    assert before.keys() == after.keys()
    for name, values in before.items():
        expected = np.where(removed[name], np.float32(0), values) if name in removed else values
        assert after[name].tobytes() == expected.tobytes(), name  # +0.0, and nothing else is touched
    counts = [[0, 0] for _ in range(3)]
    for name, places in removed.items():
        block = counts[int(name.split(".")[2])]
        block[0] += int(places.sum())
        block[1] += int(np.count_nonzero(before[name][places]))
    assert 0 < counts[1][1] < counts[1][0]
    found = done["about"]["reapplied"]
    assert [[each["masked"], each["returned"]] for each in found["blocks"]] == counts
    assert [found["masked"], found["returned"]] == [sum(each) for each in zip(*counts, strict=True)]
    assert [each["block"] for each in found["blocks"]] == [0, 1, 2]
    assert done["about"]["model"]["name"] == str(tuned)
    AutoModelForCausalLM.from_pretrained("again")


def test_the_table_shows_shares_of_each_block(workspace: Path, tuned: Path) -> None:
    words = ["apply", "-w", workspace, "--mask", PRUNED, "--model", tuned, "--reapply"]
    made = did(*words)
    rows = [line.split() for line in made.out.splitlines()]
    found = json.loads((workspace / "models" / f"{PRUNED}-on-tuned" / "manifest.json").read_bytes())["about"][
        "reapplied"
    ]
    share = f"{found['returned'] / found['masked']:.2%}"
    assert ["all", f"{found['masked']:,}", f"{found['returned']:,}", share] in rows
    assert ["block", "masked", "came", "back", "share"] in rows
    again = did(*words)
    assert "already there, nothing to do" in again.out
    assert again.out.splitlines()[:-1] == made.out.splitlines()[:-1]  # the counts are on record


def test_an_exported_mask_does_the_same(workspace: Path, tuned: Path, tmp_path: Path) -> None:
    did("export", "-w", workspace, "--out", "shared", "--with-mask")
    did("apply", "-w", workspace, "--mask", PRUNED, "--model", tuned, "--reapply", "--out", "a")
    side = ["--mask", "shared/mask/keep_masks.safetensors", "--model", tuned, "--reapply"]
    done = did("apply", "-w", "elsewhere", *side, "--out", "b", "--json").json
    weights = [name for name in tree(Path("a")) if name != "manifest.json"]
    assert {name: tree(Path("a"))[name] for name in weights} == {name: tree(Path("b"))[name] for name in weights}
    assert done["about"]["mask"]["name"] == PRUNED  # as langprune.json beside it says
    assert done["about"]["mask"]["pattern"] == "2:4"
    did("export", "-w", "elsewhere", "--out", "card")
    assert "| pattern | 2:4 (of every 4 inputs, 2 stay) |" in Path("card/README.md").read_text()
    # Taken out of its folder nothing is known of it, and it does all the same.
    shutil.copy("shared/mask/keep_masks.safetensors", "alone.safetensors")
    done = did("apply", "-w", "third", "--mask", "alone.safetensors", "--model", tuned, "--reapply", "--json").json
    assert done["about"]["mask"] == {"name": "alone"}
    assert tree(Path(done["path"]))["model.safetensors"] == tree(Path("a"))["model.safetensors"]
    did("ls", "-w", "third")
    did("export", "-w", "third", "--out", "third-card")
    assert tmp_path == Path.cwd()


def test_transposed_weights_in_bfloat16(tmp_path: Path) -> None:
    """GPT-2 stores [in, out]; a mask is [out, in] all the same."""
    save_pico("gpt2", tmp_path / "gpt2", dtype=torch.bfloat16, vocab_size=len(byte_level()))
    byte_level().save_pretrained(tmp_path / "gpt2")
    did("mask", "--model", "gpt2", "--method", "magnitude", "--name", "m")
    did("apply", "--mask", "m", "--model", "gpt2", "--out", "pruned")
    weights = load_file("pruned/model.safetensors")
    masked = {name: w == 0 for name, w in weights.items() if name.endswith("c_fc.weight")}
    shutil.copytree("pruned", "tuned", ignore=shutil.ignore_patterns("manifest.json"))
    save_file({name: w + 1 if name in masked else w for name, w in weights.items()}, "tuned/model.safetensors")
    done = did("apply", "--mask", "m", "--model", "tuned", "--reapply", "--out", "again", "--json").json
    assert done["about"]["reapplied"]["returned"] == sum(int(places.sum()) for places in masked.values())
    after = load_file("again/model.safetensors")
    for name, places in masked.items():
        assert torch.equal(after[name], (weights[name] + 1).masked_fill(places, 0.0))


def test_without_reapply_the_message_names_it(workspace: Path, tuned: Path) -> None:
    words = ["apply", "-w", workspace, "--mask", PRUNED, "--model", tuned]
    one_sentence(langprune(*words), 1, "was made for another model .*trained after pruning, apply --reapply applies")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--mask", PRUNED, "--reapply"], 2, "name it with --model"),
        (
            ["--mask", PRUNED, "--reapply", "--model", "tuned", "--update", "pcg"],
            2,
            "--update does not go with --reapply",
        ),
        (["--mask", PRUNED, "--reapply", "--model", "tuned", "--tune"], 2, "--tune does not go with --reapply"),
        (["--mask", "a/keep_masks.safetensors", "--model", "tuned"], 2, "add --reapply"),
        (
            ["--mask", "a/keep_masks.safetensors", "--model", "tuned", "--reapply"],
            1,
            "does not exist: name an exported",
        ),
        (["--mask", "tuned/config.safetensors", "--model", "tuned", "--reapply"], 1, "is not a safetensors file"),
        (["--mask", PRUNED, "--reapply", "--model", "tuned", "--out", "tuned"], 2, "is the model itself"),
        (["--mask", PRUNED, "--reapply", "--model", "pico"], 2, "this model itself, pico: leave out --reapply"),
        (["--mask", PRUNED, "--reapply", "--model", "wide"], 1, "does not fit model.layers.0.* which is \\[32, 52\\]"),
        (
            ["--mask", PRUNED, "--reapply", "--model", "short"],
            1,
            "has a mask of model.layers.2.* which is no linear of short",
        ),
        (["--mask", "narrow", "--reapply", "--model", "tuned"], 1, "removes whole parts of the model"),
    ],
)
def test_what_cannot_be_reapplied(
    workspace: Path, tuned: Path, pico_model: Path, words: list[str], code: int, says: str
) -> None:
    (tuned / "config.safetensors").write_bytes(b"{}")
    shutil.copytree(pico_model, "pico")
    save_pico("llama", Path("wide"), vocab_size=len(byte_level()), intermediate_size=52)
    save_pico("llama", Path("short"), vocab_size=len(byte_level()), num_hidden_layers=2)
    if "narrow" in words:
        did("mask", "-w", workspace, "--stats", "uk", "-p", "channels:0.34", "--method", "flap", "--name", "narrow")
    before = snapshot(Path.cwd())
    one_sentence(langprune("apply", "-w", workspace, *words), code, says)
    assert {name for name in snapshot(Path.cwd()) if name not in before} == set()


def test_bits_beyond_a_narrower_row_are_of_another_model(tmp_path: Path) -> None:
    """52 columns and 49 take seven bytes alike: what tells them apart are the bits."""
    for name, width in (("wide", 52), ("less", 49)):
        save_pico("llama", tmp_path / name, vocab_size=len(byte_level()), intermediate_size=width)
    did(
        "mask",
        "--model",
        "wide",
        "--method",
        "magnitude",
        "--sparsity",
        "0.1",
        "--exclude",
        "up_proj|gate_proj",
        "--name",
        "m",
    )
    words = ["apply", "--mask", "m", "--model", "less", "--reapply"]
    one_sentence(langprune(*words), 1, "does not fit model.layers.0.mlp.down_proj.weight of less")
