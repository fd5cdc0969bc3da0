"""The report in a real browser: what it shows is there, inside its frame, and has contrast, on light and dark pages."""

from pathlib import Path

import pytest

from tests.support import reporting
from tests.support.browsing import CHROMIUM, CONTRAST, browser, views
from tests.support.reporting import page

reported = reporting.reported  # a fixture

_SIZES = (
    "[...document.querySelectorAll('svg[role=img]')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on this machine")
def test_a_browser_shows_it_in_light_and_dark(reported: Path, tmp_path: Path) -> None:
    page(reported)
    with browser(tmp_path / "profile") as tab:
        grounds = {}
        for scheme, _ in views(tab, Path("report.html")):
            said = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed"}
            assert [event for event in tab.events if event["method"] in said] == []
            asked = [
                event["params"]["request"]["url"]
                for event in tab.events
                if event["method"] == "Network.requestWillBeSent"
            ]
            assert asked == [Path("report.html").absolute().as_uri()]
            sizes = tab.evaluate(_SIZES)
            assert len(sizes) > 5
            assert all(each_width > 40 and height > 40 for each_width, height in sizes)
            assert len(tab.evaluate(CONTRAST)) > 100
            grounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert grounds["light"] != grounds["dark"]
        tab.picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
