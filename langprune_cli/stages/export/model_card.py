"""The model card of an exported model: what was pruned, how, on which text, and what it cost."""

import json
from pathlib import Path
from typing import Any

from langprune_cli.stages.evaluate.rows import comparable_ppl
from langprune_cli.stages.export.markdown import code, plain, row
from langprune_cli.stages.export.markup import Markup, clean
from langprune_cli.stages.structured.structures import VOCABULARY, is_structured
from langprune_cli.store.artifact import Artifact
from langprune_cli.text.hub import HUB_PREFIX, parse_hub_source
from langprune_cli.text.sources import BUILTIN_PREFIX

_UNKNOWN = "not recorded"


def public_name(name: str, revision: str | None = None) -> str:
    """Return a model's or text's name as it may be published: what lies on the hub as it is, a path without its folders."""
    public = revision is not None or name.startswith((HUB_PREFIX, BUILTIN_PREFIX))
    return name if public else Path(name).name


def public_record(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """Return what a manifest says for people as it may be published: names of models and texts, and every absolute path."""
    if isinstance(value, list):
        return [public_record(each) for each in value]
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if not isinstance(value, dict):
        return value
    record = {field: public_record(each) for field, each in value.items()}
    if isinstance(value.get("source"), str):
        record["source"] = public_name(value["source"])
    if isinstance(value.get("name"), str) and "revision" in value:  # a model
        record["name"] = public_name(value["name"], value["revision"])
    return record


def model_card(
    model: Artifact,
    rows: list[dict[str, Any]],
    title: str,
    mask_file: str | None = None,
    *,
    inherited: dict[str, Any] | None = None,
    gguf: bool = False,
) -> str:
    """Return README.md of an exported model.

    `rows` are pairs of evaluation rows: {"pruned": row, "base": row or None}. `mask_file` is where the masks lie, if they
    go with the model. `inherited` is what the front matter takes over from the base model: licence and id.
    What the manifest says for people may be missing: an older version wrote less.
    """
    about = model.manifest.about
    source = about.get("model") or {}
    revision = source.get("revision")
    base = public_name(source["name"], revision) if source.get("name") else "A model"
    languages = sorted({row["pruned"]["language"] for row in rows if row["pruned"]["language"]} | _languages(about))
    library = "gguf" if gguf else "transformers"
    front = ["---", f"library_name: {library}", "pipeline_tag: text-generation", "tags:", "- pruning", "- langprune"]
    own = {"base_model": base} if revision else {}  # only a hub id means something to others
    front += [f"{field}: {_quoted(value)}" for field, value in (own | (inherited or {})).items()]
    if datasets := sorted(_datasets(about)):
        front += ["datasets:", *(f"- {_quoted(name)}" for name in datasets)]
    if languages:
        front += ["language:", *(f"- {_quoted(language)}" for language in languages)]
    lines = [
        *front,
        "---",
        "",
        f"# {plain(title)}",
        "",
        f"{plain(base)} {_removed(about)}, in one shot, after training,",
        f"by {plain(model.manifest.tool)}. {_unchanged(about)} {_stored(gguf=gguf)}",
        "",
        "| | |",
        "|---|---|",
        *_facts(model, base if source.get("name") else _UNKNOWN),
        "",
    ]
    if mask_file:
        lines += [
            f"`{mask_file}` holds the masks, for each pruned linear a tensor of its weight's name: uint8",
            "`[out, ceil(in / 8)]`, where bit b of byte k of a row, b = 0 being the least significant, is column 8k + b, and",
            "1 means that the weight was kept; a tensor of one row stands for all rows.",
            "",
        ]
    lines += ["## Evaluation", ""]
    if rows:
        lines += [
            "| text | dtype | seqlen | predicted tokens | ppl base | ppl pruned | bpb base | bpb pruned |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_figures(row["pruned"], row["base"]) for row in rows]
        lines += ["", "Perplexity over consecutive windows of the joined text; bpb is bits per UTF-8 byte."]
        if any("ppl_per_original_token" in row["pruned"] for row in rows):
            lines += ["Both perplexities are per token of the base model, which cuts text into other tokens."]
    else:
        lines += ["Not evaluated. `langprune eval` measures it; export again afterwards to have the figures here."]
    return "\n".join(lines) + "\n"


def _facts(model: Artifact, base: str) -> list[str]:
    """Return the rows that say how the model was made."""
    about = model.manifest.about
    mask = about.get("mask") or {}
    revision = (about.get("model") or {}).get("revision")
    facts = [row("base model", f"{base}{f' at {revision}' if revision else ''}")]
    if "base" in about:
        before = about["base"].get("mask") or {}
        facts += [row("base was itself pruned", f"{before.get('method', _UNKNOWN)}, {_pattern(before)}")]
    facts += [row("method", mask.get("method", _UNKNOWN)), row("pattern", _pattern(mask))]
    if mask.get("exclude"):
        facts += [row("left dense", Markup(f"linears whose name matches {code(mask['exclude'])}"))]
    if tails := about.get("dense_tail_columns"):
        columns = sorted(set(tails.values()))
        many = f"{columns[0]}" if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
        facts += [
            row("left dense", f"the last columns ({many}) of {len(tails)} linears, whose width M does not divide")
        ]
    facts += [row("update of surviving weights", model.manifest.params.get("update", _UNKNOWN))]
    if trained := about.get("tuned"):
        steps = f"{trained['epochs']} epochs at most"
        facts += [row("blocks tuned to the base model's", f"{steps}, on {_text(trained)}")]
    return [*facts, row("calibration text", _text(about))]


def _removed(about: dict[str, Any]) -> str:
    """Return what was done: parameters that left, or the share of all the linears' weights that are zero.

    Excluded linears and dense tails count in.
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
    which = "the linears that were pruned" if (about.get("mask") or {}).get("exclude") else "its blocks' linears"
    return f"with {checked['zeros'] / max(1, checked['pruned_weights']):.1%} of the weights of {which} set to zero"


def _unchanged(about: dict[str, Any]) -> str:
    if (about.get("mask") or {}).get("pattern") == VOCABULARY:
        return "Tokens left with their rows of embeddings and head, and the others have new ids; all else is unchanged."
    return "Embeddings, norms and head are unchanged."


def _languages(about: dict[str, Any]) -> set[str]:
    text = about.get("text") or {}
    return {each["language"] for each in text.get("texts") or [text] if each.get("language")}


def _datasets(about: dict[str, Any]) -> set[str]:
    """Return the datasets of the hub that the model was calibrated or tuned on, by their ids."""
    texts = [text for text in (about.get("text"), (about.get("tuned") or {}).get("text")) if text]
    sources = [each.get("source") or "" for text in texts for each in text.get("texts") or [text]]
    return {parse_hub_source(each).dataset for each in sources if each.startswith(HUB_PREFIX)}


def _stored(*, gguf: bool) -> str:
    if gguf:
        return "The weights are stored dense, as llama.cpp's converter writes them."
    return (
        "The weights are stored dense, in the base\nmodel's dtype; any tool that loads the base model loads this one."
    )


def _pattern(mask: dict[str, Any]) -> str:
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


def _text(about: dict[str, Any]) -> str:
    text = about.get("text")
    if text and text.get("texts"):  # statistics of several texts, added up
        return "; ".join(_text({"text": each}) for each in text["texts"])
    if not text or not text.get("source"):
        needless = not text and "stats" in about and about["stats"] is None
        return "none, the method needs no text" if needless else _UNKNOWN
    language = f"{text['language']}, " if text.get("language") else ""
    drawn = [str(text["sampling"])] if text.get("sampling") else []
    drawn += [f"seed {text['seed']}"] if text.get("seed") is not None else []
    size = f": {text['windows']} windows of {text['seqlen']} tokens" if {"windows", "seqlen"} <= text.keys() else ""
    mark = f", fingerprint {text['fingerprint'][:16]}" if text.get("fingerprint") else ""
    how = f" ({', '.join(drawn)})" if drawn else ""
    return f"{language}{public_name(text['source'])}{size}{how}{mark}"


def _figures(pruned: dict[str, Any], base: dict[str, Any] | None) -> str:
    def figure(row: dict[str, Any] | None, key: str) -> str:
        return f"{row[key]:.4g}" if row and row[key] is not None else "-"

    pruned = pruned | {"ppl": comparable_ppl(pruned)}
    text = f"{public_name(pruned['source'])}" + (f" ({pruned['language']})" if pruned["language"] else "")
    cells = [text, pruned["dtype"], str(pruned["seqlen"]), f"{pruned['tokens']:,}"]
    return row(*cells, *(figure(row, key) for key in ("ppl", "bpb") for row in (base, pruned)))


def _quoted(text: str) -> str:
    """Return a YAML scalar that is a string to every reader: a bare `no` is a boolean, and Norwegian."""
    return json.dumps(clean(text), ensure_ascii=False)  # of what JSON leaves as it is, YAML forbids control characters
