"""The fixture `hub`: a running loopback hub and the environment in which a subprocess talks to it alone.

`huggingface_hub` and `datasets` read their settings when they are imported, so the code under test runs in another
process with `hub.env`, as it does for a user: in a fork of one for all tests, or in a fresh one where a setting of
theirs differs. In a test module:

    from tests.support.hub import hub_fixtures

    hub = hub_fixtures.hub


    def test_something(hub, tmp_path):
        hub.add_model("owner/name", folder)
        done = hub.run("print(1)", "an argument")
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub.hub_process import LATE, HubProcess
from tests.support.hub.loopback_hub import LoopbackHub
from tests.support.paths import REPOSITORY


class HubSite(LoopbackHub):
    """A loopback hub, with an empty home for the caches of those who talk to it."""

    def __init__(self, home: Path, shared: HubProcess | None = None) -> None:
        super().__init__(shared.port if shared else 0)
        self.home = home
        self._shared = shared
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))} | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "LANGPRUNE_CACHE": str(home / "langprune"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(REPOSITORY),
            # A proxy that the machine may need for the network must not stand before 127.0.0.1.
            "NO_PROXY": "*",
            "no_proxy": "*",
        }

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process of this hub's environment, with `sys.argv[1:]` = arguments."""
        if self._shared and cwd and env.keys() <= LATE:
            return self._shared.run(script, arguments, cwd, self.env, env)
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(
            command, env=self.env | env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[HubSite]:
    """Yield a running hub without repositories; its `env` names it and an empty HF_HOME."""
    with HubSite(hub_process.empty(), hub_process) as site:
        yield site
