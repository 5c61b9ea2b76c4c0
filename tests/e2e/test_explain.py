"""`diffdx explain` and `classify --evidence` from end to end, on phantoms and a random network."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffdx._interrupt import Interrupted
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.evidence_store import EVIDENCE_FILE, EvidenceStore
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.classification.store import read_errors
from diffdx.classification.voting import mean_error
from diffdx.cli.app import app, repeat_names
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, DataError

DATA = "phantoms:chest?n=4&size=28"
PAPER = ["--method=noise", "--guidance=2", "--t-start=-2.81"]
FEW = ["--trials=5", "--bank=7", "--steps=3", "--device=cpu", "--precision=fp32"]
SETTINGS = ClassifySettings(
    num_trials=5, bank_size=7, device="cpu", precision="fp32", deterministic=True, evidence=True
)


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny_model("NORMAL", "OPACITY", hears_class=True).save(folder)
    return folder


def explain(run, out, *arguments, inputs=(DATA,)):
    words = ["explain", run, *inputs, "--to=NORMAL", "--out", out, *FEW, *arguments]
    result = CliRunner().invoke(app, repeat_names([str(word) for word in words]))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def explained(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained") / "out"
    result = explain(run, out, *PAPER, "--draws=2", "--trajectory", "--json")
    assert result.exit_code == 0, result.output
    return out, result


def test_every_image_has_its_files_and_its_row(explained):
    out, _ = explained
    table = pd.read_parquet(out / "explanations.parquet")
    assert len(table) == len(pd.read_csv(out / "explanations.csv")) == 4
    assert (table["status"] == "ok").all()
    assert (table["y_cf"] == "NORMAL").all()
    assert (table["y_src"] == table["prediction"]).all()
    assert (table["logsnr_start"] == -2.81).all()
    # 2 draws by 3 steps: factual, counterfactual and return guided, the null edit not.
    assert (table["nfe"] == 2 * 3 * (3 * 2 + 1)).all()
    assert (table["nfe_classify"] == 2 * 2 * 5).all()
    for name in table["folder"]:
        files = {path.name for path in (out / name).iterdir()}
        pictures = ("image", "factual", "counterfactual", "difference", "evidence")
        assert files == {
            "arrays.npz", "evidence_parts.png", "trajectory.png",
            *(f"{picture}.png" for picture in pictures),
        }  # fmt: skip
        assert np.asarray(Image.open(out / name / "image.png")).shape == (16, 16)


def test_the_arrays_are_what_the_table_says(explained):
    out, _ = explained
    table = pd.read_parquet(out / "explanations.parquet")
    for row in table.to_dict("records"):
        with np.load(out / row["folder"] / "arrays.npz") as arrays:
            change = arrays["x_cf"] - arrays["x_factual"]
            assert np.abs(change).mean() == pytest.approx(row["mean_change"], abs=1e-6)
            assert (change == 0).all() == (row["y_src"] == row["y_cf"])
            assert arrays["evidence"].sum() == pytest.approx(row["evidence_margin"], abs=1e-5)
            assert arrays["mask"].shape == (16, 16)
            assert arrays["mask"].any() == (row["label"] == "OPACITY")
            assert arrays["significance"].shape == (16, 16)
            assert arrays["trajectory"].shape == (3, 1, 16, 16)


def test_the_record_and_the_scorecard(explained):
    out, result = explained
    info = json.loads((out / "explanations.json").read_text())
    assert "not a medical device" in info["notice"].lower()
    assert (info["n"], info["n_failed"], info["draws"], info["target"]) == (4, 0, 2, "NORMAL")
    scores = json.loads((out / "scorecard.json").read_text())
    assert scores["flip_rate"]["value"] is None, "no judge was named"
    assert scores["composition_mae"]["n"] == 4
    assert all(set(score) == {"value", "low", "high", "n"} for score in scores.values())
    printed = json.loads(result.stdout)
    assert printed["scorecard"] == scores
    for suffix in ("png", "pdf"):
        assert (out / f"sheet.{suffix}").stat().st_size > 10_000


def test_a_bad_file_is_a_row_and_exit_code_3(run, tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8)).save(good)
    bad.write_text("no image")
    result = explain(run, tmp_path / "out", "--from=OPACITY", inputs=(bad, good))
    assert result.exit_code == 3, result.output
    table = pd.read_parquet(tmp_path / "out" / "explanations.parquet")
    assert table["status"].tolist() == ["error", "ok"]
    assert table["y_src"].tolist()[1] == "OPACITY"
    assert "1 of 2 images failed" in result.stderr
    alone = explain(run, tmp_path / "none", inputs=(bad,))
    assert alone.exit_code == 3
    assert not (tmp_path / "none" / "sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to=SICK"], "--to SICK: the model knows NORMAL, OPACITY"),
        (["--from=SICK"], "--from SICK"),
        (["--guidance=0"], "--guidance 0: use more than 0"),
        (["--guidance=1e6"], "at most 20"),
        (["--t-start=0.5e3"], "it is a log-SNR, not a time"),
        (["--t-start=-11"], "must lie in [-10.0, 10.0)"),
        (["--method=ddim", "--draws=2"], "inversion has no noise"),
        (["--trials=9"], "bank of 7"),
        (["--rule=weighted"], "not calibrated"),
        (["--judge", "RUN"], "must have had no part"),
    ],
)
def test_bad_input_is_refused_before_any_work(run, tmp_path, arguments, says):
    words = [str(run) if word == "RUN" else word for word in arguments]
    result = explain(run, tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_default_edit_inverts_between_the_classes(run, tmp_path):
    result = explain(run, tmp_path / "out", "--limit=2")
    assert result.exit_code == 0, result.output
    row = pd.read_parquet(tmp_path / "out" / "explanations.parquet").iloc[0]
    # Guided up twice, two calls in each of 5 iterations, down three times; an unguided null edit.
    assert row["nfe"] == 3 * (2 * 5 * 2 + 3 * 2 + 5 + 1)
    assert (row["method"], row["logsnr_start"], row["guidance_scale"]) == ("contrast", -2.5, 3.0)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    classify_dataset(DiffusionModel.load(run), open_dataset(DATA), folder, SETTINGS)
    return folder


def chunks(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / EVIDENCE_FILE).rglob("*")
        if path.is_file()
    }


def test_stored_maps_add_up_to_the_stored_errors(whole, run):
    ids, errors, logsnr = read_errors(whole / "errors.parquet")
    store = EvidenceStore(whole)
    assert (store.image_ids, store.classes, store.rule) == (ids, ["NORMAL", "OPACITY"], "mean_v")
    totals = np.stack([store.read(i).sum(axis=(1, 2, 3), dtype=np.float64) for i in ids])
    mean = mean_error(errors, logsnr)
    margin, stored = mean[:, 0] - mean[:, 1], totals[:, 0] - totals[:, 1]
    assert (np.abs(stored - margin) <= 1e-5 * mean.sum(axis=1)).all()
    info = json.loads((whole / "classify.json").read_text())
    assert info["evidence"] == "mean_v"
    votes = errors.argmin(axis=1)
    against = (np.mean(votes == 1, axis=1) > 0.5) != (mean.argmin(axis=1) == 1)
    assert info["vote_against_mean"] == against.sum()


def test_batches_shards_and_an_interruption_leave_the_same_bytes(whole, run, tmp_path):
    model, data = DiffusionModel.load(run), open_dataset(DATA)
    for i in (2, 1):
        classify_dataset(
            model, data, tmp_path / "shards", replace(SETTINGS, shard=(i, 2), batch_size=3)
        )
    assert chunks(tmp_path / "shards") == chunks(whole)

    def interrupt(done, total):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        classify_dataset(model, data, tmp_path / "cut", SETTINGS, progress=interrupt)
    classify_dataset(model, data, tmp_path / "cut", SETTINGS)
    assert chunks(tmp_path / "cut") == chunks(whole)


def test_a_run_with_maps_and_one_without_are_not_mixed(whole, run, tmp_path):
    model, data = DiffusionModel.load(run), open_dataset(DATA)
    classify_dataset(model, data, tmp_path, replace(SETTINGS, evidence=False))
    with pytest.raises(ConfigError, match="evidence: None there, mean_v now"):
        classify_dataset(model, data, tmp_path, SETTINGS)
    with pytest.raises(DataError, match="run `diffdx classify` with --evidence"):
        EvidenceStore(tmp_path)
    classify_dataset(model, data, tmp_path, replace(SETTINGS, space="x", overwrite=True))
    assert EvidenceStore(tmp_path).rule == "mean_x"
    with pytest.raises(DataError, match="no maps of 'somebody'"):
        EvidenceStore(tmp_path).read("somebody")


def test_predictions_with_maps_save_the_classification(whole, run, explained, tmp_path):
    result = explain(run, tmp_path / "out", *PAPER, "--draws=2", "--predictions", whole)
    assert result.exit_code == 0, result.output
    ours = pd.read_parquet(tmp_path / "out" / "explanations.parquet")
    recomputed = pd.read_parquet(explained[0] / "explanations.parquet")
    assert (ours["nfe_classify"] == 2 * 5).all(), "only the counterfactual is classified"
    assert ours["prediction"].tolist() == recomputed["prediction"].tolist()
    np.testing.assert_allclose(ours["evidence_margin"], recomputed["evidence_margin"], rtol=1e-3)
    elsewhere = explain(
        run, tmp_path / "more", "--predictions", whole, inputs=("phantoms:chest?n=5&size=28",)
    )
    assert elsewhere.exit_code == 3
    assert "has no errors of this image" in (tmp_path / "more" / "explanations.csv").read_text()


def test_predictions_of_another_model_are_refused(whole, run, tmp_path):
    facts = json.loads((whole / "classify.json").read_text())
    (tmp_path / "classify.json").write_text(json.dumps(facts | {"model_sha256": "ab" * 32}))
    result = explain(run, tmp_path / "out", "--predictions", tmp_path)
    assert result.exit_code == 2
    assert "made by another model" in result.stderr


def test_without_zarr_the_message_names_the_extra(whole, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffdx\[explain\]'"):
        EvidenceStore(whole)


def test_a_stopped_explanation_keeps_what_is_done(run, tmp_path, monkeypatch):
    from diffdx.explain.folder import ExplanationFolder

    add = ExplanationFolder.add

    def add_and_interrupt(self, record, result):
        folder = add(self, record, result)
        if len(self.rows) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return folder

    monkeypatch.setattr(ExplanationFolder, "add", add_and_interrupt)
    result = explain(run, tmp_path / "out")
    assert result.exit_code == 130
    assert len(pd.read_parquet(tmp_path / "out" / "explanations.parquet")) == 2
    assert json.loads((tmp_path / "out" / "explanations.json").read_text())["interrupted"]
