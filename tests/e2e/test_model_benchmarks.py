"""The long measurements of the models, cut to seconds: they run, resume, and write their tables."""

import argparse
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffdx.cli.app import app
from diffdx.config import DataConfig, DiTConfig, ModelConfig, RunConfig, TrainConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHEST = "phantoms:chest?n=60&size=28"


@pytest.fixture
def commands(monkeypatch):
    """The benchmarks' folder is importable, and their commands run in this process; their words."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import running

    given = []

    def here(*arguments, **how):
        given.append(arguments[0])
        more = ["-q", "--device=cpu"] if arguments[0] != "evaluate" else []
        result = CliRunner().invoke(app, [str(a) for a in [*arguments, *more]])
        assert result.exit_code == 0, (arguments, result.output)

    monkeypatch.setattr(running, "diffdx", here)
    return given


@pytest.mark.slow
def test_recipes_are_measured_once(tmp_path, monkeypatch, commands):
    import recipes

    monkeypatch.setattr(recipes, "STEPS", {"small-dit": 330})
    monkeypatch.setattr(recipes, "RECIPES", ("paper", "release"))
    tiny = ("model.backbone.layers=1", "model.backbone.heads=1", "train.validation_trials=1")
    monkeypatch.setattr(recipes, "SAME_FOR_ALL", (*recipes.SAME_FOR_ALL, *tiny))
    monkeypatch.setattr(
        "sys.argv",
        f"recipes {CHEST} --work={tmp_path} --steps small-dit=2 --trials=3 --images=6 --seeds 0 "
        f"--result={tmp_path / 'result.json'}".split(),
    )
    recipes.main()
    assert commands == ["train", "classify", "evaluate"] * 2
    result = json.loads((tmp_path / "result.json").read_text())
    assert [cell["recipe"] for cell in result["cells"]] == ["paper", "release"]
    for cell in result["cells"]:
        assert cell["steps"] == 2
        assert {"low", "high"} <= cell["scores"]["vote"]["auroc"].keys()
    first, second = ((tmp_path / f"small-dit-{r}-0" / "splits.csv") for r in ("paper", "release"))
    assert first.read_text() == second.read_text()
    before = (tmp_path / "result.json").read_text()
    recipes.main()
    assert commands == ["train", "classify", "evaluate"] * 2, "nothing is done twice"
    assert (tmp_path / "result.json").read_text() == before


@pytest.mark.slow
def test_a_small_stable_diffusion_is_made_asked_and_tuned(tmp_path, monkeypatch, commands):
    pytest.importorskip("transformers", reason="the extra 'sd' is not installed")
    import small_stable_diffusion as small

    from diffdx.paper.small_pipeline import Size

    monkeypatch.setattr(small, "CHEST", {"NORMAL": "a healthy chest", "OPACITY": "a sick chest"})
    steps = {"vae_steps": 2, "base_steps": 2, "tune_steps": 2}
    asked_for = argparse.Namespace(
        dermoscopy="phantoms:lesion?n=42&size=28", chest=CHEST, work=tmp_path / "work",
        trials=3, images=6, split="calib", lora=False, **steps,
    )  # fmt: skip
    result = small.run_all(asked_for, Size(), 16)
    assert result["zero_shot"]["steps"] == 0
    assert result["fine_tuned"]["steps"] == 2
    assert isinstance(result["intervals_apart"], bool)
    first = ["finetune"] * 3 + ["classify", "evaluate"] * 2
    assert commands == first
    assert small.run_all(asked_for, Size(), 16) == result
    assert commands == first, "nothing is done twice"
    learned = json.loads((tmp_path / "work" / "learned" / "run.json").read_text())
    assert learned["classes"] == ["MELANOMA", "NEVUS"]


@pytest.mark.slow
def test_guidance_is_measured_by_a_baseline(tmp_path, monkeypatch, commands):
    import guidance
    import running

    small = ["--set", "train.batch_size=4", "--set", "train.validation_images=8"]
    tiny = ["--steps", 1, "--no-progress", *small]
    running.diffdx("baseline", CHEST, "--out", tmp_path / "cnn", *tiny)
    preset = ["--preset", "tiny", "--set", "train.validation_trials=1"]
    running.diffdx("train", CHEST, "--out", tmp_path / "run", *preset, *tiny)
    words = f"guidance {tmp_path / 'run'} --judge {tmp_path / 'cnn'} --samples 3 --steps 2"
    monkeypatch.setattr("sys.argv", [*words.split(), "--result", str(tmp_path / "result.json")])
    guidance.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["by_guidance"].keys() == {"1", "3"}
    for told in result["by_guidance"].values():
        shares = told["judged_as_asked_by_class"].values()
        assert told["judged_as_asked"] == pytest.approx(sum(shares) / 2)
    assert 0 < result["mcnemar_p"] <= 1


def test_a_full_size_network_is_stepped_saved_and_asked(tmp_path, commands):
    import paper_models

    config = RunConfig(
        model=ModelConfig(
            data=DataConfig(image_size=16, channels=3),
            backbone=DiTConfig(layers=1, heads=1, head_dim=8),
        ),
        train=TrainConfig(steps=5, batch_size=1),
    )
    case = paper_models.measure(config, tmp_path, trials=3)
    assert case["loss_after_reading_equals"]
    assert sum(case["votes"]) == 3
    assert case["network_calls"] == 6
