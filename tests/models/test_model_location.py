"""Finding models on the hub, over real HTTP against the loopback hub."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from langprune_cli.errors import LangpruneError
from langprune_cli.location.location import locate_model
from tests.support.hub import hub_fixtures
from tests.support.hub.hub_fixtures import HubSite
from tests.support.hub.loopback_hub import TOKEN

hub = hub_fixtures.hub

DECOYS = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "original/model.safetensors")
LOCATE = """
import json, sys
from pathlib import Path
from langprune_cli.errors import LangpruneError
from langprune_cli.location.location import locate_model
name, options = sys.argv[1], json.loads(sys.argv[2])
if "cache_dir" in options:
    options["cache_dir"] = Path(options["cache_dir"])
try:
    found = locate_model(name, **options)
except LangpruneError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps(vars(found) | {"folder": str(found.folder)}))
"""


@dataclass(frozen=True)
class Answer:
    """What the subprocess printed."""

    fields: dict[str, Any]
    stderr: str

    @property
    def folder(self) -> Path:
        return Path(self.fields["folder"])

    @property
    def error(self) -> str:
        """The sentence, checked to be one line."""
        sentence: str = self.fields["error"]
        assert "\n" not in sentence
        return sentence


def locate(
    hub: HubSite, name: str, *, env: dict[str, str] | None = None, script: str = LOCATE, **options: Any
) -> Answer:
    """Call locate_model in a subprocess that talks to the hub, and to nothing else."""
    done = hub.run(script, name, json.dumps(options), cwd=hub.home.parent, **(env or {}))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Answer(json.loads(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Llama of 20 kB in several shards, with the other files of a usual repository and the decoys."""
    folder = tmp_path_factory.mktemp("pico") / "model"
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "modeling_pico.py",
        "README.md",
    ):
        (folder / name).write_text(f"{{}} {name}")
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    return folder


@pytest.fixture
def single(sharded: Path, tmp_path: Path) -> Path:
    """Make the smallest repository: config.json and one file of weights, whose contents nobody reads here."""
    folder = tmp_path / "single"
    folder.mkdir()
    shutil.copy(sharded / "config.json", folder)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def wanted(folder: Path) -> set[str]:
    """Names of the files at the top of a repository that are to be fetched: the card too, which says the licence."""
    return {p.name for p in folder.iterdir() if p.is_file()} - {*DECOYS, "modeling_pico.py"}


def test_fetches_what_pruning_reads_and_nothing_else(hub: HubSite, sharded: Path) -> None:
    sha = hub.add_model("owner/pico", sharded)
    answer = locate(hub, "owner/pico")
    said = {"folder": str(answer.folder), "id": "owner/pico", "revision": sha, "kind": "hub", "notes": []}
    assert {name: answer.fields[name] for name in said} == said
    assert sorted(hub.fetched()) == sorted(wanted(sharded))
    assert {name: (answer.folder / name).read_bytes() for name in wanted(sharded)} == {
        name: (sharded / name).read_bytes() for name in wanted(sharded)
    }
    last_small = max(hub.fetched().index(name) for name in wanted(sharded) if not name.endswith(".safetensors"))
    assert all(name.endswith(".safetensors") for name in hub.fetched()[last_small + 1 :])
    assert "Fetching" in answer.stderr  # the hub library's own progress, which must not reach stdout


def test_the_second_time_only_the_cache_is_read_even_without_the_hub(hub: HubSite, sharded: Path) -> None:
    sha = hub.add_model("owner/pico", sharded)
    first = locate(hub, "owner/pico")
    hub.requests.clear()
    assert locate(hub, "owner/pico").fields == first.fields
    assert hub.fetched() == []
    hub.requests.clear()
    assert locate(hub, "owner/pico", revision=sha).fields == first.fields
    assert hub.requests == []  # a commit never changes: nothing to ask
    assert locate(hub, "owner/pico", env={"HF_HUB_OFFLINE": "1"}).fields == first.fields
    hub.stop()
    unreachable = locate(hub, "owner/pico")
    assert unreachable.folder == first.folder
    assert unreachable.fields["notes"] == [
        f"the hub did not deliver the model owner/pico: using the copy in the cache, commit {sha[:12]}"
    ]


def test_a_revision_by_branch_and_by_commit(hub: HubSite, single: Path, tmp_path: Path) -> None:
    main = hub.add_model("pico", single)
    (single / "model.safetensors").write_bytes(b"other weights")
    other = hub.add_model("pico", single, revision="step-100")
    assert main != other
    cache = tmp_path / "cache"
    assert locate(hub, "pico", cache_dir=str(cache)).fields["revision"] == main
    by_branch = locate(hub, "pico", revision="step-100", cache_dir=str(cache))
    assert by_branch.fields["revision"] == other
    assert by_branch.folder.is_relative_to(cache)
    assert (by_branch.folder / "model.safetensors").read_bytes() == b"other weights"
    assert locate(hub, "pico", revision=main).fields["revision"] == main
    hub.stop()
    offline = locate(hub, "pico", revision="step-100", cache_dir=str(cache))
    assert offline.folder == by_branch.folder


def test_python_files_come_only_when_asked_for(hub: HubSite, sharded: Path) -> None:
    sha = hub.add_model("owner/pico", sharded)
    assert not (locate(hub, "owner/pico").folder / "modeling_pico.py").exists()
    assert (locate(hub, "owner/pico", revision=sha, with_code=True).folder / "modeling_pico.py").exists()


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_is_taken_up_again_and_gives_the_same_bytes(
    hub: HubSite, single: Path, *, reset: bool
) -> None:
    hub.add_model("owner/pico", single)
    hub.cut("model.safetensors", after_bytes=4_000, reset=reset)
    answer = locate(hub, "owner/pico")
    assert hub.fetched().count("model.safetensors") == 2
    assert (answer.folder / "model.safetensors").read_bytes() == (single / "model.safetensors").read_bytes()


def test_a_connection_that_always_breaks(hub: HubSite, single: Path) -> None:
    hub.add_model("owner/pico", single)
    hub.cut("model.safetensors", after_bytes=4_000, times=100, reset=True)
    assert "could not download the model owner/pico" in locate(hub, "owner/pico").error
    assert hub.fetched() == ["config.json", *["model.safetensors"] * 3]


def test_a_download_that_would_never_end_is_given_up(hub: HubSite, single: Path) -> None:
    hub.add_model("owner/pico", single)
    hub.trickle("model.safetensors", after_bytes=100, times=100)
    hurried = "from langprune_cli.text import hub_pace\nhub_pace._SECONDS = 0.5\n"
    error = locate(hub, "owner/pico", script=hurried + LOCATE).error
    assert re.search("the hub sent [0-9,]+ bytes in [0-9]+ seconds, too little ever to end", error)
    assert hub.fetched() == ["config.json", "model.safetensors"]


def test_an_incomplete_snapshot_is_never_used_and_completed_later(hub: HubSite, sharded: Path) -> None:
    hub.add_model("owner/pico", sharded)
    last = max(name for name in wanted(sharded) if name.endswith(".safetensors"))
    hub.fail(last, 403)
    assert "may not read the model owner/pico" in locate(hub, "owner/pico").error
    offline = locate(hub, "owner/pico", env={"HF_HUB_OFFLINE": "1"})
    assert "owner/pico is not complete in the cache, and HF_HUB_OFFLINE" in offline.error
    hub.faults.clear()
    hub.requests.clear()
    assert locate(hub, "owner/pico").folder.is_dir()
    assert hub.fetched() == [last]


def test_private_models_need_the_token(hub: HubSite, single: Path) -> None:
    hub.add_model("owner/secret", single)
    hub.restrict("owner/secret", private=True)
    error = locate(hub, "owner/secret").error
    assert error.startswith("there is no model owner/secret on the hub (or it is private) and no folder owner/secret")
    assert "hf auth login" in error
    assert (
        "refused your token for the model owner/secret" in locate(hub, "owner/secret", env={"HF_TOKEN": "hf_x"}).error
    )
    assert locate(hub, "owner/secret", env={"HF_TOKEN": TOKEN}).fields["kind"] == "hub"
    assert locate(hub, "owner/none", env={"HF_TOKEN": TOKEN}).error.startswith("there is no model owner/none")


@pytest.mark.parametrize("token", [{}, {"HF_TOKEN": TOKEN}], ids=["anonymous", "not on the list"])
def test_gated_models_name_the_page_to_ask_at(hub: HubSite, single: Path, token: dict[str, str]) -> None:
    hub.add_model("owner/gated", single)
    hub.restrict("owner/gated", gated=True)
    error = locate(hub, "owner/gated", env=token).error
    assert f"ask for it at {hub.url}/owner/gated, then run `hf auth login`" in error


def test_an_unknown_revision_even_when_main_is_cached(hub: HubSite, single: Path) -> None:
    hub.add_model("owner/pico", single)
    locate(hub, "owner/pico")
    assert "the model owner/pico has no revision v9" in locate(hub, "owner/pico", revision="v9").error
    assert "has no revision " + "0" * 40 in locate(hub, "owner/pico", revision="0" * 40).error


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, "too many requests (429)"),
        (503, "(status 503): try again in some minutes"),
        (403, "may not read"),
    ],
)
def test_a_hub_that_refuses(hub: HubSite, single: Path, status: int, said: str) -> None:
    hub.add_model("owner/pico", single)
    hub.fail("/api/models/owner/pico", status)
    error = locate(hub, "owner/pico").error
    assert said in error
    assert "owner/pico" in error


def test_no_hub_and_nothing_in_the_cache(hub: HubSite) -> None:
    hub.stop()
    error = locate(hub, "owner/pico").error
    assert error.startswith(f"could not download the model owner/pico from {hub.url}")
    assert "check the network" in error
    offline = locate(hub, "owner/pico", env={"HF_HUB_OFFLINE": "1"}).error
    assert "owner/pico is not complete in the cache" in offline
    assert "unset HF_HUB_OFFLINE" in offline


def test_something_else_that_answers_at_the_hubs_address(hub: HubSite) -> None:
    hub.fail("/api/models/owner/pico", 200)
    assert "could not download the model owner/pico" in locate(hub, "owner/pico").error


def test_spellings_close_to_the_demo_and_to_a_folder(hub: HubSite) -> None:
    assert locate(hub, "demoo").error.endswith("did you mean demo?")
    (hub.home.parent / "models" / "pico-llama").mkdir(parents=True)
    assert locate(hub, "models/pico-lama").error.endswith("did you mean models/pico-llama?")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json", "pytorch_model.bin"], "only as PyTorch pickles, and langprune reads safetensors"),
        (["config.json", "model.gguf"], "has neither model.safetensors nor model.safetensors.index.json"),
        (["config.json", "consolidated.safetensors"], "has neither model.safetensors nor"),
        (["model.safetensors"], "has no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter, not a model: merge it"),
    ],
)
def test_repositories_and_folders_without_a_readable_model(
    hub: HubSite, tmp_path: Path, files: list[str], said: str
) -> None:
    folder = tmp_path / "unfit"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    hub.add_model("owner/unfit", folder)
    assert f"the model owner/unfit on the hub {said}" in (
        locate(hub, "owner/unfit").error.replace("has its weights only as", "only as")
    )
    assert hub.fetched() == []
    with pytest.raises(LangpruneError) as raised:
        locate_model(str(folder))
    assert str(raised.value).startswith(f"the folder {folder} ")


def test_an_index_that_names_a_shard_the_repository_lacks(hub: HubSite, sharded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lacking"
    shutil.copytree(sharded, folder)
    lost = min(folder.glob("model-*.safetensors"))
    lost.unlink()
    hub.add_model("owner/lacking", folder)
    assert f"the model owner/lacking on the hub lacks {lost.name}" in locate(hub, "owner/lacking").error
    with pytest.raises(LangpruneError, match=f"lacks {lost.name}"):
        locate_model(str(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk(hub: HubSite, single: Path) -> None:
    """Use a limit on file sizes as the full disk: the write fails in the same place, in the same way."""
    hub.add_model("owner/pico", single)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    error = locate(hub, "owner/pico", script=limit + LOCATE).error
    assert error.startswith("there is no room to store the model owner/pico")
    assert "HF_HOME" in error
