"""Stage 6, `export`: a folder to share, with weights, tokenizer, model card and where it all comes from."""

import shutil
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint, TensorEntry
from langprune_cli.models.shards import plan_shards, write_shard
from langprune_cli.stages.evaluate import Row, read_rows
from langprune_cli.stages.model_card import model_card, public_name
from langprune_cli.stages.run import Reporter
from langprune_cli.store.artifact import MANIFEST, Artifact
from langprune_cli.store.files import TEMPORARY, disk_errors, need_space, readable_json, sha256_file, write_bytes
from langprune_cli.store.workspace import Workspace

PROVENANCE = "langprune.json"
MASK_FILE = (
    "mask/keep_masks.safetensors"  # in a folder of its own: some engines load every .safetensors beside the weights
)


def export(
    workspace: Workspace, model: Artifact, out: Path, reporter: Reporter, *, with_mask: bool = False
) -> list[str]:
    """Copy a model artifact to `out`, a new or empty folder, with a model card; return the names of the files.

    The folder appears whole: it is made beside and renamed. Raises LangpruneError for a folder that is not empty, a full
    disk, and with `with_mask` for a mask that is no longer in the workspace.
    """
    mask = workspace.by_key("masks", model.manifest.inputs["mask"]) if with_mask else None
    if with_mask and mask is None:
        raise LangpruneError(f"the mask of {model.name} is not in {workspace.root} any more: leave out --with-mask")
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise LangpruneError(f"{out} exists and is not an empty folder: choose another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
    need_space(out, model.size() + (mask.size() if mask else 0))
    staging = out.with_name(f".{out.name}{TEMPORARY}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with disk_errors(out):
            staging.mkdir()
            for part in sorted(model.manifest.parts):
                shutil.copyfile(model.folder / part, staging / part)
                if sha256_file(staging / part) != model.manifest.parts[part]["sha256"]:
                    raise LangpruneError(
                        f"{model.folder / part} is damaged: make it again with langprune apply --force"
                    )
                reporter.note(f"copied {part}")
            if mask:
                _write_mask(staging / MASK_FILE, mask)
            write_bytes(staging / PROVENANCE, readable_json(_provenance(model)))
            write_bytes(staging / "README.md", model_card(model, _rows_about(workspace, model), out.name).encode())
            if out.exists():
                out.rmdir()
            staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _rows_about(workspace: Workspace, model: Artifact) -> list[dict[str, Row | None]]:
    """Return the newest rows about this model, or about its mask on the fly, each with its dense row."""
    dense_digest, mask_key = model.manifest.inputs["model"], model.manifest.inputs["mask"]
    subjects = {(dense_digest, None): "dense", (dense_digest, mask_key): "pruned"}
    subjects[Checkpoint(model.folder).digest(), None] = "pruned"
    by_text: dict[tuple[str, str], dict[str, Row]] = {}
    for entry in workspace.entries("evals"):
        if entry.manifest.complete:
            for row in read_rows(Artifact(entry.folder, entry.manifest)):
                subject = subjects.get((row["model_digest"], row["mask_key"]))
                if subject:
                    by_text.setdefault((row["fingerprint"], row["dtype"]), {})[subject] = row
    return [{"pruned": rows["pruned"], "dense": rows.get("dense")} for rows in by_text.values() if "pruned" in rows]


def _provenance(model: Artifact) -> dict[str, object]:
    """Return the manifest without what is only of use on this machine."""
    manifest = model.manifest
    about = dict(manifest.about)
    about["model"] = about["model"] | {"name": public_name(about["model"]["name"], about["model"]["revision"])}
    if about["text"]:
        about["text"] = about["text"] | {"source": public_name(about["text"]["source"])}
    return {
        "schema": manifest.schema,
        "tool": manifest.tool,
        "key": manifest.key,
        "inputs": manifest.inputs,
        "params": manifest.params,
        "about": about,
        "parts": {name: part for name, part in manifest.parts.items() if name != MANIFEST},
    }


def _write_mask(path: Path, mask: Artifact) -> None:
    """Write all keep masks to one file, uint8 [out, ceil(in / 8)] per checkpoint tensor, block by block."""
    parts = [part for part in sorted(mask.manifest.parts) if part.startswith("block-")]
    groups = []
    for part in parts:
        tensors = mask.tensors(part)
        groups.append({name: TensorEntry("", "U8", tuple(t.shape), 0, t.numel()) for name, t in tensors.items()})
    shard = plan_shards(groups, max_bytes=sum(e.size for group in groups for e in group.values()) + 1)[0]
    path.parent.mkdir(parents=True)
    write_shard(path, shard, (mask.tensors(part) for part in parts))
