"""`export` to a hub on 127.0.0.1: what arrives, what is kept private, what the card takes over, what is said when it fails."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from langprune_cli.stages.export.inherited import inherited
from langprune_cli.stages.export.model_card import model_card
from langprune_cli.store.artifact import Artifact, open_artifact
from langprune_cli.store.files import document_digest, readable_json, sha256_file
from langprune_cli.store.manifest import Manifest
from langprune_cli.store.workspace import Workspace
from tests.support.command import DRAW, Done, did, langprune, snapshot, tree
from tests.support.hub.hub_fixtures import HubSite
from tests.support.hub.hub_repositories import git_oid
from tests.support.hub.hub_uploads import TOKEN

PRUNED = "uk-wanda-2x4"
SENT = ["POST /api/repos/create", "POST /api/models/me/shared/commit/main"]

# Imports everything once, and then runs one command after the other, each with its own token and folder.
WORKER = """
import contextlib, io, json, os, sys
from langprune_cli.__main__ main
for line in sys.stdin:
    run = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": run["token"]} if run["token"] else {})
    os.chdir(run["cwd"])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(run["words"])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
""".replace("__main__ main", "__main__ import main")


@dataclass
class Clerk:
    """A hub, and a process that talks to it alone."""

    hub: HubSite
    process: subprocess.Popen[str]

    def run(self, *words: object, token: str | None = None) -> Done:
        assert self.process.stdin
        assert self.process.stdout
        order = {"words": [str(word) for word in words], "token": token, "cwd": str(Path.cwd())}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Done(*json.loads(self.process.stdout.readline()))

    def push(self, workspace: Path, *words: object, token: str | None = TOKEN) -> Done:
        done = self.run("export", "-w", workspace, "--push-to-hub", "me/shared", *words, token=token)
        assert TOKEN not in done.out + done.err
        assert not any(TOKEN.encode() in path.read_bytes() for path in workspace.rglob("*") if path.is_file())
        return done


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clerk]:
    with HubSite(tmp_path_factory.mktemp("hf-home")) as site:
        command = [sys.executable, "-c", WORKER]
        with subprocess.Popen(
            command, env=site.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            yield Clerk(site, process)
            assert process.stdin
            process.stdin.close()


@pytest.fixture
def clerk(office: Clerk) -> Clerk:
    """Return the clerk of a hub that holds nothing."""
    for kept in (office.hub.repositories, office.hub.requests, office.hub.faults, office.hub.uploads.objects):
        kept.clear()
    return office


def refused(done: Done, says: str, code: int = 1) -> None:
    assert done.code == code, done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert "Traceback" not in done.err


def test_a_model_arrives_whole_in_a_private_repository(clerk: Clerk, workspace: Path, tmp_path: Path) -> None:
    before = tree(workspace)
    done = clerk.push(workspace, "--with-mask", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    repository = clerk.hub.repositories["models", "me/shared"]
    assert repository.private
    files = repository.revisions["main"].files
    assert document["commit"] == f"{clerk.hub.url}/me/shared/commit/{repository.revisions['main'].sha}"
    assert document["files"] == sorted(files)
    assert tree(workspace) == before  # the copy that was sent is gone
    did("export", "-w", workspace, "--out", tmp_path / "shared", "--with-mask")
    here = {name: (tmp_path / "shared" / name).read_bytes() for name in tree(tmp_path / "shared")}
    assert files == here
    # One commit, and the large files before it.
    assert [line for line in clerk.hub.requests if line in SENT] == SENT
    puts = [number for number, line in enumerate(clerk.hub.requests) if line.startswith("PUT /lfs/")]
    assert len(puts) == 2  # weights and masks
    assert max(puts) < clerk.hub.requests.index(SENT[1])


def test_a_push_that_was_interrupted_goes_on(clerk: Clerk, workspace: Path, tmp_path: Path) -> None:
    clerk.hub.fail("/commit/", 409, times=1)
    refused(
        clerk.push(workspace, "--out", str(tmp_path / "out")),
        "run the same command again: nothing is sent twice",
    )
    assert clerk.hub.repositories["models", "me/shared"].revisions["main"].files == {}  # never half a model
    sent = [line for line in clerk.hub.requests if line.startswith("PUT ")]
    assert len(sent) == 1
    before = snapshot(tmp_path / "out")
    again = clerk.push(workspace, "--out", str(tmp_path / "out"))
    assert again.code == 0, again.err
    assert "Uploading the files in" in again.err
    assert [line for line in clerk.hub.requests if line.startswith("PUT ")] == sent  # the weights were there
    assert snapshot(tmp_path / "out") == before
    assert sorted(clerk.hub.repositories["models", "me/shared"].revisions["main"].files) == sorted(before)
    # A third time there is nothing to commit.
    commits = clerk.hub.requests.count(SENT[1])
    assert clerk.push(workspace, "--out", str(tmp_path / "out")).code == 0
    assert clerk.hub.requests.count(SENT[1]) == commits


def _env(out: Path) -> None:
    (out / ".env").write_text("HF_TOKEN=secret")


def _link_to_a_key(out: Path) -> None:
    (out / "merges.txt").symlink_to(_key(out))


def _link_to_a_folder(out: Path) -> None:
    (out / "mine").symlink_to(_key(out).parent, target_is_directory=True)


def _pipe(out: Path) -> None:
    os.mkfifo(out / "notes.txt")


def _folder_of_files(out: Path) -> None:
    (out / "data").mkdir()
    (out / "data/more.json").write_text("{}")


def _zeroed(out: Path) -> None:
    path = out / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _listed_link(out: Path) -> None:
    key = _key(out)
    shutil.move(out / "config.json", key)
    (out / "config.json").symlink_to(key)


def _card_that_is_a_link(out: Path) -> None:
    (out / "README.md").unlink()
    (out / "README.md").symlink_to(_key(out))


def _listed_by_itself(out: Path) -> None:
    _relisted(out, ".env")


def _listed_from_outside(out: Path) -> None:
    _key(out)
    _relisted(out, "../private/key")


def _key(out: Path) -> Path:
    path = out.parent / "private/key"
    path.parent.mkdir()
    path.write_text("PRIVATE KEY")
    return path


def _relisted(out: Path, name: str) -> None:
    """Add a file to langprune.json, signed as langprune would."""
    path = out / name
    if not path.exists():
        path.write_text("HF_TOKEN=secret")
    record = json.loads((out / "langprune.json").read_bytes())
    record["parts"][name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    record["digest"] = document_digest(record)
    (out / "langprune.json").write_bytes(readable_json(record))


@pytest.mark.parametrize(
    ("trick", "says"),
    [
        (_env, None),
        (_link_to_a_key, None),
        (_link_to_a_folder, None),
        (_pipe, None),
        (_folder_of_files, None),
        (_zeroed, "model.safetensors is damaged (its sha256 is another one)"),
        (_listed_link, "config.json leads out of its folder"),
        (_card_that_is_a_link, "README.md leads out of its folder"),
        (_listed_by_itself, "lists a '.env' that differs from"),
        (_listed_from_outside, "langprune.json does not list parts"),
    ],
)
def test_a_hostile_folder_gives_away_nothing(
    clerk: Clerk, workspace: Path, tmp_path: Path, trick: Callable[[Path], None], says: str | None
) -> None:
    out = tmp_path / "out"
    did("export", "-w", workspace, "--out", out)
    listed = {name: (out / name).read_bytes() for name in tree(out)}
    trick(out)
    done = clerk.push(workspace, "--out", out)
    if says is None:
        assert done.code == 0, done.err
        assert clerk.hub.repositories["models", "me/shared"].revisions["main"].files == listed
    else:
        refused(done, says)
        assert clerk.hub.requests == []


def test_a_card_may_be_edited(clerk: Clerk, workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    did("export", "-w", workspace, "--out", out)
    (out / "README.md").write_text("# Mine\n")
    assert clerk.push(workspace, "--out", out).code == 0
    assert clerk.hub.repositories["models", "me/shared"].revisions["main"].files["README.md"] == b"# Mine\n"


def test_public_is_asked_for(clerk: Clerk, workspace: Path) -> None:
    assert clerk.push(workspace, "--public").code == 0
    assert not clerk.hub.repositories["models", "me/shared"].private
    before = dict(clerk.hub.repositories["models", "me/shared"].revisions["main"].files)
    refused(clerk.push(workspace, "--with-mask"), "me/shared exists and is public: add --public")
    assert clerk.hub.repositories["models", "me/shared"].revisions["main"].files == before
    clerk.hub.restrict("me/shared", private=True)
    done = clerk.push(workspace, "--public")
    assert done.code == 0
    assert "stays private" in done.err


def test_a_dry_run_lists_files_and_sends_nothing(clerk: Clerk, workspace: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = clerk.push(workspace, "--with-mask", "--dry-run", "--json", token=None)
    assert done.code == 0, done.err
    told = {each["file"]: each["bytes"] for each in json.loads(done.out)["files"]}
    page = clerk.push(workspace, "--dry-run", token=None).out
    assert "nothing was written or uploaded" in page
    assert clerk.hub.requests == []
    assert tree(tmp_path) == before
    did("export", "-w", workspace, "--out", "shared", "--with-mask")
    sizes = {name: Path("shared", name).stat().st_size for name in tree(Path("shared"))}
    masks = "mask/keep_masks.safetensors"
    assert told.keys() == sizes.keys()
    assert {name: size for name, size in told.items() if name != masks} == {
        n: s for n, s in sizes.items() if n != masks
    }


@pytest.mark.parametrize(
    ("part", "status", "says"),
    [
        ("/api/repos/create", 401, "run `hf auth login` with a valid one"),
        ("/api/repos/create", 403, "your token may not write to me/shared: give it write access"),
        ("/preupload/", 403, "your token may not write to me/shared"),
        ("/commit/", 409, "changed by someone else at the same time"),
        ("/commit/", 413, "the hub refused me/shared (413"),
    ],
)
def test_what_the_hub_refuses(clerk: Clerk, workspace: Path, part: str, status: int, says: str) -> None:
    clerk.hub.fail(part, status)
    before = tree(workspace)
    done = clerk.push(workspace)
    refused(done, says)
    assert tree(workspace) == before


def test_who_cannot_push_is_told_before_anything_is_copied(clerk: Clerk, workspace: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    refused(clerk.push(workspace, *out, token=None), "run `hf auth login`, or set HF_TOKEN")
    # The process of the tests itself is offline.
    refused(langprune("export", "-w", workspace, *out, "--push-to-hub", "me/shared"), "unset HF_HUB_OFFLINE")
    refused(langprune("export", "-w", workspace, *out, "--push-to-hub", "shared"), "give owner/name", code=2)
    assert clerk.hub.requests == []
    assert not (tmp_path / "out").exists()
    refused(clerk.push(workspace, token="hf_wrong_one"), "the hub did not accept your token")  # noqa: S106 - of no hub


def test_a_hub_that_cannot_be_reached(clerk: Clerk, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again at once
    env = clerk.hub.env | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "langprune_cli", "export", "-w", str(workspace), "--push-to-hub", "me/shared"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    refused(Done(done.returncode, done.stdout, done.stderr), "nothing is sent twice")


def test_the_licence_comes_from_the_base_models_card(clerk: Clerk, pico_model: Path, tmp_path: Path) -> None:
    base, texts = tmp_path / "base", tmp_path / "texts"
    shutil.copytree(pico_model, base)
    front = "license: other\nlicense_name: llama3\nlicense_link: LICENSE\ntags: [x]\n"
    (base / "README.md").write_text(f"---\n{front}---\n# Base\n")
    sha = clerk.hub.add_model("owner/base", base)
    texts.mkdir()
    lines = [json.dumps({"text": f"пісня про калину {number} " * 30}) for number in range(12)]
    (texts / "train.jsonl").write_text("\n".join(lines))
    clerk.hub.add_dataset("owner/texts", texts)
    text = ["--lang", "uk", "--data", "hf:owner/texts", *DRAW]
    units = ["--pattern", "channels:0.34", "--method", "flap"]
    for command in (
        ["prune", "--model", "owner/base", *text, *units, "--name", "small"],
        ["mask", "--model", "small", "--method", "magnitude", "--name", "again"],
        ["apply", "--mask", "again", "--model", "small", "--name", "again"],
        ["export", "--model", "again", "--out", "a"],
        ["export", "--model", "small", "--out", "b"],
    ):
        done = clerk.run(*command)
        assert done.code == 0, done.err
    for folder in ("a", "b"):  # pruned twice, and once
        found = yaml.safe_load(Path(folder, "README.md").read_text().split("---\n")[1])
        assert found["base_model"] == "owner/base"
        assert (found["license"], found["license_name"], found["license_link"]) == ("other", "llama3", "LICENSE")
    assert found["datasets"] == ["owner/texts"]
    assert found["language"] == ["uk"]
    assert sha in Path("b/README.md").read_text()
    assert "README.md" not in open_artifact(Path("langprune-workspace/models/small"), "models").manifest.parts


@pytest.mark.parametrize(
    "card", [None, "# no front matter", "---\nlicense: [a, b]\n---\n", "---\n: : :\n\t- x\n---\n", "---\n- a\n---\n"]
)
def test_a_card_that_says_no_licence(workspace: Path, tmp_path: Path, card: str | None) -> None:
    base = tmp_path / "base"
    base.mkdir()
    if card is not None:
        (base / "README.md").write_text(card)
    manifest = Manifest("models", "0", {}, {}, {"model": {"name": str(base), "revision": None}}, {}, {}, complete=True)
    assert inherited(Workspace(workspace), Artifact(tmp_path, manifest)) == {}


def test_datasets_of_a_mixture_are_named_once() -> None:
    texts = [{"source": "hf:a/b:uk:train"}, {"source": "hf:a/b:en"}, {"source": "mine.jsonl"}, {"source": "builtin:uk"}]
    manifest = Manifest("models", "0", {}, {}, {"text": {"texts": texts}}, {}, {}, complete=True)
    front = yaml.safe_load(model_card(Artifact(Path("m"), manifest), [], "t").split("---\n")[1])
    assert front["datasets"] == ["a/b"]
    assert "license" not in front


def test_git_oid_is_gits() -> None:
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
