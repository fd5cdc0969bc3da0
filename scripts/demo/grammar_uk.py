# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""Ukrainian morphology: declension, agreement, conjugation and euphony.

Cases are the letters n g d a i l v (nominative, genitive, dative, accusative, instrumental, locative, vocative). The
accusative of masculine and plural animates is their genitive. Numerals govern: 2-4 the nominative plural, 5 and more
the genitive plural. The prepositions and the conjunction written `@у`, `@з`, `@і` take the variant (у or в, з, із or
зі, і or й) that the sounds around them ask for.
"""

import re
from dataclasses import dataclass
from functools import cache

import words_uk as words

VOWELS = "аеиіоуяюєї"
SIBILANTS = "жчшщ"
SOFTENED = {"г": "з", "к": "ц", "х": "с"}


def listed(text: str) -> list[str]:
    """Return the comma-separated entries of a vocabulary text."""
    return [word.strip() for word in text.split(",")]


NUMBERS = listed(
    "нуль, один, два, три, чотири, п'ять, шість, сім, вісім, дев'ять, десять, одинадцять, дванадцять, тринадцять, "
    "чотирнадцять, п'ятнадцять, шістнадцять, сімнадцять, вісімнадцять, дев'ятнадцять"
)
TENS = listed("_, _, двадцять, тридцять, сорок, п'ятдесят, шістдесят, сімдесят, вісімдесят, дев'яносто")


@dataclass(frozen=True)
class Noun:
    """A noun with all its forms: `singular["g"]`, `plural["i"]`."""

    lemma: str
    gender: str  # m, f or n
    animate: bool
    singular: dict[str, str]
    plural: dict[str, str]


def softened(stem: str) -> str:
    """Return the stem before the locative -і: книг- книз-, рук- руц-, вух- вус-."""
    return stem[:-1] + SOFTENED.get(stem[-1], stem[-1])


def zero_plural(stem: str, *, soft: bool) -> str:
    """Return the genitive plural without an ending, with the fleeting vowel before -к: хмарк- хмарок."""
    if stem.endswith("к") and stem[-2] not in VOWELS:
        return stem[:-1] + "ок"
    if stem.endswith("і"):
        return stem + "й"
    return stem + ("ь" if soft and stem[-1] not in SIBILANTS else "")


def _plural(nominative: str, genitive: str, stem: str, *, soft: bool, animate: bool) -> dict[str, str]:
    a = "я" if soft else "а"
    accusative = genitive if animate else nominative
    forms = {"n": nominative, "g": genitive, "d": f"{stem}{a}м", "a": accusative}
    return forms | {"i": f"{stem}{a}ми", "l": f"{stem}{a}х", "v": nominative}


def _feminine(lemma: str, genitive: str, genitive_plural: str, *, animate: bool) -> Noun:
    stem, hard = lemma[:-1], lemma[-1] == "а"
    mixed = hard and stem[-1] in SIBILANTS
    i = "ї" if stem[-1] in VOWELS else "і"
    g = genitive or stem + ("и" if hard and not mixed else i)
    locative = softened(stem) + "і" if hard and not mixed else stem + i
    instrumental = stem + ("ою" if hard and not mixed else "єю" if stem[-1] in VOWELS else "ею")
    vocative = stem + ("о" if hard and not mixed else "є" if stem[-1] in VOWELS else "ю" if stem[-1] == "с" else "е")
    singular = {"n": lemma, "g": g, "d": locative, "a": stem + ("у" if hard else "ю"), "i": instrumental}
    singular |= {"l": locative, "v": vocative}
    plural = _plural(g, genitive_plural or zero_plural(stem, soft=not hard), stem, soft=not hard, animate=animate)
    return Noun(lemma, "f", animate, singular, plural)


def _third(lemma: str, genitive: str, genitive_plural: str, instrumental: str) -> Noun:
    singular = dict.fromkeys("gdlv", genitive) | {"n": lemma, "a": lemma, "i": instrumental}
    stem = genitive[:-1]
    return Noun(
        lemma,
        "f",
        False,
        singular,
        _plural(genitive, genitive_plural, stem, soft=stem[-1] not in SIBILANTS, animate=False),
    )


def _masculine(lemma: str, genitive: str, genitive_plural: str, *, animate: bool) -> Noun:
    stem, soft = genitive[:-1], genitive[-1] in "яю"
    glide = soft and stem[-1] in VOWELS  # чай, герой
    front = soft or stem[-1] in SIBILANTS
    u, i = "ю" if soft else "у", "ї" if glide else "і"
    dative = stem + (("єві" if glide else "еві" if front else "ові") if animate else u)
    velar_u = stem[-1] == "к" or (genitive[-1] == "у" and stem[-1] in SOFTENED)
    locative = stem + "у" if velar_u and stem[-1] in SOFTENED else softened(stem) + i
    locative = dative if animate else words.LOCATIVES.get(lemma, locative)
    vocative = stem + (u if front or stem[-1] in SOFTENED else "е")
    singular = {"n": lemma, "g": genitive, "d": dative, "a": genitive if animate else lemma}
    singular |= {"i": stem + ("єм" if glide else "ем" if front else "ом"), "l": locative, "v": vocative}
    nominative = stem + (i if front else "и")
    many = genitive_plural or stem + ("їв" if glide else "ів")
    return Noun(lemma, "m", animate, singular, _plural(nominative, many, stem, soft=soft, animate=animate))


def _neuter(lemma: str, genitive_plural: str) -> Noun:
    stem, last = lemma[:-1], lemma[-1]
    soft = last == "я" or (last == "е" and stem[-1] not in SIBILANTS)
    a, u = ("я", "ю") if soft else ("а", "у")
    velar = last == "о" and stem[-1] == "к"
    singular = {"n": lemma, "g": stem + a, "d": stem + u, "a": lemma, "v": lemma}
    singular |= {"i": stem + {"о": "ом", "е": "ем", "я": "ям"}[last], "l": stem + ("у" if velar else "і")}
    # The doubled consonant of завдання is single where the ending is zero: завдань.
    zero = stem[:-1] + "ь" if last == "я" else zero_plural(stem, soft=soft)
    return Noun(lemma, "n", False, singular, _plural(stem + a, genitive_plural or zero, stem, soft=soft, animate=False))


@cache
def noun(entry: str, *, animate: bool = False, man: bool = False) -> Noun:
    """Decline a vocabulary entry: `стіл/стола`, `сестра//сестер`, `*ніч/ночі/ночей/ніччю`."""
    lemma, genitive, many, instrumental = [*entry.lstrip("@*").split("/"), "", "", ""][:4]
    animate = animate or lemma in listed(words.ANIMALS)
    if entry.lstrip("@").startswith("*"):
        return _third(lemma, genitive, many, instrumental)
    if not man and (lemma[-1] in "ое" or (lemma[-1] == "я" and lemma[-2] in "ньтлс'" and lemma[-2] == lemma[-3])):
        return _neuter(lemma, many)
    if lemma[-1] in "ая" and not man:
        return _feminine(lemma, genitive, many, animate=animate)
    return _masculine(lemma, genitive, many, animate=animate)


HARD = {
    "m": {"n": "ий", "g": "ого", "d": "ому", "i": "им", "l": "ому"},
    "f": {"n": "а", "g": "ої", "d": "ій", "a": "у", "i": "ою", "l": "ій"},
    "n": {"n": "е", "g": "ого", "d": "ому", "a": "е", "i": "им", "l": "ому"},
    "p": {"n": "і", "g": "их", "d": "им", "i": "ими", "l": "их"},
}
SOFT_LETTERS = {"ий": "ій", "а": "я", "у": "ю", "е": "є"}


def adjective(lemma: str, gender: str, case: str, *, animate: bool = False) -> str:
    """Return the form of an adjective that agrees with gender (m, f, n or p for plural), case and animacy."""
    if case == "a" and gender in "mp":
        case = "g" if animate else "n"
    ending = HARD[gender]["n" if case == "v" else case]
    if lemma.endswith("ій"):
        softer = {"о": "ьо", "и": "і"}
        ending = SOFT_LETTERS.get(ending, softer.get(ending[0], ending[0]) + ending[1:])
    return lemma[:-2] + ending


def first_person(stem: str) -> str:
    """Return the first person singular of an -ити verb: ходити ходжу, любити люблю, чистити чищу."""
    for last, changed in (("ст", "щу"), ("д", "джу"), ("т", "чу"), ("з", "жу"), ("с", "шу")):
        if stem.endswith(last):
            return stem[: -len(last)] + changed
    if stem[-1] in "бпвмф":
        return stem + "лю"
    return stem + ("у" if stem[-1] in SIBILANTS else "ю")


@cache
def conjugate(verb: str) -> dict[str, str]:
    """Return the forms `I`, `you`, `he`, `they` (present, or future of a perfective), `m`, `f`, `n`, `p` (past) and `inf`."""
    if verb in words.IRREGULAR:
        i, he, they, m, f = words.IRREGULAR[verb].split()
    elif verb.endswith("ити"):
        stem = verb[:-3]
        they = stem + ("ать" if stem[-1] in SIBILANTS else "лять" if stem[-1] in "бпвмф" else "ять")
        i, he, m, f = first_person(stem), stem + "ить", verb[:-2] + "в", verb[:-2] + "ла"
    else:
        stem = verb[:-4] if verb.endswith(("увати", "ювати")) else verb[:-2]
        i, he, they, m, f = stem + "ю", stem + "є", stem + "ють", verb[:-2] + "в", verb[:-2] + "ла"
    you = he.removesuffix("ть") + "ш"
    return {
        "I": i,
        "you": you,
        "he": he,
        "they": they,
        "m": m,
        "f": f,
        "n": f[:-1] + "о",
        "p": f[:-1] + "и",
        "inf": verb,
    }


def past(given: str, gender: str) -> str:
    """Agree a past tense given as its masculine and feminine: `прийшов/прийшла`, or as the stem `зроби`."""
    m, _, f = given.partition("/")
    m, f = (m, f) if f else (m + "в", m + "ла")
    return {"m": m, "f": f}.get(gender) or f[:-1] + {"n": "о", "p": "и"}[gender]


def spell(number: int, gender: str = "m") -> str:
    """Return a number below one hundred in words (nominative), above in digits."""
    if number >= 100:
        return str(number)
    tens, ones = divmod(number, 10) if number >= 20 else (0, number)
    word = {(1, "f"): "одна", (1, "n"): "одне", (2, "f"): "дві"}.get((ones, gender), NUMBERS[ones])
    return " ".join([TENS[tens]] * (tens > 0) + [word] * (ones > 0 or not tens))


def counted(number: int, thing: Noun, *, digits: bool = False) -> str:
    """Return a numeral with its noun: `дві книги`, `п'ять книг`, `21 книга`."""
    word = str(number) if digits else spell(number, thing.gender)
    if number % 10 == 1 and number % 100 != 11:
        return f"{word} {thing.singular['n']}"
    few = number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14)
    return f"{word} {thing.plural['n' if few else 'g']}"


def euphony(text: str) -> str:
    """Choose у or в, з, із or зі, і or й by the letters around them."""

    def choose(found: re.Match[str]) -> str:
        before, which, after = found[1], found[2], text[found.end() : found.end() + 2].lower()
        open_before, open_after = before.strip()[-1:].lower() in VOWELS and before.strip() != "", after[:1] in VOWELS
        if which == "у":
            return before + ("в" if (open_before and after[:1] not in "вф") or open_after else "у")
        if which == "і":
            return before + ("й" if open_before and after[:1] not in "йєїюя" else "і")
        if after[:1] in "зс" and after[1:2] not in VOWELS:
            return before + "зі"
        return before + ("із" if after[:1] in "зсшщчж" and not open_before else "з")

    return re.sub(r"(^|.\s|\W)@([узі])\s", lambda found: choose(found) + " ", text, flags=re.DOTALL)
