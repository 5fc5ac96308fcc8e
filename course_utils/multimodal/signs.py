"""The 43 traffic signs as compositions: a plate, a picture on it, a side it points to, stripes across it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Sign:
    """What can be seen on a sign, one word for each question. Two classes never agree in all of them.

    Attributes:
        shape: outline of the plate.
        border: colour of its rim.
        field: colour of its inside.
        picture: what is shown; "nothing" on an empty plate.
        ink: colour of the picture.
        side: "left", "right", or "" for a picture without a direction.
        stripes: whether thin stripes strike the sign out: it ends what the picture forbids.
    """

    shape: str
    border: str
    field: str
    picture: str
    ink: str = "black"
    side: str = ""
    stripes: bool = False

    @property
    def attributes(self) -> dict[str, Hashable]:
        """Question -> answer, for `holdable` and `held_out_classes`. Ink follows from the rest and is left out."""
        return {name: value for name, value in asdict(self).items() if name != "ink"}


def _prohibition(picture: str, ink: str = "black") -> Sign:
    return Sign("circle", "red", "white", picture, ink)


def _warning(picture: str, ink: str = "black", side: str = "") -> Sign:
    return Sign("triangle", "red", "white", picture, ink, side)


def _order(picture: str, side: str = "") -> Sign:
    return Sign("circle", "white", "blue", picture, ink="white", side=side)


def _end(picture: str) -> Sign:
    return Sign("circle", "grey", "white", picture, ink="grey", stripes=True)


PLATE = ("shape", "border", "field", "stripes")  # the questions that a glance at the plate answers

# Class number of GTSRB -> what the German traffic code prints on the sign, and what the stand-in draws.
SIGNS: dict[int, Sign] = {
    **{c: _prohibition(speed) for c, speed in enumerate(("20", "30", "50", "60", "70", "80"))},
    6: _end("80"),
    7: _prohibition("100"),
    8: _prohibition("120"),
    9: _prohibition("two cars", ink="red and black"),
    10: _prohibition("truck and car", ink="red and black"),
    11: _warning("crossing"),
    12: Sign("diamond", "white", "yellow", "nothing", ink=""),
    13: Sign("upturned triangle", "red", "white", "nothing", ink=""),
    14: Sign("octagon", "white", "red", "stop", ink="white"),
    15: _prohibition("nothing", ink=""),
    16: _prohibition("truck"),
    17: Sign("circle", "white", "red", "bar", ink="white"),
    18: _warning("exclamation mark"),
    19: _warning("curve", side="left"),
    20: _warning("curve", side="right"),
    21: _warning("double curve"),
    22: _warning("bumps"),
    23: _warning("skidding car"),
    24: _warning("narrowing road", side="right"),
    25: _warning("worker"),
    26: _warning("traffic light", ink="coloured"),
    27: _warning("walker"),
    28: _warning("two children"),
    29: _warning("bicycle"),
    30: _warning("snowflake"),
    31: _warning("deer"),
    32: _end("nothing"),
    33: _order("turning arrow", "right"),
    34: _order("turning arrow", "left"),
    35: _order("straight arrow"),
    36: _order("forked arrow", "right"),
    37: _order("forked arrow", "left"),
    38: _order("slanting arrow", "right"),
    39: _order("slanting arrow", "left"),
    40: _order("ring of arrows"),
    41: _end("two cars"),
    42: _end("truck and car"),
}

# Ways of saying it. The parts of a held-out sign are read elsewhere, in the same words.
SHAPES = {
    "circle": ("round", "a circle", "a disc"),
    "triangle": ("triangular", "a triangle", "a triangle that stands on its base"),
    "upturned triangle": ("upside down triangular", "an upside down triangle", "a triangle that stands on its tip"),
    "octagon": ("eight sided", "an octagon", "a plate with eight corners"),
    "diamond": ("diamond shaped", "a diamond", "a square that stands on its corner"),
}
PICTURES = {
    "nothing": ("nothing", "an empty field"),
    "two cars": ("two cars", "two cars beside each other"),
    "truck and car": ("a truck and a car", "a truck beside a car"),
    "truck": ("a truck", "a single truck"),
    "crossing": ("a crossing", "a broad arrow across a narrow road"),
    "stop": ("the word stop", "the four letters of stop"),
    "bar": ("a bar", "a level beam"),
    "exclamation mark": ("an exclamation mark", "a stroke above a dot"),
    "curve": ("a curve", "an arrow that bends away"),
    "double curve": ("a double curve", "a winding arrow"),
    "bumps": ("two bumps", "two humps of the road"),
    "skidding car": ("a skidding car", "a tilted car above wavy tracks"),
    "narrowing road": ("a narrowing road", "two lines that close in"),
    "worker": ("a worker", "a person with a shovel"),
    "traffic light": ("a traffic light", "three lamps in a row"),
    "walker": ("a walker", "one person on a zebra crossing"),
    "two children": ("two children", "a pair of running children"),
    "bicycle": ("a bicycle", "two wheels with a frame"),
    "snowflake": ("a snowflake", "a star of ice"),
    "deer": ("a deer", "a leaping animal"),
    "turning arrow": ("a turning arrow", "an arrow with a bend"),
    "straight arrow": ("a straight arrow", "an arrow that points up"),
    "forked arrow": ("a forked arrow", "an arrow with two heads"),
    "slanting arrow": ("a slanting arrow", "an arrow that points down"),
    "ring of arrows": ("a ring of arrows", "three arrows that chase each other"),
}


def picture_phrases(sign: Sign) -> tuple[str, str]:
    """Two ways of naming the picture, with its colour and its side: "a curve in black to the left"."""
    if sign.picture == "nothing":
        return PICTURES["nothing"]
    names = PICTURES.get(sign.picture, (f"the number {sign.picture}", f"a speed of {sign.picture}"))
    side = f" to the {sign.side}" if sign.side else ""
    first, second = (f"{name} in {sign.ink}{side}" for name in names)
    return first, second


def describe(sign: Sign) -> tuple[str, ...]:
    """Seven sentences that say what is seen: every one names shape, rim, field, picture, side and stripes."""
    adjective, noun, long_noun = SHAPES[sign.shape]
    first, second = picture_phrases(sign)
    stripes = "struck out by thin stripes" if sign.stripes else "without stripes"
    return (
        f"{noun} with a {sign.border} rim and a {sign.field} field showing {first}, {stripes}",
        f"a {adjective} sign, {sign.border} rim, {sign.field} field, {second}, {stripes}",
        f"{first} on a {sign.field} field, {stripes}, in {noun} with a {sign.border} rim",
        f"{stripes}: {second} in a {sign.field} field, the rim of the {adjective} plate is {sign.border}",
        f"{long_noun}, the rim is {sign.border}, the field is {sign.field}, it shows {first}, {stripes}",
        f"{sign.field} inside and {sign.border} outside, {long_noun}, {stripes}, showing {second}",
        f"the plate is {adjective}, it shows {first}, {sign.border} rim around a {sign.field} field, {stripes}",
    )


def holdable(attributes: Mapping[int, Mapping[str, Hashable]], held_out: Collection[int] = ()) -> list[int]:
    """Classes that can be held out beside `held_out`: every part of all of them still occurs in a training class.

    Args:
        attributes: class -> question -> answer, such as `{c: sign.attributes for c, sign in SIGNS.items()}`.
        held_out: classes that are held out already.
    """
    fitting = []
    for label in attributes:
        wanted = {*held_out, label}
        if label not in held_out and not unseen_parts(attributes, wanted):
            fitting.append(label)
    return fitting


def unseen_parts(
    attributes: Mapping[int, Mapping[str, Hashable]], held_out: Collection[int]
) -> list[tuple[int, str, Hashable]]:
    """`(class, question, answer)` of everything on held-out classes that no other class shows. Empty is what you want."""
    training = [parts for label, parts in attributes.items() if label not in held_out]
    seen = {(question, answer) for parts in training for question, answer in parts.items()}
    return [(label, q, a) for label in sorted(held_out) for q, a in attributes[label].items() if (q, a) not in seen]


def held_out_classes(
    count: int, seed: int = 0, attributes: Mapping[int, Mapping[str, Hashable]] | None = None, among: Sequence[int] = ()
) -> list[int]:
    """Choose classes to hold out so that each of their parts is seen in training, in another combination.

    Args:
        count: how many.
        seed: of the order in which classes are tried.
        attributes: class -> question -> answer; default is the table of the 43 signs.
        among: choose from these only; default is every class.

    Returns:
        Class numbers, ascending.

    Raises:
        ValueError: so many cannot be held out; the message says how many this order of trying allows.

    Built in lesson 05.
    """
    table = attributes if attributes is not None else {label: sign.attributes for label, sign in SIGNS.items()}
    allowed = [label for label in table if not among or label in among]
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(allowed)):
        if len(chosen) == count:
            break
        if allowed[index] in holdable(table, chosen):
            chosen.append(allowed[index])
    if len(chosen) < count or count < 1:
        raise ValueError(
            f"{count} classes cannot be held out: with seed={seed} every part of {len(chosen)} of the "
            f"{len(allowed)} classes occurs elsewhere; ask for 1 to {len(chosen)}"
        )
    return sorted(chosen)


def guess_from(
    questions: Sequence[str], held_out: Collection[int], attributes: Mapping[int, Mapping[str, Hashable]] | None = None
) -> float:
    """Expected accuracy, every class counting the same, of somebody who sees the answers to some questions only.

    With `PLATE` it is the bar for zero-shot on held-out signs: the plate alone narrows the classes down far above chance.

    Args:
        questions: such as ("shape", "border", "field", "stripes"); none at all is chance, 1 / classes.
        held_out: classes among which is guessed.
        attributes: default is the table of the 43 signs.

    Raises:
        ValueError: no class, or a question that the table does not answer.

    Built in lesson 05.
    """
    table = attributes if attributes is not None else {label: sign.attributes for label, sign in SIGNS.items()}
    unknown = {question for label in held_out for question in questions if question not in table[label]}
    if not held_out or unknown:
        raise ValueError(
            f"held_out={list(held_out)}, unknown questions {sorted(unknown)}; give classes and questions of the table"
        )
    return len({tuple(table[label][question] for question in questions) for label in held_out}) / len(held_out)
