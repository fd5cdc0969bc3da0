"""Whether each model type of the installed transformers can be pruned, by every pattern: shown, and with --write kept.

    python -m tests.survey [TYPE ...] [--write] [--shard K/N] [--out FILE] [--processes P]

--write makes docs/models.json and docs/models.md; where types are named, only their rows change. Exit 1 where anything is wrong.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers

from tests.survey.kinds import every_kind, preload
from tests.survey.page import DATA, PAGE, Survey
from tests.survey.survey import WORKS, survey


def main() -> int:
    """Survey what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.survey")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--shard", default="1/1", help="2/3: of every three types the second")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    number, shards = map(int, asked.shard.split("/"))
    kinds = [each for each in every_kind() if not asked.types or each.name in asked.types][number - 1 :: shards]
    preload(kinds)
    rows = []
    for row in survey(kinds, asked.processes):
        rows.append(row)
        cells = {column: "yes" if text == WORKS else text for column, text in row.cells.items()}
        print(f"{row.kind.auto} {row.kind.name} {row.seconds:.1f} s", row.not_built or cells, flush=True)  # noqa: T201
        for column, what in row.wrong.items():
            print(f"  WRONG {column}: {what}", flush=True)  # noqa: T201
    from tests.survey.checks import CHECKS  # noqa: PLC0415 - not before: it imports langprune

    found = Survey.of(transformers.__version__, list(CHECKS), rows)
    if asked.out:
        asked.out.write_text(found.written(), encoding="utf-8")
    if asked.write:
        if asked.types or shards > 1:
            found = Survey.read(DATA.read_text(encoding="utf-8")).with_rows(found)
        DATA.write_text(found.written(), encoding="utf-8")
        PAGE.write_text(found.page(), encoding="utf-8")
    return any(row.wrong for row in rows)


if __name__ == "__main__":
    sys.exit(main())
