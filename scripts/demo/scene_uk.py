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
        self.topic = rng.choice(list(words.TOPICS))
        self.bank = {key: listed(text) for key, text in words.TOPICS[self.topic].items()}
        self.cast = {key: self._person(job) for key, job in zip("ABC", rng.sample(self.bank["people"], 3), strict=True)}
        for key, entry in zip("XYZ", rng.sample(self.bank["things"], 3), strict=True):
            self.cast[key] = Entity(noun(entry), self.look())
        for key, entry in zip("MN", rng.sample(self.bank["stuff"], 2), strict=True):
            self.cast[key] = Entity(noun(entry), known=True)
        self.places = dict(zip("PQ", rng.sample(self.bank["places"], 2), strict=True))
        n, m, price = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 29)
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

    def look(self) -> str:
        """Return an adjective for a thing: of the topic, or of any."""
        return pick(self.rng, listed(words.COMMON_LOOKS) if self.rng.random() < 0.4 else self.bank["looks"])

    def fill(self, hole: str) -> str:
        """Return the words for one hole, as described in `stories_uk`."""
        head, _, form = hole.partition(".")
        if hole.rstrip("#") in self.numbers:
            number = self.numbers[hole.rstrip("#")]
            return str(number) if hole.endswith("#") else spell(number)
        if head == "month":
            return self.month["ngl".index(form)]
        if ":" in hole:
            number, _, unit = hole.partition(":")
            return counted(self.numbers[number.rstrip("#")], noun(unit), digits=number.endswith("#"))
        for mark, agree in (("~", past), ("!", lambda lemma, gender: adjective(lemma, gender, "n"))):
            if mark in hole:
                key, _, given = hole.partition(mark)
                return agree(given, self.cast[key].noun.gender)
        if head in self.cast:
            return self._entity(self.cast[head], form)
        if head in self.places or head == "place":
            return self._place(self.places.get(head) or pick(self.rng, self.bank["places"]), form)
        first, *rest = hole.split()
        if first in self.numbers:
            thing = self.cast[rest[0]].noun if rest[0] in self.cast else noun(pick(self.rng, self.bank["things"]))
            return counted(self.numbers[first], thing)
        verbs: dict[str, Callable[[list[str]], str]] = {"did": self._did, "notdid": self._notdid, "habit": self._habit}
        return verbs[first](rest) if first in verbs else self._fresh(head, form)

    def _entity(self, entity: Entity, form: str) -> str:
        part, _, case = form.rpartition(".")
        if form in PRONOUNS:
            return PRONOUNS[form]["mfn".index(entity.noun.gender)]
        if form == "age":
            return counted(entity.age, noun("рік/року"))
        if form == "look":
            return adjective(entity.look or "добрий", entity.noun.gender, "n")
        if form == "looks":
            return adjective(entity.look, "p", "n")
        if part == "p":
            return entity.noun.plural[case]
        bare = entity.name is None and (not entity.look or (entity.known and self.rng.random() < 0.75))
        entity.known = True
        if entity.name and not part:
            return entity.name.singular[case]
        if part in {"job", "bare"} or bare:
            return entity.noun.singular[case]
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
        verb = pick(self.rng, self.bank["stuff_acts" if mass else "acts"])
        fresh = "stuff" if mass else pick(self.rng, ["thing", "things"])
        return verb, self._entity(self.cast[given[0]], case) if given else self._fresh(fresh, case)

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
            else self._fresh(pick(self.rng, ["thing", "things"]), "a")
        )
        form = self.cast[given[0]].noun.gender if given[0] in self.cast else given[0]
        return f"{conjugate(verb)[form]} {target}"

    def _fresh(self, kind: str, case: str) -> str:
        """Return a phrase that is no entity of the document: it is chosen anew each time."""
        source = {"thing": "things", "person": "people"}.get(kind, kind)
        what = noun(pick(self.rng, self.bank[source]), animate=source == "people")
        many = kind in {"things", "people"}
        if kind == "stuff" or self.rng.random() < 0.5:
            return (what.plural if many else what.singular)[case]
        look = pick(self.rng, listed(words.CHARACTER)) if source == "people" else self.look()
        return self._described(what, look, case, many=many)
