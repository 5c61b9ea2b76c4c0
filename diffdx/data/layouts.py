"""Public sets that are read as their publishers ship them, behind `NAME:ROOT?option=value`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from diffdx.data.chexpert import open_chexpert
from diffdx.data.dataset import Dataset
from diffdx.data.isic import open_ham10000, open_isic, open_isic2019, open_isic2020
from diffdx.data.medmnist import CLASSES, open_medmnist
from diffdx.data.phantoms import CLASSES as PHANTOM_CLASSES
from diffdx.data.phantoms import open_phantoms
from diffdx.errors import ConfigError

UNCERTAIN = ("drop", "zero", "one")


@dataclass(frozen=True)
class Layout:
    """A public set.

    Attributes:
        usage: How it is named on the command line.
        images: Images of the set under the rule used here, as published.
        classes: What they are divided into.
        licence: Of the images.
        citation: What to cite where results on them are published.
        open: Reads it from what stands before the question mark, and the options.
        options: Names of the options and what each may be; nothing listed: a whole number. None:
            the reader checks its own.
    """

    usage: str
    images: str
    classes: str
    licence: str
    citation: str
    open: Callable[[Path, Mapping[str, str]], Dataset]
    options: Mapping[str, tuple[str, ...]] | None = field(default_factory=dict)


def _draw(root: Path, options: Mapping[str, str]) -> Dataset:
    return open_phantoms(f"{root}?{urlencode(options)}")


_ISIC_2020 = "Rotemberg et al., Scientific Data 8:34, 2021"
_ISIC_2019 = (
    "Tschandl et al., Scientific Data 5:180161, 2018; Codella et al., ISBI 2018; "
    "Hernandez-Perez et al., Scientific Data 11:641, 2024"
)
LAYOUTS: dict[str, Layout] = {
    "chexpert": Layout(
        usage="chexpert:ROOT?uncertain=drop",
        images="20,404 of 223,414 (16,324 / 2,040 / 2,040)",
        classes="Pleural Effusion, No Finding, 1:1",
        licence="Stanford University Dataset Research Use Agreement",
        citation="Irvin et al., AAAI 2019",
        open=open_chexpert,
        options={"uncertain": UNCERTAIN, "seed": ()},
    ),
    "isic2020": Layout(
        usage="isic2020:ROOT",
        images="33,126",
        classes="melanoma 584, benign 32,542",
        licence="CC BY-NC 4.0",
        citation=_ISIC_2020,
        open=open_isic2020,
    ),
    "isic2019": Layout(
        usage="isic2019:ROOT",
        images="25,331",
        classes="MEL 4,522, NV, BCC, AK, BKL, DF, VASC, SCC",
        licence="CC BY-NC 4.0",
        citation=_ISIC_2019,
        open=open_isic2019,
    ),
    "isic": Layout(
        usage="isic:ROOT",
        images="10,212 (the paper's union; its lists hold 10,211)",
        classes="melanoma 5,106, benign 5,106",
        licence="CC BY-NC 4.0",
        citation=f"{_ISIC_2020}; {_ISIC_2019}",
        open=open_isic,
        options={"seed": ()},
    ),
    "ham10000": Layout(
        usage="ham10000:ROOT",
        images="10,015 of 7,470 lesions",
        classes="nv 6,705, mel 1,113, bkl 1,099, bcc 514, akiec 327, vasc 142, df 115",
        licence="CC BY-NC 4.0",
        citation="Tschandl et al., Scientific Data 5:180161, 2018",
        open=open_ham10000,
    ),
    "medmnist": Layout(
        usage="medmnist:pneumoniamnist?size=64",
        images="546 to 236,386 at 28, 64, 128 or 224 px",
        classes=", ".join(CLASSES),
        licence="CC BY 4.0; dermamnist CC BY-NC 4.0",
        citation="Yang et al., Scientific Data 10:41, 2023",
        open=open_medmnist,
        options={"size": ("28", "64", "128", "224")},
    ),
    "phantoms": Layout(
        usage="phantoms:chest?n=400&difficulty=0.5",
        images="as many as asked for",
        classes="; ".join(f"{kind}: {', '.join(of)}" for kind, of in PHANTOM_CLASSES.items()),
        licence="part of this software",
        citation="none: drawings",
        open=_draw,
        options=None,
    ),
}


def open_layout(name: str, rest: str, *, uncertain: str | None = None) -> Dataset:
    """Return the dataset `NAME:ROOT?option=value`.

    Args:
        name: A key of `LAYOUTS`.
        rest: What stands behind the colon.
        uncertain: As the option of that name; the option itself wins.

    Raises:
        ConfigError: if an option or its value is unknown to this layout.
        DataError: as the layout's reader.
    """
    layout = LAYOUTS[name]
    root, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if uncertain is not None:
        options.setdefault("uncertain", uncertain)
    if layout.options is not None:
        _check(name, options, layout.options)
    return layout.open(Path(root), options)


def _check(name: str, options: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> None:
    for option, value in options.items():
        if option not in known:
            names = ", ".join(known) or "none"
            raise ConfigError(f"{name}: unknown option {option!r}; known: {names}")
        allowed = known[option]
        if value not in allowed if allowed else not value.isdecimal():
            choices = ", ".join(allowed) or "a whole number"
            raise ConfigError(f"{name}: {option}={value!r}; choose {choices}")
