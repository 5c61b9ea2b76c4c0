"""Built-in phantoms: a dataset without files, whose class, lesion mask and difficulty are known.

    phantoms:chest                      radiographs, NORMAL against OPACITY
    phantoms:lesion                     dermoscopy, NEVUS against MELANOMA
    phantoms:chest?n=400&difficulty=0.5&size=64&seed=0      the defaults, spelled out

Every image is a function of (kind, seed, index) alone. Of every three images two belong to one
patient, who keeps the body and changes the exposure; every six images hold three of each class.
"""

import dataclasses
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from diffdx._typing import Pixels
from diffdx.data.dataset import Dataset, Record
from diffdx.data.phantom_images import draw_chest, draw_lesion
from diffdx.errors import ConfigError

Kind = Literal["chest", "lesion"]
CLASSES: dict[Kind, tuple[str, str]] = {
    "chest": ("NORMAL", "OPACITY"),
    "lesion": ("NEVUS", "MELANOMA"),
}


@dataclasses.dataclass(frozen=True)
class PhantomSpec:
    """Which phantoms.

    Attributes:
        kind: `chest` (grey) or `lesion` (RGB).
        n: Number of images.
        difficulty: 0 easy .. 1 impossible; the classes differ by an amplitude proportional to
            1 - difficulty.
        size: Side of the square images in pixels, 28..256.
        seed: Seed of all of them.
    """

    kind: Kind
    n: int = 400
    difficulty: float = 0.5
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"n": (1, 10_000_000), "difficulty": (0, 1), "size": (28, 256), "seed": (0, 2**31)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"phantoms: {name} must be from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Phantom:
    """One drawn phantom.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8.
        mask: (H, W) bool: the opacities, or the pigmented lesion; all False for a NORMAL chest.
    """

    pixels: Pixels
    mask: npt.NDArray[np.bool_]


def parse_phantoms(text: str) -> PhantomSpec:
    """Return the phantoms that `KIND?option=value&...` names.

    Raises:
        ConfigError: if the kind or an option is unknown, or a value is out of its range.
    """
    name, _, query = text.partition("?")
    kind = next((kind for kind in CLASSES if kind == name), None)
    if kind is None:
        raise ConfigError(f"phantoms:{name}: unknown kind; choose {' or '.join(CLASSES)}")
    types = {"n": int, "difficulty": float, "size": int, "seed": int}
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in types:
            raise ConfigError(f"phantoms: unknown option {name!r}; known: {', '.join(types)}")
        try:
            options[name] = types[name](value)
        except ValueError as error:
            raise ConfigError(f"phantoms: {name}={value!r} is not a number") from error
    return PhantomSpec(kind, **options)


def open_phantoms(text: str) -> Dataset:
    """Return the dataset that `KIND?option=value&...` names; the positive class is abnormal."""
    spec = parse_phantoms(text)
    records = [
        Record(
            image_id=f"{spec.kind}-{index:06d}",
            path=f"phantoms:{spec.kind}/{index:06d}",
            label=CLASSES[spec.kind][is_abnormal(index)],
            patient_id=f"patient-{patient_of(index):06d}",
        )
        for index in range(spec.n)
    ]
    classes = CLASSES[spec.kind]
    return Dataset(
        name=f"phantoms-{spec.kind}",
        records=records,
        classes=tuple(sorted(classes)),
        positive=classes[1],
        has_patients=True,
        warnings=["Phantoms are drawings: results on them say nothing about patients."],
        source=PhantomSource(spec),
    )


def patient_of(index: int) -> int:
    """Return the patient of an image: 0 0 1 2 2 3 4 4 5 ..."""
    return 2 * (index // 3) + (index % 3 == 2)


def is_abnormal(index: int) -> bool:
    """Return whether an image is of the abnormal class: half are, a patient's images agree."""
    return (index // 3 + (index % 3 == 2)) % 2 == 1


def draw_phantom(spec: PhantomSpec, index: int) -> Phantom:
    """Return image `index` of the phantoms, with its lesion mask."""
    kind = list(CLASSES).index(spec.kind)
    body = np.random.default_rng([spec.seed, kind, 0, patient_of(index)])
    exposure = np.random.default_rng([spec.seed, kind, 1, index])
    draw = draw_chest if spec.kind == "chest" else draw_lesion
    strength = 1.0 - spec.difficulty if is_abnormal(index) else 0.0
    return Phantom(*draw(spec.size, body, exposure, strength))


@dataclasses.dataclass(frozen=True)
class PhantomSource:
    """Draws the pixels of a record when they are asked for."""

    spec: PhantomSpec

    def pixels(self, record: Record) -> Pixels:
        """Return the drawn image."""
        return self._draw(record).pixels

    def mask(self, record: Record) -> npt.NDArray[np.bool_]:
        """Return the drawn lesions."""
        return self._draw(record).mask

    def stamp(self, record: Record) -> str:
        """Return the options that all phantoms depend on."""
        return str(self.spec)

    def _draw(self, record: Record) -> Phantom:
        return draw_phantom(self.spec, int(record.image_id.rpartition("-")[2]))
