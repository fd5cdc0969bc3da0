# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""The English templates, and the kinds of documents.

Holes: `{A}` a person, `{A.he}` `{A.him}` `{A.his}` `{A.self}` pronouns, `{A.job}` "the baker", `{A.full}` "a tired
baker"; `{X}` a thing, `{X.bare}` `{X.many}` `{X.look}` its parts; `{P.at}` `{P.to}` `{P}` a place; `{did}` `{do}`
`{does}` `{doing}` an action on a fresh object, `{did X}` on an entity; `{thing}` `{things}` `{person}` `{people}`
`{stuff}` `{at}` `{to}` a fresh phrase; `{n}` `{sum}` `{town}` ... a fact of the document.
"""

import random

import grammar_en
from template import Kind, capitalise, compose, pick

RULES: dict[str, list[str]] = {
    "when": [
        "in the morning", "at noon", "late in the evening", "after lunch", "before sunrise", "at {hour} o'clock",
        "on {day}", "the next day", "shortly before midnight", "that same week", "at dawn", "a little later",
    ],
    "how": [
        "slowly", "carefully", "with great patience", "without a word", "quickly", "in silence", "with both hands",
        "rather badly", "as well as possible", "cheerfully", "in a hurry", "with a sigh", "proudly", "secretly",
    ],
    "ly": [
        "slowly", "carefully", "quickly", "secretly", "proudly", "cheerfully", "quietly", "patiently", "finally",
        "accidentally", "reluctantly", "immediately",
    ],
    "often": ["always", "usually", "sometimes", "seldom", "never", "often", "almost every day", "hardly ever"],
    "felt": [
        "happy", "sad", "worried", "surprised", "proud", "relieved", "ashamed", "hungry", "hopeful", "jealous",
        "calm",
        "disappointed", "grateful", "annoyed", "bored", "frightened", "delighted", "confused",
    ],
    "sky": [
        "it was raining", "the sun was shining", "a cold wind blew from the [north|east|west|south]",
        "snow was falling",
        "thick fog covered {town}", "thunder rolled in the distance", "the sky was clear",
        "hail rattled on the roofs",
        "the air smelled of [rain|smoke|apples|summer]", "the frost drew flowers on the windows",
        "not a cloud could be seen", "it had been warm since {month}",
    ],
    "because": [
        "because {A.he} had {done}", "since there was no {stuff} left", "although nobody had asked {A.him}",
        "while {B} was {doing}", "as soon as {B} had left", "before {A.he} could {do}", "so that {B} could rest",
        "unless the weather changed", "because the road from {town2} was closed",
        "even though {A.he} was [tired|ill]",
        "until the bells of {town} rang",
    ],
    "where": ["{at}", "{P.at}", "in {town}", "near the [church|well|bridge|crossroads]", "not far from {town2}"],
    "family": ["brother", "sister", "mother", "father", "uncle", "aunt", "grandfather", "daughter", "son", "cousin"],
    "opening": [
        "{A} was {A.full} who lived in {town}. {A.he} was {A.age} years old and worked {P.at}.",
        "in {year}, when {A} was {A.age}, {A.he} came to {town} as {A.ajob}.",
        "there was once {A.full} called {A}. every <day_part>, {A.he} went {P.to} and {did}.",
        "nobody in {town} knew {people} better than {A}, {A.ajob} of {A.age}.",
        "{A} had always wanted to be {A.ajob}, like {A.his} <family>. now {A.he} worked {P.at} in {town}.",
        "on a {day} in {month}, {A}, {A.full}, was on {A.his} way {P.to}.",
    ],
    "day_part": ["morning", "evening", "day", "{day}", "winter", "spring", "autumn"],
    "weather": [
        "<sky>, and {A} {did}.", "that {day} <sky>. the {things} were wet, and {people} stayed at home.",
        "<sky> <when>, so {A} and {B} decided to {do}.", "although <sky>, {A.he} felt <felt>.",
        "it was {month}; <sky>. {person} hurried {to}, and {person} looked for {things}.",
    ],
    "meet": [
        "there {A.he} met {B}, {B.full}. “[good morning|hello|at last|what a surprise], {A}!” said {B}.",
        "<when>, {B} came {P.to}. {B.he} was {B.ajob}, and {A.his} oldest friend. {B.he} had brought {X}.",
        "{B}, {B.full} from {town2}, was waiting {P.at}. {B.he} wanted to {do X}, but {B.he} did not know how.",
        "{A.his} neighbour was {B.ajob} whose name was {B}. {B.he} <often> {did}, which made {A} <felt>.",
    ],
    "action": [
        "{A.he} {did} and then {did}.", "<when>, {A} {did} <because>.", "{A.he} <ly> {did X}.",
        "{B} {did}, but {A} only {did Y}.", "{A.he} had to {do} before {A.he} could {do}.",
        "{the person} who had {done} <ly> {did}.", "{person} and {person} {did} <where>.",
        "instead of {doing}, {B} {did} <how>.", "{A} asked {B} to {do M}, and {B.he} {did N}.",
        "the {things} that {A} had {done X} with were now {P.at}.", "{A.he} <often> {did} <when>.",
        "after {doing}, {A.he} felt <felt>.", "neither {A} nor {B} wanted to {do}.",
        "if {A.he} had {done}, {B.he} would not have {done}.", "{A} {did} faster than {the person} could {do}.",
        "{X} was {X.look}, but it was {A.his} own, and {A.he} {did Y} with it.",
        ("there were {things} everywhere: {things} on the floor, {things} on the table and {n} {X.many} under the "
        "window."),
    ],
    "problem": [
        ("but <when> {X} disappeared. {A} searched <where>, {at} and even under {the thing}. “who has {done X}?” "
        "{A.he} asked. {B} looked <felt> and said nothing."),
        "suddenly {X} broke. without it, nobody could {do Y}. {A} was <felt>, and {B} was even more <felt>.",
        ("then a letter came from {town2}. “send us {n} {X.many} and {m} {Y.many} by {next},” it said. {A} had "
        "only {m} "
        "{Y.many} and not one of the {X.many}."),
        ("one thing worried {A.him}: {C}, {C.full}, claimed that {X} was {C.his}. “I {did X} in {year},” {C.he} "
        "<often> said, “and I shall {do X} again.”"),
        ("on {next}, {A} noticed that there was no {M.bare} left. without {M.bare}, {A.he} could not {do}. the road to {town2} "
        "was {miles} miles long, and <sky>."),
    ],
    "talk": [
        ("“have you {done}?” asked {A}.\n“not yet,” {B} answered. “first I must {do}.”\n“then I shall {do} myself!” "
        "joked {C}."),
        ("“where is {X}?” asked {B}.\n“{P.at},” said {A}. “{C} {did X} on {day}.”\n“and {Y}?”\n“nobody has seen it "
        "since "
        "{month}.”"),
        ("“how many {X.many} do you need?” asked {C.job}.\n“{n},” said {A}.\n“they cost {price} crowns "
        "each.”\n“that makes "
        "{total} crowns,” {A.he} said <how>. “[agreed|too much|very well]!”"),
        "“you should {do},” said {B}, “or {do}.”\n“why?”\n“because {people} who {do} are <often> <felt>.”",
        "“do you remember {town2}?” {C} asked.\n“of course,” said {A}. “we {did} there, and {B} {did}.”",
    ],
    "solution": [
        "in the end {C} helped. {C.he} {did}, {did}, and <ly> {did X}. {A} thanked {C.him} and gave {C.him} {Y}.",
        "finally {A} found {X} {P.at}: {B} had {done X} and forgotten about it. both of them laughed.",
        "{A.he} worked until {next}. then {X} was better than before, and {people} came from {town2} to see it.",
        "so they {did} together. {A} {did}, {B} {did}, and {C}, {C.job}, {did} as well.",
        "on {third}, {C} came back from {town2} with {sum} {X.many}: {n} for {A} and {m} for {B}.",
    ],
    "ending": [
        "since then {A} has <often> {done}, and {X} stands {P.at}.",
        "and {A} went home, <felt> but [wiser|tired|free].",
        "that is how {A}, {A.job} from {town}, {did X}.", "on {third} everything in {town} was as before.",
        "people in {town} still tell this story when [it rains|the nights are long|snow falls].",
        "“never again!” said {A}. but on {next} {A.he} {did}.",
    ],
    "describe": [
        "{P} of {town} <is_known>. <there_is>",
        "{the person} who works {P.at} {does} every {day} and <often> {does}.",
        "{people} {do} {at}, while {people} {do}. {A}, who is {A.age}, <often> {does}.",
        "on the left there is {thing}; on the right there are {things}. between them stands {X}.",
        "visitors <often> ask why {X} is so {X.look}. {A} {does} and smiles.",
        "{things} cost more than {things}, but nothing is as [dear|rare|useful|old] as {thing} from {town2}.",
        "those who {do} must not {do}. this rule is older than {town} itself, says {A}.",
        "in {month}, when the days are [short|long], {stuff} is kept {at}, and {things} are kept {Q.at}.",
        "{B} {does}; {C} {does}; together they {do}. neither of them {does}.",
    ],
    "is_known": [
        "is known for its {things}", "has not changed since {year}", "lies {miles} miles from {town2}",
        "is full of {things} and {stuff}", "was built in {year} by {people}", "smells of {stuff} and {stuff}",
    ],
    "there_is": [
        "there are {sum} {X.many} in it, of which {n} are {X.look}.", "it has {n} doors, {m} windows and {thing}.",
        "anyone who loves {stuff} will like it.", "{things}, {things} and {things} can be seen there.",
    ],
    "trade": [
        "{A} sold {n} {X.many} at {price} crowns each and received {total} crowns.",
        ("list for {day}:\n- {n#} {X.many}, {X.look}\n- {m#} {Y.many}, {Y.look}\n- {M}\n- {things}\n{sum#} pieces "
        "without the {M.bare}."),
        "one of the {X.many} costs {price#} crowns; {n#} of them cost {total#} crowns.",
        "{B} counted {n} {X.many} and {m} {Y.many}, that is {sum} pieces in all, and {did}.",
        "the price of {stuff} rose in {month}, while {things} became cheaper. {people} [complained|rejoiced].",
        "whoever {does} on {day} pays {price} crowns, but {people} pay nothing.",
    ],
    "inventory": [
        "{at}: {things}, {thing}, {stuff}, {things} and {thing}.", "{thing}, {n} {X.many}, {things}, {stuff}, {thing}.",
        "{person} wanted {thing}; {person} wanted {things}; {person} only wanted {stuff}.",
        "{people}: {thing} and {stuff}. {people}: {things}, {things} and {thing}.", "to {do}; to {do}; never to {do}.",
        "{stuff} is not {stuff}, and {thing} is not {thing}.", "what is older than {thing} and younger than {thing}? {X}.",
        "missing since {month}: {thing}, {thing}, {things}; found {at}: {things} and {thing}.",
    ],
    "step": [
        "first, {do}.", "then {do X} <how>.", "after that, {do M} and {do}.", "do not {do} before you {do}.",
        "when {X} is {X.look}, {do}.", "wait for {n} hours, then {do Y}.", "take {m} {Y.many} and {do}.",
        "if there is no {M.bare}, use {N}.", "[ask|find|call] {person} if you cannot {do}.", "finally, {do} and {do X}.",
        "never {do} while {person} {does}.", "add {stuff} and {stuff}, and {do M} <how>.",
    ],
    "letter": [
        "I am writing from {town}, where last week <sky>. <when> I {did}, and {B} {did}.",
        "my {X.bare} is still {P.at}. please {do X}!",
        "{B} [says|thinks|hopes|is afraid] that {C} {does}. I do not believe it, <because_i>.",
        "do you still {do}? I have {done} only once since {month}.",
        "{C} has become {C.ajob}. can you imagine {C.him} {doing}?",
        "on {next} I shall {do} and {do}; on {third} I shall come {P.to}.",
        "we have {n} {X.many} now, and {m} {Y.many}.",
        "your <family> was here on {day}. we {did} and talked about {town2} until {hour} o'clock.",
    ],
    "because_i": ["because I know {C.him}", "but I am <felt>", "for {C.he} <often> {does}",
        "since nobody has seen it"],
    "diary": [
        "{day}. <sky>. {did} with {B}, then {did}. felt <felt>.",
        "{next}. [woke|left|began] at {hour}. {B} {did X}; I {did}.",
        "{third}. walked {miles} miles {P.to}. saw {things} and {thing}.", "{did} again. {C} <ly> {did}.",
        "bought {n} {X.many} for {total} crowns. {B.he} says {B.he} would have paid less.",
        "no {M.bare} {at}. {did N} instead.",
    ],
    "riddle": [
        "question: who lived in {town}? answer: {A}, {A.job}.", "question: how old was {A}? answer: {A.age}.",
        "question: how many {X.many} were there? answer: {n}.", "question: where was {X}? answer: {P.at}.",
        "question: who was {B}? answer: {B.full}.", "question: when did {A} {do X}? answer: on {day}.",
        "question: what does one of the {X.many} cost? answer: {price} crowns.",
    ],
    "title": [
        "{A} and {X}", "[the|our] {P.bare} of {town}", "{X} from {town2}", "how {A} {did X}", "{things} and {things}",
        "a {day} in {month}", "what {people} <often> say", "{A.job} of {town}", "news from {town}",
    ],
}  # fmt: skip

KINDS: dict[str, Kind] = {
    "story": (
        "<opening> <weather>",
        [("problem", 1), ("action", 5), ("inventory", 1), ("meet", 1), ("talk", 1), ("solution", 1)],
        "<ending>",
    ),
    "description": (
        "<describe> <describe>",
        [("describe", 4), ("trade", 2), ("weather", 1), ("describe", 3)],
        "<ending>",
    ),
    "letter": ("dear {A},", [("letter", 4), ("action", 2), ("letter", 3)], "[yours|with love|your friend], {B}"),
    "market": (
        "<opening>",
        [("trade", 2), ("talk", 1), ("trade", 3), ("inventory", 2)],
        "<riddle>\n<riddle>\n<riddle>",
    ),
    "instruction": ("how to {do X}. <describe>", [("step", 6), ("step", 4), ("describe", 2)], "<ending>"),
    "diary": ("diary of {A}, {A.job}, {month} {year}.", [("diary", 1), ("diary", 1), ("action", 2)], "<ending>"),
    "inventory": ("what one can find {P.at}.", [("inventory", 3), ("inventory", 2), ("action", 2)], "<ending>"),
    "questions": (
        "<opening> <meet>",
        [("action", 4), ("trade", 2), ("problem", 1)],
        "<riddle>\n<riddle>\n<riddle>\n<riddle>",
    ),
}


def document(seed: int, least: int = 1500) -> str:
    """Return the document of a seed: paragraphs of one kind, `least` characters or somewhat more."""
    rng = random.Random(f"en {seed}")
    text = compose(KINDS[pick(rng, list(KINDS))], RULES, rng, grammar_en.Scene(rng).fill, least)
    return capitalise(text)


if __name__ == "__main__":
    print(document(0))
