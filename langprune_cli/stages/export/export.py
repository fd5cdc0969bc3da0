"""Stage 6, `export`: a folder to share, with weights, tokenizer, model card and provenance."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.location.hub_snapshot import CARD
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.shards import plan_shards, write_shard
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.stages.evaluate.earlier import evaluations_of, has_bytes_of
from langprune_cli.stages.evaluate.rows import Row
from langprune_cli.stages.export.exported import GGUF, MASK_FILE
from langprune_cli.stages.export.gguf import tokenizer_before, write_gguf
from langprune_cli.stages.export.inherited import inherited
from langprune_cli.stages.export.model_card import Evaluated, model_card
from langprune_cli.stages.export.public import public_record
from langprune_cli.store.artifact import PROVENANCE, Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import (
    Parts,
    disk_errors,
    document_digest,
    make_folder,
    need_space,
    put_folder,
    readable_json,
    sha256_file,
    sync_folder,
    sync_tree,
    write_bytes,
)
from langprune_cli.store.locks import being_made, remove_stale_lock
from langprune_cli.store.plain import plain_file
from langprune_cli.store.temporary import sweep, temporary_beside
from langprune_cli.store.workspace import Workspace


def export(
    workspace: Workspace,
    model: Artifact,
    out: Path,
    reporter: Reporter,
    *,
    title: str | None = None,
    with_mask: bool = False,
    converter: Path | None = None,
) -> list[str]:
    """Copy a model artifact to `out`, a new or empty folder, with a model card; return the names of the files.

    title: of the card, by default the folder's name. converter: llama.cpp's, to write the weights as one GGUF file.
    The folder appears whole: it is made beside and renamed. Raises LangpruneError for a folder that is not empty, a full disk,
    a damaged model, a failing converter, and with `with_mask` for a missing mask, or one of blocks or tokens.
    """
    out = _destination(out, workspace)
    about = About.of(workspace, model, title or out.name, reporter, with_mask=with_mask, gguf=converter is not None)
    before = tokenizer_before(workspace, model, reporter) if converter else None
    mask = about.mask
    size = (model.size() + (mask.size() if mask else 0)) * (2 if converter else 1)
    need_space(out, size)
    reporter.note(f"Copying {model.name}, {model.size() / 1e6:,.1f} MB.")
    with disk_errors(out), _staging(out, workspace) as staging:
        weights = staging / "weights" if converter else staging
        weights.mkdir(exist_ok=True)
        for part in sorted(model.manifest.parts):
            source = plain_file(model.folder / part, within=model.folder)
            if source.is_file():
                shutil.copyfile(source, weights / part)
            if not source.is_file() or sha256_file(weights / part) != model.manifest.parts[part]["sha256"]:
                raise LangpruneError(f"{source} is damaged: make it again with langprune apply --force")
        if converter:
            reporter.note(f"Running {converter}.")
            write_gguf(converter, weights, staging / f"{about.title}{GGUF}", before)
            shutil.rmtree(weights)
        if mask:
            _write_mask(staging / MASK_FILE, mask)
        names = [*([MASK_FILE] if mask else []), *([f"{about.title}{GGUF}"] if converter else [])]
        paths = {name: staging / name for name in names}
        beside: Parts = {
            name: {"sha256": sha256_file(path), "size": path.stat().st_size} for name, path in paths.items()
        }
        for name, data in about.files(beside).items():
            write_bytes(staging / name, data)
        if out.exists() and out.samefile(Path.cwd()):
            # A shell may be inside of it, and would not see a folder that replaces it.
            sync_tree(staging)
            for path in staging.iterdir():
                path.rename(out / path.name)
            sync_folder(out)
        else:
            put_folder(staging, out)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def exported_sizes(
    workspace: Workspace,
    model: Artifact,
    title: str,
    reporter: Reporter,
    *,
    with_mask: bool = False,
    gguf: bool = False,
) -> dict[str, int | None]:
    """Return the files that `export` would write, with their bytes; None for what only the converter knows.

    Raises LangpruneError as `export` does for masks and damaged models.
    """
    about = About.of(workspace, model, title, reporter, with_mask=with_mask, gguf=gguf)
    expected: Parts = {MASK_FILE: {"sha256": "0" * 64, "size": about.mask.size()}} if about.mask else {}
    sizes: dict[str, int | None] = {name: len(data) for name, data in about.files(expected).items()}
    if gguf:
        tokenizer_before(workspace, model, reporter)
        sizes |= {f"{title}{GGUF}": None, PROVENANCE: None}  # the latter records size and hash of the former
    else:
        sizes |= {part: entry["size"] for part, entry in model.manifest.parts.items()}
    if about.mask:
        sizes[MASK_FILE] = about.mask.size()
    return dict(sorted(sizes.items()))


@dataclass(frozen=True)
class About:
    """An exported folder's texts about its model, and the mask that goes with it."""

    model: Artifact
    mask: Artifact | None
    title: str
    card: str
    gguf: bool

    @classmethod
    def of(
        cls, workspace: Workspace, model: Artifact, title: str, reporter: Reporter, *, with_mask: bool, gguf: bool
    ) -> "About":
        """Collect it; raises LangpruneError if the mask is missing or the model is damaged."""
        mask = workspace.by_key("masks", model.manifest.inputs["mask"]) if with_mask else None
        if with_mask and mask is None:
            raise LangpruneError(f"the mask of {model.name} is not in {workspace.root} any more: leave out --with-mask")
        if mask and not _of_weights(mask):
            raise LangpruneError(f"the mask of {model.name} removes whole parts of the model: leave out --with-mask")
        rows = _rows_about(workspace, model, reporter)
        mask_file = MASK_FILE if mask else None
        card = model_card(model, rows, title, mask_file, inherited=inherited(workspace, model), gguf=gguf)
        return cls(model, mask, title, card, gguf)

    def files(self, beside: Parts) -> dict[str, bytes]:
        """Return the model card and the provenance record.

        beside: hash and size of the files that the export adds.
        """
        record = _provenance(self.model, beside if self.gguf else self.model.manifest.parts | beside)
        signed = readable_json(record | {"digest": document_digest(record)})
        return {PROVENANCE: signed, CARD: self.card.encode()}


def _destination(out: Path, workspace: Workspace) -> Path:
    """Return the absolute path of a missing or empty folder, links followed; raises LangpruneError for others."""
    try:
        place = out.expanduser().resolve()
    except RuntimeError as error:  # links in a circle, or no such user's home
        raise LangpruneError(f"{out}: {error}: choose another --out") from error
    with disk_errors(out):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            remove_stale_lock(place, "models", workspace)
            raise LangpruneError(f"{out} exists and is not an empty folder: choose another --out")
    return place


@contextmanager
def _staging(out: Path, workspace: Workspace) -> Iterator[Path]:
    """Yield an empty folder beside `out`; a failure leaves nothing, not even the parents that were made.

    What a killed export left there is removed. Raises LangpruneError while another process exports to `out`.
    """
    made = [parent for parent in out.parents if not parent.exists()]
    staging = temporary_beside(out)
    try:
        make_folder(out.parent)
        with being_made(out, "models", workspace) as alone:
            sweep(out.parent, out.name, alone=alone)
            try:
                staging.mkdir()
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


def _rows_about(workspace: Workspace, model: Artifact, reporter: Reporter) -> list[Evaluated]:
    """Return the newest rows of this model, or of its mask on the fly, each with its base model's row."""
    try:
        checkpoint = Checkpoint(model.folder)
        digest, weights = checkpoint.digest(), checkpoint.weights_sha256
    except (LangpruneError, OSError) as error:
        raise LangpruneError(
            f"{model.folder} is damaged ({error}): make it again with langprune apply --force"
        ) from error
    base_digest, mask_key = model.manifest.inputs["model"], model.manifest.inputs["mask"]
    subjects: dict[tuple[str, str | None], str] = {(base_digest, None): "base", (digest, None): "pruned"}
    if model.manifest.params.get("update", "none") == "none":  # else kept weights differ from the base model's
        subjects[base_digest, mask_key] = "pruned"
    pruned = {subject for subject, what in subjects.items() if what == "pruned"}
    by_text: dict[tuple[str, str], dict[str, Row]] = {}
    damaged: list[str] = []

    def usable(artifact: Artifact, rows: list[Row]) -> bool:
        if any(row["model_digest"] == digest for row in rows) and not has_bytes_of(artifact, digest, weights):
            reporter.note(f"left out evaluation {artifact.name}, which may be of other weights: eval again")
            return False
        return True

    for _, rows in evaluations_of(workspace, pruned, base_digest, damaged, usable):
        base_of = {row["text"]: row for row in rows if (row["model_digest"], row["mask_key"]) == (base_digest, None)}
        for row in rows:
            subject = subjects.get((row["model_digest"], row["mask_key"]))
            if subject:
                place = by_text.setdefault((row["fingerprint"], row["dtype"]), {})
                place[subject] = row
                # A trimmed vocabulary changes the tokens of a text; the base row is the one in the same evaluation.
                if subject == "pruned" and "ppl_per_original_token" in row and row["text"] in base_of:
                    place["base"] = base_of[row["text"]]
    for name in damaged:
        reporter.note(f"skipped damaged evaluation {name}")
    return [{"pruned": rows["pruned"], "base": rows.get("base")} for rows in by_text.values() if "pruned" in rows]


def _provenance(model: Artifact, parts: Parts) -> dict[str, object]:
    """Return the manifest without what matters only on this machine, with the export's own files."""
    manifest = model.manifest
    return {
        "schema": manifest.schema,
        "tool": manifest.tool,
        "key": manifest.key,
        "inputs": manifest.inputs,
        "params": manifest.params,
        "about": public_record(manifest.about),
        "parts": parts,
    }


def _of_weights(mask: Artifact) -> list[str]:
    """Return the parts of a mask with keep masks of linears; none for masks of blocks or tokens."""
    return [part for part in sorted(mask.manifest.parts) if part.startswith("block-")]


def _write_mask(path: Path, mask: Artifact) -> None:
    """Write all keep masks to one file, uint8 [out, ceil(in / 8)] per checkpoint tensor, block by block."""
    parts = _of_weights(mask)
    groups = []
    for part in parts:
        tensors = mask.tensors(part)
        groups.append({name: TensorEntry("", "U8", tuple(t.shape), 0, t.numel()) for name, t in tensors.items()})
    shard = plan_shards(groups, max_bytes=sum(e.size for group in groups for e in group.values()) + 1)[0]
    path.parent.mkdir(parents=True)
    write_shard(path, shard, (mask.tensors(part) for part in parts))
