"""Models that read images: their text tower is pruned, and all else is as it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import langprune_cli
from langprune_cli.errors import LangpruneError
from langprune_cli.models import checkpoint
from langprune_cli.models.skeleton import build_skeleton, find_blocks, read_config
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.models.vocabulary_rows import VocabularyRows, image_ids, with_default_ids
from langprune_cli.requests.prune import PruneResult
from tests.support.images.composites import save, some_windows
from tests.support.text.text_corpora import SENTENCES, byte_level, write_jsonl

# The image and the text in a process that cannot import langprune: the pruned model against the dense one with its zeros.
_STOCK = """
import sys
sys.modules["langprune_cli"] = None
import torch
from transformers import AutoModelForImageTextToText
dense, pruned = (AutoModelForImageTextToText.from_pretrained(each, dtype=torch.float32).eval() for each in sys.argv[1:])
generator = torch.Generator().manual_seed(0)
ids = torch.cat([torch.tensor([[1, 5]]), torch.full((1, 16), 96), torch.randint(3, 90, (1, 12), generator=generator)], 1)
images = torch.randn(2, 1, 3, 16, 16, generator=generator)
def run(model, image):
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=image, token_type_ids=(ids == 96).long()).logits
before = run(dense, images[0])
with torch.no_grad():
    for one, other in zip(dense.parameters(), pruned.parameters(), strict=True):
        one.masked_fill_(other == 0, 0)
assert torch.equal(run(pruned, images[0]), run(dense, images[0]))
assert not torch.allclose(run(pruned, images[0]), before)
assert not torch.allclose(run(pruned, images[0]), run(pruned, images[1]))
print(pruned.generate(input_ids=ids[:, :2], max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[1])
"""


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    return some_windows(tmp_path / "windows.safetensors")


@pytest.mark.parametrize(("family", "pattern"), [("llava", "unstructured"), ("gemma3", "2:4")])
def test_the_tower_is_pruned_and_images_are_read_as_before(
    family: str, pattern: str, tmp_path: Path, windows: Path
) -> None:
    """Its linears alone change; stock transformers computes the same for an image as with those weights zeroed."""
    folder, work = tmp_path / family, tmp_path / "w"
    save(family, folder)
    made = langprune_cli.prune(
        model=folder, data=windows, pattern=pattern, method="wanda", update="none", workspace=work
    )
    before, after = (load_file(each / "model.safetensors") for each in (folder, made.folder))
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    streamed = StreamedModel(folder)
    assert changed == {linear.name for index in range(3) for linear in streamed.linears(index)}
    assert len(changed) == 7 * 3
    assert not any("vision" in name or "projector" in name for name in changed)
    for name in changed:
        assert torch.equal(after[name], before[name] * (after[name] != 0))
    for name in ("config.json", "preprocessor_config.json"):
        assert (made.folder / name).read_bytes() == (folder / name).read_bytes()
    ran = subprocess.run(
        [sys.executable, "-c", _STOCK, folder, made.folder], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == "5"


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_text_has_the_nats_of_stock_transformers(family: str, tmp_path: Path, windows: Path) -> None:
    folder = tmp_path / family
    save(family, folder)
    (row,) = langprune_cli.evaluate(model=[folder], data=windows, seqlen=24, workspace=tmp_path / "w").rows
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    ids = load_file(windows)["windows"]
    with torch.no_grad():
        rows = model(input_ids=ids).logits[:, :-1].double().log_softmax(-1)
    assert row["nats"] == pytest.approx(-float(rows.gather(-1, ids[:, 1:, None]).mean()), rel=1e-6)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_no_tensor_of_the_vision_tower_nor_a_head_is_read_for_statistics(
    family: str, tmp_path: Path, windows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / family
    save(family, folder)
    read: list[TensorEntry] = []
    whole = checkpoint.read_entry

    def note(place: Path, entry: TensorEntry) -> torch.Tensor:
        read.append(entry)
        return whole(place, entry)

    monkeypatch.setattr(checkpoint, "read_entry", note)
    langprune_cli.calibrate(model=folder, data=windows, workspace=tmp_path / "w")
    entries = checkpoint.Checkpoint(folder).entries
    text = {name for name in entries if not any(part in name for part in ("vision", "projector", "lm_head"))}
    assert {entry.start for entry in read} == {entries[name].start for name in text}
    assert len(text) < len(entries)


def test_a_classifier_of_images_is_refused(tmp_path: Path) -> None:
    """Its type is that of a model that generates text; its head is not."""
    save("gemma3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes()) | {
        "architectures": ["Gemma3ForSequenceClassification"]
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LangpruneError, match=r"is not a causal language model \(Gemma3ForSequenceClassification\)"):
        StreamedModel(tmp_path)


def test_tokens_of_images_and_those_that_a_processor_names_stay(tmp_path: Path) -> None:
    """With a smaller vocabulary an image and a text have the logits that they had, of the tokens that stay."""
    folder, tokenizer = tmp_path / "llava", byte_level()
    rows = len(tokenizer) + 1
    save("llava", folder, rows=rows)
    tokenizer.save_pretrained(folder)
    text = write_jsonl(tmp_path / "text.jsonl", [SENTENCES[1]] * 4)
    options: dict[str, Any] = {"model": folder, "data": text, "pattern": "vocab", "keep_chat": False, "round_to": 1}
    without = langprune_cli.prune(**options, workspace=tmp_path / "without")
    before = _stay(without)
    token = next(i for i in range(rows - 2, 0, -1) if i not in before)
    names = json.dumps({"image_token": tokenizer.convert_ids_to_tokens(token)})
    (folder / "processor_config.json").write_text(names)
    made = langprune_cli.prune(**options, workspace=tmp_path / "with")
    stay = _stay(made)
    assert token in stay
    assert rows - 1 in before
    assert (made.folder / "processor_config.json").read_text() == names
    config = json.loads((made.folder / "config.json").read_bytes())
    assert (config["image_token_index"], config["text_config"]["vocab_size"]) == (len(stay) - 1, len(stay))
    generator = torch.Generator().manual_seed(0)
    new = torch.cat([torch.full((16,), len(stay) - 1), torch.randint(3, len(stay) - 1, (8,), generator=generator)])[
        None
    ]
    image = torch.randn(1, 3, 16, 16, generator=generator)
    old = torch.tensor(stay)[new]
    dense, smaller = (
        transformers.AutoModelForImageTextToText.from_pretrained(each, dtype=torch.float32).eval()
        for each in (folder, made.folder)
    )
    with torch.no_grad():
        expected = dense(input_ids=old, pixel_values=image).logits[..., stay]
        torch.testing.assert_close(smaller(input_ids=new, pixel_values=image).logits, expected, rtol=1e-5, atol=1e-5)


def _stay(made: PruneResult) -> list[int]:
    mask = next(each for each in made.artifacts if each.manifest.kind == "masks")
    found: list[int] = load_file(mask.folder / "vocabulary.safetensors")["stay"].tolist()
    return found


def test_ids_of_images_that_only_the_class_states_are_written_down() -> None:
    """Llava's class says 32000: with fewer rows, that would be another token or none."""
    raw: dict[str, object] = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    config = transformers.LlavaConfig()
    assert 32000 in image_ids(raw, config)
    assert with_default_ids(raw, config, {32000})["image_token_index"] == 32000
    stated = raw | {"image_token_id": 5}
    assert "image_token_index" not in with_default_ids(stated, config, {32000})


def test_parts_of_images_that_are_tokens_are_refused_for_vocabularies(tmp_path: Path) -> None:
    save("llava", tmp_path)
    streamed = StreamedModel(tmp_path)
    streamed.config.vocabulary_map = {"IMGIMGA": 5}  # type: ignore[attr-defined] # of chameleon and emu3
    with pytest.raises(LangpruneError, match="parts of images are tokens"):
        VocabularyRows(streamed, ()).names  # noqa: B018 - raises


def test_blocks_that_see_only_images_are_refused_before_any_work(tmp_path: Path) -> None:
    """Text alone passes over mllama's blocks of cross-attention."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 97,
            "num_key_value_heads": 2, "cross_attention_layers": [1, 3], "pad_token_id": 0}  # fmt: skip
    transformers.MllamaConfig(text_config=text, architectures=["MllamaForConditionalGeneration"]).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        LangpruneError, match=r"has blocks that see only images \(1, 3\) and that text alone does not pass"
    ):
        find_blocks(build_skeleton(read_config(tmp_path), torch.float32))
