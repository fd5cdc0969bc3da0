"""Input that somebody made to do harm, and what a reader may do with it; tests/harnesses/hostile_readers.py has the readers.

A reader may return, or raise a LangpruneError of one line. Whatever else it raises is a crash; so is a file that appears
or changes outside of the folder that it was given. tests/project/test_hostile.py runs a few hundred examples of each target,
`python -m tests.harnesses.fuzz` as many as there is time for.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError, printable

ESCAPES = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)  # all but the end of a line
_NASTY = [
    "../../outside/file", "/etc/passwd", "..", ".", "", "a\0b", "\x1b[2J\x1b]0;owned\x07", "\u202egnp", "\ud800", "x" * 5000,
    "a\nb", "~root", "$(id)", "-rf", "%s%n", "uk/../../outside", "[bold]", "\\", "*", "NaN", "1e999", "0x10", "²", "١",
    "\ufeffuk",
]  # fmt: skip
NASTY = st.sampled_from(_NASTY) | st.text(max_size=6)
VALUES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | NASTY
    | st.sampled_from([[], {}, [[]], {"": {}}, 10**30, -1, 2**63, [None], ["../x"]])
)  # fmt: skip


@st.composite
def changed_json(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = VALUES) -> bytes:
    """Draw a JSON document with up to three of its values replaced, removed, renamed or put elsewhere."""
    whole = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_spots(whole))
        if not spots:
            break
        container, key = draw(st.sampled_from(spots))
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "nest"]))
        if how == "replace":
            container[key] = copy.deepcopy(draw(values))  # a later change must not reach into the next example
        elif how == "nest":
            container[key] = [container[key]]
        else:
            value = container.pop(key)
            if how == "rename" and isinstance(container, dict):
                container[draw(NASTY)] = value
    return json.dumps(whole).encode()


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value in a JSON document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _spots(value[key])


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes, end: int | None = None) -> bytes:
    """Draw bytes (up to `end`) that are overwritten, removed or put in, or a file that ends early."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, min(len(changed), end or len(changed))))
        gone = draw(st.integers(0, 4))
        changed[place : place + gone] = draw(
            st.binary(max_size=4) | st.sampled_from([b"[" * 3000, b"\xff\xfe", b'"', b"{}", b"-1"])
        )
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.integers(0, 3)) == 0 else changed)


@dataclass(frozen=True)
class Target:
    """One reader: examples of what it is given, and how."""

    examples: st.SearchStrategy[Any]
    feed: Callable[[Path, Any], object]  # a new folder, and an example


def attempt(target: Target, folder: Path, example: Any) -> bool:
    """Feed an example; return whether it was accepted. Raises whatever is a crash, AssertionError among it."""
    inside, outside = folder / "inside", folder / "outside"
    for each in (inside, outside):
        each.mkdir(parents=True)
    (outside / "file").write_bytes(b"somebody else's")
    accepted, said = True, "accepted"
    try:
        target.feed(inside, example)
    except LangpruneError as error:
        accepted, said = False, printable(str(error))
    assert said.strip()
    assert not ESCAPES.search(said)
    assert "\n" not in said
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("outside/*")) == ["outside/file"]
    assert (outside / "file").read_bytes() == b"somebody else's"
    assert {path.name for path in folder.iterdir()} == {"inside", "outside"}
    return accepted
