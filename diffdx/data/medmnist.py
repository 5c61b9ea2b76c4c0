"""MedMNIST's 2D sets: `medmnist:pneumoniamnist?size=64`, or the path of such an .npz file.

A set asked for by name is looked for in the cache and downloaded if it is not there, unless
HF_HUB_OFFLINE is set. Its arrays are unpacked once into the cache and mapped, so that the largest
set takes no memory. Image ids are `train/000000`, ...; the publishers' roles are kept. (Yang et
al., Scientific Data 10:41, 2023.)
"""

import dataclasses
import os
import shutil
import urllib.request
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from diffdx._cache import cache_folder
from diffdx._files import atomic_path, exclusive
from diffdx._typing import Pixels
from diffdx.data.dataset import Dataset, Record
from diffdx.errors import ConfigError, DataError

SIZES = (28, 64, 128, 224)
ROLES = ("train", "val", "test")
URL = "https://zenodo.org/records/10519652/files/{}?download=1"
MAX_BYTES = 32 << 30
"""Of one set's images, unpacked; the largest published has 16 GB."""
_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
CLASSES: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "breastmnist": ("malignant", "normal or benign"),
    "dermamnist": (
        "actinic keratoses",
        "basal cell carcinoma",
        "benign keratosis",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    "tissuemnist": (
        "collecting duct, connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        "leukocytes",
        "podocytes",
        "proximal tubule segments",
        "thick ascending limb",
    ),
}
"""What the label indices of each single-label set mean."""


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Pixels from mapped arrays, one a role; a record's id is role/position.

    Attributes:
        folder: Holds train.npy, val.npy and test.npy.
        checksums: Of each role's images, as the archive states them.
    """

    folder: Path
    checksums: Mapping[str, str]

    def pixels(self, record: Record) -> Pixels:
        """Return the image at the record's position."""
        role, _, position = record.image_id.partition("/")
        return np.array(_mapped(self.folder / f"{role}.npy")[int(position)])

    def mask(self, record: Record) -> None:
        """Return None: no one has drawn a lesion."""
        return None

    def stamp(self, record: Record) -> str:
        """Return the checksum of its role's images."""
        return self.checksums[record.image_id.partition("/")[0]]


def open_medmnist(root: Path, options: Mapping[str, str]) -> Dataset:
    """Return a MedMNIST set.

    Args:
        root: Name of a set, or path of its .npz file.
        options: `size` in pixels: 28 (default), 64, 128 or 224; only with a name.

    Raises:
        ConfigError: if the name or the size is unknown, or the set is needed while offline.
        DataError: if the file is not a single-label MedMNIST file, or damaged.
    """
    path = root if root.is_file() else _fetch(str(root), options.get("size", "28"))
    name = path.name.partition(".")[0].partition("_")[0].lower()
    try:
        with zipfile.ZipFile(path) as archive:
            members = {role: archive.getinfo(f"{role}_images.npy") for role in ROLES}
            labels = {role: _labels(archive, role, path) for role in ROLES}
            folder = _unpack(archive, path, members)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{str(path)!r}: not a whole MedMNIST file ({error}); fetch it again"
        ) from (error)
    known = CLASSES.get(name, ())
    classes = known or tuple(str(k) for k in range(1 + max(int(y.max()) for y in labels.values())))
    records = [
        Record(f"{role}/{i:06d}", f"{path}:{role}/{i:06d}", classes[k], None, role)
        for role in ROLES
        for i, k in enumerate(labels[role].tolist())
    ]
    checksums = {role: f"{member.CRC:08x}" for role, member in members.items()}
    return Dataset.of_files(path.stem, records, [], source=ArraySource(folder, checksums))


def _labels(archive: zipfile.ZipFile, role: str, path: Path) -> np.ndarray:
    with archive.open(f"{role}_labels.npy") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"{str(path)!r}: {labels.shape[1]} labels per image; one is needed, so write a table "
            "with a column 'label' for the finding to be learned"
        )
    return labels.reshape(-1).astype(np.int64)


def _unpack(archive: zipfile.ZipFile, path: Path, members: Mapping[str, zipfile.ZipInfo]) -> Path:
    """Write each role's images as an .npy file into the cache, unless they are there."""
    if sum(member.file_size for member in members.values()) > MAX_BYTES:
        raise DataError(f"{str(path)!r}: over {MAX_BYTES >> 30} GiB unpacked; use a smaller set")
    content = "-".join(f"{member.CRC:08x}" for member in members.values())
    folder = cache_folder("medmnist") / f"{path.stem}-{content}"
    with exclusive(folder):
        for role, member in members.items():
            target = folder / f"{role}.npy"
            if not target.is_file():
                with archive.open(member) as packed, atomic_path(target) as temporary:
                    with temporary.open("wb") as file:
                        shutil.copyfileobj(packed, file)
                    _check_images(_map(temporary), path, role)
    return folder


def _check_images(images: np.ndarray, path: Path, role: str) -> None:
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not fits:
        raise DataError(
            f"{str(path)!r}: {role}_images is {images.dtype} {images.shape}; "
            "expected uint8 (N, H, W) or (N, H, W, 3)"
        )


def _map(path: Path) -> np.ndarray:
    mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


_mapped = cache(_map)


def _fetch(name: str, size: str) -> Path:
    """Return the set's file in the cache, downloaded if it is not there."""
    if name not in CLASSES:
        raise ConfigError(f"medmnist:{name}: no such file or set; choose {', '.join(CLASSES)}")
    if size not in map(str, SIZES):
        raise ConfigError(f"medmnist:{name}: size={size}; choose {', '.join(map(str, SIZES))}")
    file_name = f"{name}.npz" if size == "28" else f"{name}_{size}.npz"
    path = cache_folder("medmnist") / file_name
    if path.is_file():
        return path
    url = URL.format(file_name)
    advice = f"fetch {url} elsewhere and give its path: medmnist:PATH, or put it at {path}"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise ConfigError(f"medmnist:{name}: not in the cache, and HF_HUB_OFFLINE is set; {advice}")
    try:
        with (
            urllib.request.urlopen(url, timeout=30) as reply,
            atomic_path(path) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(reply, file)
    except OSError as error:
        raise ConfigError(f"medmnist:{name}: download failed ({error}); {advice}") from error
    return path
