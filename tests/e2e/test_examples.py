"""The examples run as they are, and so do the Python blocks of the pages, in their order."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffdx.backbones.model import DiffusionModel
from diffdx.classification.runner import classify_dataset
from diffdx.classification.settings import ClassifySettings
from diffdx.config import DataConfig, ModelConfig, UNetConfig
from diffdx.data import open_dataset

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("python.md", "method.md")
SMALLER = {'{"train.steps": 2000}, num_trials=101': '{"train.steps": 2}, num_trials=3'}
"""What is too large for a test, as documented and as executed; nothing else is altered."""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a small random model in runs/mine, and three images of noise."""
    torch.manual_seed(0)
    config = ModelConfig(
        data=DataConfig(image_size=16),
        backbone=UNetConfig(channels=(8,), attention=False, norm_groups=4),
    )
    model = DiffusionModel(config, ("NORMAL", "PNEUMONIA"), "PNEUMONIA")
    model.save(tmp_path / "runs" / "mine" / "checkpoints" / "best")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (20, 20)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_functions_example(capsys):
    runpy.run_path(str(ROOT / "examples" / "01_vote.py"))
    said = capsys.readouterr().out
    assert "image 0: NORMAL, 5 of 5 votes, entropy 0.000 bits" in said
    # Two votes against three: -0.4 log2 0.4 - 0.6 log2 0.6 = 0.971 bits.
    assert "image 1: PNEUMONIA, 3 of 5 votes, entropy 0.971 bits" in said


def test_classifier_example(workplace, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["02_classifier.py", "runs/mine", "images/a.png"])
    runpy.run_path(str(ROOT / "examples" / "02_classifier.py"))
    said = capsys.readouterr().out
    assert re.search(r"^images/a.png: (NORMAL|PNEUMONIA), vote share [01]\.\d{3}", said, re.M)
    assert "Research use only" in said


def test_blocks_of_the_pages_run(workplace):
    blocks = [b for page in PAGES for b in BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))]
    assert len(blocks) >= 5
    for documented, executed in SMALLER.items():
        assert sum(documented in block for block in blocks) == 1
        blocks = [block.replace(documented, executed) for block in blocks]
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs", "exec"), names)


def test_every_classify_key_and_prediction_column_is_documented(workplace):
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8").replace("```", "")
    documented = set(re.findall(r"`([^`]+)`", text))
    settings = ClassifySettings(num_trials=1, device="cpu", precision="fp32")
    result = classify_dataset(
        DiffusionModel.load("runs/mine"), open_dataset("images"), Path("out"), settings
    )
    columns = {re.sub("_(NORMAL|PNEUMONIA)$", "_<class>", name) for name in result.table}
    assert (result.info.keys() | columns) - documented == set()
