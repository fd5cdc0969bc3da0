"""One bit flipped in a random file, then every stage run that reads it, without `verify`.

    python -m tests.harnesses.flips --flips 500 --seed 0

The files are those of a workspace with artifacts of every kind and of an exported model. A stage may refuse with a sentence, or
give the very bytes that it gives from whole files: the flipped bit is then of no effect. Whatever else it gives was computed on
the flipped bit, and counts as used silently.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.command import DRAW, SEQLEN, did, langprune, tree
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level, documents, write_jsonl

NOT_COVERED = {"README.md"}  # for people, and theirs to change
_UK, _EN = (["--lang", language, "--data", f"TEXT/{language}.jsonl"] for language in ("uk", "en"))
_NEW = ["--name", "new", "-w", "HERE/ws"]
_EXPORTED = ["--model", "HERE/shared"]
_MODEL = ["--model", "uk-wanda-0.5"]
_SPREAD = ["--method", "wanda", "--allocation", "fisher"]
_LESSONS = [*_MODEL, *_UK, "--tokens", "200", "--batch-tokens", "64", "--seqlen", SEQLEN]
# What is run after a bit of a file was flipped, by what the file belongs to; TEXT is a folder of texts, HERE the copy.
COMMANDS: dict[str, list[list[str]]] = {
    "stats": [
        ["mask", "--stats", "uk", "--pattern", "4:8", *_NEW],
        ["combine", "stats", "uk", "en", *_NEW],
        ["calibrate", "--lang", "uk", "--data", "HERE/ws/stats/uk/windows.safetensors", *_NEW],
    ],
    "scores": [["mask", "--scores", "uk-wanda", "--pattern", "4:8", *_NEW]],
    "divergences": [["mask", "--stats", "measured", *_SPREAD, "--sparsity", "0.7", *_NEW]],
    "masks": [
        ["apply", "--mask", "uk-wanda-0.5", *_NEW],
        ["combine", "masks", "uk-wanda-0.5", "en-wanda-0.5", "--how", "and", *_NEW],
    ],
    "models": [
        ["eval", *_MODEL, *_EN, "--seqlen", "24", *_NEW],
        ["calibrate", *_MODEL, *_EN, *DRAW, *_NEW],
        ["mask", *_MODEL, "--method", "magnitude", *_NEW],
        ["export", *_MODEL, "--out", "HERE/new"],
    ],
    "logits": [["recover", *_LESSONS, *_NEW]],
    "evals": [
        ["eval", "--mask", "uk-wanda-0.5", *_EN, "--seqlen", SEQLEN, "--max-windows", "3", *_NEW],
        ["report", "--format", "md", "--out", "HERE/new.md"],
    ],
    "workspace.json": [["calibrate", *_EN, *DRAW, *_NEW]],
    "exported": [
        ["eval", *_EXPORTED, *_EN, "--seqlen", "24", *_NEW],
        ["apply", *_EXPORTED, "--mask", "HERE/shared/mask/keep_masks.safetensors", "--reapply", *_NEW],
    ],
}


@dataclass
class Tally:
    """What became of the flipped bits, by kind of file."""

    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)  # used, and of files that are documented as not covered
    failures: list[str] = field(default_factory=list)
    silent: Counter[str] = field(default_factory=Counter)

    def flips(self) -> Counter[str]:
        """Return how many there were."""
        return self.refused + self.same + self.aside + self.silent

    def lines(self) -> list[str]:
        """Return a table in Markdown."""
        head = ["| file | flips | refused | no effect | not covered | used silently |", "|---|---|---|---|---|---|"]
        columns = (self.flips(), self.refused, self.same, self.aside, self.silent)
        rows = [[kind, *(count[kind] for count in columns)] for kind in sorted(self.flips())]
        rows.append(["all", *(count.total() for count in columns)])
        return [*head, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


class Flipper:
    """A workspace and an exported model, and what every command makes of them as long as they are whole."""

    def __init__(self, folder: Path) -> None:
        """Make them."""
        self.folder, self.base, self.here = folder, folder / "base", folder / "here"
        folder.mkdir(exist_ok=True)
        save_pico("llama", folder / "pico", vocab_size=len(byte_level()), max_position_embeddings=64)
        byte_level().save_pretrained(folder / "pico")
        (folder / "text").mkdir()
        for place, language in enumerate(("uk", "en")):
            write_jsonl(folder / f"text/{language}.jsonl", documents(24)[place * 12 :][:12])
        self._make()
        self.whole: dict[str, list[dict[str, str]]] = {}

    def _make(self) -> None:
        where = ["-w", "HERE/ws"]
        self._fresh()
        for words in (
            ["calibrate", "--model", self.folder / "pico", *_UK, *DRAW, *where],
            ["calibrate", *_EN, *DRAW, *where],
            ["score", "--stats", "uk", *where],
            ["mask", "--stats", "uk", *where],
            ["mask", "--stats", "en", *where],
            ["apply", "--mask", "uk-wanda-0.5", "--max-shard-size", "90KB", *where],
            ["eval", "--mask", "uk-wanda-0.5", *_EN, "--seqlen", SEQLEN, "--max-windows", "3", *where],
            ["export", *_MODEL, "--out", "HERE/shared", "--with-mask", *where],
            ["calibrate", *_UK, *DRAW, "--collect", "hessian", "--name", "measured", *where],
            ["mask", "--stats", "measured", *_SPREAD, "--name", "spread", *where],
            ["rm", "masks/spread", *where],
            ["recover", *_LESSONS, "--name", "taught", *where],
            ["rm", "models/taught", *where],
        ):
            did(*self._words(words))
        self.here.rename(self.base)

    def _words(self, words: list[object]) -> list[str]:
        typed = [str(word).replace("HERE", str(self.here)).replace("TEXT", str(self.folder / "text")) for word in words]
        return typed if "-w" in typed else [*typed, "-w", str(self.here / "ws")]

    def _fresh(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        if self.base.exists():
            shutil.copytree(self.base, self.here)
        else:
            self.here.mkdir()

    def files(self, only: str = "") -> list[str]:
        """Return the files that a bit may be flipped in. only: of which kind of artifact; of all if not given."""
        files = sorted(name for name in tree(self.base) if ".lock" not in name)
        return [name for name in files if name.startswith(f"ws/{only}/")] if only else files

    def _made(self, words: list[str], changed: str = "") -> dict[str, str] | None:
        """Run a command; return the new files and their hashes, or None where it refused with a sentence."""
        before = tree(self.here)
        done = langprune(*self._words([*words]))
        if done.code:
            errors = [line for line in done.err.splitlines() if line.startswith("error:")]
            assert len(errors) == 1, done.err
            assert "--debug" not in errors[0], errors[0]
            return None
        after = tree(self.here)
        return {name: after[name] for name in after.keys() - {changed} if after[name] != before.get(name)}

    def _expected(self, belongs: str) -> list[dict[str, str]]:
        """Return what the commands about a kind of file make of whole ones."""
        if belongs not in self.whole:
            self.whole[belongs] = []
            for words in COMMANDS[belongs]:
                self._fresh()
                made = self._made(words)
                assert made is not None, words
                self.whole[belongs].append(made)
        return self.whole[belongs]

    def flip(self, draw: random.Random, tally: Tally, only: str = "") -> None:
        """Flip one bit, and run every command that reads the file. only: see `files`."""
        name = draw.choice(self.files(only))
        parts = Path(name).parts
        belongs = "exported" if parts[0] == "shared" else parts[1]
        expected = self._expected(belongs)
        kind = f"{belongs}, {'part' if parts[-1].endswith('.safetensors') else parts[-1]}"
        data = bytearray((self.base / name).read_bytes())
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        data[place] ^= 1 << bit
        refused = used = 0
        for words, made in zip(COMMANDS[belongs], expected, strict=True):
            self._fresh()
            (self.here / name).write_bytes(data)
            found = self._made(words, name)
            refused += found is None
            if found is not None and found != {each: digest for each, digest in made.items() if each != name}:
                used += 1
                if parts[-1] not in NOT_COVERED:
                    tally.failures.append(f"byte {place}, bit {bit} of {name}: {' '.join(words)}")
        where = tally.refused if refused else tally.same
        if used:
            where = tally.aside if parts[-1] in NOT_COVERED else tally.silent
        where[kind] += 1


def run_flips(folder: Path, flips: int, seed: int, only: str = "") -> Tally:
    """Flip so many bits, one after the other. only: of which kind of artifact."""
    draw, tally, flipper = random.Random(seed), Tally(), Flipper(folder)
    for _ in range(flips):
        flipper.flip(draw, tally, only)
    return tally


def main() -> int:
    """Print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="flip bits of one kind of artifact only, such as logits")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_flips(Path(folder), options.flips, options.seed, options.only)
    total = f"{options.flips} flips in {time.monotonic() - begun:.0f} s, seed {options.seed}: "
    used = f"{tally.silent.total()} used silently"
    sys.stdout.write("\n".join([*tally.lines(), "", total + used, *tally.failures, ""]))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
