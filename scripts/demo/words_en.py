# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""The English vocabulary, by topic.

A topic lists places (with their preposition), people, countable things, uncountable stuff, verbs that take the things
(`acts`), verbs that take the stuff (`stuff_acts`) and adjectives. All words are separated by commas.
"""

TOPICS: dict[str, dict[str, str]] = {
    "kitchen": {
        "places": "in kitchen, in pantry, at bakery, in cellar, at inn, beside stove",
        "people": "cook, baker, waiter, innkeeper, butcher, dishwasher",
        "things": "kettle, saucepan, ladle, jug, bowl, plate, knife, apron, oven, jar, spoon, grater, tray, cork, sieve",
        "stuff": "flour, butter, honey, rice, salt, cream, vinegar, mustard, dough, soup, garlic, cinnamon",
        "acts": "wash, scrub, fill, cover, empty, heat, dry, borrow",
        "stuff_acts": "stir, boil, taste, pour, knead, melt, measure, spill",
        "looks": "copper, greasy, cracked, clean, wooden, deep, rusty, earthen",
    },
    "garden": {
        "places": "in garden, in orchard, in greenhouse, behind hedge, at nursery, beside pond",
        "people": "gardener, florist, beekeeper, neighbour, botanist",
        "things": "spade, rake, rose, tulip, beehive, seedling, hose, bucket, fence, pear, cabbage, bench, fern, snail, bulb",
        "stuff": "soil, compost, moss, ivy, clover, gravel, pollen, parsley, lavender",
        "acts": "plant, water, dig up, trim, move, pick, tie, protect",
        "stuff_acts": "spread, rake, dry, scatter, weigh, gather",
        "looks": "muddy, fragrant, green, thorny, blooming, crooked, shady, tall",
    },
    "harbour": {
        "places": "at harbour, on pier, in lighthouse, on deck, at shipyard, on beach",
        "people": "captain, sailor, fisherman, diver, lighthouse keeper, shipwright",
        "things": "anchor, sail, net, oar, rope, compass, lantern, barrel, boat, crab, gull, buoy, hook, mast, chart",
        "stuff": "tar, seaweed, sand, foam, fog, driftwood, canvas, brine",
        "acts": "lower, raise, drag, mend, paint, untangle, lose, sell",
        "stuff_acts": "collect, scrape off, carry, trade, smell, store",
        "looks": "salty, wet, drifting, sturdy, torn, sunken, striped, northern",
    },
    "school": {
        "places": "in classroom, at school, in gym, in laboratory, in corridor, at university",
        "people": "teacher, pupil, student, professor, caretaker, examiner",
        "things": "notebook, pencil, blackboard, map, globe, desk, ruler, lesson, essay, riddle, microscope, bell, satchel",
        "stuff": "chalk, ink, homework, algebra, geometry, grammar, paper, advice",
        "acts": "draw, copy, explain, finish, forget, correct, study, describe",
        "stuff_acts": "teach, learn, praise, need, understand, discuss",
        "looks": "difficult, short, tidy, dusty, printed, interesting, final, thick",
    },
    "workshop": {
        "places": "in workshop, at forge, in garage, at sawmill, in shed, at factory",
        "people": "carpenter, blacksmith, mechanic, plumber, welder, apprentice",
        "things": "hammer, chisel, saw, nail, screw, lathe, ladder, wheel, hinge, pump, motor, anvil, drill, plank, clock",
        "stuff": "iron, glue, varnish, sawdust, copper, oil, leather, timber, steel",
        "acts": "repair, sharpen, polish, bend, build, dismantle, replace, oil",
        "stuff_acts": "melt, cut, order, heat, waste, pour, bring",
        "looks": "broken, loose, sharp, blunt, oily, noisy, electric, precise",
    },
    "railway": {
        "places": "at station, on train, on platform, in tunnel, in waiting room, on bridge",
        "people": "driver, conductor, passenger, porter, guard, traveller, engineer",
        "things": "ticket, suitcase, carriage, timetable, signal, whistle, seat, locomotive, umbrella, parcel, passport, map",
        "stuff": "luggage, steam, coal, smoke, freight, mail, diesel",
        "acts": "lose, find, check, carry, miss, stamp, load, leave behind",
        "stuff_acts": "load, unload, weigh, guard, transport, deliver",
        "looks": "late, crowded, express, leather, distant, empty, punctual, yellow",
    },
    "market": {
        "places": "at market, in shop, at fair, in warehouse, at bank, at auction",
        "people": "merchant, customer, cashier, tailor, jeweller, broker, shopkeeper",
        "things": "coin, carpet, bracelet, basket, scarf, melon, purse, mirror, vase, crate, receipt, ring, hat, lamp, toy",
        "stuff": "silk, wool, silver, pepper, tea, coffee, jewellery, money, cotton",
        "acts": "buy, sell, wrap, count, weigh, exchange, return, choose",
        "stuff_acts": "import, buy, sell, weigh, store, lend",
        "looks": "cheap, expensive, silver, woven, fashionable, fake, bright, rare",
    },
    "forest": {
        "places": "in forest, in valley, on riverbank, in meadow, in cave, beside waterfall",
        "people": "forester, hunter, woodcutter, hiker, ranger, painter",
        "things": "oak, mushroom, fox, squirrel, owl, path, acorn, tent, axe, deer, nest, feather, hedgehog, wolf, birch",
        "stuff": "bark, firewood, mist, resin, silence, dew, undergrowth",
        "acts": "follow, notice, photograph, sketch, hide, watch, frighten, discover",
        "stuff_acts": "gather, carry, burn, chop, enjoy, notice",
        "looks": "wild, mossy, hollow, ancient, gentle, grey, hidden, quick",
    },
    "hospital": {
        "places": "in hospital, at clinic, at pharmacy, in ward, at laboratory, in ambulance",
        "people": "doctor, nurse, surgeon, dentist, patient, chemist",
        "things": "bandage, thermometer, syringe, pill, pillow, bed, report, wound, blanket, mask, bottle, stretcher",
        "stuff": "medicine, blood, ointment, alcohol, pain, fever, oxygen",
        "acts": "examine, fetch, prepare, disinfect, change, weigh, remove",
        "stuff_acts": "prescribe, measure, test, reduce, store, describe",
        "looks": "sterile, white, swollen, painful, bitter, healthy, fresh, soft",
    },
    "library": {
        "places": "in library, in archive, at museum, in reading room, at printing house, in attic",
        "people": "librarian, historian, writer, poet, editor, translator, collector",
        "things": "novel, dictionary, shelf, letter, manuscript, diary, atlas, portrait, page, chapter, poem, catalogue",
        "stuff": "dust, poetry, paper, parchment, history, gossip, philosophy",
        "acts": "read, translate, print, publish, bind, quote, borrow, lend",
        "stuff_acts": "study, collect, love, discuss, preserve, print",
        "looks": "rare, handwritten, yellowed, illustrated, famous, anonymous, boring, medieval",
    },
    "theatre": {
        "places": "at theatre, on stage, at opera, in concert hall, in studio, at circus",
        "people": "actor, violinist, dancer, singer, composer, juggler, clown",
        "things": "violin, trumpet, curtain, costume, drum, song, role, spotlight, piano, mask, flute, poster, puppet",
        "stuff": "music, applause, makeup, rhythm, laughter, velvet",
        "acts": "play, tune, rehearse, admire, hang, sew, perform, record",
        "stuff_acts": "hear, write, love, enjoy, imagine, study",
        "looks": "loud, magnificent, theatrical, velvet, comic, tragic, golden, silent",
    },
    "farm": {
        "places": "on farm, in barn, at mill, in stable, in field, in village",
        "people": "farmer, shepherd, miller, milkmaid, groom, vet",
        "things": "cow, horse, goat, hen, tractor, plough, egg, pumpkin, sheep, goose, saddle, sack, pig, rooster, calf",
        "stuff": "wheat, barley, hay, milk, manure, straw, corn, cheese",
        "acts": "feed, lead, brush, chase, buy, lift, wash, count",
        "stuff_acts": "harvest, grind, store, sow, sell, thresh",
        "looks": "stubborn, fat, hungry, spotted, brown, lame, fertile, young",
    },
    "mountain": {
        "places": "in mountains, on summit, at camp, on glacier, in hut, on slope",
        "people": "climber, guide, skier, geologist, rescuer, surveyor",
        "things": "backpack, boot, cliff, tent, crystal, sledge, glove, stove, peak, fossil, helmet, torch, avalanche",
        "stuff": "snow, ice, granite, frost, chocolate, equipment, limestone",
        "acts": "pack, climb, photograph, reach, drop, measure, pull, check",
        "stuff_acts": "melt, cross, study, carry, scrape off, dread",
        "looks": "steep, frozen, icy, dangerous, snowy, warm, lonely, high",
    },
    "office": {
        "places": "in office, at post office, at town hall, in court, in cabinet, at newspaper",
        "people": "clerk, lawyer, judge, secretary, mayor, reporter, manager",
        "things": "contract, computer, stamp, envelope, signature, meeting, telephone, article, report, plan, vote, tax, key",
        "stuff": "evidence, information, correspondence, work, news, progress",
        "acts": "sign, send, reject, file, approve, print, postpone, translate",
        "stuff_acts": "receive, check, publish, hide, demand, share",
        "looks": "official, urgent, secret, legal, confused, polite, annual, false",
    },
}

IRREGULAR: dict[str, tuple[str, str]] = {
    "dig up": ("dug up", "dug up"), "draw": ("drew", "drawn"), "forget": ("forgot", "forgotten"),
    "teach": ("taught", "taught"), "understand": ("understood", "understood"), "bend": ("bent", "bent"),
    "build": ("built", "built"), "cut": ("cut", "cut"), "bring": ("brought", "brought"), "lose": ("lost", "lost"),
    "find": ("found", "found"), "leave behind": ("left behind", "left behind"), "buy": ("bought", "bought"),
    "sell": ("sold", "sold"), "lend": ("lent", "lent"), "choose": ("chose", "chosen"), "hide": ("hid", "hidden"),
    "read": ("read", "read"), "bind": ("bound", "bound"), "hang": ("hung", "hung"), "sew": ("sewed", "sewn"),
    "hear": ("heard", "heard"), "write": ("wrote", "written"), "feed": ("fed", "fed"), "lead": ("led", "led"),
    "grind": ("ground", "ground"), "sow": ("sowed", "sown"), "send": ("sent", "sent"), "spread": ("spread", "spread"),
}  # fmt: skip
DOUBLED = "trim, plan, scrub, chop, drop, drag, stir, tar, wrap, scrap"
PLURALS = {
    "knife": "knives", "fisherman": "fishermen", "deer": "deer", "wolf": "wolves", "sheep": "sheep", "goose": "geese",
    "calf": "calves", "shelf": "shelves", "milkmaid": "milkmaids",
}  # fmt: skip
WOMEN = "Mary, Alice, Helen, Rose, Clara, Edith, Nora, Ruth, Agnes, Martha, Lucy, Jane, Ellen, Grace, Hannah"
MEN = "John, Peter, Henry, George, Walter, Arthur, Simon, Frank, Oliver, Edmund, Martin, Hugh, Thomas, Daniel, Giles"
TOWN_STARTS = "Ash, Oak, Stone, River, Fox, Mill, Green, Black, Wind, Hazel, King, Thorn, Salt, White, Raven, Brook"
TOWN_ENDS = "ford, ton, field, bury, wick, ham, port, dale, well, bridge, stead, moor"
DAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"
MONTHS = "January, February, March, April, May, June, July, August, September, October, November, December"
NUMBERS = (
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
    "sixteen, seventeen, eighteen, nineteen"
)
TENS = "_, _, twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety"
COMMON_LOOKS = (
    "old, new, small, big, strange, beautiful, heavy, light, ugly, simple, red, black, blue, round, useful, broken, "
    "favourite, cheap, enormous, narrow, ordinary, delicate, forgotten, splendid, plain, foreign"
)
CHARACTER = (
    "kind, tired, young, cheerful, patient, curious, angry, clever, lazy, honest, brave, shy, proud, generous, careful, "
    "talkative, stubborn, quiet, lonely, famous, nervous, absent-minded, hard-working, retired"
)
