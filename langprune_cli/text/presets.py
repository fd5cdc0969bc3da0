"""The table of known corpora: their names on the Hugging Face Hub and their languages.

Facts from the datasets' cards in 2025: names, configs, splits, columns and licences. Languages in configs that are not listed
are looked up on the Hub when they are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """A public dataset, or the languages of one, with a text to calibrate on and another to evaluate on.

    The two never share a document: they are splits of the dataset, or, where it has one split only, its two halves
    (`train/calibration` and `train/evaluation`, told apart by a hash of each document; see `hub.HALVES`).
    """

    name: str  # as --corpus has it
    dataset: str  # owner/name on the Hugging Face Hub
    languages: Mapping[str, str | None]  # BCP-47 tag -> config; None where `scripts` says it, or there are no configs
    calibration: str | None  # split, or a half of one; None: not for that
    evaluation: str | None
    licence: str  # SPDX where it has a code there, else as the card says
    about: str  # what a user is told of it
    column: str = "text"
    # Not None: configs are called `ukr_Cyrl`, with these names for some scripts, and there may be more than are listed.
    scripts: Mapping[str, str] | None = None
    without: frozenset[str] = frozenset()  # languages that it is known not to hold


# The table of huggingface.co/datasets/legacy-datasets/mc4, whose files `allenai/c4` holds; `und` is left out.
_MC4 = (
    "af am ar az be bg bg-Latn bn ca ceb co cs cy da de el el-Latn en eo es et eu fa fi fil fr fy ga gd gl gu ha haw hi"
    " hi-Latn hmn ht hu hy id ig is it ja ja-Latn jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt my ne"
    " nl no ny pa pl ps pt ro ru ru-Latn sd si sk sl sm sn so sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo zh"
    " zh-Latn zu"
)

# The languages on the card of huggingface.co/datasets/wikimedia/wikipedia, without groups of languages (bh, map), and
# without Serbo-Croatian, which BCP 47 takes for Serbian.
_WIKIPEDIA = (
    "ab ace ady af alt am ami an ang anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar bbc bcl be bg bi bjn"
    " blk bm bn bo bpy br bs bug bxr ca cdo ce ceb ch chr chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb"
    " dty dv dz ee el en eo es et eu ext fa fat ff fi fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor"
    " got gpe gu guc gur guw gv ha hak haw he hi hif hr hsb ht hu hy hyw ia id ie ig ik ilo inh io is it iu ja jam jbo"
    " jv ka kaa kab kbd kbp kcg kg ki kk kl km kn ko koi krc ks ksh ku kv kw ky la lad lb lbe lez lfn lg li lij lld lmo"
    " ln lo lt ltg lv mad mai mdf mg mhr mi min mk ml mn mni mnw mr mrj ms mt mwl my myv mzn nah nap nds ne new nia nl"
    " nn no nov nqo nso nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih pl pms pnb pnt ps pt pwn qu rm rmy"
    " rn ro ru rue rw sa sah sat sc scn sco sd se sg shi shn si sk skr sl sm smn sn so sq sr srn ss st stq su sv sw szl"
    " szy ta tay tcy te tet tg th ti tk tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo wa"
    " war wo wuu xal xh xmf yi yo za zea zgh zh zu"
)
# Where a Wikipedia's name is not the tag of its language: meta.wikimedia.org/wiki/Special_language_codes.
_WIKIPEDIA_NAMES = {
    "fil": "tl", "gsw": "als", "lzh": "zh-classical", "nan": "zh-min-nan", "nrf": "nrm", "rup": "roa-rup",
    "sgs": "bat-smg", "vro": "fiu-vro", "yue": "zh-yue",
}  # fmt: skip

# The 40 languages of which FineWeb-2 has most documents: arXiv 2509.14233 (Apertus), table G.6.
_FINEWEB_2 = (
    "ar bg bn bs ca cs da de el es et fa fi fr he hi hr hu id it ja ko lt lv ms nb nl pl pt ro ru sk sl sq sv th tr uk"
    " vi zh"
)


CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="ubertext",
            dataset="mshamrai/lang-pruning-uk-uber-text-2",
            languages={"uk": None},
            calibration="train",
            evaluation="test",
            licence="MIT",
            about="a sample of UberText 2.0, as language-specific pruning has it",
        ),
        Corpus(
            name="c4",
            dataset="allenai/c4",
            # The config of Hebrew has the code that was withdrawn in 1989.
            languages={tag: tag for tag in _MC4.split()} | {"he": "iw"},
            calibration="train",
            evaluation="validation",
            licence="ODC-By-1.0",
            about="web pages; C4 in English, mC4 in other languages",
        ),
        Corpus(
            name="wikipedia",
            dataset="wikimedia/wikipedia",
            languages={
                tag: f"20231101.{_WIKIPEDIA_NAMES.get(tag, tag)}" for tag in [*_WIKIPEDIA.split(), *_WIKIPEDIA_NAMES]
            },
            calibration="train/calibration",
            evaluation="train/evaluation",
            licence="CC-BY-SA-3.0 or GFDL",
            about="articles of November 2023",
        ),
        Corpus(
            name="fineweb-2",
            dataset="HuggingFaceFW/fineweb-2",
            languages=dict.fromkeys(_FINEWEB_2.split()),
            calibration="train",
            evaluation="test",
            licence="ODC-By-1.0",
            about="web pages, filtered language by language; no English",
            scripts={"Hans": "Hani", "Hant": "Hani", "Kore": "Hang"},
            without=frozenset({"en"}),
        ),
        Corpus(
            name="wikitext",
            dataset="Salesforce/wikitext",
            languages={"en": "wikitext-2-raw-v1"},
            calibration="train",
            evaluation="test",
            licence="CC-BY-SA-3.0 or GFDL",
            about="WikiText-2, line by line: to calibrate on with --sampling concat",
        ),
        Corpus(
            name="pile",
            dataset="mit-han-lab/pile-val-backup",
            languages={"en": None},
            calibration="validation",
            evaluation=None,
            licence="that of the Pile's parts",
            about="the Pile's validation set, on which AMD Quark calibrates",
        ),
        Corpus(
            name="flores",
            dataset="openlanguagedata/flores_plus",
            languages={},
            calibration=None,
            evaluation="devtest",
            licence="CC-BY-SA-4.0",
            about="FLORES+: the same 1012 sentences in each language; its terms are to be accepted on the Hub",
            scripts={"Kore": "Hang"},
        ),
    )
}

# Where none is named, the first that lists the language, else the last: it has many more than are listed.
DEFAULT_ORDER = ("ubertext", "c4", "wikipedia", "fineweb-2")

LISTED = frozenset().union(*(corpus.languages for corpus in CORPORA.values()))
