"""The same image twice: the same pixels, or the same picture at another size or quality.

Candidates have equal digests or neighbouring spectra (`audit.looks`, `audit.neighbours`). Each
candidate pair is then read and compared: equal pixels are an exact duplicate; a correlation of
.99 or more of the two pictures at 64 x 64 is a near one. Mirrored, turned or cropped copies are not
found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Int, Shaped
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffdx._typing import Pixels
from diffdx.data.audit.findings import Check, Verdict
from diffdx.data.audit.looks import to_grey
from diffdx.data.audit.neighbours import near_pairs, words
from diffdx.data.audit.subject import Subject
from diffdx.data.dataset import Dataset
from diffdx.errors import DataError

CORRELATION = 0.99
"""Between 64 x 64 pictures: resized copies reach .997, different patients stay below .98."""
COSINE = 0.98
"""Between spectra; below it no picture correlates by .99."""
MAX_PAIRS = 20_000
_SIDE = 64

Group = npt.NDArray[np.int64]
Groups = list[Group]


@dataclass(frozen=True)
class Duplicates:
    """Groups of rows that show the same image.

    Attributes:
        exact: Groups of the same pixels.
        near: Groups of the same picture that hold more than one of those.
        is_complete: False if there were more candidates than are compared.
        n_seen: How many images were compared.
    """

    exact: Groups
    near: Groups
    is_complete: bool
    n_seen: int


def find_duplicates(
    dataset: Dataset, looks: Shaped[np.ndarray, "n"], *, max_pairs: int = MAX_PAIRS
) -> Duplicates:
    """Return which images of a dataset are the same.

    Args:
        dataset: Where the candidates are read.
        looks: What was seen of each; see `audit.looks`.
        max_pairs: Candidate pairs that are read and compared at most.
    """
    seen = np.flatnonzero(looks["seen"])
    exact: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    num_pairs = 0
    for i, j in _candidates(looks, seen):
        num_pairs += 1
        if num_pairs > max_pairs:
            break
        try:
            first, second = (_plain(dataset.pixels(dataset.records[row])) for row in (i, j))
        except DataError:
            continue
        if np.array_equal(first, second):
            exact.append((i, j))
        elif _correlation(_picture(first), _picture(second)) >= CORRELATION:
            near.append((i, j))
    same = _groups(exact, len(looks))
    known = {tuple(group) for group in same}
    return Duplicates(
        exact=same,
        near=[group for group in _groups(exact + near, len(looks)) if tuple(group) not in known],
        is_complete=num_pairs <= max_pairs,
        n_seen=len(seen),
    )


def exact_duplicates(subject: Subject, found: Duplicates) -> Check:
    """Return whether the same pixels are in two roles (fail) or under two patients (warn)."""
    return _check("exact_duplicates", "fail", "the same pixels", subject, found, found.exact)


def near_duplicates(subject: Subject, found: Duplicates) -> Check:
    """Return whether the same picture is in two roles or under two patients (warn)."""
    return _check("near_duplicates", "warn", "nearly the same", subject, found, found.near)


def label_conflicts(subject: Subject, found: Duplicates) -> Check:
    """Return whether the same image has two labels: the same pixels fail, near ones warn."""
    labels = subject.frame["label"].to_numpy(dtype=object)
    exact, near = (
        [group for group in groups if len({labels[row] for row in group}) > 1]
        for groups in (found.exact, found.near)
    )
    verdict: Verdict = "fail" if exact else "warn" if near else "pass"
    detail = (
        f"{len(exact)} groups of the same pixels and {len(near)} of nearly the same have more than "
        "one label"
    )
    groups = [_ids(subject, group) for group in exact + near]
    return Check("label_conflicts", verdict, len(exact) + len(near), detail, groups)


def _check(
    name: str,
    across_roles: Verdict,
    what: str,
    subject: Subject,
    found: Duplicates,
    groups: Groups,
) -> Check:
    roles, units = subject.frame["role"].to_numpy(dtype=object), subject.units
    crossing = [group for group in groups if len({roles[row] for row in group}) > 1]
    apart = [group for group in groups if len({units[row] for row in group}) > 1]
    verdict: Verdict = across_roles if crossing else "warn" if apart else "pass"
    within = "one role of the split" if subject.frame["role"].notna().any() else "the set"
    detail = (
        f"{len(groups)} groups of {what} among {found.n_seen} of {len(subject)} images: "
        f"{len(crossing)} in two roles, {len(apart)} under two patients, the others of one patient "
        f"in {within}"
    )
    if not found.is_complete:
        detail += "; at least: not all candidates were compared"
    shown = [_ids(subject, group) for group in crossing or apart]
    return Check(name, verdict, len(groups), detail, shown)


def listed_twice(subject: Subject) -> list[Check]:
    """Return the three checks for tables alone, which show only an image that is listed twice."""
    frame = subject.frame
    roles, labels = (frame.groupby("image_id")[name].nunique() for name in ("role", "label"))
    twice, torn = roles.index[roles > 1], labels.index[labels > 1]
    without = "untestable without the images"
    copies, conflicts = (
        Check(name, "fail", len(ids), f"{len(ids)} images are listed with two {what}", [tuple(ids)])
        if len(ids)
        else Check(
            name, "untestable", None, f"no image is listed with two {what}; more is {without}"
        )
        for name, ids, what in (
            ("exact_duplicates", twice, "roles"),
            ("label_conflicts", torn, "labels"),
        )
    )
    return [copies, Check("near_duplicates", "untestable", None, without), conflicts]


def _candidates(
    looks: Shaped[np.ndarray, "n"], seen: Int[np.ndarray, "m"]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows: equal digests, then first rows of a digest with close spectra."""
    digests, first, which = np.unique(looks["digest"][seen], return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[which] != np.arange(len(seen))):
        yield int(seen[first[which[row]]]), int(seen[row])
    if len(digests) < 2:
        return
    spectra = looks["spectrum"][seen[first]]
    for i, j in near_pairs(words(spectra)):
        close = np.einsum("nk,nk->n", spectra[i], spectra[j]) >= COSINE
        for a, b in zip(seen[first[i[close]]], seen[first[j[close]]], strict=True):
            yield int(a), int(b)


def _plain(pixels: Pixels) -> Pixels:
    """Return the pixels, grey ones stored as colour as grey."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    return pixels


def _correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _picture(pixels: Pixels) -> npt.NDArray[np.float64]:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return to_grey(np.asarray(image.convert("RGB"), dtype=np.float64))


def _groups(pairs: list[tuple[int, int]], n: int) -> Groups:
    """Return the connected components of more than one row."""
    if not pairs:
        return []
    rows, columns = np.array(pairs).T
    graph = coo_matrix((np.ones(len(pairs), dtype=np.int8), (rows, columns)), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    touched = np.unique(np.concatenate([rows, columns]))
    order = touched[np.argsort(component[touched], kind="stable")]
    starts = np.flatnonzero(np.diff(component[order])) + 1
    return [np.asarray(group, dtype=np.int64) for group in np.split(order, starts)]


def _ids(subject: Subject, group: Group) -> tuple[str, ...]:
    return tuple(str(name) for name in subject.frame["image_id"].to_numpy()[group])
