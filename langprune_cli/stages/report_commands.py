"""The commands that would make artifacts again, put together from their manifests."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.stages.evaluate import read_result
from langprune_cli.stages.markup import clean
from langprune_cli.stages.model_card import public_name
from langprune_cli.stages.opened import DEMO
from langprune_cli.stages.structures import VOCABULARY
from langprune_cli.store.artifact import Artifact
from langprune_cli.text.sources import BUILTIN_PREFIX

Words = list[str]


def commands(sources: Sequence[Artifact]) -> list[tuple[str, str]]:
    """Return (kind/name, command) of artifacts, in their order; the command is "" where `prune` makes it with its model.

    Files and folders are named without the folders that they lie in. Names are given with --name, and several patterns of one
    `prune` are a command each. Devices, and what else changes no result, are left out; so is --shard, which no manifest has.
    """
    together = _made_together(sources)
    return [(f"{each.manifest.kind}/{each.name}", _command(each, sources, together)) for each in sources]


def _command(artifact: Artifact, sources: Sequence[Artifact], together: set[str]) -> str:
    if artifact.key in together:
        return ""
    if _tuned_after_several(artifact, sources):
        return clean(f"# {artifact.name}: one langprune prune of the patterns above, with --tune")
    words = _MADE[artifact.manifest.kind](artifact, sources)
    scored = _scored(artifact, sources)
    return " && ".join(shlex.join(["langprune", *each]) for each in [*scored, words])


def _tuned_after_several(model: Artifact, sources: Sequence[Artifact]) -> bool:
    """Return whether a model was tuned to another than the one that its last mask was made for: no single steps do that."""
    inputs = model.manifest.inputs
    masks = [each for each in sources if each.key == inputs.get("mask")]
    return "tuned" in model.manifest.about and any(mask.manifest.inputs["model"] != inputs["model"] for mask in masks)


def _made_together(sources: Sequence[Artifact]) -> set[str]:
    """Return the keys of statistics and masks that a pruning block by block left on its way to a model."""
    propagated = {each.key for each in sources if each.manifest.params.get("propagation") == "pruned"}
    masks = {
        each.key for each in sources if each.manifest.kind == "masks" and each.manifest.inputs["stats"] in propagated
    }
    last = {each.manifest.inputs.get("mask") for each in sources if each.manifest.kind == "models"}
    of_models = {each.manifest.inputs["stats"] for each in sources if each.key in masks & last}
    return (masks & last) | (propagated & of_models)


def _calibrate(stats: Artifact, sources: Sequence[Artifact]) -> Words:
    manifest = stats.manifest
    inputs, params, about = manifest.inputs, manifest.params, manifest.about
    if isinstance(inputs.get("stats"), list):
        shares = [f"{share:g}" for share in params.get("weights", ())]
        weights = _option("--weights", ",".join(shares) or None) + _option("--per", params.get("per"))
        return ["combine", "stats", *_names(inputs["stats"], sources), *weights, "--name", stats.name]
    model = _model(about["model"])
    if "tokens" in params["collect"]:
        text = _text([inputs["text"] | about["text"]])
        return [
            "calibrate",
            *model,
            *text,
            "--collect",
            "tokens",
            "--max-tokens",
            str(params["max_tokens"]),
            "--name",
            stats.name,
        ]
    drawn = _drawn(inputs["text"], about["text"])
    hessian = ["--collect", "hessian"] if "hessian" in params["collect"] else []
    experts = ["--all-experts"] if "experts" in params else []
    return ["calibrate", *model, *drawn, *hessian, "--dtype", params["dtype"], *experts, "--name", stats.name]


def _score(scores: Artifact, sources: Sequence[Artifact]) -> Words:
    manifest = scores.manifest
    stats = _option("--stats", *_names([manifest.inputs["stats"]], sources))
    return [
        "score",
        "--method",
        manifest.params["method"],
        *stats,
        *_model(manifest.about["model"]),
        "--name",
        scores.name,
    ]


def _scored(mask: Artifact, sources: Sequence[Artifact]) -> list[Words]:
    """Return what makes the scores that the mask of a joint method was chosen by, where it was not chosen as it solves."""
    if "adaptive" not in mask.manifest.params:
        return []
    stats = _option("--stats", *_names([mask.manifest.inputs["stats"]], sources))
    return [
        [
            "score",
            "--method",
            mask.manifest.params["method"],
            *stats,
            *_model(mask.manifest.about["model"]),
            "--name",
            mask.name,
        ]
    ]


def _mask(mask: Artifact, sources: Sequence[Artifact]) -> Words:
    inputs, params = mask.manifest.inputs, mask.manifest.params
    if "masks" in inputs:
        how = ["--how", params["method"].partition(" of ")[0]]
        share = _option("--sparsity", params["sparsity"]) if "ranked_by" in params else []
        return ["combine", "masks", *_names(inputs["masks"], sources), *how, *share, "--name", mask.name]
    stats = _option("--stats", *_names([inputs["stats"]], sources))
    model = _model(mask.manifest.about["model"])
    if "adaptive" in params:
        return ["mask", *model, "--scores", mask.name, *_choice({**params, "method": None}), "--name", mask.name]
    return ["mask", *model, *stats, *_choice(params), "--name", mask.name]


def _apply(model: Artifact, sources: Sequence[Artifact]) -> Words:
    """Return what makes a model: `prune` where its statistics are of pruned blocks, else `apply`."""
    inputs, params, about = model.manifest.inputs, model.manifest.params, model.manifest.about
    mask = next((each for each in sources if each.key == inputs.get("mask")), None)
    stats = next((each for each in sources if mask and each.key == mask.manifest.inputs["stats"]), None)
    size = params["max_shard_bytes"]
    shards = ["--max-shard-size", f"{size / 1e6:g}MB"] if size != MAX_SHARD_BYTES else []
    tune: Words = []
    if trained := about.get("tuned"):
        training = _option("--epochs", trained["epochs"]) + _option("--learning-rate", trained.get("learning_rate"))
        tune = ["--tune", *training]
    own = params["update"].removesuffix("tune").removesuffix(", ") or "none"
    update = ["--update", own] if own != "none" or _is_joint(mask) else []
    damping = _option("--damping", params.get("damping"))
    if mask and stats and stats.manifest.params.get("propagation") == "pruned":
        manifest = stats.manifest
        chosen = _choice(mask.manifest.params)
        dtype = ["--dtype", manifest.params["dtype"]]
        drawn = _drawn(manifest.inputs["text"], manifest.about["text"])
        of_update = [] if "damping" in mask.manifest.params else damping
        return [
            "prune",
            *_model(about["model"]),
            *drawn,
            *chosen,
            *update,
            *of_update,
            *tune,
            *dtype,
            *shards,
            "--name",
            model.name,
        ]
    used = _option("--stats", *_names([inputs.get("stats")], sources))
    masked = ["--mask", mask.name if mask else about["mask"]["name"]]
    return ["apply", *masked, *update, *used, *damping, *tune, *shards, "--name", model.name]


def _is_joint(mask: Artifact | None) -> bool:
    """Return whether a mask's method has an update of its own, which --update none turns off."""
    return mask is not None and mask.manifest.params["method"] not in {"magnitude", "wanda", "wanda-variant", "ria"}


def _eval(evaluation: Artifact, _sources: Sequence[Artifact]) -> Words:
    result, inputs = read_result(evaluation), evaluation.manifest.inputs
    rows, tasks = result["rows"], inputs.get("tasks", {})
    texts = list({row["text"]: row for row in rows}.values())
    masks = dict.fromkeys(row["mask"] for row in rows if row["mask"])
    dense, *others = dict.fromkeys(row["model"] for row in [*rows, *result.get("tasks", [])])
    asked = others or ([] if dense == DEMO and not masks else [dense])
    words = ["eval", *(word for each in asked for word in ("--model", public_name(each)))]
    words += [word for each in masks for word in ("--mask", each)]
    if texts:
        windows = max(row["windows"] for row in texts)
        words += [*_text(texts), "--seqlen", str(texts[0]["seqlen"]), "--max-windows", str(windows)]
        words += _option("--load-bits", texts[0].get("bits"))
    if tasks:
        words += ["--tasks", ",".join(_task(each) for each in tasks["names"])]
    dtype = texts[0]["dtype"] if texts else tasks["models"][0]["dtype"]
    return [*words, "--dtype", dtype, "--name", evaluation.name]


def _task(name: str) -> str:
    """Return a task's name; of a file, of which a manifest has the sha256 alone, the first digits of that."""
    return f"{name[:16]}.yaml" if re.fullmatch("[0-9a-f]{64}", name) else name


_MADE = {"stats": _calibrate, "scores": _score, "masks": _mask, "models": _apply, "evals": _eval}


def _model(about: dict[str, Any]) -> Words:
    name, revision = about["name"], about.get("revision")
    if name == DEMO:
        return []
    return ["--model", public_name(name, revision), *_option("--revision", revision)]


def _drawn(identity: dict[str, Any], about: dict[str, Any]) -> Words:
    """Return the options of a text, or of a mixture, and of the windows drawn of it."""
    texts = about.get("texts") or [identity | about]
    first = texts[0]
    mixed = "texts" in about
    words = _text(texts, windows=mixed)
    if first["sampling"] == "given":
        return words
    number = [] if mixed else ["--nsamples", str(identity["windows"])]
    seed = _option("--seed", first.get("seed")) if first.get("seed") else []
    sampling = ["--sampling", first["sampling"]] if first["sampling"] != "document" else []
    return [*words, *number, "--seqlen", str(identity["seqlen"]), *seed, *sampling]


def _text(texts: Sequence[dict[str, Any]], *, windows: bool = False) -> Words:
    """Return --lang and --data of texts; windows: with how many are drawn of each."""
    tags = [each["language"] + (f":{each['windows']}" if windows else "") for each in texts if each["language"]]
    read = (
        [] if all(each["source"].startswith(BUILTIN_PREFIX) for each in texts) else [each["source"] for each in texts]
    )
    lang = [word for tag in tags for word in ("--lang", tag)]
    return lang + [word for each in read for word in ("--data", public_name(each))]


def _choice(params: dict[str, Any]) -> Words:
    """Return the options that say what is pruned."""
    pattern = params["pattern"]
    words = _option("--method", params["method"]) if pattern != VOCABULARY else []
    words += [word for each in pattern.split("+") for word in ("--pattern", each)]
    if pattern == "unstructured" or pattern.startswith("N:"):
        words += _option("--sparsity", params["sparsity"])
    for name in (
        "coverage",
        "vocab_size",
        "group",
        "ties",
        "allocation",
        "refine",
        "damping",
        "min_expert_tokens",
        "exclude",
    ):
        words += _option(f"--{name.replace('_', '-')}", params.get(name))
    if pattern == VOCABULARY:
        words += _option("--round-to", params.get("round_to"))
        words += [] if "keep_chat" in params else ["--no-keep-chat"]
    return words


def _names(keys: Sequence[str | None], sources: Sequence[Artifact]) -> Words:
    """Return the names of artifacts by their keys: the first digits of the key where they are gone."""
    known = {each.key: each.name for each in sources}
    return [known.get(key, key[:16]) for key in keys if key]


def _option(name: str, value: object = None) -> Words:
    return [] if value is None else [name, f"{value:g}" if isinstance(value, float) else str(value)]
