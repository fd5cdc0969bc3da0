"""docs/models.md: the table of all types, made from docs/models.json, which a survey writes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import CONFIG_MAPPING

from tests.support.paths import REPOSITORY
from tests.survey.kinds import Kind
from tests.survey.survey import WORKS, Row

DATA = REPOSITORY / "docs" / "models.json"
PAGE = REPOSITORY / "docs" / "models.md"
WRONG = "**wrong**"
_TITLES = {"causal": "Text models", "image-text": "Models of images and text"}
# What differs from model to model in one and the same reason.
_DIFFERS = (
    (re.compile(r"\b[A-Za-z]\w*?(?:For|LM|Pretrained)[A-Z]\w+|\b[A-Z]\w+Omni\w+"), "it"),
    (re.compile(r" ?\(.*\)"), ""),
    (re.compile(r"\[[\d, ]+\]|(?<![\w.])\d[\d,.]*(?:e[+-]\d+)?(?![\w.]*\w)"), "N"),
)
_HEAD = """\
# Models

transformers {version} has {types} model types that generate text, {images} of them from images too. It makes tiny models of
{built}, and each of these was pruned by every pattern. So many work: {works}.

**yes** says that all of this holds. `eval` has the loss that stock transformers computes, of the dense and of the pruned model,
to a millionth. Weights are zero where the mask says so, and all else is there byte by byte. A smaller model computes what the
dense one does with the same parts zero, with experts that no token goes to, or with blocks that hand on what they are given.
Where langprune is not installed, stock transformers opens the result and generates with it. A number stands for the
[reason](#why-not) that langprune gives, mostly before any work.

`stream` is whether the model can be read block by block, which all stages need; `weights` are single weights, unstructured.
The type of your model is the `model_type` of its `config.json`. This page and `models.json` beside it are made by

```sh
python -m tests.survey --write
```

and continuous integration compares them with what it finds.
"""


@dataclass(frozen=True)
class Survey:
    """What is kept of all rows."""

    version: str  # of transformers
    columns: tuple[str, ...]
    cells: dict[Kind, dict[str, str]]  # by column: WORKS, WRONG, or langprune's reason, shortened
    not_built: dict[Kind, str]

    @classmethod
    def of(cls, version: str, columns: Sequence[str], rows: Iterable[Row]) -> "Survey":
        """Return what is kept of rows, in the order of their types."""
        rows = sorted(rows, key=lambda row: _order((row.kind, row)))
        cells = {row.kind: {column: _short(row, column) for column in columns} for row in rows if not row.not_built}
        return cls(version, tuple(columns), cells, {row.kind: row.not_built for row in rows if row.not_built})

    def with_rows(self, later: "Survey") -> "Survey":
        """Return it with the rows of a later survey of some types."""
        before = {kind: each for kind, each in self.cells.items() if kind not in later.not_built}
        without = {kind: why for kind, why in self.not_built.items() if kind not in later.cells}
        cells, not_built = (
            dict(sorted(each.items(), key=_order)) for each in (before | later.cells, without | later.not_built)
        )
        return Survey(later.version, later.columns, cells, not_built)

    @property
    def reasons(self) -> list[str]:
        """All reasons, the most frequent first."""
        counted = Counter(text for cells in self.cells.values() for text in cells.values())
        return sorted((text for text in counted if text not in (WORKS, WRONG)), key=lambda text: (-counted[text], text))

    def written(self) -> str:
        """Return it as JSON, one line for each type."""
        number = {text: index for index, text in enumerate(self.reasons)}
        models = [
            json.dumps([kind.auto, kind.name, *(number.get(text, text) for text in cells.values())])
            for kind, cells in self.cells.items()
        ]
        head = {"transformers": self.version, "columns": self.columns, "reasons": self.reasons}
        rest = [json.dumps([kind.auto, kind.name, why], ensure_ascii=False) for kind, why in self.not_built.items()]
        lists = f'"models": [\n{_lines(models)}\n],\n"not_built": [\n{_lines(rest)}\n]'
        return json.dumps(head, indent=0, ensure_ascii=False)[:-2] + f",\n{lists}\n}}\n"

    @classmethod
    def read(cls, text: str) -> "Survey":
        """Return what `written` wrote."""
        found = json.loads(text)
        cells = {
            Kind(name, auto): dict(zip(found["columns"], (_text(each, found["reasons"]) for each in row), strict=True))
            for auto, name, *row in found["models"]
        }
        not_built = {Kind(name, auto): why for auto, name, why in found["not_built"]}
        return cls(found["transformers"], tuple(found["columns"]), cells, not_built)

    def page(self) -> str:
        """Return docs/models.md."""
        works = ", ".join(
            f"{column} **{sum(cells[column] == WORKS for cells in self.cells.values())}**" for column in self.columns
        )
        every = [*self.cells, *self.not_built]
        images = sum(kind.auto == "image-text" for kind in every)
        counts = {"version": self.version, "types": len(every), "images": images, "built": len(self.cells)}
        lines = [_HEAD.format(**counts, works=works)]
        for auto, title in _TITLES.items():
            lines += [f"## {title}", "", f"| type | {' | '.join(self.columns)} |", "|---|" + "---|" * len(self.columns)]
            lines += [
                f"| {kind.name} | {' | '.join(map(self._cell, cells.values()))} |"
                for kind, cells in self.cells.items()
                if kind.auto == auto
            ]
            lines.append("")
        counted = Counter(text for cells in self.cells.values() for text in cells.values())
        lines += ["## Why not", "", "| | cells | what langprune says |", "|---|---|---|"]
        lines += [f"| {self._cell(text)} | {counted[text]} | {_plain(text)} |" for text in self.reasons]
        lines += [
            "",
            "## Not tried",
            "",
            "Stock transformers makes no tiny model of these that reads text alone and is saved as what it is:",
            "",
        ]
        lines += ["| type | why |", "|---|---|"]
        lines += [f"| {kind.name} | {_plain(_in_short(why))} |" for kind, why in self.not_built.items()]
        return "\n".join(lines) + "\n"

    def _cell(self, text: str) -> str:
        return {WORKS: "yes", WRONG: WRONG}.get(text) or str(self.reasons.index(text) + 1)


def _order(item: tuple[Kind, object]) -> tuple[str, str]:
    return item[0].auto, item[0].name


def _short(row: Row, column: str) -> str:
    """Return a cell: of a refusal the reason, without what differs from model to model and without what is to be done."""
    text = row.cells.get(column, WRONG).replace("\n", " ").replace("workspace/models/", "")
    if text in (WORKS, WRONG):
        return text
    text = re.sub(rf"(?:\b[Tt]his )?(?<![\w-]){re.escape(row.kind.name)}(?:_text)?(?![\w-])", "it", text)
    text = re.sub(r"\b[Tt]his ([\w-]+)", lambda found: "it" if found[1] in CONFIG_MAPPING else found[0], text)
    for found, instead in _DIFFERS:
        text = found.sub(instead, text)
    text = text.partition(": ")[0].strip()
    return f"It{text[2:]}" if text.startswith("it ") else text


def _text(cell: str | int, reasons: Sequence[str]) -> str:
    return reasons[cell] if isinstance(cell, int) else cell


def _lines(values: Iterable[str]) -> str:
    return ",\n".join(values)


def _in_short(why: str) -> str:
    """Return an error of transformers as its first sentence, names of classes without their modules."""
    return re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", why).partition(". ")[0][:160]


def _plain(text: str) -> str:
    """Return text as a cell of a table takes it, with nothing that Markdown would read."""
    return re.sub(r"([|<>*_`\[\]\\#])", r"\\\1", text)
