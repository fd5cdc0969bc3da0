"""The model card of an exported model: its pruning, calibration text and quality."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from markupsafe import Markup

from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.records import About, MaskRecord, TextRecord, languages_of, texts_of
from langprune_cli.stages.evaluate.rows import Row, comparable_ppl
from langprune_cli.stages.export.public import public_name
from langprune_cli.store.artifact import Artifact
from langprune_cli.structured_patterns.pattern import UNCHANGED, patterns_of
from langprune_cli.templates.markdown import code
from langprune_cli.templates.rendering import render
from langprune_cli.text.hub import HUB_PREFIX, parse_hub_source

_UNKNOWN = "not recorded"


class Evaluated(TypedDict):
    """A row of an evaluation, with the base model's row on the same text, if any."""

    pruned: Row
    base: Row | None


def model_card(
    model: Artifact,
    rows: Sequence[Evaluated],
    title: str,
    mask_file: str | None = None,
    *,
    inherited: Mapping[str, str] | None = None,
    gguf: bool = False,
) -> str:
    """Return README.md of an exported model.

    mask_file: the path of the masks, if they go with the model. inherited: fields of the front matter from the base model,
    licence and id. Facts for people may be missing from the manifest: an older version wrote fewer.
    """
    about = model.manifest.about
    source = about.get("model") or {}
    revision = source.get("revision")
    base = public_name(source["name"], revision) if source.get("name") else None
    own = {"base_model": base} if base and revision else {}  # only a hub id means something elsewhere
    evaluated = {language for row in rows if (language := row["pruned"]["language"])}
    return render(
        "model_card.md.j2",
        title=title,
        gguf=gguf,
        front={**own, **(inherited or {})},
        datasets=sorted(_datasets(about)),
        languages=sorted(evaluated | languages_of(model.manifest.text)),
        base=base or "A model",
        removed=_removed(about),
        tool=model.manifest.tool,
        unchanged=_unchanged(about),
        facts=_facts(model, base or _UNKNOWN),
        mask_file=mask_file,
        figures=[_figures(row["pruned"], row["base"]) for row in rows],
        per_original_token=any("ppl_per_original_token" in row["pruned"] for row in rows),
    )


def _facts(model: Artifact, base: str) -> list[tuple[str, str]]:
    """Return facts about how the model was made, as rows of two cells."""
    about = model.manifest.about
    mask = about.get("mask") or {}
    revision = (about.get("model") or {}).get("revision")
    facts = [("base model", f"{base}{f' at {revision}' if revision else ''}")]
    if "base" in about:
        before = about["base"].get("mask") or {}
        facts += [("base was itself pruned", f"{before.get('method', _UNKNOWN)}, {_pattern(before)}")]
    facts += [("method", mask.get("method", _UNKNOWN)), ("pattern", _pattern(mask))]
    if exclude := mask.get("exclude"):
        facts += [("left dense", Markup("linears whose name matches {}").format(code(exclude)))]
    if tails := about.get("dense_tail_columns"):
        columns = sorted(set(tails.values()))
        many = f"{columns[0]}" if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
        facts += [("left dense", f"the last columns ({many}) of {len(tails)} linears, whose width M does not divide")]
    facts += [("update of surviving weights", model.manifest.params.get("update", _UNKNOWN))]
    if trained := about.get("tuned"):
        facts += [
            ("blocks tuned to the base model's", f"{trained['epochs']} epochs at most, on {_text(trained.get('text'))}")
        ]
    if recovered := about.get("recovered"):
        how = "" if recovered["train"] == "all" else f" ({recovered['train']})"
        facts += [
            (
                "trained to predict as the base model",
                f"{recovered['tokens']:,} tokens{how}, on {_text(recovered['text'])}",
            )
        ]
    needless = "stats" in about and about["stats"] is None
    return [*facts, ("calibration text", _text(about.get("text"), needless=needless))]


def _removed(about: About) -> str:
    """Return the pruning in words: removed parameters, or the share of zeros among the linears' weights.

    Excluded linears and dense tails count too.
    """
    checked = about.get("checked") or {}
    if "parameters_after" in checked:
        before, after = checked["parameters_before"], checked["parameters_after"]
        return f"made smaller, from {before:,} to {after:,} parameters ({1 - after / before:.1%} removed)"
    if "zeros" not in checked:
        return "with weights of its blocks' linears set to zero"
    if checked.get("linear_weights"):
        share = checked["zeros"] / checked["linear_weights"]
        return f"with {share:.1%} of the weights of its blocks' linears set to zero"
    which = "the pruned linears" if (about.get("mask") or {}).get("exclude") else "its blocks' linears"
    return f"with {checked['zeros'] / max(1, checked['pruned_weights']):.1%} of the weights of {which} set to zero"


def _unchanged(about: About) -> str:
    structured = patterns_of(str((about.get("mask") or {}).get("pattern")))
    return structured[0].unchanged if structured else UNCHANGED


def _datasets(about: About) -> set[str]:
    """Return the ids of the hub datasets that the model was calibrated or tuned on."""
    texts = [
        text
        for text in (
            about.get("text"),
            (about.get("tuned") or {}).get("text"),
            (about.get("recovered") or {}).get("text"),
        )
        if text
    ]
    sources = [each.get("source") or "" for text in texts for each in texts_of(text)]
    return {parse_hub_source(each).dataset for each in sources if each.startswith(HUB_PREFIX)}


def _pattern(mask: MaskRecord) -> str:
    """Return the pattern in words; N:M needs no group."""
    pattern = mask.get("pattern")
    if pattern is None:
        return _UNKNOWN
    if is_structured(pattern):
        return f"{pattern.replace('+', ', ')} (whole parts left: the model is smaller)"
    if ":" in pattern:
        n, m = pattern.split(":")
        return f"{pattern} (of every {m} inputs, {n} stay)"
    share = f", {mask['sparsity']:.0%} of each {mask.get('group', 'group')}" if mask.get("sparsity") is not None else ""
    return f"{pattern}{share}"


def _text(text: TextRecord | None, *, needless: bool = False) -> str:
    """Return a text in words. needless: whether the method needs no text."""
    if text and text.get("texts"):  # statistics of several texts, added up
        return "; ".join(map(_text, text["texts"]))
    if not text or not text.get("source"):
        return "none, the method needs no text" if needless and not text else _UNKNOWN
    language = f"{text['language']}, " if text.get("language") else ""
    drawn = [str(text["sampling"])] if text.get("sampling") else []
    drawn += [f"seed {text['seed']}"] if text.get("seed") is not None else []
    size = f": {text['windows']} windows of {text['seqlen']} tokens" if {"windows", "seqlen"} <= text.keys() else ""
    mark = f", fingerprint {text['fingerprint'][:16]}" if text.get("fingerprint") else ""
    how = f" ({', '.join(drawn)})" if drawn else ""
    return f"{language}{public_name(text['source'])}{size}{how}{mark}"


def _figures(pruned: Row, base: Row | None) -> list[str]:
    """Return the cells of an evaluation's row."""
    text = f"{public_name(pruned['source'])}" + (f" ({pruned['language']})" if pruned["language"] else "")
    ppl = base and base["ppl"], comparable_ppl(pruned)
    bpb = base and base["bpb"], pruned["bpb"]
    figures = ["-" if each is None else f"{each:.4g}" for each in (*ppl, *bpb)]
    return [text, pruned["dtype"], str(pruned["seqlen"]), f"{pruned['tokens']:,}", *figures]
