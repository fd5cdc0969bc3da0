"""The report in a real browser: what it shows is there, inside its frame, and has contrast, on light and dark pages."""

from pathlib import Path

import pytest

from tests.support import reporting
from tests.support.browsing import CHROMIUM, browser
from tests.support.reporting import page

reported = reporting.reported  # a fixture

_CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let e = node; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  document.querySelectorAll('details').forEach(d => d.open = true);
  const seen = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length) continue;
    const svg = e instanceof SVGElement;
    const rect = svg && e.classList.contains('on') ? e.parentElement.querySelector('rect.fill') : null;
    const ink = parse(getComputedStyle(e)[svg ? 'fill' : 'color']);
    const ground = rect ? parse(getComputedStyle(rect).fill) : behind(e);
    const [a, b] = [lum(ink), lum(ground)].sort((x, y) => y - x);
    seen.push([(a + 0.05) / (b + 0.05), e.textContent.slice(0, 40)]);
  }
  return seen.sort((x, y) => x[0] - y[0]);
})()"""
_SIZES = (
    "[...document.querySelectorAll('svg[role=img]')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
)
_OUTSIDE = """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => { const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
    return r.width && (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1);
  }).map(t => t.textContent); })"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome on this machine")
def test_a_browser_shows_it_in_light_and_dark(reported: Path, tmp_path: Path) -> None:
    page(reported)
    with browser(tmp_path / "profile") as tab:
        grounds = {}
        for scheme in ("light", "dark"):
            for width in (1200, 390):
                tab.open(Path("report.html"), scheme=scheme, width=width)
                said = {
                    "Log.entryAdded",
                    "Runtime.consoleAPICalled",
                    "Runtime.exceptionThrown",
                    "Network.loadingFailed",
                }
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
                contrasts = tab.evaluate(_CONTRAST)
                assert len(contrasts) > 100
                assert contrasts[0][0] >= 4.5, contrasts[:5]
                assert tab.evaluate(_OUTSIDE) == []
                # The page itself never scrolls sideways: what is wide does so in a frame of its own.
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
            grounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert grounds["light"] != grounds["dark"]
        tab.picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
