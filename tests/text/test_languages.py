"""Languages as people write them, the corpora that hold them, and the command that lists both."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.text.corpora import BUILTIN, find_languages, hub_text_note, resolve_texts, source_of
from langprune_cli.text.hub import HALVES, parse_hub_source
from langprune_cli.text.languages import iso_and_script, known_as, language_name, read_language, reading_note
from langprune_cli.text.presets import CORPORA, DEFAULT_ORDER, LISTED, Corpus
from langprune_cli.types import TextSpec
from tests.support.command import DRAW, did, langprune
from tests.support.command import one_sentence as ends_in_one_sentence
from tests.support.text.text_reading import one_sentence

# --- tags and names

# What is typed -> the tag, and where the text of it comes from.
TYPED = {
    "uk": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "ukr": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "UK": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "uk-Cyrl": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "uk_UA": ("uk-UA", "mshamrai/lang-pruning-uk-uber-text-2"),
    "Ukrainian": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "українська": ("uk", "mshamrai/lang-pruning-uk-uber-text-2"),
    "en": ("en", "allenai/c4:en"),
    "English": ("en", "allenai/c4:en"),
    "pt-BR": ("pt-BR", "allenai/c4:pt"),
    "pt_br": ("pt-BR", "allenai/c4:pt"),
    "Brazilian Portuguese": ("pt-BR", "allenai/c4:pt"),
    "Deutsch": ("de", "allenai/c4:de"),
    "日本語": ("ja", "allenai/c4:ja"),
    "zh-Hant": ("zh-Hant", "allenai/c4:zh"),
    "zh_TW": ("zh-TW", "allenai/c4:zh"),
    "Chinese (Traditional)": ("zh-Hant", "allenai/c4:zh"),
    "cmn": ("cmn", "allenai/c4:zh"),
    "iw": ("he", "allenai/c4:iw"),
    "עברית": ("he", "allenai/c4:iw"),
    "tl": ("fil", "allenai/c4:fil"),
    "nb": ("nb", "allenai/c4:no"),
    "nn": ("nn", "wikimedia/wikipedia:20231101.nn"),
    "sr": ("sr", "allenai/c4:sr"),
    "sr-Cyrl-RS": ("sr-Cyrl-RS", "allenai/c4:sr"),
    "Serbian (Latin)": ("sr-Latn", "HuggingFaceFW/fineweb-2:srp_Latn"),
    "sr-ME": ("sr-ME", "HuggingFaceFW/fineweb-2:srp_Latn"),  # CLDR: Latin script is usual in Montenegro
    "ru-Latn": ("ru-Latn", "allenai/c4:ru-Latn"),
    "ekk": ("ekk", "allenai/c4:et"),
    "arb": ("arb", "allenai/c4:ar"),
    "kmr": ("kmr", "allenai/c4:ku"),
    "ckb": ("ckb", "wikimedia/wikipedia:20231101.ckb"),
    "gsw": ("gsw", "wikimedia/wikipedia:20231101.als"),
    "yue": ("yue", "wikimedia/wikipedia:20231101.zh-yue"),
    "Klingon": ("tlh", "HuggingFaceFW/fineweb-2:tlh_Latn"),
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_people_type_finds_its_corpus(typed: str) -> None:
    tag, dataset = TYPED[typed]
    (calibration,) = resolve_texts([typed], [], evaluation=False, builtin=False)
    (evaluation,) = resolve_texts([typed], [], evaluation=True, builtin=False)
    assert (calibration.language, calibration.name) == (tag, tag)
    assert [spec.source.startswith(f"hf:{dataset}:") for spec in (calibration, evaluation)] == [True, True]


@pytest.mark.parametrize(
    ("typed", "tag", "name"),
    [("ua", "uk", "Ukrainian"), ("cz", "cs", "Czech"), ("JP", "ja", "Japanese"), ("ukrainan", "uk", "Ukrainian"),
     ("kr", "kr", None), ("uk", "uk", None), ("UKR", "uk", None), ("pt_br", "pt-BR", None), ("українська", "uk", None),
     ("Chinese (Traditional)", "zh-Hant", None)],
)  # fmt: skip
def test_what_is_not_spelled_as_its_language_is_echoed(typed: str, tag: str, name: str | None) -> None:
    assert read_language(typed) == tag
    assert reading_note(typed, tag) == (name and f"--lang {typed} is read as {name} ({tag}).")


def test_the_command_line_echoes_it(pico_text: Path, pico_model: Path) -> None:
    done = did("calibrate", "--lang", "ua", "--data", pico_text / "uk.jsonl", "--model", pico_model, *DRAW)
    assert "--lang ua is read as Ukrainian (uk)." in done.err
    assert "is read as" not in did("calibrate", "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW).err


@pytest.mark.parametrize(
    ("typed", "near"),
    [("Ukranain", "uk (Ukrainian)"), ("Portugues", "pt (Portuguese)"), ("deutsh", "de (German)"), ("uk-", "uk"),
     ("uk\n", "uk"), ("", ""), ("u", ""), ("xx", ""), ("12", ""), ("en-toolongsubtag", ""), ("-uk", ""),
     ("und", ""), ("und-Latn", ""), ("en-1", "")],
)  # fmt: skip
def test_what_is_no_language(typed: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_language(typed)
    message = one_sentence(caught.value)
    assert repr(typed) in message
    assert near in message


@pytest.mark.parametrize("tag", sorted(LISTED))
def test_listed_tags_are_in_their_standard_form(tag: str) -> None:
    assert read_language(tag) == tag
    assert known_as(tag)[0] == tag
    assert language_name(tag) != tag


def test_scripts_and_regions_leave_only_where_they_say_nothing() -> None:
    assert "pt" in known_as("pt-BR")
    assert "sr" in known_as("sr-Cyrl")
    assert "sr" not in known_as("sr-Latn")
    assert "uz" not in known_as("uz-Cyrl")
    assert "pa" not in known_as("pa-PK")  # Punjabi of Pakistan has Arabic script
    assert "zh" in known_as("zh-Hant")
    assert "zh" not in known_as("yue")


# --- the table

# FineWeb-2's own names of the languages of which it has most documents (arXiv 2509.14233, table G.6), and of others that
# its filter settings name.
FINEWEB_2 = (
    "rus_Cyrl cmn_Hani deu_Latn spa_Latn jpn_Jpan fra_Latn ita_Latn por_Latn pol_Latn nld_Latn ind_Latn tur_Latn ces_Latn"
    " kor_Hang arb_Arab ron_Latn fas_Arab ukr_Cyrl hun_Latn swe_Latn ell_Grek dan_Latn vie_Latn tha_Thai nob_Latn fin_Latn"
    " slk_Latn bul_Cyrl hrv_Latn hin_Deva bos_Latn cat_Latn ben_Beng heb_Hebr lit_Latn slv_Latn ekk_Latn zsm_Latn als_Latn"
    " lvs_Latn"
)
FURTHER = {
    "sr": "srp_Cyrl", "sr-Latn": "srp_Latn", "az": "azj_Latn", "mn": "khk_Cyrl", "uz": "uzn_Latn", "mg": "plt_Latn",
    "yi": "ydd_Hebr", "om": "gaz_Latn", "ku": "kmr_Latn", "ne": "npi_Deva", "sw": "swh_Latn", "ps": "pbt_Arab",
    "or": "ory_Orya", "yue": "yue_Hani", "nn": "nno_Latn", "am": "amh_Ethi", "af": "afr_Latn",
}  # fmt: skip


def config(corpus: str, tag: str) -> str | None:
    source = source_of(CORPORA[corpus], tag, evaluation=True)
    assert source is not None
    return parse_hub_source(source).config


def test_configs_of_fineweb_2() -> None:
    assert {config("fineweb-2", tag) for tag in CORPORA["fineweb-2"].languages} == set(FINEWEB_2.split())
    assert {tag: config("fineweb-2", tag) for tag in FURTHER} == FURTHER
    assert config("flores", "zh-Hant") == "cmn_Hant"
    assert config("flores", "uk-UA") == "ukr_Cyrl"
    assert iso_and_script("ko") == ("kor", "Kore")


def test_the_table_holds_what_the_cards_say() -> None:
    assert len(CORPORA["c4"].languages) == 107  # mC4's 108 without `und`
    assert {"he", "uk", "zh-Latn", "zu"} <= CORPORA["c4"].languages.keys()
    assert "hr" not in CORPORA["c4"].languages
    assert {"hr", "ckb", "gsw", "zh"} <= CORPORA["wikipedia"].languages.keys()
    # Wikis that have another name than their language's tag: meta.wikimedia.org/wiki/Special_language_codes.
    named = {tag: name for tag, name in CORPORA["wikipedia"].languages.items() if name != f"20231101.{tag}"}
    assert {named["yue"], named["nan"], named["fil"]} == {"20231101.zh-yue", "20231101.zh-min-nan", "20231101.tl"}
    assert len(named) == 9


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_no_corpus_is_evaluated_on_its_calibration_text(corpus: Corpus) -> None:
    assert corpus.calibration != corpus.evaluation
    halves = [split for split in (corpus.calibration, corpus.evaluation) if split and "/" in split]
    assert [split.partition("/")[2] for split in halves] in ([], list(HALVES))
    for tag in corpus.languages or ("uk",):
        for evaluation in (False, True):
            source = source_of(corpus, tag, evaluation=evaluation)
            split = corpus.evaluation if evaluation else corpus.calibration
            assert (source is None) == (split is None)
            if source:
                parsed = parse_hub_source(source)
                assert (parsed.dataset, parsed.column) == (corpus.dataset, corpus.column)
                assert "/".join(filter(None, (parsed.split, parsed.half))) == split


@pytest.mark.parametrize("name", DEFAULT_ORDER)
def test_defaults_serve_for_both(name: str) -> None:
    assert CORPORA[name].calibration
    assert CORPORA[name].evaluation


# --- --corpus


@pytest.mark.parametrize(
    ("corpus", "language", "evaluation", "source"),
    [
        ("c4", "ukr", False, "allenai/c4:uk:train"),
        ("c4", "ukr", True, "allenai/c4:uk:validation"),
        ("fineweb-2", "uk", False, "HuggingFaceFW/fineweb-2:ukr_Cyrl:train"),
        ("fineweb-2", "uk", True, "HuggingFaceFW/fineweb-2:ukr_Cyrl:test"),
        ("wikipedia", "uk", False, "wikimedia/wikipedia:20231101.uk:train/calibration"),
        ("wikipedia", "uk", True, "wikimedia/wikipedia:20231101.uk:train/evaluation"),
        ("wikitext", "en-US", True, "Salesforce/wikitext:wikitext-2-raw-v1:test"),
        ("pile", "en", False, "mit-han-lab/pile-val-backup:validation"),
        ("flores", "uk", True, "openlanguagedata/flores_plus:ukr_Cyrl:devtest"),
    ],
)
def test_another_corpus(corpus: str, language: str, *, evaluation: bool, source: str) -> None:
    # The demo model's built-in text gives way to a corpus that is named.
    (spec,) = resolve_texts([language], [], evaluation=evaluation, builtin=True, corpus=corpus)
    assert spec.source == f"hf:{source}#text"


@pytest.mark.parametrize(
    ("corpus", "language", "evaluation", "says"),
    [
        (
            "pile",
            "en",
            True,
            "is for calibration only: choose another --corpus (for en: c4, wikipedia, wikitext, flores)",
        ),
        ("flores", "uk", False, "is for evaluation only: choose another --corpus (for uk: ubertext, c4"),
        ("wikitext", "uk", False, "has no text in Ukrainian (uk)"),
        ("fineweb-2", "en", True, "has no text in English (en)"),
        ("c4", "sr-Latn", True, "has no text in Serbian (Latin) (sr-Latn)"),
        ("fineweb2", "uk", False, "did you mean fineweb-2?"),
    ],
)
def test_a_corpus_that_has_no_such_text(corpus: str, language: str, *, evaluation: bool, says: str) -> None:
    with pytest.raises(LangpruneError) as caught:
        resolve_texts([language], [], evaluation=evaluation, builtin=False, corpus=corpus)
    assert says in one_sentence(caught.value)


@pytest.mark.parametrize(("languages", "data"), [([], []), ([], ["a.txt"]), (["uk"], ["a.txt"])])
def test_a_corpus_beside_data_or_without_a_language(languages: list[str], data: list[str]) -> None:
    with pytest.raises(UsageError, match="give --lang, and no --data"):
        resolve_texts(languages, data, evaluation=False, builtin=False, corpus="c4")


def test_builtin_text_of_languages() -> None:
    specs = resolve_texts(["English", "ukr"], [], evaluation=True, builtin=True)
    assert specs == [TextSpec("en", "builtin:en", "en"), TextSpec("uk", "builtin:uk", "uk")]
    assert tuple(spec.language for spec in specs) == BUILTIN
    with pytest.raises(LangpruneError, match=r"no built-in demo text for the language 'de'.*--lang de --data FILE"):
        resolve_texts(["deu"], [], evaluation=False, builtin=True)


def test_a_user_is_told_where_the_text_comes_from() -> None:
    def note(tag: str, corpus: str | None = None) -> str:
        (spec,) = resolve_texts([tag], [], evaluation=False, builtin=False, corpus=corpus)
        return str(hub_text_note(spec))

    assert note("uk") == (
        "Text for uk (Ukrainian): hf:mshamrai/lang-pruning-uk-uber-text-2:train#text (a sample of UberText 2.0, as "
        "language-specific pruning has it; licence MIT)."
    )
    apart = "does not keep {} apart"
    assert apart.format("pt-BR") in note("pt-BR")
    assert apart.format("zh-Hant") in note("zh-Hant")
    assert apart.format("zh-Hant") in note("zh-Hant", "fineweb-2")
    assert apart.format("sr-ME") in note("sr-ME")
    assert "apart" not in note("sr-Latn")
    assert "apart" not in note("ru-Latn")
    assert hub_text_note(TextSpec("uk", "hf:owner/texts:train", "uk")) is None


# --- langprune languages


def listed(*words: str) -> list[dict[str, object]]:
    return did("languages", *words, "--json").json["languages"]


def test_languages_lists_them_all() -> None:
    rows = listed()
    assert [row["tag"] for row in rows] == sorted(LISTED)
    for row in rows:
        for evaluation, name in ((False, "calibration"), (True, "evaluation")):
            (spec,) = resolve_texts([str(row["tag"])], [], evaluation=evaluation, builtin=False)
            assert spec.source == row[name]
    table = did("languages").out.splitlines()
    assert len(table) == len(rows) + 1
    assert re.match(r"uk +Ukrainian \(українська\) +ubertext train +ubertext test +MIT +c4, wikipedia, fineweb-2", table[
        1 + sorted(LISTED).index("uk")])  # fmt: skip


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("uk", ["uk"]),
        ("ukr", ["uk"]),
        ("українська", ["uk"]),
        ("pt-BR", ["pt"]),
        ("cmn", ["zh"]),
        ("sorbian", ["dsb", "hsb"]),
        ("norsk", ["nb", "nn", "no"]),
        ("中", ["zh"]),
    ],
)
def test_languages_by_tag_or_name(query: str, tags: list[str]) -> None:
    assert set(tags) <= {row["tag"] for row in listed(query)}
    if len(tags) == 1 and query != "中":
        assert [row["tag"] for row in listed(query)] == tags


def test_languages_that_are_not_listed() -> None:
    ends_in_one_sentence(langprune("languages", "Ukriane"), 1, r"did you mean uk \(Ukrainian\)")
    ends_in_one_sentence(langprune("languages", "tlh"), 1, r"hold text in Klingon \(tlh\): --lang tlh asks fineweb-2")
    with pytest.raises(LangpruneError):
        find_languages("qqq")


def test_help_waits_for_no_tables_of_languages() -> None:
    code = (
        "import sys\nfrom langprune_cli.__main__ import main\nmain(['--help'])\n"
        "print([name for name in sys.modules if name in {'langcodes', 'language_data', 'marisa_trie', 'torch'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "languages" in done.stdout


def test_every_corpus_can_be_named_by_what_the_help_says() -> None:
    helped = " ".join(did("calibrate", "--help").out.split())
    assert [name for name in CORPORA if name not in helped] == []
