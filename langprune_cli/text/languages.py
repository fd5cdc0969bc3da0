"""Language tags (BCP 47) and names: parses what users write, and matches it with the tags of a corpus.

Tags, names and usual scripts come from the IANA registry and CLDR, through the library `langcodes`. It is imported where it
is used, so that the command line starts fast.
"""

import difflib
import re

from langprune_cli.errors import UsageError
from langprune_cli.text.presets import LISTED

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")
_QUALIFIED = re.compile(r"(.+?) *\((.+)\)")  # "Serbian (Latin)", as names with a script or a region are shown
_NO_COUNTRY = re.compile(r"AA|Q[M-Z]|X[A-JL-Z]|ZZ|E[UZ]|UN")  # private codes, and those of more than one country
_NO_NAME_BELOW = 3  # ASCII letters: `langcodes` takes a single letter for the code of some language

# A language for which people write the tag of the macrolanguage, and the other way round: CLDR knows the rest.
_ALSO_WRITTEN = {"nb": "no", "pbt": "ps"}

# Languages whose corpora mix scripts under one tag: Chinese articles are in whatever script their authors used.
_SCRIPTS_MIXED = {"zh", "yue", "wuu", "hak", "nan"}

# Macrolanguage -> the individual language that datasets with codes of ISO 639-3 hold text of. Each of these codes is a
# language of FineWeb-2 (the filter settings of github.com/huggingface/fineweb-2; arXiv 2506.20920).
_INDIVIDUAL = {
    "ar": "arb", "az": "azj", "et": "ekk", "ku": "kmr", "lv": "lvs", "mg": "plt", "mn": "khk", "ms": "zsm", "ne": "npi",
    "no": "nob", "om": "gaz", "or": "ory", "ps": "pbt", "sq": "als", "sw": "swh", "uz": "uzn", "yi": "ydd", "zh": "cmn",
}  # fmt: skip


def read_language(text: str) -> str:
    """Return the BCP-47 tag of `text`: a tag in any spelling, or a language's name in any language.

    `ukr`, `UK`, `Ukrainian` and `українська` are `uk`; `pt_br` is `pt-BR`, `iw` is `he`, `Chinese (Traditional)` is
    `zh-Hant`. A script or region stays where it says something: `uk-Cyrl` is `uk`, `sr-Latn` stays. The code of a country
    that is no language's stands for the main language there: `ua` is `uk`.

    Raises UsageError for what is neither, with the nearest names.
    """
    from langcodes import Language, standardize_tag  # noqa: PLC0415 - see above

    tag = text.replace("_", "-")
    if _TAG.fullmatch(tag):
        try:
            if Language.get(tag).is_valid() and Language.get(tag).language:  # `und` names none
                return standardize_tag(tag)
        except ValueError:  # a subtag in a place where it cannot be
            pass
    found = _named(text) or _of_country(tag)
    if found is None:
        raise UsageError(
            f"{text!r} is no language: write a tag such as uk, pt-BR or zh-Hant, or a name such as Ukrainian"
            f"{near_languages(text)}"
        )
    return found


def reading_note(text: str, tag: str) -> str | None:
    """Return a note that `text` was read as the language `tag`; None if it is the tag or one of its names."""
    from langcodes import Language  # noqa: PLC0415 - see above

    spelled = {tag, *known_as(tag), Language.get(tag).to_alpha3(), iso_and_script(tag)[0]}
    spelled |= {name(each) for each in known_as(tag) for name in (language_name, own_name)}
    written = text.replace("_", "-").casefold()
    if written in {each.casefold() for each in spelled} or written.partition("-")[0] == tag.partition("-")[0]:
        return None
    return f"--lang {text} is read as {language_name(tag)} ({tag})."


def language_name(tag: str) -> str:
    """Return the English name of a tag's language, with its script or region where the tag has one."""
    from langcodes import Language  # noqa: PLC0415 - see above

    return Language.get(tag).display_name()


def own_name(tag: str) -> str:
    """Return a language's own name, else its English name."""
    from langcodes import Language  # noqa: PLC0415 - see above

    return Language.get(tag).autonym()


def known_as(tag: str) -> list[str]:
    """Return the tags under which a corpus may hold text of `tag`, the nearest first.

    A region leaves (`pt-BR`, then `pt`), a script only where it is the usual one of the language, or where corpora mix
    them (`sr-Cyrl` is in `sr`, `sr-Latn` is not; `zh-Hant` is in `zh`).
    """
    from langcodes import Language  # noqa: PLC0415 - see above

    full = Language.get(tag)
    names = [tag]
    for each in (full, full.prefer_macrolanguage()):
        language, script = str(each.language), full.maximize().script
        for name in (language, _ALSO_WRITTEN.get(language)):
            if name is None:
                continue
            names.append(f"{name}-{script}")
            if script == Language.get(name).maximize().script or name in _SCRIPTS_MIXED:
                names.append(name)
    return list(dict.fromkeys(names))


def iso_and_script(tag: str) -> tuple[str, str]:
    """Return a tag's language in ISO 639-3 and its script in ISO 15924; of a macrolanguage, its main language."""
    from langcodes import Language  # noqa: PLC0415 - see above

    full = Language.get(tag).maximize()
    language = str(full.language)
    return _INDIVIDUAL.get(language) or full.to_alpha3(), str(full.script)


def near_languages(text: str) -> str:
    """Return the end of an error message with the nearest listed languages; "" if none is near."""
    spelled: dict[str, str] = {}
    for tag in sorted(LISTED):
        shown = f"{tag} ({language_name(tag)})"
        spelled |= {word.casefold(): shown for word in (tag, language_name(tag), own_name(tag))}
    near = difflib.get_close_matches(text.replace("_", "-").casefold(), spelled, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(dict.fromkeys(spelled[word] for word in near))}?" if near else ""


def _named(text: str) -> str | None:
    """Return the tag of the language with that name, None if there is none."""
    import langcodes  # noqa: PLC0415 - see above

    if not text.strip() or text != text.strip() or (text.isascii() and len(text) < _NO_NAME_BELOW):
        return None
    try:
        found = langcodes.find(text)
        # `langcodes` drops what stands in brackets unless it is part of the name.
        if (parts := _QUALIFIED.fullmatch(text)) and not (found.script or found.territory):
            found = found.update_dict(_qualifier(parts[2]))
    except LookupError:
        return None
    return langcodes.standardize_tag(found)


def _of_country(tag: str) -> str | None:
    """Return the main language of a two-letter country code (CLDR's likely subtags), None if it is no country."""
    from langcodes import Language  # noqa: PLC0415 - see above

    if len(tag) != 2 or not (tag.isascii() and tag.isalpha()) or _NO_COUNTRY.fullmatch(tag.upper()):
        return None
    country = Language.get(f"und-{tag}")
    return str(country.maximize().language) if country.is_valid() else None


def _qualifier(name: str) -> dict[str, str]:
    """Return {"script": code} or {"territory": code} for an English name; raises LookupError where neither has it."""
    from langcodes import Language  # noqa: PLC0415 - see above

    for kind in ("script", "territory"):
        try:
            return {kind: str(getattr(Language.find_name(kind, name, "en"), kind))}
        except LookupError:
            continue
    raise LookupError(name)
