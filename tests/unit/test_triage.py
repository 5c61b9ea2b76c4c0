"""Triage: the walk's acceptance is what is stated, and certificates are true as often as stated."""

import json
from itertools import product

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from diffdx.uncertainty.certification import accepted_lengths, tolerated_errors
from diffdx.uncertainty.triage import Triage, fit_triage, triage_summary


def two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def test_acceptance_is_exact_against_all_walks() -> None:
    """All 2^12 sequences of right and wrong: accepted anywhere with probability <= delta."""
    n, level, delta = 12, 0.6, 0.2
    tolerated = tolerated_errors(n, level, delta)
    walks = np.array(list(product((0, 1), repeat=n)))
    chance = np.prod(np.where(walks == 1, 1 - level, level), axis=1)
    accepted = (np.cumsum(walks, axis=1) <= tolerated).any(axis=1)
    assert tolerated.max() >= 1
    assert delta / 3 < chance[accepted].sum() <= delta
    # The price of choosing: one error less, or longer lists, than for a length fixed beforehand.
    assert (tolerated <= tolerated_errors(n, level, 2 * delta)).all()


def test_the_boundary_holds_over_long_walks() -> None:
    n, level, delta, walks = 300, 0.95, 0.1, 20_000
    tolerated = tolerated_errors(n, level, delta)
    wrong = np.random.default_rng(0).random((walks, n)) < 1 - level
    rate = (np.cumsum(wrong, axis=1) <= tolerated).any(axis=1).mean()
    assert rate < delta + 3 * np.sqrt(delta / walks)
    assert rate > delta - 0.02  # the walk is discrete, yet little is given away
    # No error among 45 would do for a length fixed beforehand: .95^45 < .1.
    assert 45 < np.argmax(tolerated >= 0) + 1 < 75


def test_certificates_are_true_as_often_as_they_say() -> None:
    """Labels from a known curve P(y = 1 | s) = expit(3 s): the true NPV and PPV are integrals."""
    rng = np.random.default_rng(1)
    grid = np.linspace(-6, 6, 4001)
    density, positive = norm.pdf(grid, scale=1.5), expit(3 * grid)
    false_npv = false_ppv = given = 0
    repeats = 250
    for _ in range(repeats):
        s = rng.normal(scale=1.5, size=150)
        y = (rng.random(150) < expit(3 * s)).astype(np.int64)
        made = fit_triage(two(expit(s)), y, positive=1, npv=0.93, ppv=0.95)
        out, into = made.rules["rule-out"].threshold, made.rules["rule-in"].threshold
        if out is not None:
            below = grid <= np.log((1 - out) / out)
            false_npv += (density * (1 - positive))[below].sum() / density[below].sum() < 0.93
            given += 1
        if into is not None:
            above = grid >= np.log(into / (1 - into))
            false_ppv += (density * positive)[above].sum() / density[above].sum() < 0.95
    assert given > repeats / 4
    limit = 0.1 + 3 * np.sqrt(0.1 * 0.9 / repeats)
    assert false_npv / repeats < limit
    assert false_ppv / repeats < limit


def test_an_early_error_does_not_end_the_list() -> None:
    wrong = np.zeros(400, dtype=bool)
    wrong[3] = True
    lengths = accepted_lengths(-np.arange(400.0), wrong, 0.95, 0.1)
    assert lengths.min() > 60  # not while one error is too many
    assert lengths.max() == 400


def test_equals_are_answered_together_or_not() -> None:
    sure = np.repeat([0.9, 0.5], [100, 50])
    wrong = np.repeat([False, True], [100, 50])
    assert accepted_lengths(sure, wrong, 0.9, 0.1).tolist() == [100]


def test_thresholds_decide_and_never_answer_twice() -> None:
    p = np.concatenate([np.linspace(0, 0.4, 200), np.linspace(0.6, 1, 200)])
    y = (p > 0.5).astype(np.int64)
    made = fit_triage(two(p), y, positive=1)
    assert made.notices() == []
    decided = made.decide(two(p))
    assert decided == ["rule-out"] * 200 + ["rule-in"] * 200
    # With levels this low each list could take everyone; together they take each once.
    loose = fit_triage(two(p), y, positive=1, npv=0.3, ppv=0.3)
    assert sum(rule.answered for rule in loose.rules.values()) == 400
    flags = np.zeros(400, dtype=bool)
    flags[0] = True
    assert made.decide(two(p), refer=flags)[0] == "refer"
    mirrored = fit_triage(two(1 - p), 1 - y, positive=0, npv=0.98, ppv=0.95)
    assert mirrored.rules["rule-in"].answered == 200
    assert mirrored.decide(two(1 - p))[0] == "rule-out"


def test_too_few_patients_certify_nothing_and_the_least_is_named() -> None:
    p = np.linspace(0, 1, 40)
    made = fit_triage(two(p), (p > 0.5).astype(np.int64), positive=1)
    assert set(made.decide(two(p))) == {"refer"}
    notice = made.notices()[0]
    # 20 positives, all right: 1 - .1^(1/20) = .1087.
    assert "rule-in cannot be certified at 0.98" in notice
    assert "smallest certifiable share of wrong answers here is 0.109" in notice
    only = fit_triage(two(p), np.zeros(40, dtype=np.int64), positive=1)
    assert only.rules["rule-in"].smallest_error == 1.0


def test_several_classes_answer_or_refer() -> None:
    rng = np.random.default_rng(2)
    prob = rng.dirichlet(np.full(3, 0.15), size=400)
    y = np.array([rng.choice(3, p=row) for row in prob])
    made = fit_triage(prob, y, positive=None, accuracy=0.9)
    assert made.positive is None
    decided = np.array(made.decide(prob))
    assert set(decided) == {"answer", "refer"}
    right = (prob.argmax(axis=1) == y)[decided == "answer"]
    rule = made.rules["answer"]
    assert (len(right), int((~right).sum())) == (rule.answered, rule.wrong)
    assert right.mean() > 0.9
    assert fit_triage(two(prob[:, 0]), y % 2, positive=None).rules.keys() == {"answer"}


def test_patients_count_once_and_json_keeps_all() -> None:
    p = np.tile(np.linspace(0, 1, 200), 2)
    y = (p > 0.5).astype(np.int64)
    made = fit_triage(two(p), y, positive=1, groups=[f"p{i % 200}" for i in range(400)])
    assert made.n == 200
    assert Triage.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_summary_counts_by_hand() -> None:
    decided = ["rule-in", "rule-in", "rule-out", "refer"]
    y, y_hat = np.array([1, 0, 0, 1]), np.array([1, 1, 0, 1])
    found = triage_summary(decided, y, y_hat, positive=1)
    assert (found["ppv"], found["npv"], found["answered"]) == (0.5, 1.0, 0.75)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["n"] == {"rule-in": 2, "rule-out": 1, "answer": 0, "refer": 1}
    answers = triage_summary(["answer", "refer"], y[:2], y_hat[:2], positive=None)
    assert (answers["accuracy"], answers["npv"]) == (1.0, None)


def test_impossible_levels_and_no_images_are_refused() -> None:
    prob, y = two(np.linspace(0, 1, 5)), np.array([0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="must lie in"):
        fit_triage(prob, y, positive=1, npv=1.0)
    with pytest.raises(ValueError, match="at least one calibration image"):
        fit_triage(prob[:0], y[:0], positive=1)
