# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""The cast and the facts of a Ukrainian document, which fill the holes of its templates."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import words_uk as words
from grammar_uk import Noun, adjective, conjugate, counted, listed, noun, past, spell
from template import pick

PRONOUNS = {
    "he": ("він", "вона", "воно"), "him": ("його", "її", "його"), "his": ("його", "її", "його"),
    "to_him": ("йому", "їй", "йому"), "nhim": ("нього", "неї", "нього"), "ihim": ("ним", "нею", "ним"),
    "self": ("сам", "сама", "саме"), "this": ("цей", "ця", "це"), "which": ("який", "яка", "яке"),
}  # fmt: skip


# topic: {"places": [...], "things": [...], ...}
BANKS = {topic: {key: listed(text) for key, text in entries.items()} for topic, entries in words.TOPICS.items()}


@dataclass
class Entity:
    """A person or thing: its noun, an adjective, and for a person the name; `known` once mentioned."""

    noun: Noun
    look: str = ""
    name: Noun | None = None
    age: int = 0
    known: bool = False


class Scene:
    """People A, B and C, things X, Y and Z, stuff M and N, places P and Q, numbers, days and towns."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.topic = rng.choice(list(BANKS))
        self.bank = BANKS[self.topic]
        self.cast = {key: self._person(job) for key, job in zip("ABC", rng.sample(self.bank["people"], 3), strict=True)}
        for key, entry in zip("XYZ", rng.sample(self.bank["things"], 3), strict=True):
            self.cast[key] = Entity(noun(entry), self.look())
        for key, entry in zip("MN", rng.sample(self.bank["stuff"], 2), strict=True):
            self.cast[key] = Entity(noun(entry), known=True)
        self.places = dict(zip("PQ", rng.sample(self.bank["places"], 2), strict=True))
        # No price ends in 1: after «коштує» that would ask for the accusative, «двадцять одну гривню».
        n, m, price = rng.randint(2, 12), rng.randint(2, 12), rng.choice([p for p in range(2, 30) if p % 10 != 1])
        price += (n * price) % 10 == 1
        self.numbers = {"n": n, "m": m, "sum": n + m, "price": price, "total": n * price, "km": rng.randint(3, 90)}
        self.numbers |= {"hour": rng.randint(1, 12), "year": rng.randint(1820, 2020)}
        day = rng.randrange(7)
        for i, key in enumerate(("day", "next", "third")):
            self.cast[key] = Entity(noun(listed(words.DAYS)[(day + i) % 7]))
        self.month = rng.choice(listed(words.MONTHS)).split()
        for key in ("town", "town2"):
            start, end = rng.choice(listed(words.TOWN_STARTS)), rng.choice(listed(words.TOWN_ENDS))
            self.cast[key] = Entity(noun("/".join(start + part for part in end.split("/"))))

    def _person(self, job: str) -> Entity:
        work = noun(job, animate=True)
        taken = {entity.name.lemma for entity in getattr(self, "cast", {}).values() if entity.name}
        man = work.gender == "m"
        names = [noun(entry, animate=True, man=man) for entry in listed(words.MEN if man else words.WOMEN)]
        name = self.rng.choice([name for name in names if name.lemma not in taken])
        return Entity(work, self.rng.choice(listed(words.CHARACTER)), name, self.rng.randint(19, 79))

    def any_bank(self) -> dict[str, list[str]]:
        """Return the vocabulary of the topic, or now and then of another one: people talk of other things too."""
        return self.bank if self.rng.random() < 0.65 else self.rng.choice(list(BANKS.values()))

    def look(self) -> str:
        """Return an adjective for a thing: of the topic, or of any."""
        return pick(self.rng, listed(words.COMMON_LOOKS) if self.rng.random() < 0.4 else self.bank["looks"])

    def fill(self, hole: str) -> str:
        """Return the words for one hole, as described in `stories_uk`."""
        head, _, form = hole.partition(".")
        if head in self.cast:
            return self._entity(self.cast[head], form)
        if head in self.places or head == "place":
            return self._place(self.places.get(head) or pick(self.rng, self.any_bank()["places"]), form)
        first, *rest = hole.split()
        verbs: dict[str, Callable[[list[str]], str]] = {"did": self._did, "notdid": self._notdid, "habit": self._habit}
        if first in verbs:
            return verbs[first](rest)
        return self._number(hole) or self._agreed(hole) or self._fresh(head, form, self.any_bank())

    def _number(self, hole: str) -> str:
        """`{n}` in words, `{n#}` in digits, `{n X}` and `{price:гривня//гривень}` counted; nothing for other holes."""
        first, _, key = hole.partition(" ")
        number, _, unit = first.partition(":")
        if number.startswith("month."):
            return self.month["ngl".index(number[-1])]
        if (name := number.rstrip("#")) not in self.numbers:
            return ""
        value, digits = self.numbers[name], number.endswith("#")
        if unit or key:
            return counted(value, noun(unit) if unit else self.cast[key].noun, digits=digits)
        return str(value) if digits else spell(value)

    def _agreed(self, hole: str) -> str:
        """`{A~пішов/пішла}` a past tense, `{X!готовий}` an adjective, agreeing in gender; nothing for other holes."""
        if "~" in hole:
            key, _, given = hole.partition("~")
            return past(given, self.cast[key].noun.gender)
        key, _, given = hole.partition("!")
        return adjective(given, self.cast[key].noun.gender, "n") if given else ""

    def _entity(self, entity: Entity, form: str) -> str:
        part, _, case = form.rpartition(".")
        if case in PRONOUNS:
            return PRONOUNS[case]["mfn".index(entity.noun.gender)]
        if case == "age":
            return counted(entity.age, noun("рік/року"))
        if case in {"look", "looks"}:
            return adjective(entity.look, "p" if case == "looks" else entity.noun.gender, "n")
        bare = entity.name is None and (not entity.look or (entity.known and self.rng.random() < 0.75))
        entity.known = True
        if part == "p" or part in {"job", "bare"} or (bare and not part):
            return (entity.noun.plural if part == "p" else entity.noun.singular)[case]
        if entity.name and not part:
            return entity.name.singular[case]
        return self._described(entity.noun, entity.look, case, many=False)

    @staticmethod
    def _described(what: Noun, look: str, case: str, *, many: bool) -> str:
        form = adjective(look, "p" if many else what.gender, case, animate=what.animate)
        return f"{form} {(what.plural if many else what.singular)[case]}"

    @staticmethod
    def _place(entry: str, form: str) -> str:
        forms, on = noun(entry).singular, entry.startswith("@")
        if form == "at":
            return f"на {forms['l']}" if on else f"@у {forms['l']}"
        if form == "to":
            return f"на {forms['a']}" if on else f"до {forms['g']}"
        return f"@з {forms['g']}" if form == "from" else forms[form]

    def _target(self, given: list[str], case: str) -> tuple[str, str]:
        """Return a perfective verb of the topic and its object in the given case."""
        mass = given[0] in {"M", "N"} if given else self.rng.random() < 0.3
        bank = self.any_bank()
        verb = pick(self.rng, bank["stuff_acts" if mass else "acts"])
        fresh = "stuff" if mass else pick(self.rng, ["thing", "things"])
        return verb, self._entity(self.cast[given[0]], case) if given else self._fresh(fresh, case, bank)

    def _did(self, given: list[str]) -> str:
        """`{did A X}` past, agreeing with A; `{did I X}`, `{did he X}`, `{did they X}` future; `{did inf X}`."""
        verb, target = self._target(given[1:], "a")
        form = self.cast[given[0]].noun.gender if given[0] in self.cast else given[0]
        return f"{conjugate(verb)[form]} {target}"

    def _notdid(self, given: list[str]) -> str:
        """Negated, the object is in the genitive: `не помив ложки`."""
        verb, target = self._target(given[1:], "g")
        form = self.cast[given[0]].noun.gender if given[0] in self.cast else given[0]
        return f"не {conjugate(verb)[form]} {target}"

    def _habit(self, given: list[str]) -> str:
        """Like `did`, of an imperfective verb: present tense, or a past that lasted."""
        verb = pick(self.rng, listed(words.HABITS))
        target = (
            self._entity(self.cast[given[1]], "a")
            if given[1:]
            else self._fresh(pick(self.rng, ["thing", "things"]), "a", self.any_bank())
        )
        form = self.cast[given[0]].noun.gender if given[0] in self.cast else given[0]
        return f"{conjugate(verb)[form]} {target}"

    def _fresh(self, kind: str, case: str, bank: dict[str, list[str]]) -> str:
        """Return a phrase that is no entity of the document: it is chosen anew each time."""
        source = {"thing": "things", "person": "people"}.get(kind, kind)
        what = noun(pick(self.rng, bank[source]), animate=source == "people")
        many = kind in {"things", "people"}
        if kind == "stuff" or self.rng.random() < 0.5:
            return (what.plural if many else what.singular)[case]
        look = pick(self.rng, listed(words.CHARACTER)) if source == "people" else self.look()
        return self._described(what, look, case, many=many)
