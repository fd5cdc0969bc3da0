"""`plan` of a model on a hub: config.json is fetched, and no weights."""

import json
from pathlib import Path
from typing import Any

from tests.support.command import did, langprune, one_sentence
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite
from tests.support.pico import FAMILIES, save_pico
from tests.support.plan_configs import TIMED, config_file, count

hub = hub_fixtures.hub


def test_a_hub_model_without_its_weights(hub: HubSite, tmp_path: Path) -> None:
    """config.json is all that is fetched; offline it is found in the cache, and never taken for a whole model."""
    config_file(tmp_path / "bare", "llama", FAMILIES["llama"][1], dtype="float32")
    hub.add_model("owner/bare", tmp_path / "bare")
    config_file(tmp_path / "bare", "llama", FAMILIES["llama"][1] | {"intermediate_size": 96})
    hub.add_model("owner/bare", tmp_path / "bare", revision="wide")
    save_pico("llama", tmp_path / "whole")
    hub.add_model("owner/whole", tmp_path / "whole")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("no model")
    hub.add_model("owner/other", tmp_path / "other")
    script = """
import contextlib, io, json, sys
from langprune_cli.__main__ import main
answers = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "--json"])
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""

    def ask(*commands: list[str]) -> list[tuple[int, Any, str]]:
        done = hub.run(script, json.dumps(commands), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        assert all("Traceback" not in err for _, _, err in answers)
        return [(code, json.loads(out) if out else None, err.strip().split("\n")[-1]) for code, out, err in answers]

    bare, cache = ["plan", "-m", "owner/bare"], ["--cache-dir", str(tmp_path / "cache")]
    first, wide, whole, other, missing, revision = ask(
        bare, [*bare, "--revision", "wide", *cache], ["plan", "-m", "owner/whole", *cache],
        ["plan", "-m", "owner/other"], ["plan", "-m", "owner/missing"], [*bare, "--revision", "none"],
    )  # fmt: skip
    assert hub.fetched() == ["config.json"] * 3
    assert (first[0], first[1]["model"], first[1]["parameters_before"]) == (0, "owner/bare", count("llama"))
    assert wide[1]["parameters_before"] == count("llama", intermediate_size=96)
    assert whole[1]["parameters_before"] == count("llama")
    says = "error: the model owner/other on the hub has no config.json: name a model in the format of transformers"
    assert other[::2] == (1, says)
    assert missing[0] == 1
    assert missing[2].startswith("error: there is no model owner/missing on the hub (or it is private)")
    assert "has no revision none" in revision[2]
    hub.stop()
    cached, unreachable = ask(bare, ["plan", "-m", "owner/unknown"])
    assert cached[1] | TIMED == first[1] | TIMED
    assert cached[2].startswith("the hub did not deliver the model owner/bare: using the copy in the cache, commit ")
    assert unreachable[2].startswith("error: could not download the model owner/unknown from http://127.0.0.1")
    # This process is offline.
    assert did(*bare, "--revision", "wide", *cache, "--json").json | TIMED == wide[1] | TIMED
    one_sentence(langprune("plan", "-m", "owner/unknown", *cache), 1, "HF_HUB_OFFLINE forbids fetching it")
    scored = langprune("score", "-m", "owner/whole", *cache, "--method", "magnitude")
    one_sentence(scored, 1, "owner/whole is not complete in the cache")
