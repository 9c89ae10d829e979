"""Quantities: a number with a unit, or without one.

No library does it: those of units, such as pint, take any letters that may be one (`a` is a year), and answers are full
of letters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from datamodules.answers.number_words import SCALES
from datamodules.answers.numbers import Value, number_value, values_equal

PERCENT = "%"

_METRIC_PREFIXES = {
    "M": Fraction(10**6),
    "k": Fraction(1000),
    "": Fraction(1),
    "d": Fraction(1, 10),
    "c": Fraction(1, 100),
}
_METRIC_PREFIXES |= {"m": Fraction(1, 1000), "µ": Fraction(1, 10**6), "n": Fraction(1, 10**9)}
_LONG_PREFIXES = {"mega": "M", "kilo": "k", "deci": "d", "centi": "c", "milli": "m", "micro": "µ", "nano": "n", "": ""}


def _unit_table() -> dict[str, tuple[str, Fraction]]:
    table: dict[str, tuple[str, Fraction]] = {}
    for symbol, names, dimension in (
        ("m", ("meter", "metre"), "length"),
        ("g", ("gram",), "mass"),
        ("s", ("second",), "time"),
        ("L", ("liter", "litre"), "volume"),
        ("N", ("newton",), "force"),
        ("J", ("joule",), "energy"),
        ("W", ("watt",), "power"),
        ("V", ("volt",), "voltage"),
        ("A", ("ampere", "amp"), "current"),
        ("Hz", ("hertz",), "frequency"),
        ("Pa", ("pascal",), "pressure"),
        ("mol", ("mole",), "amount"),
        ("C", ("coulomb",), "charge"),
        ("K", ("kelvin",), "temperature"),
        ("Ω", ("ohm",), "resistance"),
        ("eV", ("electronvolt",), "electronic energy"),
        ("T", ("tesla",), "flux density"),
        ("F", ("farad",), "capacitance"),
    ):
        for prefix, factor in _METRIC_PREFIXES.items():
            table[prefix + symbol] = (dimension, factor)
        for prefix, short in _LONG_PREFIXES.items():
            for name in names:
                table[prefix + name] = table[prefix + name + "s"] = (dimension, _METRIC_PREFIXES[short])
    for spellings, dimension, factor in (
        (("min", "mins", "minute", "minutes"), "time", Fraction(60)),
        (("h", "hr", "hrs", "hour", "hours"), "time", Fraction(3600)),
        (("sec", "secs"), "time", Fraction(1)),
        (("day", "days"), "time", Fraction(86400)),
        (("ml", "mL", "mls"), "volume", Fraction(1, 1000)),
        (("l",), "volume", Fraction(1)),
        (("in", "inch", "inches"), "length", Fraction(254, 10000)),
        (("ft", "foot", "feet"), "length", Fraction(3048, 10000)),
        (("yd", "yard", "yards"), "length", Fraction(9144, 10000)),
        (("mi", "mile", "miles"), "length", Fraction(1609344, 1000)),
        (("week", "weeks"), "time", Fraction(604800)),
        (("lb", "lbs", "pound", "pounds"), "weight", Fraction(1)),
        (("oz", "ounce", "ounces"), "weight", Fraction(1, 16)),
        (("ton", "tons", "tonne", "tonnes"), "mass", Fraction(10**6)),
        (("ha", "hectare", "hectares"), "area", Fraction(10000)),
        (("°C", "deg C", "degrees Celsius"), "temperature in Celsius", Fraction(1)),
        (("°F", "degrees Fahrenheit"), "temperature in Fahrenheit", Fraction(1)),
        (("米",), "length", Fraction(1)),
        (("厘米",), "length", Fraction(1, 100)),
        (("毫米",), "length", Fraction(1, 1000)),
        (("千米", "公里"), "length", Fraction(1000)),
        (("度",), "angle", Fraction(1)),
        ((PERCENT, "pct", "percent", "percents", "per cent", "percentage"), "percent", Fraction(1)),
        (("°", "deg", "degree", "degrees"), "angle", Fraction(1)),
        (("rad", "radian", "radians"), "angle", Fraction(180 / math.pi)),
    ):
        table |= dict.fromkeys(spellings, (dimension, factor))
    return table


UNITS = _unit_table()
"""Spelling to (dimension, size in the base unit of the dimension)."""

_GLUED_UNITS = frozenset(spelling for spelling in UNITS if len(spelling) > 1 or not spelling.isalpha()) | {
    "m",
    "L",
    "Ω",
    "米",
    "度",
}
_NO_UNITS = re.compile(r"(?:square |cubic |sq\.? |cu\.? )?units?(?:\s?\^\{?[23]\}?)?\.?")
"""What questions without real units are answered in; fits every unit, as no unit does."""

_MATH_WORDS = frozenset("sin cos tan cot sec csc log exp lim max min mod det gcd lcm sqrt and".split())
_QUANTITY = re.compile(
    r"^(?P<number>.*[\d)}])(?P<space>\s*)(?P<unit>[A-Za-zµΩ%°][A-Za-zµΩ°%/*^0-9 .{}()-]*|[\u4e00-\u9fff]{1,2})$",
    re.DOTALL,
)
_NUMBER_WITH_PI = re.compile(
    r"^(?P<number>.*\\pi)(?P<space>\s+)(?P<unit>[A-Za-zµΩ%°][A-Za-zµΩ°%/*^0-9 .{}()-]*)$", re.DOTALL
)
_SCALED = re.compile(
    rf"(?P<number>[-+]?(?:\d[\d.,]*|\.\d+))(?:\s*(?P<word>(?i:{'|'.join(SCALES)}))s?\b|(?P<k>[kK]))(?:\s+(?P<unit>\S.*))?"
)
_UNIT_SIGNS = re.compile(r"\\(cdot|Omega|ohm|mu)(?![A-Za-z])\s*(?=[A-Za-zΩ]|$)")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: The number.
        unit: Spelling of the unit in one form; empty without one.
    """

    value: Value
    unit: str


@lru_cache(maxsize=65536)
def parse_quantity(text: str) -> Quantity | None:
    """Read a normalised answer as a number with an optional unit; None when it is not that.

    A unit is a known one (``cm``, ``km/h``, ``m^2``, ``%``, ``°``), or one to three words of at least three letters.
    """
    value = number_value(text)
    if value is not None:
        return Quantity(value, "")
    scaled = _SCALED.fullmatch(text)
    if scaled:
        return _scaled_quantity(scaled)
    text = _UNIT_SIGNS.sub(lambda match: {"cdot": "*", "Omega": "Ω", "ohm": "Ω", "mu": "µ"}[match[1]], text)
    for pattern in (_QUANTITY, _NUMBER_WITH_PI):
        match = pattern.match(text)
        if match is None:
            continue
        value = number_value(match["number"].strip())
        if value is not None and match["space"] and _NO_UNITS.fullmatch(match["unit"]):
            return Quantity(value, "")
        unit = _spell_unit(match["unit"], is_glued=not match["space"])
        if value is not None and unit:
            return Quantity(value, unit)
    return None


def _scaled_quantity(match: re.Match[str]) -> Quantity | None:
    """The quantity of "3 million dollars" or of "3k"."""
    value = number_value(match["number"])
    scale = SCALES[match["word"].lower()] if match["word"] else 1000
    unit = _spell_unit(match["unit"], is_glued=False) if match["unit"] else ""
    return None if value is None or (match["unit"] and not unit) else Quantity(value * scale, unit)


def quantities_equal(first: Quantity, second: Quantity) -> bool:
    """Equal values; a missing unit fits every unit, known units of one dimension are converted.

    A number without a unit also equals the percentage that it is as a share: 0.5 and 50 both equal 50 %, as in
    math-verify, because graders cannot know which of the two a question asks for.
    """
    if PERCENT in (first.unit, second.unit) and "" in (first.unit, second.unit):
        percentage, number = (first.value, second.value) if first.unit == PERCENT else (second.value, first.value)
        return values_equal(percentage, number) or values_equal(_times(percentage, Fraction(1, 100)), number)
    if not first.unit or not second.unit or first.unit == second.unit:
        return values_equal(first.value, second.value)
    sizes = _unit_size(first.unit), _unit_size(second.unit)
    if sizes[0] is None or sizes[1] is None or sizes[0][0] != sizes[1][0]:
        return False
    return values_equal(_times(first.value, sizes[0][1]), _times(second.value, sizes[1][1]))


def _times(value: Value, factor: Fraction) -> Value:
    return value * factor if isinstance(value, Fraction) else value * float(factor)


def _spell_unit(text: str, *, is_glued: bool) -> str:
    """One spelling of a unit; empty if the text cannot be one."""
    unit = text.strip().rstrip(".").replace("{", "").replace("}", "").replace("^ ", "^")
    unit = re.sub(r"^(?:square|sq\.?)\s+(.+)$", r"\1^2", unit)
    unit = re.sub(r"^cubic\s+(.+)$", r"\1^3", unit)
    if UNITS.get(unit, ("",))[0] == "percent":
        return PERCENT
    if unit in UNITS:
        return unit if not is_glued or unit in _GLUED_UNITS else ""
    if _unit_size(unit) is not None:
        return unit
    words = unit.split()
    are_words = all(word.isalpha() and len(word) >= 3 for word in words) and not _MATH_WORDS.intersection(words)
    if 1 <= len(words) <= 3 and are_words:
        return " ".join(word.casefold().removesuffix("s") for word in words)
    return ""


@lru_cache(maxsize=4096)
def _unit_size(unit: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """Dimensions with their powers, and the size in base units, of a product of known units; None if one is unknown."""
    powers: dict[str, int] = {}
    size = Fraction(1)
    for place, part in enumerate(unit.replace("per cent", "percent").replace(" per ", "/").split("/")):
        for factor in re.split(r"[\s*.]+", part.strip()):
            match = re.fullmatch(r"\(?([A-Za-zµΩ%°]+|[\u4e00-\u9fff]+)(?:\^\(?(-?\d)\)?)?\)?", factor)
            if match is None or match[1] not in UNITS:
                return None
            dimension, unit_size = UNITS[match[1]]
            power = int(match[2] or 1) * (1 if place == 0 else -1)
            powers[dimension] = powers.get(dimension, 0) + power
            size *= unit_size**power
    for name, length_power in (("area", 2), ("volume", 3)):
        if name in powers:
            count = powers.pop(name)
            powers["length"] = powers.get("length", 0) + length_power * count
            if name == "volume":
                size *= Fraction(1, 1000) ** count  # a litre is a cubic decimetre
    return tuple(sorted((name, power) for name, power in powers.items() if power)), size
