# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""English morphology, and the holes of the English templates.

A document has a cast: people A, B and C, things X, Y and Z, stuff M and N, places P and Q, and a few numbers. A thing
is introduced with the indefinite article and its adjective and is definite from then on; a pronoun agrees with the
person whom it stands for; numbers named twice are the same number.
"""

import random
from dataclasses import dataclass

import words_en as words
from template import pick

VOWELS = "aeiou"
PRONOUNS = {
    "f": {"he": "she", "him": "her", "his": "her", "self": "herself", "own": "hers"},
    "m": {"he": "he", "him": "him", "his": "his", "self": "himself", "own": "his"},
}


def listed(text: str) -> list[str]:
    """Return the comma-separated words of a vocabulary entry."""
    return [word.strip() for word in text.split(",")]


# topic: {"places": [...], "things": [...], ...}
BANKS = {topic: {key: listed(text) for key, text in entries.items()} for topic, entries in words.TOPICS.items()}
NUMBERS, TENS, DOUBLED = listed(words.NUMBERS), listed(words.TENS), listed(words.DOUBLED)


def article(phrase: str) -> str:
    """Return the phrase with `a` or `an`; the sound decides, so `a useful` and `an honest`."""
    spoken_consonant = phrase.startswith(("us", "uni", "one", "eu"))
    spoken_vowel = phrase[0] in VOWELS or phrase.startswith(("honest", "hour"))
    return ("an " if spoken_vowel and not spoken_consonant else "a ") + phrase


def plural(noun: str) -> str:
    """Return the plural of a noun or compound."""
    if noun in words.PLURALS:
        return words.PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def _split(verb: str) -> tuple[str, str]:
    """Split `dig up` into the part that is inflected and the particle."""
    head, _, particle = verb.partition(" ")
    return head, " " + particle if particle else ""


def past(verb: str) -> str:
    """Return the past tense."""
    if verb in words.IRREGULAR:
        return words.IRREGULAR[verb][0]
    head, particle = _split(verb)
    if head.endswith("e"):
        return head + "d" + particle
    if head.endswith("y") and head[-2] not in VOWELS:
        return head[:-1] + "ied" + particle
    return head + (head[-1] if head in DOUBLED else "") + "ed" + particle


def participle(verb: str) -> str:
    """Return the past participle."""
    return words.IRREGULAR[verb][1] if verb in words.IRREGULAR else past(verb)


def third(verb: str) -> str:
    """Return the third person singular of the present."""
    head, particle = _split(verb)
    return plural(head) + particle


def gerund(verb: str) -> str:
    """Return the -ing form."""
    head, particle = _split(verb)
    if head.endswith("ie"):
        return head[:-2] + "ying" + particle
    if head.endswith("e") and not head.endswith(("ee", "ye")):
        return head[:-1] + "ing" + particle
    doubled = head in DOUBLED or head in {"cut", "dig", "forget"}
    return head + (head[-1] if doubled else "") + "ing" + particle


def spell(number: int) -> str:
    """Return a number below one hundred in words, above in digits."""
    if number < 20:
        return NUMBERS[number]
    if number >= 100:
        return str(number)
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{NUMBERS[ones]}" if ones else "")


FORMS = {"did": past, "done": participle, "does": third, "doing": gerund, "do": str}


@dataclass
class Person:
    """A character: a name, a gender (f or m), an occupation and an age."""

    name: str
    gender: str
    job: str
    nature: str
    age: int


@dataclass
class Thing:
    """A noun with its adjective; `known` once it was mentioned, and then definite."""

    noun: str
    look: str
    mass: bool = False
    known: bool = False


class Scene:
    """The cast and the facts of one document, which fill the holes of its templates."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.topic = rng.choice(list(BANKS))
        self.bank = BANKS[self.topic]
        genders = rng.choices("fm", k=3)
        names = {"f": iter(rng.sample(listed(words.WOMEN), 3)), "m": iter(rng.sample(listed(words.MEN), 3))}
        self.people = {
            key: Person(next(names[g]), g, job, rng.choice(listed(words.CHARACTER)), rng.randint(19, 79))
            for key, g, job in zip("ABC", genders, rng.sample(self.bank["people"], 3), strict=True)
        }
        things = rng.sample(self.bank["things"], 3)
        self.things = {key: Thing(noun, self.look()) for key, noun in zip("XYZ", things, strict=True)}
        for key, noun in zip("MN", rng.sample(self.bank["stuff"], 2), strict=True):
            self.things[key] = Thing(noun, "", mass=True)
        self.places = dict(zip("PQ", rng.sample(self.bank["places"], 2), strict=True))
        self.facts = self._facts()

    def _facts(self) -> dict[str, str]:
        rng = self.rng
        n, m, price = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 19)
        starts, ends = listed(words.TOWN_STARTS), listed(words.TOWN_ENDS)
        towns = [rng.choice(starts) + rng.choice(ends) for _ in range(2)]
        days, day = listed(words.DAYS), rng.randrange(7)
        numbers = {"n": n, "m": m, "sum": n + m, "price": price, "total": n * price, "miles": rng.randint(3, 90)}
        facts = {key: spell(number) for key, number in numbers.items()}
        facts |= {f"{key}#": str(number) for key, number in numbers.items()}
        facts |= {"town": towns[0], "town2": towns[1], "day": days[day], "next": days[(day + 1) % 7]}
        facts |= {"third": days[(day + 2) % 7], "month": rng.choice(listed(words.MONTHS)), "topic": self.topic}
        return facts | {"year": str(rng.randint(1820, 2020)), "hour": spell(rng.randint(1, 12))}

    def any_bank(self) -> dict[str, list[str]]:
        """Return the vocabulary of the topic, or now and then of another one: people talk of other things too."""
        return self.bank if self.rng.random() < 0.65 else self.rng.choice(list(BANKS.values()))

    def look(self) -> str:
        """Return an adjective for a thing: of the topic, or of any."""
        common = self.rng.random() < 0.4
        return pick(self.rng, listed(words.COMMON_LOOKS) if common else self.bank["looks"])

    def fill(self, hole: str) -> str:
        """Return the words for one hole, as described in `stories_en`."""
        if hole in self.facts:
            return self.facts[hole]
        head, _, form = hole.partition(".")
        if head in self.people:
            return self._person(self.people[head], form)
        if head in self.things:
            return self._thing(self.things[head], form)
        if head in self.places:
            return self._place(self.places[head], form)
        first, _, rest = hole.partition(" ")
        if first in FORMS:
            return self._act(first, rest)
        return self._fresh(hole, self.any_bank())

    def _person(self, person: Person, form: str) -> str:
        if form in PRONOUNS["f"]:
            return PRONOUNS[person.gender][form]
        described = {"": person.name, "job": "the " + person.job, "ajob": article(person.job)}
        described |= {"nature": person.nature, "full": article(f"{person.nature} {person.job}")}
        return (described | {"age": spell(person.age)})[form]

    def _thing(self, thing: Thing, form: str) -> str:
        if form == "bare":
            return thing.noun
        if form == "look":
            return thing.look or "good"
        if form == "many":
            return thing.noun if thing.mass else plural(thing.noun)
        if thing.mass:
            return thing.noun if not thing.known and not self._know(thing) else "the " + thing.noun
        if thing.known or form == "the":
            thing.known = True
            return "the " + (f"{thing.look} " if self.rng.random() < 0.25 else "") + thing.noun
        self._know(thing)
        return article(f"{thing.look} {thing.noun}")

    @staticmethod
    def _know(thing: Thing) -> bool:
        thing.known = True
        return False

    def _place(self, entry: str, form: str) -> str:
        preposition, _, noun = entry.partition(" ")
        return {"": "the " + noun, "bare": noun, "at": f"{preposition} the {noun}", "to": f"to the {noun}"}[form]

    def _act(self, form: str, target: str) -> str:
        mass = target in {"M", "N"} or (not target and self.rng.random() < 0.3)
        bank = self.any_bank()
        verb = pick(self.rng, bank["stuff_acts" if mass else "acts"])
        fresh = "stuff" if mass else pick(self.rng, ["thing", "things", "the thing"])
        return f"{FORMS[form](verb)} {self.fill(target) if target else self._fresh(fresh, bank)}"

    def _fresh(self, hole: str, bank: dict[str, list[str]]) -> str:
        """Return a phrase that is no entity of the document: it is chosen anew each time."""
        kind = hole.rsplit(" ", 1)[-1]
        source = {"thing": "things", "person": "people", "place": "places", "at": "places", "to": "places"}
        word = pick(self.rng, bank[source.get(kind, kind)])
        if kind in {"place", "at", "to"}:
            return self._place(word, "" if kind == "place" else kind)
        if kind == "stuff":
            return word
        adjective = self.look() if kind.startswith("thing") else pick(self.rng, listed(words.CHARACTER))
        if hole.startswith("the "):
            return "the " + word
        if kind in {"things", "people"}:
            word = plural(word)
        phrase = word if self.rng.random() < 0.5 else f"{adjective} {word}"
        return phrase if kind in {"things", "people"} else article(phrase)
