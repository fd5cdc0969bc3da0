"""The built-in demo: its grammars agree, its text is reproducible and held out, and what is shipped opens."""

import gzip
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoConfig, AutoTokenizer

from tests.support.paths import REPOSITORY

SHIPPED = REPOSITORY / "langprune_cli" / "demo_data"
WINDOW = 256
CYRILLIC = "[а-яіїєґ]"
LATIN = "[a-z]"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """Import the modules of scripts/demo, which import one another as scripts do: by their folder on the path."""
    folder = str(REPOSITORY / "scripts" / "demo")
    sys.path.insert(0, folder)
    names = ["make_text", "grammar_en", "grammar_uk", "scene_uk", "stories_en", "stories_uk", "words_en", "words_uk"]
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(folder)
    for name in [*names, "template"]:
        sys.modules.pop(name, None)


def shipped(language: str, split: str) -> list[str]:
    with gzip.open(SHIPPED / f"{language}.{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.mark.parametrize("language", ["uk", "en"])
def test_a_seed_gives_the_same_document_each_time(scripts: dict[str, ModuleType], language: str) -> None:
    document = scripts[f"stories_{language}"].document
    assert document(7) == document(7)
    assert len({document(seed) for seed in range(50)}) == 50


@pytest.mark.parametrize(("language", "own", "foreign"), [("uk", CYRILLIC, LATIN), ("en", LATIN, CYRILLIC)])
def test_each_language_has_its_own_script(
    scripts: dict[str, ModuleType], language: str, own: str, foreign: str
) -> None:
    for seed in range(200):
        text = scripts[f"stories_{language}"].document(seed).lower()
        assert not re.search(foreign, text)
        assert len(re.findall(own, text)) > 1000
        # No hole, choice or rule of a template is left, and no space is doubled.
        assert not re.search(r"[\[\]{}<>|@~]|  ", text)


@pytest.mark.parametrize(
    ("entry", "singular", "plural"),
    [
        ("книга", "книга книги книзі книгу книгою книзі", "книги книг книгам книги книгами книгах"),
        ("сторінка", "сторінка сторінки сторінці сторінку сторінкою сторінці",
         "сторінки сторінок сторінкам сторінки сторінками сторінках"),
        ("каструля", "каструля каструлі каструлі каструлю каструлею каструлі",
         "каструлі каструль каструлям каструлі каструлями каструлях"),
        ("груша", "груша груші груші грушу грушею груші", "груші груш грушам груші грушами грушах"),
        ("*ніч/ночі/ночей/ніччю", "ніч ночі ночі ніч ніччю ночі", "ночі ночей ночам ночі ночами ночах"),
        ("стіл/стола", "стіл стола столу стіл столом столі", "столи столів столам столи столами столах"),
        ("олівець/олівця", "олівець олівця олівцю олівець олівцем олівці",
         "олівці олівців олівцям олівці олівцями олівцях"),
        ("чай/чаю", "чай чаю чаю чай чаєм чаї", "чаї чаїв чаям чаї чаями чаях"),
        ("вікно//вікон", "вікно вікна вікну вікно вікном вікні", "вікна вікон вікнам вікна вікнами вікнах"),
        ("завдання", "завдання завдання завданню завдання завданням завданні",
         "завдання завдань завданням завдання завданнями завданнях"),
    ],
)  # fmt: skip
def test_ukrainian_nouns_decline(scripts: dict[str, ModuleType], entry: str, singular: str, plural: str) -> None:
    noun = scripts["grammar_uk"].noun(entry)
    assert [noun.singular[case] for case in "ngdail"] == singular.split()
    assert [noun.plural[case] for case in "ngdail"] == plural.split()


def test_ukrainian_agreement(scripts: dict[str, ModuleType]) -> None:
    uk = scripts["grammar_uk"]
    teacher, spoon = uk.noun("учитель/учителя", animate=True), uk.noun("ложка")
    assert (teacher.singular["a"], teacher.plural["a"]) == ("учителя", "учителів")
    assert uk.adjective("новий", "m", "a", animate=True) == "нового"
    assert uk.adjective("новий", "m", "a") == "новий"
    assert [uk.adjective("синій", gender, "i") for gender in "mfnp"] == ["синім", "синьою", "синім", "синіми"]
    assert [uk.counted(n, spoon) for n in (1, 2, 5, 12)] == [
        "одна ложка",
        "дві ложки",
        "п'ять ложок",
        "дванадцять ложок",
    ]
    assert uk.counted(23, spoon, digits=True) == "23 ложки"
    assert [uk.past("пішов/пішла", gender) for gender in "mfnp"] == ["пішов", "пішла", "пішло", "пішли"]
    assert [uk.conjugate("купити")[form] for form in ("I", "you", "he", "they")] == [
        "куплю",
        "купиш",
        "купить",
        "куплять",
    ]
    assert [uk.conjugate("малювати")[form] for form in ("I", "he", "f")] == ["малюю", "малює", "малювала"]


def test_ukrainian_euphony(scripts: dict[str, ModuleType]) -> None:
    euphony = scripts["grammar_uk"].euphony
    assert euphony("вона @у саду @і він @у саду") == "вона в саду й він у саду"
    assert euphony("@у Одесі, @з сестрою") == "в Одесі, із сестрою"
    assert euphony("разом @з зорею, кіт @і пес") == "разом із зорею, кіт і пес"


def test_english_inflection(scripts: dict[str, ModuleType]) -> None:
    en = scripts["grammar_en"]
    assert [en.article(word) for word in ("apple", "useful knife", "honest man", "pear")] == [
        "an apple", "a useful knife", "an honest man", "a pear",
    ]  # fmt: skip
    assert [en.plural(word) for word in ("knife", "fox", "berry", "toy")] == ["knives", "foxes", "berries", "toys"]
    assert [en.past(word) for word in ("carry", "trim", "dig up", "bind")] == ["carried", "trimmed", "dug up", "bound"]
    assert [en.gerund(word) for word in ("tie", "move", "trim", "lose")] == ["tying", "moving", "trimming", "losing"]
    assert [en.third(word) for word in ("wash", "carry", "leave behind")] == ["washes", "carries", "leaves behind"]


@pytest.mark.parametrize("language", ["uk", "en"])
def test_shipped_text_is_what_the_script_makes_and_is_held_out(
    scripts: dict[str, ModuleType], language: str, tmp_path: Path
) -> None:
    make_text = scripts["make_text"]
    for split in ("calib", "test"):
        made = tmp_path / f"{language}.{split}.jsonl.gz"
        make_text.write_lines(made, make_text.documents(language, split))
        assert shipped(language, split) == make_text.documents(language, split)
        # The header names no file and no time. How well zlib compresses may differ from one version to the next.
        assert made.read_bytes()[3:8] == (SHIPPED / made.name).read_bytes()[3:8] == bytes(5)
    calib, test = shipped(language, "calib"), shipped(language, "test")
    assert not set(test) & set(calib)
    with pytest.raises(ValueError, match="not held out"):
        make_text.refuse_shared(test, calib, test[:1])


@pytest.mark.parametrize("language", ["uk", "en"])
def test_there_is_enough_text(language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "model")
    lengths = [len(ids) for ids in tokenizer(shipped(language, "calib"), truncation=False, verbose=False)["input_ids"]]
    assert sum(length > WINDOW for length in lengths) >= 200
    joined = tokenizer("\n\n".join(shipped(language, "test")), truncation=False, verbose=False)["input_ids"]
    assert len(joined) // WINDOW >= 120


def test_shipped_model_opens_and_is_small() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "model")
    config = AutoConfig.from_pretrained(SHIPPED / "model")
    assert (tokenizer.model_max_length, config.max_position_embeddings) == (WINDOW, WINDOW)
    assert len(tokenizer) == config.vocab_size
    text = "Дві ложки, two spoons.\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    index = json.loads((SHIPPED / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 5_000_000
