"""What the model's process says of images: the same as `classify`, `calibrate` and `explain` do."""

import functools
import io
import json
import threading
from multiprocessing import Pipe

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffdx.classification.store import read_errors
from diffdx.cli.app import app
from diffdx.data.phantoms import PhantomSpec, draw_phantom
from diffdx.errors import ConfigError, DataError
from diffdx.serving import cases as cases_module
from diffdx.serving import model_process
from diffdx.serving.cases import Cases
from diffdx.serving.model_process import ModelWorker, run_model
from diffdx.serving.schemas import Classification, Explanation, ModelFacts
from diffdx.serving.shown import votes_by_noise
from diffdx.serving.tasks import (
    Cancel,
    Cancelled,
    ClassifyTask,
    ExplainTask,
    Failed,
    ModelSettings,
    Outcome,
    Ready,
    Refused,
)

CLASSES = ("NORMAL", "OPACITY")
HOW = {"num_trials": 41, "bank_size": 41, "device": "cpu", "precision": "fp32", "batch_size": 16}
WORDS = ["--trials=41", "--bank=41", "--device=cpu", "--precision=fp32", "--batch-size=16"]


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny_model(*CLASSES, hears_class=True).save(folder)
    return folder


@pytest.fixture(scope="module")
def pixels():
    return draw_phantom(PhantomSpec("chest", size=28), 3).pixels


@pytest.fixture(scope="module")
def classified(run, pixels, tmp_path_factory):
    """The image's row as the command writes it, and the images' errors."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(pixels).save(folder / "a.png")
    words = ["classify", str(run), str(folder / "a.png"), "--out", str(folder / "out"), *WORDS]
    result = CliRunner().invoke(app, [*words, "--stop=0.2"])
    assert result.exit_code == 0, result.output
    return pd.read_parquet(folder / "out" / "predictions.parquet").iloc[0], folder / "out"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Edits of few network calls."""
    short = functools.partial(cases_module.EditSettings.of, num_steps=5, iterations=2)
    monkeypatch.setattr(cases_module.EditSettings, "of", short)


def cases(run, **how):
    return Cases(ModelSettings(run, HOW | {"stop": "0.2"} | how))


def stored(made, pixels):
    return made.model.pixels.store(pixels)


def heard(ours):
    """Return what has been said on a line."""
    said = []
    while ours.poll():
        said.append(ours.recv())
    return said


class TestClassify:
    def test_says_what_the_command_says(self, run, pixels, classified):
        row, _ = classified
        made = cases(run)
        outcome = made.classify(ClassifyTask(stored(made, pixels), "care"), lambda *_: None)
        said = outcome.result
        Classification.model_validate(said)
        json.dumps(said, allow_nan=False)
        for name in ("prediction", "entropy_bits", "trials_used", "stopped_by"):
            assert said[name] == row[name]
        for group in ("votes", "vote_share", "mean_error"):
            expected = {name: row[f"{group}_{name}"] for name in CLASSES}
            assert said[group] == pytest.approx(expected, rel=1e-5)
        assert said["caution"] == "care"
        assert said["prob"] is None
        picture = np.array(Image.open(io.BytesIO(outcome.pictures["image"])))
        np.testing.assert_array_equal(picture, stored(made, pixels)[0])

    def test_the_evidence_adds_up_to_its_margin(self, run, pixels):
        made = cases(run, stop="none")
        said = made.classify(ClassifyTask(stored(made, pixels)), lambda *_: None).result
        own, other = said["prediction"], next(k for k in CLASSES if k != said["prediction"])
        margin = said["mean_error"][other] - said["mean_error"][own]
        # float32 sums over 16 x 16 pixels and 41 trials
        assert said["evidence_margin"] == pytest.approx(margin, abs=1e-5)

    def test_what_is_watched_is_the_trials_so_far(self, run, pixels):
        made, seen = cases(run, stop="none"), []
        made.classify(ClassifyTask(stored(made, pixels)), lambda e, s: seen.append((e, s)))
        assert [errors.shape[2] for errors, _ in seen] == [8, 16, 24, 32, 40, 41]
        for errors, logsnr in seen:
            np.testing.assert_array_equal(errors, seen[-1][0][:, :, : errors.shape[2]])
            assert logsnr.shape == (1, errors.shape[2])

    def test_an_image_that_overflows_is_a_data_error(self, run, pixels):
        made = cases(run)
        with torch.no_grad():
            next(made.model.denoiser.parameters()).fill_(torch.inf)
        with pytest.raises(DataError, match="not finite"):
            made.classify(ClassifyTask(stored(made, pixels)), lambda *_: None)


class TestFacts:
    def test_say_what_stops_an_image(self, run):
        facts = cases(run, stop="exact").facts()
        ModelFacts(**facts, upload_bytes=1)
        assert facts["boundary"] == list(range(41, 0, -1))
        assert cases(run, stop="none").facts()["boundary"] is None
        assert len(cases(run).facts()["boundary"]) == 41

    def test_name_the_missing_calibration_but_not_the_folder(self, run):
        (warning,) = cases(run).facts()["warnings"]
        assert "diffdx calibrate tiny DATA --trials 41 --stop 0.2" in warning
        assert str(run.parent) not in warning

    def test_a_setting_that_cannot_be_carried_out_is_refused(self, run):
        with pytest.raises(ConfigError):
            cases(run, num_trials=99)


@pytest.fixture(scope="module")
def case(run, pixels):
    """A model at work, and an image that it has classified."""
    made = cases(run)
    return made, made.classify(ClassifyTask(stored(made, pixels)), lambda *_: None)


class TestExplain:
    def test_toward_its_own_class_nothing_changes(self, case):
        made, before = case
        outcome = made.explain(ExplainTask(before.case, before.result["prediction"]))
        assert outcome.result["mean_change"] == 0
        assert outcome.pictures["factual"] == outcome.pictures["counterfactual"]

    @pytest.mark.parametrize("wrong", [{"target": "X"}, {"guidance_scale": 99.0}])
    def test_impossible_wishes_are_refused(self, case, wrong):
        made, before = case
        with pytest.raises(ConfigError):
            made.explain(ExplainTask(**{"case": before.case, "target": "NORMAL"} | wrong))


class TestWorker:
    def test_progress_adds_up_to_the_votes(self, run, pixels):
        made, (ours, theirs) = cases(run), Pipe()
        outcome = ModelWorker(made, theirs).carry_out(ClassifyTask(stored(made, pixels)))
        told = [message.said for message in heard(ours)]
        won = [k for said in told for k in said["won"]]
        votes = outcome.result["votes"]
        assert [won.count(k) for k in (0, 1)] == [votes[name] for name in CLASSES]
        last = told[-1]
        assert last["trials"] == len(won) == outcome.result["trials_used"]
        share = np.array(last["votes"]) / last["trials"]
        assert (np.array(last["share_low"]) <= share).all()
        assert (share <= np.array(last["share_high"])).all()

    def test_a_counterfactual_leads_to_the_class_and_tells_its_calls(self, run, case):
        made, (ours, theirs) = cases(run), Pipe()
        before = case[1]
        source = before.result["prediction"]
        target = next(name for name in CLASSES if name != source)
        outcome = ModelWorker(made, theirs).carry_out(ExplainTask(before.case, target, -1.0, 2.0))
        said = outcome.result
        Explanation.model_validate(said)
        assert (said["source"], said["target"]) == (source, target)
        assert (said["logsnr_start"], said["guidance_scale"]) == (-1.0, 2.0)
        assert said["mean_change"] > 0
        assert set(outcome.pictures) == {"factual", "counterfactual", "difference", "evidence"}
        calls = [message.said["calls"] for message in heard(ours)]
        assert calls == list(range(10, 10 * len(calls) + 1, 10))
        assert len(calls) > 3

    @pytest.mark.parametrize("kind", ["classify", "explain"])
    def test_leaves_a_task_when_asked_to(self, run, pixels, case, kind):
        made, (ours, theirs) = cases(run), Pipe()
        ours.send(Cancel())
        classify = ClassifyTask(stored(made, pixels))
        task = classify if kind == "classify" else ExplainTask(case[1].case, "OPACITY")
        assert ModelWorker(made, theirs).carry_out(task) == Cancelled()

    def test_errors_fail_the_task_and_nothing_else(self, run, pixels):
        made, (_, theirs) = cases(run), Pipe()
        worker = ModelWorker(made, theirs)
        assert worker.carry_out(ExplainTask(b"", "X")).status == 422
        failed = worker.carry_out(ExplainTask(b"no pickle", "OPACITY"))
        assert (failed.status, "UnpicklingError" in failed.message) == (500, True)
        assert isinstance(worker.carry_out(ClassifyTask(stored(made, pixels))), Outcome)

    def test_the_process_serves_until_the_server_is_gone(self, run):
        ours, theirs = Pipe()
        # A cancellation that comes too late is no task.
        ours.send(Cancel())
        ours.send(ExplainTask(b"", "X"))
        said = []

        def hear_two_and_leave():
            said.extend([ours.recv(), ours.recv()])
            ours.close()

        server = threading.Thread(target=hear_two_and_leave)
        server.start()
        with pytest.raises(EOFError):
            run_model(theirs, ModelSettings(run, HOW))
        server.join()
        ready, failed = said
        assert isinstance(ready, Ready)
        assert isinstance(failed, Failed)

    def test_a_folder_without_a_model_is_refused(self, tmp_path):
        ours, theirs = Pipe()
        run_model(theirs, ModelSettings(tmp_path, HOW))
        (refused,) = heard(ours)
        assert isinstance(refused, Refused)
        assert refused.exit_code == 1


class TestVotesByNoise:
    def test_every_trial_counts_in_one_level(self, classified):
        _, folder = classified
        _, errors, logsnr = read_errors(folder / "errors.parquet", list(CLASSES))
        levels = votes_by_noise(errors, logsnr, CLASSES)
        row = classified[0]
        for name in CLASSES:
            votes = sum(level["trials"] * level["vote_share"][name] for level in levels)
            assert votes == pytest.approx(row[f"votes_{name}"])
        middles = [level["logsnr"] for level in levels]
        assert middles == sorted(middles)

    @pytest.mark.parametrize(("trials", "levels"), [(1, 1), (7, 1), (9, 2), (41, 8)])
    def test_a_level_has_four_trials_at_least(self, trials, levels):
        rng = np.random.default_rng(0)
        errors = rng.random((1, 2, 41)).astype(np.float32)
        errors[:, :, trials:] = np.nan
        made = votes_by_noise(errors, rng.normal(size=(1, 41)).astype(np.float32), CLASSES)
        assert len(made) == levels
        assert sum(level["trials"] for level in made) == trials


def test_the_worker_needs_no_model_to_be_named():
    assert not hasattr(model_process, "Cases")
