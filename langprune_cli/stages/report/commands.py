"""The commands that make artifacts again, rebuilt from their manifests."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.defaults import HUB_WINDOWS, TRAINING_SEQLEN
from langprune_cli.records import MaskRecord, ModelRecord, Params, RecoveredRecord, TextRecord, texts_of
from langprune_cli.stages.evaluate.earlier import read_result
from langprune_cli.stages.evaluate.rows import Row
from langprune_cli.stages.export.public import public_name
from langprune_cli.stages.report.options import Words, option, words_of
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.manifest import of_pruned_blocks
from langprune_cli.streaming.model_choice import DEMO
from langprune_cli.templates.markup import clean
from langprune_cli.text.hub import HUB_PREFIX
from langprune_cli.text.sources import BUILTIN_PREFIX
from langprune_cli.text.windows import is_given

HIDDEN = "FOLDER"  # replaces private folders


@dataclass(frozen=True)
class _Read:
    """The text that `prune` read to make a mask and its model, and the params of its statistics."""

    text: TextRecord
    params: Params

    @property
    def choice(self) -> Params:
        """Return the known settings of the choice besides the mask's own parameters."""
        return self.params.get("pruned_with", {})


def commands(sources: Sequence[Artifact]) -> list[tuple[str, str]]:
    """Return (kind/name, command) of artifacts, in their order; the command is "" if `prune` makes it with its model.

    FOLDER replaces the folders of files and models. Commands give names with --name, and several patterns of one `prune` become
    one command each. Options that change no result, such as devices, are left out.
    """
    made = Commands(sources, hidden)
    return [(f"{each.manifest.kind}/{each.name}", made.of(each)) for each in sources]


class Commands:
    """Rebuilds the commands of some artifacts, which may be made from one another."""

    def __init__(self, sources: Sequence[Artifact], shown: Callable[[str], str] = str) -> None:
        """Take artifacts, each after its sources. shown: writes the path of a file or model."""
        self.gone: set[str] = set()  # the first digits of keys of artifacts that are named but missing
        self._sources = sources
        self._shown = shown
        self._names = {each.key: each.name for each in sources}
        self._models = [each for each in sources if each.manifest.kind == "models"]
        self._propagated = {each.key: each for each in sources if of_pruned_blocks(each.manifest)}
        self._together = self._made_together()
        self._names |= self._together

    def of(self, artifact: Artifact) -> str:
        """Return the command that makes an artifact, "" if another artifact's command makes it."""
        if self.tuned_after_several(artifact):
            return clean(f"# {artifact.name}: one langprune prune of the patterns above, with --tune")
        return " && ".join(shlex.join(["langprune", *each]) for each in self.steps(artifact))

    def steps(self, artifact: Artifact) -> list[Words]:
        """Return the commands of an artifact in words, without `langprune`; none if another artifact's command makes it."""
        if artifact.key in self._together:
            return []
        make = {
            "stats": self._stats, "scores": self._scores, "masks": self._mask, "models": self._model, "evals": self._eval,
        }[artifact.manifest.kind]  # fmt: skip
        return [[*words, "--name", artifact.name] for words in make(artifact)]

    def tuned_after_several(self, model: Artifact) -> bool:
        """Return whether a model was tuned towards another model than its last mask's, which no single steps do."""
        inputs, mask = model.manifest.inputs, self._mask_of(model)
        return (
            model.manifest.kind == "models"
            and "tuned" in model.manifest.about
            and "recovered" not in model.manifest.about
            and mask is not None
            and mask.manifest.inputs["model"] != inputs["model"]
        )

    def _mask_of(self, model: Artifact) -> Artifact | None:
        return next((each for each in self._sources if each.key == model.manifest.inputs.get("mask")), None)

    def _gathered_for(self, model: Artifact) -> Artifact | None:
        """Return the statistics that `prune` collected block by block for a model, None for other models."""
        mask = self._mask_of(model)
        keys = [model.manifest.inputs.get("stats"), mask.manifest.inputs["stats"] if mask else None]
        return next((self._propagated[key] for key in keys if key in self._propagated), None)

    def _read_for(self, model: Artifact) -> _Read | None:
        """Return the text that `prune` read to make a model: of its statistics, or of the choice of blocks.

        None if another command made it, as when it was tuned on another text than the choice of blocks used.
        """
        if "recovered" in model.manifest.about:
            return None
        if gathered := self._gathered_for(model):
            return _Read({**gathered.manifest.inputs["text"], **gathered.manifest.text}, gathered.manifest.params)
        mask = self._mask_of(model)
        if mask is None or "judged_on" not in mask.manifest.about:
            return None
        trained_on = model.manifest.inputs.get("text")
        elsewhere = trained_on and trained_on["fingerprint"] != mask.manifest.text["fingerprint"]
        return None if elsewhere else _Read(mask.manifest.text, mask.manifest.about["judged_on"])

    def _made_together(self) -> dict[str, str]:
        """Return key -> model name, for the statistics and masks that `prune` made with a model."""
        found: dict[str, str] = {}
        for model in self._models:
            if self._read_for(model):
                gathered = self._gathered_for(model)
                keys = [model.manifest.inputs["mask"], *([gathered.key] if gathered else [])]
                found |= dict.fromkeys(keys, model.name)
        return found

    def _stats(self, stats: Artifact) -> list[Words]:
        manifest = stats.manifest
        params, identity = manifest.params, manifest.inputs.get("text", {})
        if manifest.added:
            shares = words_of("stats", params, without=("--collect", "--dtype", "--all-experts"))
            return [["combine", "stats", *self._named(manifest.added), *shares]]
        texts: list[TextRecord] = [{**identity, **manifest.text}]
        drawn = self._text(texts) if "tokens" in params["collect"] else self._drawn(identity, manifest.text)
        return [["calibrate", *self._of_model(manifest.about["model"]), *drawn, *words_of("stats", params)]]

    def _scores(self, scores: Artifact) -> list[Words]:
        manifest = scores.manifest
        used = option("--stats", *self._named([manifest.stats]))
        return [["score", *words_of("scores", manifest.params), *used, *self._of_model(manifest.about["model"])]]

    def _mask(self, mask: Artifact) -> list[Words]:
        inputs, params, about = mask.manifest.inputs, mask.manifest.params, mask.manifest.about
        if "masks" in inputs:
            ranked = "ranked_by" in params and params["pattern"] == "unstructured"
            how = ["--how", params["method"].partition(" of ")[0]]
            how += option("--sparsity", params["sparsity"] if ranked else None)
            return [["combine", "masks", *self._named(inputs["masks"]), *how]]
        model = self._of_model(about["model"])
        if (
            "judged_on" in about and mask.manifest.stats not in self._names
        ):  # statistics of these windows give the same mask
            judged_on: Params = about["judged_on"]
            drawn = self._drawn(mask.manifest.text, mask.manifest.text)
            calibrate = ["calibrate", *model, *drawn, *words_of("stats", judged_on)]
            return [calibrate, ["mask", *model, "--stats", mask.name, *words_of("masks", params)]]
        used = option("--stats", *self._named([mask.manifest.stats or inputs.get("allocation_stats")]))
        if "adaptive" in params:  # a joint method's mask, chosen by its scores instead of its solver
            score = ["score", *words_of("scores", params), *used, *model]
            of_scores = words_of("masks", params, without=("--method", "--damping", "--min-expert-tokens"))
            return [score, ["mask", *model, "--scores", mask.name, *of_scores]]
        return [["mask", *model, *used, *words_of("masks", _as_asked(mask))]]

    def _model(self, model: Artifact) -> list[Words]:
        """Return a model's command: `prune` if it read the text itself, else `apply`."""
        params, about = model.manifest.params, model.manifest.about
        mask, read = self._mask_of(model), self._read_for(model)
        if "recovered" in about:
            return [self._recovered(model, about["recovered"])]
        if "reapplied" in about:
            named = mask.name if mask else f"{HIDDEN}/keep_masks.safetensors"
            words = words_of("models", params, without=("--update", "--damping"))
            return [["apply", "--reapply", *self._of_model(about["model"]), "--mask", named, *words]]
        of_mask: MaskRecord = {**about["mask"], **mask.manifest.params} if mask else about["mask"]
        trained, before = about.get("tuned"), self._before_tuning(model)
        settings: Params = {**before.manifest.params, **params} if before else params
        untrained = () if trained else ("--epochs", "--learning-rate")
        tune = ["--tune"] if trained else []
        if mask and read:
            drawn = self._drawn(read.text, read.text)
            own = words_of("models", settings, without=("--damping", *untrained), of_mask=of_mask)
            of_run = words_of("stats", read.params, without=("--collect",))
            choice = words_of("masks", {**read.choice, **_as_asked(mask)})
            return [["prune", *self._of_model(about["model"]), *drawn, *choice, *tune, *own, *of_run]]
        used = (before or model).manifest.stats or (self._trained_on(model) if trained else None)
        named = mask.name if mask else about["mask"]["name"]
        own = words_of("models", settings, without=untrained, of_mask=of_mask)
        return [["apply", "--mask", named, *option("--stats", *self._named([used])), *tune, *own]]

    def _recovered(self, model: Artifact, recovered: RecoveredRecord) -> Words:
        """Return the command that trained a pruned model."""
        text, teacher = recovered["text"], recovered["teacher"]["name"]
        shares = recovered.get("shares") or [0] * len(texts_of(text))
        tags: list[TextRecord] = [{**each, "windows": n} for each, n in zip(texts_of(text), shares, strict=True)]
        words = self._of_model(recovered["model"]) + self._text(tags, windows="shares" in recovered)
        words += option("--teacher", None if teacher == model.manifest.about["model"]["name"] else teacher)
        words += option("--seqlen", None if text["seqlen"] == TRAINING_SEQLEN else text["seqlen"])
        how = words_of("models", model.manifest.params, without=("--update", "--damping", "--epochs"))
        return ["recover", *words, *([] if "logits" in model.manifest.inputs else ["--online"]), *how]

    def _before_tuning(self, model: Artifact) -> Artifact | None:
        """Return the model before tuning, None if it is missing or the model was not tuned."""
        trained = model.manifest.about.get("tuned")
        return self._called(trained["model"]["name"]) if trained else None

    def _trained_on(self, model: Artifact) -> str | None:
        """Return the key of statistics of the same windows that a model was tuned on."""
        stats = [each for each in self._sources if each.manifest.kind == "stats"]
        text = model.manifest.inputs["text"]
        return next((each.key for each in stats if each.manifest.inputs.get("text") == text), None)

    def _eval(self, evaluation: Artifact) -> list[Words]:
        result, inputs = read_result(evaluation), evaluation.manifest.inputs
        rows, tasks = result["rows"], inputs.get("tasks")
        texts = list({row["text"]: row for row in rows}.values())
        masks = {row["mask"]: row["mask_key"] for row in rows if row["mask"]}
        names = [*(row["model"] for row in rows), *(row["model"] for row in result.get("tasks", []))]
        dense, *others = dict.fromkeys(names)
        known = evaluation.manifest.about.get("models", {})
        # Pruned models and masks name their dense model themselves.
        asked = others or ([] if masks else [dense])
        words = ["eval", *(word for each in asked for word in self._of_model(known.get(each) or {"name": each}))]
        words += [word for each in self._named(masks.values()) for word in ("--mask", each)]
        if texts:
            words += [*self._text(texts), *_windows(texts), *option("--load-bits", texts[0].get("bits"))]
        if tasks:
            words += ["--tasks", ",".join(_task(each) for each in tasks["names"])]
        dtypes = [*(row["dtype"] for row in texts), *(each["dtype"] for each in (tasks["models"] if tasks else []))]
        return [[*words, "--dtype", dtypes[0]]]

    def _drawn(self, identity: TextRecord, about: TextRecord) -> Words:
        """Return the options of a text or a mixture, and of its windows."""
        texts: list[TextRecord] = about.get("texts") or [{**identity, **about}]
        mixed = "texts" in about
        part, parts, whole = about.get("shard") or (1, 1, identity["windows"])
        words = self._text(texts, windows=mixed) + option("--shard", f"{part}/{parts}" if parts > 1 else None)
        drawn = [each for each in texts if each["sampling"] != "given"]
        if not drawn:
            return words
        first = drawn[0]
        number = [] if mixed else ["--nsamples", str(whole)]
        seed = option("--seed", first.get("seed"))
        return [*words, *number, "--seqlen", str(identity["seqlen"]), *seed, "--sampling", first["sampling"]]

    def _text(self, texts: Sequence[TextRecord] | Sequence[Row], *, windows: bool = False) -> Words:
        """Return --lang and --data of texts; windows: with the number of windows of each."""
        tags = [each["language"] + (f":{each['windows']}" if windows else "") for each in texts if each["language"]]
        sources = [each["source"] for each in texts]
        public = (HUB_PREFIX, BUILTIN_PREFIX)
        return [word for tag in tags for word in ("--lang", tag)] + [
            word for each in sources for word in ("--data", each if each.startswith(public) else self._shown(each))
        ]

    def _of_model(self, about: ModelRecord) -> Words:
        """Return --model, by name if an earlier command makes it, and --revision."""
        name, revision = about["name"], about.get("revision")
        if made := self._called(name):
            return ["--model", made.name]
        public = revision is not None or name == DEMO
        return ["--model", name if public else self._shown(name), *option("--revision", revision)]

    def _called(self, name: str) -> Artifact | None:
        """Return the model with that name or folder."""
        return next(
            (each for each in self._models if each.name == name or each.folder.resolve() == Path(name).resolve()), None
        )

    def _named(self, keys: Iterable[str | None]) -> Words:
        """Return the names of artifacts by their keys, or the first digits of the key if they are missing."""
        known = [key for key in keys if key]
        self.gone |= {key[:16] for key in known if key not in self._names}
        return [self._names.get(key, key[:16]) for key in known]


def _as_asked(mask: Artifact) -> Params:
    """Return a mask's parameters with the requested rounding."""
    rounding: Params = mask.manifest.about.get("rounding", {})
    return {**mask.manifest.params, **rounding}


def _windows(texts: Sequence[Row]) -> Words:
    """Return --seqlen and --max-windows of rows of an evaluation."""
    read = [each for each in texts if not is_given(each["source"])]
    most = max(each["windows"] for each in texts)
    # By default `eval` reads HUB_WINDOWS windows of a text on the hub, and all windows of other texts.
    by_default = any(each["source"].startswith(HUB_PREFIX) and each["windows"] == HUB_WINDOWS < most for each in texts)
    return [
        *option("--seqlen", read[0]["seqlen"] if read else None),
        *option("--max-windows", None if by_default else most),
    ]


def _task(name: str) -> str:
    """Return a task's name; for a file, known only by its sha256, a name made of its first digits."""
    return f"{HIDDEN}/{name[:16]}.yaml" if re.fullmatch("[0-9a-f]{64}", name) else name


def hidden(path: str) -> str:
    """Return a path with FOLDER in place of its folders."""
    name = public_name(path)
    return name if name == path else f"{HIDDEN}/{name}"
