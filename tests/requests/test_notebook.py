"""The notebook and the examples of docs/api.md run as they stand, cell by cell."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "quickstart.ipynb"
API = REPOSITORY / "docs" / "api.md"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run one cell and return the value of its last expression, which a notebook shows; None where it ends otherwise."""
    *body, last = ast.parse(source).body
    shown = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if shown else [*body, last], []), "cell", "exec"), names)  # noqa: S102 - our own page
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None  # noqa: S307 - as above


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


def test_the_notebook_runs_cell_by_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    values = [value for value in shown if value is not None]
    stats, masks, cached, (folder, sparsity), files = values
    assert [name for name, _ in stats] == ["uk", "en"]
    assert [name for name, _ in masks] == ["uk-wanda-0.5", "en-wanda-0.5"]
    assert cached is True
    assert (Path(folder) / "model.safetensors").is_file()
    assert sparsity == 0.5
    assert "mask/keep_masks.safetensors" in files
    assert {path.name for path in tmp_path.iterdir()} == {"quickstart-workspace", "quickstart-to-share"}
    printed = capsys.readouterr()
    assert printed.err == ""
    ppl = dict(re.findall(r"^(\w+  \S+) +ppl ([\d.]+)$", printed.out, re.MULTILINE))
    assert len(ppl) == 6
    assert float(ppl["uk  uk-wanda-0.5"]) < float(ppl["uk  en-wanda-0.5"])  # what langprune is for
    assert float(ppl["en  en-wanda-0.5"]) < float(ppl["en  uk-wanda-0.5"])
    assert len(re.findall(r"\d\.\d\d%$", printed.out, re.MULTILINE)) == 7


def test_the_examples_of_the_api_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", API.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, "api.md", "exec"), names)  # noqa: S102 - our own page
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("uk-wanda-2x4 ")
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["uk", "demo"], ["uk", "uk-wanda-2x4"], ["en", "demo"], ["en", "uk-wanda-2x4"]
    ]  # fmt: skip
    assert "calibrate en: 6 blocks, 6144 tokens" in lines
    recipe = [line for line in lines if re.match(r"\d (calibrate|mask|apply) Made", line)]
    assert [line.split()[:2] for line in recipe] == [["1", "calibrate"], ["2", "mask"], ["3", "apply"]]
    assert all("already there" in line for line in recipe)
    assert [line for line in lines[-6:-1] if line not in recipe] == [
        "[('en-wanda-4x8', False)]",
        next(line for line in lines if line.startswith("--pattern '2of4'")),
    ]
    assert lines[-1] == "True"
    assert [path.name for path in tmp_path.iterdir()] == ["ws"]
