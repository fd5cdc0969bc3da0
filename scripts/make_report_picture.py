"""Make docs/report.png: the upper part of a report about the demo model, as a browser shows it.

    python -m scripts.make_report_picture

from the root of the repository, where Chromium or Chrome is installed. Run it after a change to the report's looks. Figures
may differ in the last digits on another processor.
"""

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from langprune_cli.__main__ import main as langprune
from tests.support.browsing import CHROMIUM, browser

PICTURE = Path(__file__).parent.parent / "docs" / "report.png"
WIDTH = 1000
_BELOW = 12  # pixels of the page below the section that ends the picture

# What `langprune demo` does (its dtype, its windows), and a third mask for both languages. No --model: the built-in one.
COMMANDS = (
    "calibrate --lang uk --lang en --dtype float32",
    "combine stats uk en --name both",
    "mask --stats uk",
    "mask --stats en",
    "mask --stats both",
    "eval --mask uk-wanda-0.5 --mask en-wanda-0.5 --mask both-wanda-0.5 --lang uk --lang en --dtype float32 --max-windows 128",
    "report --out report.html --title 'The demo model, pruned for Ukrainian, English and both'",
)


def main() -> int:
    """Run the commands in a folder that is removed again, and save what a browser shows of their report."""
    if CHROMIUM is None:
        print("there is no Chromium or Chrome on this machine: install one", file=sys.stderr)
        return 1
    with TemporaryDirectory() as folder:
        place = Path(folder)
        for command in COMMANDS:
            words = shlex.split(command.replace("report.html", str(place / "report.html")))
            if langprune([*words, "--workspace", str(place / "workspace")]):
                return 1
        with browser(place / "profile") as tab:
            tab.open(place / "report.html", scheme="light", width=WIDTH)
            end = tab.evaluate("document.getElementById('languages').getBoundingClientRect().bottom + window.scrollY")
            tab.picture(PICTURE, height=end + _BELOW)
    print(f"wrote {PICTURE}, {PICTURE.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
