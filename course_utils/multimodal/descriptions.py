"""What the classes look like, in words: several descriptions of every class, written for this course.

They say what can be seen at this resolution, in whole phrases, and not what a thing is good for: a text that names
nothing visible cannot help an image to find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from course_utils.datasets.digits import CLASSES as DIGIT_NAMES
from course_utils.datasets.fashion_mnist import CLASSES as FASHION_NAMES
from course_utils.datasets.gtsrb import CLASSES as SIGN_NAMES
from course_utils.multimodal.signs import SIGNS, describe

# A sentence around a bare name: the prompts for networks that have read the web. `{}` is the name.
TEMPLATES = (
    "a photo of a {}",
    "a small photo of a {}",
    "a blurry photo of a {}",
    "a grey picture of a {}",
    "one {} in front of a plain background",
)

_FASHION = (
    (
        "a loose top with two short sleeves and a wide neck",
        "a light shirt that ends at the hips, its sleeves stop above the elbow",
        "short sleeves stand off a straight body without buttons",
        "a plain upper garment in the outline of a thick letter T",
        "a thin summer top with a round neck and bare arms",
    ),
    (
        "two long legs side by side under a narrow waist",
        "a garment for the legs, parted by a dark gap from the middle down",
        "long and narrow, split into two straight tubes",
        "pants that reach from the waist to the ankles",
        "a tall shape with a waistband on top and two legs below",
    ),
    (
        "a warm knitted top with two long sleeves and a closed front",
        "long sleeves hang beside a soft body that is pulled over the head",
        "a thick sweater without buttons, as wide as it is long",
        "a closed upper garment of wool, its sleeves reach the hips",
        "a heavy knitted body with a small round neck and long arms",
    ),
    (
        "one long piece from the shoulders to the knees, narrow at the waist",
        "a gown that widens towards its hem",
        "a tall slim garment in one piece with a skirt at its lower end",
        "thin shoulders above a long flowing skirt",
        "a sleeveless shape, close at the chest and wide below",
    ),
    (
        "a heavy outer garment with an open front and two long sleeves",
        "a jacket with a collar and a seam from the neck to the hem",
        "thick long sleeves beside a body that is split down the middle",
        "a winter garment with lapels and a row of buttons",
        "a long jacket worn over everything else, with a zip in front",
    ),
    (
        "an open shoe of thin straps over a flat sole",
        "a light shoe with gaps through which the foot is seen",
        "a sole with a few strips across it and a lot of empty space",
        "a summer shoe with straps, sometimes on a high heel",
        "a low broken outline: sole, heel and some bands",
    ),
    (
        "a thin top with a collar, long sleeves and a row of small buttons",
        "a blouse with a buttoned front and cuffs",
        "long sleeves of thin cloth beside a body with a buttoned seam",
        "a smooth upper garment with a folded collar",
        "a light buttoned garment that ends at the hips, with long arms",
    ),
    (
        "a low closed sports shoe with laces and a thick rubber sole",
        "a flat shoe that ends below the ankle, its toe to the left",
        "a long low shape, round at the toe, with a pale sole",
        "a running shoe with laces and a padded rim",
        "a closed shoe without a heel, wider than it is high",
    ),
    (
        "a container with a handle or a strap on top",
        "a box of leather with a flap and a bow above it to hold it by",
        "a square body with a loop over its upper edge",
        "a purse to carry things in, no sleeves and no sole",
        "a wide rectangle that hangs from a strap",
    ),
    (
        "a high closed shoe that covers the ankle, on a heel",
        "a shoe with a tall shaft above its heel",
        "a shape like the letter L: a shaft stands on a foot",
        "a sturdy leather shoe that rises over the ankle",
        "a winter shoe with a shaft, higher than other shoes",
    ),
)

_DIGITS = (
    (
        "the digit zero, one closed ring",
        "a tall oval with an empty middle",
        "one loop that returns to its start, nothing inside",
        "a closed curve without corners, taller than wide",
        "a round line around a hole",
    ),
    (
        "the digit one, a single upright stroke",
        "a straight vertical line, perhaps with a short flag on top",
        "one narrow stroke from top to bottom",
        "no curve and no hole, a thin pole",
        "a stroke that stands in the middle of the picture",
    ),
    (
        "the digit two, a bow on top and a flat line at the bottom",
        "a curve that bends right, then runs down to a level foot",
        "a rounded head, a slanting neck and a straight base",
        "a line like a swan on the water",
        "open on the left, closed by a stroke below",
    ),
    (
        "the digit three, two bows one above the other",
        "two bumps that open to the left",
        "a line that swings right twice",
        "half of an eight, its left side is missing",
        "an upper and a lower arc that meet in the middle",
    ),
    (
        "the digit four, a tall stroke crossed by a level one",
        "an open corner on the left beside a vertical line",
        "two upright strokes tied by a bar in the middle",
        "a chair turned upside down, drawn with straight lines",
        "straight strokes only, a cross with a roof on its left",
    ),
    (
        "the digit five, a flat roof, a short neck and a round belly",
        "a level stroke on top and a bow below that opens to the left",
        "a corner at the upper left above a wide arc",
        "an angle on top of a hook",
        "straight lines above, a curve below",
    ),
    (
        "the digit six, a tall curve that closes into a ring below",
        "a hook that ends in a loop at the bottom",
        "a hole in the lower half, an open arc above it",
        "a ball with a long tail that rises to the left",
        "a spiral that winds inwards at its foot",
    ),
    (
        "the digit seven, a flat roof and a slanting leg",
        "a level stroke on top, then one line down to the left",
        "an angle that is open below, no curve in it",
        "two straight strokes that meet at the upper right",
        "a long leg under a roof, sometimes with a bar across",
    ),
    (
        "the digit eight, two closed rings one on the other",
        "two holes, one above and one below",
        "a line that crosses itself in the middle",
        "a narrow waist between two loops",
        "a small ring standing on another",
    ),
    (
        "the digit nine, a ring on top of a long leg",
        "a loop above with a tail that falls down",
        "a hole in the upper half and a stroke below it",
        "a ball on a stick that may bend to the left",
        "a six turned upside down",
    ),
)

_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "fashion_mnist": dict(zip(FASHION_NAMES, _FASHION, strict=True)),
    "digits": dict(zip(DIGIT_NAMES, _DIGITS, strict=True)),
    "gtsrb": {name: describe(SIGNS[label]) for label, name in enumerate(SIGN_NAMES)},
}
_TABLES["signs"] = _TABLES["gtsrb"]


def of(name: str) -> Mapping[str, tuple[str, ...]]:
    """Class name -> its descriptions, at least five.

    Args:
        name: "fashion_mnist", "digits", "gtsrb" or "signs", the stand-in with the same classes.

    Raises:
        ValueError: a data set that has no descriptions here.

    Built in lesson 05.
    """
    if name not in _TABLES:
        raise ValueError(
            f"there are no descriptions of {name!r}; there are for {', '.join(_TABLES)}. For data of your own, "
            "pass a dictionary: class name -> list of sentences"
        )
    return dict(_TABLES[name])


def from_templates(names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> dict[str, tuple[str, ...]]:
    """Class name -> the name in every template, for networks that know the words already.

    Raises:
        ValueError: a template without exactly one `{}`.
    """
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ValueError(f"templates={wrong or list(templates)}: every one needs {{}} once, where the name goes")
    return {name: tuple(template.format(name) for template in templates) for name in names}
