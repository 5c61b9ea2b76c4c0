"""Can the label be told without looking at the disease: from the name, the source, the frame?

| check         | looks at                                                     | if found |
|---------------|--------------------------------------------------------------|----------|
| filename_rule | pattern and numbers of the file name, folder                 | warn     |
| source_rule   | membership in another archive: table, column, range of ids   | fail     |
| pixel_rule    | size, format, border, mean colour of the image               | fail     |
| metadata_rule | every other column: age, sex, site, ...                      | warn     |

A model sees pixels, not names: a name that tells the label harms nobody who only classifies pixels.
An archive has its own cameras, crops and colours: a model can learn it from the pixels.
Whatever repeats the label (`LABEL_COLUMNS`, class folders) is left out and listed.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from diffdx.data.audit.findings import Check, Verdict
from diffdx.data.audit.rules import MIN_IMAGES, RuleScore, categories, encode, score_rule
from diffdx.data.audit.subject import Subject
from diffdx.data.lists import CORE, IDS, image_key
from diffdx.data.tables import ROLES_BY_NAME

LABEL_COLUMNS = (
    "label",
    "cause",
    "dx",
    "diagnosis",
    "benign_malignant",
    "target",
    "class",
)
SOURCE_COLUMNS = ("source", "dataset", "archive", "collection", "institution")
IDENTITY_COLUMNS = (*CORE, *IDS, "split", "lesion_id", "study_id", "series_id")
MOST_FOLDERS = 30
MIN_KNOWN = 0.10

ISIC_ARCHIVES = {0: "ISIC to 2017", 24306: "HAM10000", 34321: "ISIC 2018 to 2019", 73255: "2020"}
"""First number of the ISIC ids of each archive; 2020 also has three smaller ones."""

Facts = dict[str, Float[np.ndarray, "n columns"]]


def excluded(subject: Subject) -> list[str]:
    """Return the columns and folders that repeat the label, sorted."""
    columns = [name for name in subject.columns if _repeats_label(subject, name)]
    folders = {part for parts in _folders(subject) for part in parts} & _classes(subject)
    return [f"column {name}" for name in sorted(columns)] + [f"folder {n}" for n in sorted(folders)]


def filename_rule(subject: Subject) -> Check:
    """Return whether file names tell the label."""
    stems = subject.frame["image_id"].map(image_key)
    facts = {"pattern": categories(stems.str.replace(r"\d+", "#", regex=True))}
    numbers = stems.str.findall(r"\d+")
    ids = [[float(found[0]), float(found[-1])] if found else [np.nan] * 2 for found in numbers]
    facts["range of ids"] = np.array(ids)
    known = _classes(subject)
    kept = [
        "/".join(p for p in parts if p not in known and p.lower() not in ROLES_BY_NAME)
        for parts in _folders(subject)
    ]
    if 1 < len(set(kept)) <= MOST_FOLDERS:
        facts["folder"] = categories(pd.Series(kept))
    return _check("filename_rule", "warn", subject, facts, "")


def source_rule(subject: Subject) -> Check:
    """Return whether the archive that an image comes from tells the label."""
    facts: Facts = {
        f"listed in {name}": is_in.astype(float)[:, None] for name, is_in in subject.members.items()
    }
    for name in subject.columns:
        if name.lower() in SOURCE_COLUMNS and subject.metadata[name].nunique() > 1:
            facts[f"column {name}"] = categories(subject.metadata[name])
    numbers = subject.frame["image_id"].map(image_key).str.extract(r"^ISIC_(\d{7})", expand=False)
    if numbers.notna().all():
        archive = np.digitize(numbers.astype(int), list(ISIC_ARCHIVES)[1:])
        if len(np.unique(archive)) > 1:
            facts["ISIC archive by id"] = categories(pd.Series(archive))
    missing = "no table, column or range of ids tells where an image comes from"
    return _check("source_rule", "fail", subject, facts, missing)


def metadata_rule(subject: Subject) -> Check:
    """Return whether age, sex, site and the like tell the label, among the images that have any."""
    names = [
        name
        for name in subject.columns
        if not _repeats_label(subject, name)
        and name.lower() not in (*SOURCE_COLUMNS, *IDENTITY_COLUMNS)
        and subject.metadata[name].nunique() > 1
    ]
    known = (subject.metadata[names] != "").any(axis=1).to_numpy(dtype=bool)
    if not names or known.mean() < MIN_KNOWN:
        missing = "no column but ids, sources and labels"
        return Check("metadata_rule", "untestable", None, missing)
    some = subject.select(known)
    facts = {name: encode(some.metadata[name]) for name in names}
    check = _check("metadata_rule", "warn", some, facts, "")
    detail = f"known of {known.sum()} of {len(subject)} images; {check.detail}"
    return replace(check, detail=detail)


def pixel_rule(subject: Subject, looks: Shaped[np.ndarray, "n"]) -> Check:
    """Return whether the frame of the image tells the label.

    Args:
        subject: Images.
        looks: What was seen of each; see `audit.looks`.
    """
    seen = np.flatnonzero(looks["seen"])
    found = looks[seen]
    some = subject.select(seen)
    facts = {
        "size": np.stack([found["width"], found["height"]], axis=1).astype(float),
        "format": categories(pd.Series(found["kind"])),
        "border": np.concatenate([found["dark"][:, None], found["edge"]], axis=1).astype(float),
        "mean colour": found["colour"].astype(float),
    }
    if not len(some):
        return Check("pixel_rule", "untestable", None, "no image could be read")
    check = _check("pixel_rule", "fail", some, facts, "")
    if check.verdict != "fail":
        return check
    detail = f"{check.detail}; colour may be a sign of the disease itself: a model must beat this"
    return replace(check, detail=detail)


def _check(name: str, if_found: Verdict, subject: Subject, facts: Facts, missing: str) -> Check:
    """Return the verdict of the best of these facts alone and all of them together."""
    if not facts:
        return Check(name, "untestable", None, missing)
    if int(subject.frame["label"].notna().sum()) < MIN_IMAGES:
        return Check(name, "untestable", None, f"fewer than {MIN_IMAGES} labelled images")
    alike = [fact for fact, column in facts.items() if _is_constant(column)]
    same = [f"{', '.join(alike)}: the same for all images"] if alike else []
    if len(alike) == len(facts):
        return Check(name, "pass", None, same[0])
    scores = list(_scores(subject, {k: column for k, column in facts.items() if k not in alike}))
    if not scores:
        few = "a class has too few patients to tell a rule from chance"
        return Check(name, "untestable", None, few)
    best = max(scores, key=lambda score: (score.is_found, score.is_suspicious, score.excess))
    verdict: Verdict = "pass"
    if best.is_found:
        verdict = if_found
    elif best.is_suspicious:
        verdict = "warn"
    others = [score.text() for score in scores if score is not best]
    value = best.accuracy if best.test is None else best.test
    ids = subject.frame["image_id"].to_numpy()
    labelled = ids[subject.frame["label"].notna().to_numpy()]
    groups = [tuple(labelled[list(rows)]) for rows in best.surest if rows and verdict != "pass"]
    return Check(name, verdict, value, "; ".join([best.text(), *others, *same]), groups)


def _is_constant(column: Float[np.ndarray, "n columns"]) -> bool:
    return bool(np.isnan(column).all() or (column == column[:1]).all())


def _scores(subject: Subject, facts: Facts) -> Iterator[RuleScore]:
    labels = subject.frame["label"]
    known = labels.notna().to_numpy()
    classes = pd.factorize(labels[known], sort=True)[0].astype(np.int64)
    columns = {name: np.asarray(value)[known] for name, value in facts.items()}
    if len(columns) > 1:
        columns["all together"] = np.concatenate(list(columns.values()), axis=1)
    for name, features in columns.items():
        score = score_rule(
            name,
            features,
            classes,
            subject.units[known],
            train=subject.in_role("train")[known],
            test=subject.in_role("test")[known],
        )
        if score is not None:
            yield score


def _repeats_label(subject: Subject, name: str) -> bool:
    """Whether a column is the label under another name, or one 0/1 column of several."""
    return name.lower() in LABEL_COLUMNS or name in _classes(subject)


def _folders(subject: Subject) -> Iterator[tuple[str, ...]]:
    return (PurePosixPath(name).parts[:-1] for name in subject.frame["image_id"])


def _classes(subject: Subject) -> set[str]:
    return set(subject.frame["label"].dropna())
