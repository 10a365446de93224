"""A few hundred common English words, by category: all the words the embedded tasks speak of.

The words are short and frequent on purpose: a small tokenizer spends one or two tokens on each.
A word belongs to one category only, so that "which of these is an animal" has one answer.
"""

from __future__ import annotations

from types import MappingProxyType


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ANIMALS = _words(
    "ant bear bee bird cat cow dog duck fish fox frog goat hen horse lion mouse owl pig rabbit "
    "sheep snake tiger whale wolf"
)
FOODS = _words(
    "apple banana bread butter cake cheese corn egg honey lemon meat milk nut onion pasta pear "
    "pie plum potato rice salad salt soup sugar"
)
COLORS = _words("black blue brown green grey orange pink purple red white yellow")
CLOTHES = _words("belt boot cap coat dress glove hat jacket scarf shirt shoe skirt sock")
VEHICLES = _words("bike boat bus car plane ship train truck van")
JOBS = _words("artist baker cook doctor driver farmer judge nurse pilot singer teacher writer")
PLACES = _words(
    "bank beach church farm forest garden hotel house kitchen library market office park river "
    "school shop station street"
)
OBJECTS = _words(
    "ball basket bell book bottle bowl box brush candle chair clock cup desk fork hammer key "
    "knife lamp letter map mirror pen pencil plate ring rope spoon table ticket umbrella"
)
NAMES = _words(
    "Adam Alice Anna Ben Carl Clara David Emma Eric Frank Grace Henry Ida Jack Julia Kate Leo "
    "Lucy Maria Mark Nina Olga Oscar Paul Peter Rosa Sam Sara Tom Victor"
)
POSITIVE = _words("great lovely happy nice perfect wonderful good friendly")
NEGATIVE = _words("awful bad boring broken dirty sad terrible ugly")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)

# Opposite pairs that describe a thing; either side may stand before a noun.
OPPOSITES = (
    ("big", "small"),
    ("new", "old"),
    ("hot", "cold"),
    ("fast", "slow"),
    ("heavy", "light"),
    ("full", "empty"),
    ("long", "short"),
    ("wet", "dry"),
    ("soft", "hard"),
    ("rich", "poor"),
)
ADJECTIVES = tuple(word for pair in OPPOSITES for word in pair)
OPPOSITE_OF = MappingProxyType({a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])})

# Base form, past tense.
VERBS = (
    ("find", "found"),
    ("see", "saw"),
    ("buy", "bought"),
    ("take", "took"),
    ("wash", "washed"),
    ("paint", "painted"),
    ("carry", "carried"),
    ("sell", "sold"),
    ("lose", "lost"),
    ("keep", "kept"),
    ("move", "moved"),
    ("hide", "hid"),
    ("want", "wanted"),
    ("like", "liked"),
    ("draw", "drew"),
    ("clean", "cleaned"),
)

CATEGORIES = MappingProxyType(
    {
        "animal": ANIMALS,
        "food": FOODS,
        "color": COLORS,
        "clothing": CLOTHES,
        "vehicle": VEHICLES,
        "job": JOBS,
        "place": PLACES,
    }
)
CONCRETE = ANIMALS + CLOTHES + VEHICLES + OBJECTS
WORDS = ANIMALS + FOODS + COLORS + CLOTHES + VEHICLES + JOBS + PLACES + OBJECTS

_IRREGULAR = MappingProxyType(
    {"mouse": "mice", "fish": "fish", "sheep": "sheep", "wolf": "wolves", "knife": "knives"}
)


def plural(noun: str) -> str:
    """Return the plural of a noun of this lexicon."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")) or noun == "potato":
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
