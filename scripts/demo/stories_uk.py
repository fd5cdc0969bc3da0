# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""The Ukrainian templates, and the kinds of documents.

Holes: `{A.d}` a person or thing in a case (n g d a i l v), `{A.job.i}` `{A.full.i}` the occupation without and with
its adjective, `{A.he}` `{A.his}` ... pronouns, `{A~каза}` `{A~пішов/пішла}` a past tense and `{A!радий}` an adjective
that agree, `{X.p.g}` the plural, `{n X}` a numeral with its noun, `{P.at}` `{P.to}` `{P.from}` a place with its
preposition; `{did A X}` `{did inf}` `{notdid A}` `{habit he}` verbs with an object; `{thing.a}` `{people.n}`
`{stuff.g}` `{place.at}` fresh phrases.
"""

import random

import scene_uk
from grammar_uk import euphony
from template import Kind, capitalise, compose, pick

RULES: dict[str, list[str]] = {
    "when": [
        "вранці", "опівдні", "пізно ввечері", "після обіду", "до світанку", "наступного дня", "того ж тижня",
        "незадовго до півночі", "на світанку", "трохи згодом", "минулого року", "@у сутінках", "@у {day.a}",
    ],
    "how": [
        "повільно", "обережно", "терпляче", "мовчки", "швидко", "власноруч", "абияк", "весело", "поспіхом",
        "зітхаючи",
        "таємно", "якнайкраще", "неохоче", "знову", "нарешті", "випадково", "одразу",
    ],
    "often": ["завжди", "зазвичай", "іноді", "рідко", "часто", "щодня", "зрідка", "здебільшого", "раз на рік"],
    "felt_a": [
        "{A!щасливий}", "{A!сумний}", "{A!стурбований}", "{A!здивований}", "{A!гордий}", "{A!спокійний}",
        "{A!вдячний}",
        "{A!голодний}", "{A!розчарований}", "{A!наляканий}", "{A!задоволений}", "{A!розгублений}",
    ],
    "felt_b": [
        "{B!щасливий}", "{B!сумний}", "{B!стурбований}", "{B!здивований}", "{B!ображений}", "{B!спокійний}",
        "{B!злий}",
        "{B!втомлений}", "{B!розчарований}", "{B!усміхнений}", "{B!задоволений}",
    ],
    "sky": [
        "йшов дощ", "світило сонце", "дув холодний вітер із [півночі|заходу|сходу|півдня]", "падав сніг",
        "густий туман укрив {town.a}", "удалині гримів грім", "небо було ясне", "град стукав по дахах",
        "пахло [дощем|димом|яблуками|літом]", "мороз малював квіти на шибках", "на небі не було жодної хмари",
        "від самого {month.g} стояла спека",
    ],
    "because": [
        "бо {A.he} вже {did A}", "оскільки не лишилося {stuff.g}", "хоча ніхто {A.him} про це не просив",
        "поки {B.n} {habit B}", "щойно {B.n} {B~пішов/пішла}", "перш ніж {did inf}",
        "щоб {B.n} {B~міг/могла} відпочити",
        "бо дорогу з {town2.g} закрили", "попри те що {A~бу} {A!хворий}", "доки не вдарили дзвони",
    ],
    "where": ["{place.at}", "{P.at}", "@у {town.l}", "біля [церкви|криниці|мосту|роздоріжжя]",
        "неподалік від {town2.g}"],
    "kin_i": ["братом", "сестрою", "матір'ю", "батьком", "дядьком", "тіткою", "дідом", "донькою", "сином"],
    "kin_n": ["твій брат", "твоя сестра", "твоя мати", "твій батько", "твій дядько", "твоя тітка", "твій дід"],
    "opening": [
        "{A.n}, {A.full.n}, {A~жи} @у {town.l}. {A.to_him} було {A.age}, і {A.he} {A~працюва} {P.at}.",
        "у {year} році, коли {A.d} було {A.age}, {A.he} {A~приїха} до {town.g} @і {A~ста} {A.job.i}.",
        ("жили собі {A.full.n} на ім'я {A.n} @і {B.full.n} на ім'я {B.n}. <day_part> {A.n} {A~ходи} {P.to} @і "
        "{habit A}."),
        "ніхто @у {town.l} не знав {people.g} краще, ніж {A.n}, хоча {A.to_him} було лише {A.age}.",
        "{A.n} <often> {A~мрія} стати {A.job.i}. тепер {A.he} {A~працюва} {P.at} разом @з {B.i}.",
        "одного дня, @у {month.l}, {A.n}, {A.full.n}, {A~йшов/йшла} {P.to}.",
    ],
    "day_part": ["щоранку", "щовечора", "щодня", "узимку", "навесні", "восени", "улітку", "щонеділі"],
    "weather": [
        "<sky>, @і {A.n} {did A}.", "того дня <sky>. {people.n} сиділи вдома, а {things.n} лежали під дощем.",
        "<when> <sky>, тож {A.n} @і {B.n} вирішили {did inf}.", "хоча <sky>, {A.n} {A~бу} <felt_a>.",
        "був {month.n}; <sky>. {person.n} <how> {habit he}, а {people.n} {habit they}.",
    ],
    "meet": [
        ("там {A.he} {A~зустрі} {B.a}, {B.full.a}. «[добрий день|вітаю|нарешті|яка несподіванка], {A.v}!» — "
        "{B~сказа} {B.n}."),
        "<when> {P.to} {B~прийшов/прийшла} {B.n}. {B.he} {B~бу} {B.job.i} @і {B~приніс/принесла} @з собою {X.a}.",
        "{P.at} на {A.a} {B~чека} {B.n}, {B.full.n} @з {town2.g}. {B.he} {B~хоті} {did inf X}, але не {B~зна} як.",
        "поруч @з {A.i} {B~жи} {B.n}. {B.he} <often> {habit B}, @і через це {A.n} {A~бу} <felt_a>.",
        "{A.n} {A~розмовля} @з {B.i} про {X.a} та про {people.a}.",
    ],
    "action": [
        "{A.n} {did A}, а потім {did A}.", "<when> {A.n} {did A}, <because>.", "{A.he} <how> {did A X}.",
        "{B.n} {did B}, а {A.n} лише {did A Y}.", "{A.d} треба було {did inf}, перш ніж {did inf}.",
        "{person.n}, про {A.a} нічого не знаючи, <how> {habit he}.", "{people.n} @і {people.n} <where> {habit they}.",
        "замість того щоб {did inf}, {B.n} <how> {did B}.",
        "{A.n} {A~попроси} {B.a} {did inf M}, @і {B.he} {did B N}.",
        "{A.n} <often> {habit A} <where>.", "ні {A.n}, ні {B.n} не хотіли {did inf}.", "{A.n} {notdid A}, бо <sky>.",
        "якби {A.he} {did A}, {B.n} {B~був би/була б} <felt_b>.", "{A.n} {A~да} {B.d} {X.a}, а {B.n} {A.d} — {Y.a}.",
        "скрізь були {things.n}: на підлозі {things.n}, на столі {things.n}, під вікном {n X}.",
        "{X.n} {X~бу} {X.look}, але {A.n} {A~пишався/пишалася} {X.i}.",
        "{A.n} {A~допоміг/допомогла} {person.d} @і {person.d}.",
        "без {X.g} {A.n} не {A~міг/могла} {did inf}, тому {did A Y}.",
        "{B.n} {B~дивувався/дивувалася}, як {A.n} {habit A}.",
    ],
    "problem": [
        ("але <when> {X.n} {X~зник/зникла}. {A.n} {A~шука} {X.him} <where>, {place.at} @і навіть під {thing.i}. "
        "«хто бачив {X.a}?» — "
        "{A~спита} {A.he}. {B.n} {B~бу} <felt_b> @і {B~мовча}."),
        ("раптом {X.n} {X~бу} {X!зламаний}. без {X.g} ніхто не міг {did inf Y}. {A.n} {A~бу} <felt_a>, а {B.n} — "
        "<felt_b>."),
        ("тоді з {town2.g} прийшов лист: «надішліть нам {n X} @і {m Y} до {next.g}». {A.n} {A~ма} тільки {m Y}, а "
        "{X.p.g} не "
        "було зовсім."),
        ("одне тривожило {A.a}: {C.n}, {C.full.n}, {C~каза}, що {X.n} належить {C.d}. «я {C~купи} {X.him} @у "
        "{year} році, — "
        "<often> {C~повторюва} {C.he}, — @і нікому не віддам»."),
        ("@у {next.a} {A.n} {A~поміти}, що немає {M.g}. без {M.g} не можна було {did inf}. до {town2.g} було "
        "{km:кілометр/кілометра}, а <sky>."),
    ],
    "talk": [
        ("— {A.v}, ти вже {did A}? — {B~спита} {B.n}.\n— ще ні, — {A~відпові} {A.n}. — спершу треба {did inf}.\n— "
        "тоді я {did I} "
        "{B.self}! — {B~засміявся/засміялася} {B.he}."),
        ("— де {X.n}? — {B~спита} {B.n}.\n— {P.at}, — {A~сказа} {A.n}. — {C.n} {did C X} @у {day.a}.\n— а "
        "{Y.n}?\n— {Y.him} ніхто не "
        "бачив від {month.g}."),
        ("— скільки {X.p.g} вам треба? — {C~спита} {C.job.n}.\n— {n X}, — {A~сказа} {A.n}.\n— одна штука коштує "
        "{price:гривня//гривень}.\n"
        "— разом {total:гривня//гривень}, — <how> {A~порахува} {A.he}. — [згода|задорого|гаразд]!"),
        ("— {B.v}, тобі слід {did inf}, — {A~сказа} {A.n}, — або {did inf}.\n— чому?\n— бо {people.n}, що {habit "
        "they}, <often> "
        "бувають [щасливі|сумні|багаті|здорові|голодні]."),
        ("— пам'ятаєш {town2.a}? — {C~спита} {C.n}.\n— звісно, — {A~відпові} {A.n}. — там ми {habit p}, а {B.n} "
        "{did B}."),
    ],
    "solution": [
        ("зрештою допоміг випадок: {C.n} {did C}, {did C} @і <how> {did C X}. {A.n} {A~подякува} {C.d} @і "
        "{A~подарува} {Y.a}."),
        "нарешті {A.n} {A~знайшов/знайшла} {X.a} {P.at}: {B.n} {did B X} @і {B~забу} про це. потім усі довго сміялися.",
        ("{A.n} {A~працюва} до {next.g}. тоді {X.n} {X~ста} {X!кращий}, ніж раніше, @і {people.n} приїхали з "
        "{town2.g} подивитися."),
        "тож вони взялися до справи разом: {A.n} {did A}, {B.n} {did B}, а {C.n}, {C.job.n}, {did C}.",
        ("@у {third.a} {C.n} {C~повернувся/повернулася} з {town2.g}: {n X} для {A.g} @і {m X} для {B.g}, разом "
        "{sum X}."),
    ],
    "ending": [
        "відтоді {A.n} <often> {habit he}, а {X.n} стоїть {P.at}.",
        "@і {A.n} {A~пішов/пішла} додому, {A!втомлений}, але {A!щасливий}.",
        "отак {A.n}, {A.job.n} @з {town.g}, {did A X}.", "@у {third.a} @у {town.l} все було як раніше.",
        "люди @у {town.l} досі розповідають про {A.a}, коли [йде дощ|падає сніг|надходить вечір].",
        "«більше ніколи!» — {A~сказа} {A.n}. але @у {next.a} {A.he} знову {did A}.",
    ],
    "describe": [
        "{P.n} @у {town.l} <is_known>. <there_is>", "{person.n}, що працює {P.at}, <often> {habit he} @і {habit he}.",
        "{people.n} {habit they} {place.at}, а {people.n} {habit they}. {A.n} <often> {habit he}.",
        "ліворуч видно {thing.a}, праворуч — {things.a}. між ними стоїть {X.n}.",
        "гості <often> питають, чому {X.this} {X.bare.n} — {X.look}. {A.n} {habit he} @і усміхається.",
        "{things.n} коштують дорожче за {things.a}, але немає нічого кращого за {thing.a} @з {town2.g}.",
        "хто {habit he}, той не має {did inf}. це правило давніше за {town.a}, каже {A.n}.",
        "@у {month.l}, коли дні [короткі|довгі], {stuff.a} тримають {place.at}, а {things.a} — {Q.at}.",
        "{B.n} {habit he}; {C.n} {habit he}; разом вони {habit they}.",
        "{A.n} @і {B.n} пишаються {things.i} та {things.i}.",
        "без {stuff.g} @і {things.g} тут не живе ні {A.job.n}, ні {B.job.n}.",
    ],
    "is_known": [
        "славиться {things.i}", "не має {things.g}", "лежить за {km:кілометр/кілометра} від {town2.g}",
        "пахне {stuff.i} @і {stuff.i}", "пам'ятає {year} рік", "приваблює {people.a} з {town2.g}",
    ],
    "there_is": [
        "тут є {sum X}, з них {n} — {X.looks}.", "тут {n:вікно//вікон}, {m:стілець/стільця} @і {thing.n}.",
        "кожен, хто любить {stuff.a}, прийде сюди знову.", "{people.n} не обходяться тут без {things.g}.",
    ],
    "trade": [
        "{A.n} {A~прода} {n X}, по {price:гривня//гривень} кожен виріб, @і {A~отрима} {total:гривня//гривень}.",
        ("список на {day.a}:\n- {X.p.n}: {n#}\n- {Y.p.n}: {m#}\n- {M.n}\n- {things.n}"
        "\nразом {sum#:*річ/речі/речей/річчю} без {M.g}."),
        "один виріб коштує {price#:гривня//гривень}; {n X} коштують {total#:гривня//гривень}.",
        "{B.n} {B~порахува} {n X} @і {m Y}, тобто разом {sum:*річ/речі/речей/річчю}, @і {did B}.",
        "@у {month.l} ціна на {stuff.a} зросла, а {things.n} подешевшали. {people.n} [скаржаться|радіють].",
        "хто @у {day.a} {habit he}, платить {price:гривня//гривень}, а {people.n} не платять нічого.",
    ],
    "inventory": [
        "{place.at}: {things.n}, {thing.n}, {stuff.n}, {things.n} @і {thing.n}.",
        "{thing.n}, {n X}, {things.n}, {stuff.n}, {thing.n}.", "{person.d} потрібні {things.n}, а {person.d} — {things.n}.",
        "{person.n} мріє про {thing.a}; {person.n} мріє про {things.a}; {person.n} мріє лише про {stuff.a}.",
        "{people.n} торгують {things.i} @і {stuff.i}, {people.n} — {things.i}.",
        "{stuff.n} — не {stuff.n}, а {thing.n} — не {thing.n}.",
        "що старше за {thing.a} @і молодше за {thing.a}? {X.n}.", "варто {did inf}, {did inf} @і ніколи не {did inf}.",
        "від {month.g} бракує {thing.g}, {stuff.g} та {things.g}; {place.at} знайшли {thing.a} @і {things.a}.",
        "пісню про {thing.a} співають {people.n}, казку про {things.a} розповідає {person.n}.",
    ],
    "step": [
        "спочатку треба {did inf}.", "потім слід <how> {did inf X}.", "після цього можна {did inf M} @і {did inf}.",
        "не можна {did inf}, доки ви не {did p}.", "коли {X.n} {X!готовий} до роботи, варто {did inf}.",
        "якщо немає {M.g}, беріть {N.a}.",
        "зачекайте {n:година} @і спробуйте {did inf Y}.", "візьміть {m Y}; далі треба {did inf}.",
        "[спитайте|знайдіть|покличте] {person.a}, якщо не можете {did inf}.",
        "наприкінці треба {did inf} та {did inf X}.",
        "ніколи не заважайте {person.d}, коли треба {did inf}.",
        "додайте {stuff.g} та {stuff.g}, щоб <how> {did inf M}.",
    ],
    "letter": [
        "пишу тобі з {town.g}, де вчора <sky>. <when> я {did B}, а {C.n} {did C}.",
        "{X.n} досі {P.at}. прошу тебе {did inf X}!",
        "{C.n} [каже|думає|сподівається|боїться], що {person.n} {habit he}. я @у це не вірю.",
        "чи ти й досі {habit you}? я після {month.g} {notdid B}.",
        "{C.n} тепер працює {C.job.i}. уявляєш: {C.he} {habit he}!",
        "@у {next.a} я {did I} @і {did I}, а @у {third.a} приїду {P.to}.", "тепер ми маємо {n X} @і {m Y}.",
        "@у {day.a} приходив до нас <kin_n2>. ми {habit p} @і розмовляли про {town2.a}.",
        "передай {person.d} {thing.a}, а {person.d} — {stuff.a}.",
    ],
    "kin_n2": ["твій брат", "твій дядько", "твій батько", "твій дід", "наш сусід"],
    "diary": [
        "{day.n}. <sky>. разом @з {B.i} я {did A}, потім {did A}. настрій [добрий|поганий|дивний].",
        "{next.n}. {B.n} {did B X}; я {did A}.",
        "{third.n}. {A~пройшов/пройшла} {km:кілометр/кілометра} {P.to}. {A~бачи} {things.a} @і {thing.a}.",
        "знову {did A}. {C.n} <how> {did C}.",
        "{A~купи} {n X} за {total:гривня//гривень}. {B.n} каже, що це [дорого|дешево].",
        "{place.at} немає {M.g}. {did A N}.", "думаю про {person.a}. завтра {did I}.",
    ],
    "riddle": [
        "питання: хто жив @у {town.l}? відповідь: {A.n}, {A.job.n}.",
        "питання: скільки років було {A.d}? відповідь: {A.age}.",
        "питання: скільки було {X.p.g}? відповідь: {n X}.", "питання: де шукати {X.a}? відповідь: {P.at}.",
        "питання: ким {B~бу} {B.n}? відповідь: {B.full.i}.", "питання: коли {A.n} {did A X}? відповідь: @у {day.a}.",
        "питання: скільки коштує один виріб? відповідь: {price:гривня//гривень}.",
    ],
    "title": [
        "{A.n} @і {X.n}", "{A.full.n} @з {town.g}", "{X.n} @з {town2.g}", "як {A.n} {did A X}",
        "{things.n} @і {things.n}",
        "{day.n} @у {month.l}", "про що мріють {people.n}", "новини @з {town.g}", "казка про {A.a}",
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
    "letter": ("{A.v}, вітаю!", [("letter", 4), ("action", 2), ("letter", 3)], "[з повагою|з любов'ю|цілую], {B.n}"),
    "market": (
        "<opening>",
        [("trade", 2), ("talk", 1), ("trade", 3), ("inventory", 2)],
        "<riddle>\n<riddle>\n<riddle>",
    ),
    "instruction": ("як {did inf X}? <describe>", [("step", 6), ("step", 4), ("describe", 2)], "<ending>"),
    "diary": (
        "щоденник {A.g}, {A.job.g}, {month.n} {year#} року.",
        [("diary", 1), ("diary", 1), ("action", 2)],
        "<ending>",
    ),
    "inventory": ("що можна знайти {P.at}.", [("inventory", 3), ("inventory", 2), ("action", 2)], "<ending>"),
    "questions": (
        "<opening> <meet>",
        [("action", 4), ("trade", 2), ("problem", 1)],
        "<riddle>\n<riddle>\n<riddle>\n<riddle>",
    ),
}


def document(seed: int, least: int = 1500) -> str:
    """Return the document of a seed: paragraphs of one kind, `least` characters or somewhat more."""
    rng = random.Random(f"uk {seed}")
    text = compose(KINDS[pick(rng, list(KINDS))], RULES, rng, scene_uk.Scene(rng).fill, least)
    return capitalise(euphony(text))


if __name__ == "__main__":
    print(document(0))
