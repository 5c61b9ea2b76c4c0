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
    import recipes

    given = []

    def here(*arguments):
        given.append(arguments[0])
        more = ["-q", "--device=cpu"] if arguments[0] != "evaluate" else []
        result = CliRunner().invoke(app, [str(a) for a in [*arguments, *more]])
        assert result.exit_code == 0, (arguments, result.output)

    monkeypatch.setattr(recipes, "diffdx", here)
    return given


@pytest.mark.slow
def test_recipes_are_measured_once(tmp_path, monkeypatch, commands):
    import recipes

    monkeypatch.setattr(recipes, "NETWORKS", ("small-dit",))
    monkeypatch.setattr(recipes, "RECIPES", ("paper", "release"))
    tiny = ("model.backbone.layers=1", "model.backbone.heads=1", "train.validation_trials=1")
    monkeypatch.setattr(recipes, "SAME_FOR_ALL", (*recipes.SAME_FOR_ALL, *tiny))
    monkeypatch.setattr(recipes, "judged_as_asked", lambda run, guidance, count: guidance / 4)
    monkeypatch.setattr(
        "sys.argv",
        f"recipes {CHEST} --work={tmp_path} --steps=2 --trials=3 --images=6 --seeds 0 "
        f"--result={tmp_path / 'result.json'}".split(),
    )
    recipes.main()
    assert commands == ["train", "classify", "evaluate"] * 2
    result = json.loads((tmp_path / "result.json").read_text())
    assert [cell["recipe"] for cell in result["cells"]] == ["paper", "release"]
    for cell in result["cells"]:
        assert cell["steps"] == 2
        assert cell["samples_as_asked"] == {"guidance 1": 0.25, "guidance 3": 0.75}
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
    import recipes
    import small_stable_diffusion as small
    from small_pipeline import Size

    monkeypatch.setattr(small, "diffdx", recipes.diffdx)
    monkeypatch.setattr(small, "CHEST", {"NORMAL": "a healthy chest", "OPACITY": "a sick chest"})
    minutes = {"vae_minutes": 0.005, "base_minutes": 0.005, "tune_minutes": 0.005}
    asked_for = argparse.Namespace(
        dermoscopy="phantoms:lesion?n=42&size=28", chest=CHEST, work=tmp_path / "work",
        trials=3, images=6, split="calib", lora=False, **minutes,
    )  # fmt: skip
    result = small.run_all(asked_for, Size(), 16)
    assert result["zero_shot"]["steps"] == 0 < result["fine_tuned"]["steps"]
    assert isinstance(result["intervals_apart"], bool)
    first = ["finetune"] * 3 + ["classify", "evaluate"] * 2
    assert commands == first
    assert small.run_all(asked_for, Size(), 16) == result
    assert commands == first, "nothing is done twice"
    learned = json.loads((tmp_path / "work" / "learned" / "run.json").read_text())
    assert learned["classes"] == ["MELANOMA", "NEVUS"]


@pytest.mark.slow
def test_the_reference_run_shows_what_was_asked_with_guidance(commands):
    """Four samples, judged by the same model: by chance all four are right once in 16 times."""
    import recipes

    assert recipes.judged_as_asked(recipes.REFERENCE, 3.0, 2, trials=11) == 1.0


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
