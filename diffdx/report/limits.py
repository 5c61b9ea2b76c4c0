"""What a result must not be used for, and what it does not say: on every page and model card."""

from diffdx.report.facts import Facts, ModelFacts

_ALWAYS = (
    "Research use only. Without clinical validation, the output must not be used for diagnosis, "
    "triage or any other decision about a patient.",
    "Every image gets one of the classes, whatever it shows; another disease has no class.",
    "A good score does not mean that the disease was looked at: it may be the hospital, the device "
    "or a marker in the image.",
    "Metrics hold for images like these. Other sites, devices, ages or class shares change them.",
)
_OF_TRIALS = (
    "A vote share is an effect size and no probability, and entropy is no measured error rate.",
    "A counterfactual shows what the model associates with a class, not what would happen to a "
    "patient.",
)
_UNCALIBRATED = (
    "A run that is not calibrated has no probabilities, no sets, no triage and no gate against "
    "foreign images."
)
_CALIBRATED = (
    "Probabilities, sets and triage promise what they say for images exchangeable with the "
    "calibration images. The gate flags many foreign images, not all."
)


def limits(facts: Facts) -> list[str]:
    """Return the limits of these results, as sentences."""
    found = list(_ALWAYS)
    if any(run.summary["kind"] != "baseline" for run in facts.runs):
        found += _OF_TRIALS
    calibrated = {run.summary["calibration"] is not None for run in facts.runs}
    found += [_CALIBRATED] if True in calibrated else []
    found += [_UNCALIBRATED] if False in calibrated else []
    found += [_side(model) for model in models(facts)]
    return list(dict.fromkeys(found))


def models(facts: Facts) -> list[ModelFacts]:
    """Return the models named, each once."""
    return list({m.sha256: m for run in facts.runs if (m := run.model) is not None}.values())


def warnings(facts: Facts) -> list[tuple[str, list[str]]]:
    """Return the warnings of all runs, each once, with the runs it is of where not of all."""
    found: dict[str, list[str]] = {}
    for run in facts.runs:
        for text in run.summary["warnings"]:
            found.setdefault(text, []).append(run.name)
    return [(text, [] if len(of) == len(facts.runs) else of) for text, of in found.items()]


def _side(model: ModelFacts) -> str:
    side = model.pixels.size_px
    return f"Images are reduced to {side} x {side} pixels; finer signs are lost."
