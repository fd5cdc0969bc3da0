"""The README's picture of a report: it is small enough, and its script makes it."""

import struct
from pathlib import Path

import pytest

from scripts import make_report_picture
from tests.support.browsing import CHROMIUM
from tests.support.paths import REPOSITORY


def size(picture: Path) -> tuple[int, int]:
    """Return width and height of a PNG (its first chunk, IHDR)."""
    head = picture.read_bytes()[:24]
    assert head[:16] == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_the_readme_shows_it() -> None:
    picture = make_report_picture.PICTURE
    assert picture.is_file()
    assert f"]({picture.relative_to(REPOSITORY).as_posix()})" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    width, height = size(picture)
    assert width == make_report_picture.WIDTH
    assert width / 2 < height < 2 * width
    assert picture.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on this machine")
def test_the_script_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few windows, elsewhere: the one of the repository stays."""
    few = [
        each.replace("--max-windows 128", "--max-windows 4").replace("calibrate", "calibrate --nsamples 8")
        for each in make_report_picture.COMMANDS
    ]
    monkeypatch.setattr(make_report_picture, "COMMANDS", few)
    monkeypatch.setattr(make_report_picture, "PICTURE", tmp_path / "report.png")
    before = (REPOSITORY / "docs" / "report.png").read_bytes()
    assert make_report_picture.main() == 0
    assert size(tmp_path / "report.png")[0] == make_report_picture.WIDTH
    assert (REPOSITORY / "docs" / "report.png").read_bytes() == before
