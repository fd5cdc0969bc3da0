"""A headless Chromium that tests look at pages with, through its debugging pipe: no driver, no port."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip

# Contrasts of all texts of a report with what is behind them, the lowest first.
CONTRAST = """(() => {
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
# Texts that lie outside of the figure that they belong to.
OUTSIDE = """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => { const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();
    return r.width && (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1);
  }).map(t => t.textContent); })"""


class Page:
    """One tab: commands of the DevTools protocol are sent to it, and its events are kept."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """Run a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            found = os.read(self._from, 1 << 16)
            assert found, "the browser is gone"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, path: Path, *, scheme: str, width: int) -> None:
        """Load a file from disk, in the light or the dark scheme, and wait until all of it is there."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.send("Page.navigate", url=path.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, script: str) -> Any:
        """Return what a script gives."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path, *, height: float | None = None) -> None:
        """Save the whole page as a PNG, or as much of it as lies above `height`, in pixels."""
        width = self.evaluate("document.documentElement.scrollWidth")
        clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}} if height else {}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, **clip)
        path.write_bytes(base64.b64decode(found["data"]))


def views(tab: Page, path: Path) -> Iterator[tuple[str, int]]:
    """Open a page in both schemes, wide and narrow; check each time that it can be read, and yield scheme and width."""
    for scheme in ("light", "dark"):
        for width in (1200, 390):
            tab.open(path, scheme=scheme, width=width)
            contrasts = tab.evaluate(CONTRAST)
            assert contrasts[0][0] >= 4.5, contrasts[:5]
            assert tab.evaluate(OUTSIDE) == []
            # The page itself never scrolls sideways: what is wide does so in a frame of its own.
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            yield scheme, width


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start the browser with an empty profile; it ends with the context."""
    assert CHROMIUM
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    # The protocol's pipes are the files 3 and 4.
    wired = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", wired, "bash", CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.close(ours_out)  # which ends it
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours_in)
