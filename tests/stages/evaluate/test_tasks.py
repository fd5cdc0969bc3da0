"""`eval --tasks`: what lm-evaluation-harness measures of the dense and the pruned model, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.stages.evaluate.test_eval_and_export import PRUNED
from tests.support.command import did, langprune, one_sentence

harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install '.[harness]'",
)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_tasks_need_the_harness(workspace: Path) -> None:
    done = langprune("eval", "-w", workspace, "--tasks", "arc_uk")
    one_sentence(done, 1, r"--tasks needs lm-evaluation-harness: pip install '\.\[harness\]' from")


def test_tasks_are_not_for_masks(workspace: Path) -> None:
    done = langprune("eval", "-w", workspace, "--mask", PRUNED, "--tasks", "arc_uk")
    one_sentence(done, 1, f"run langprune apply --mask {PRUNED}, then eval --model")


def test_no_task_is_named(workspace: Path) -> None:
    one_sentence(langprune("eval", "-w", workspace, "--tasks", " ,"), 2, "--tasks names no task")


QUESTIONS = [
    {"q": "калина лузі", "choices": [" вітер", " river clock", " село дорога"], "gold": 0},
    {"q": "river house", "choices": [" morning", " хата"], "gold": 1},
    {"q": "пісня мати", "choices": [" поле степ зоря", " winter", " sea"], "gold": 2},
    {"q": "bread sea", "choices": [" music road", " земля"], "gold": 0},
]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Write a task of multiple choice: its data, and the file that describes it."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in QUESTIONS))
    described = {
        "task": "words", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}", "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}], "metadata": {"version": 1.0},
    }  # fmt: skip
    file = tmp_path / "words.yaml"
    file.write_text(json.dumps(described, ensure_ascii=False))  # JSON is YAML
    return file


def literal_accuracy(folder: Path) -> float:
    """Return how often the likeliest continuation is the right one, each scored by itself."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    right = 0
    for each in QUESTIONS:
        scores = []
        for choice in each["choices"]:
            before = tokenizer(each["q"], add_special_tokens=False).input_ids
            ids = torch.tensor([before + tokenizer(choice, add_special_tokens=False).input_ids])
            with torch.no_grad():
                logs = model(ids).logits[0, :-1].log_softmax(-1)
            scores.append(float(logs.gather(1, ids[0, 1:, None])[len(before) - 1 :].sum()))
        right += int(np.argmax(scores)) == each["gold"]
    return right / len(QUESTIONS)


@harness
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_tasks_of_the_harness(workspace: Path, pico_model: Path, task: Path) -> None:
    document = did("eval", "-w", workspace, "--model", PRUNED, "--tasks", task, "--json").json
    assert (document["rows"], document["compare"]) == ([], [])
    for row, folder in zip(document["tasks"], (pico_model, workspace / "models" / PRUNED), strict=True):
        assert (row["task"], row["metric"], row["examples"]) == ("words", "acc", len(QUESTIONS))
        assert row["value"] == literal_accuracy(folder)
        assert row["higher_is_better"] is True
    again = did("eval", "-w", workspace, "--model", PRUNED, "--tasks", task, "--json").json
    assert again["cached"] is True
    assert again["tasks"] == document["tasks"]
    assert "words" in did("eval", "-w", workspace, "--model", PRUNED, "--tasks", task).out


@harness
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_tasks_that_the_harness_does_not_know(workspace: Path, task: Path) -> None:
    words = ["eval", "-w", workspace, "--model", PRUNED, "--tasks"]
    one_sentence(langprune(*words, "arc_ukk"), 2, "has no task 'arc_ukk'")
    (task.parent / "questions.jsonl").unlink()
    assert "could not run" in langprune(*words, task).err
