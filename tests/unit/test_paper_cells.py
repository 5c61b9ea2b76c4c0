"""Table 1 as data: published values, commands, what is kept, what a cell is worth."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from diffdx.cli.app import app, repeat_names
from diffdx.data import open_dataset
from diffdx.errors import ConfigError, DataError
from diffdx.paper.carry_out import StepError, do_steps, make_cells
from diffdx.paper.cells import CELLS, choose_cells
from diffdx.paper.figures import FIGURES, draw
from diffdx.paper.plan import Plan, stored_scale
from diffdx.paper.prepare import main as prepare
from diffdx.paper.published import BY_NAME, METHODS, METRICS
from diffdx.paper.scales import FULL, SCALES, SMOKE
from diffdx.paper.table1 import build_table, cell_rows

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_lists = pytest.mark.skipif(
    not (DATA / "paper-splits").is_dir(), reason="the published lists are not there (shared/data)"
)


def cell(name):
    (found,) = choose_cells([name])
    return found


@pytest.fixture
def root(tmp_path):
    """Folders by the names of both scales' sets; their images are not read here."""
    for name in ("chest-xray", "isic-melanoma", "chexpert", "isic"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    return tmp_path / "sets"


@pytest.fixture
def smoke(root, tmp_path):
    return Plan(root, tmp_path / "made", SMOKE)


@pytest.fixture
def full(root, tmp_path):
    return Plan(root, tmp_path / "made", FULL, base="BASE")


def finish(plan, cell, *, right=(40, 40), low=0.7, steps=5):
    """Leave what a made cell leaves: 50 images a class, of which so many are called rightly."""
    folder = plan.folder(cell)
    (folder / "run").mkdir(parents=True)
    (folder / "predictions").mkdir()
    scored = {"value": sum(right) / 100, "low": low, "high": 0.9}
    summary = {
        **dict.fromkeys(("accuracy", "f1", "auroc"), scored),
        "n": 101, "n_failed": 1, "n_unlabelled": 0, "trials": 31, "positive": "b",
        "confusion": {"a": {"a": right[0], "b": 50 - right[0]},
                      "b": {"a": 50 - right[1], "b": right[1]}},
    }  # fmt: skip
    record = {"parameters": 7, "steps": steps, "images_seen": 160, "train_seconds": 1.0,
              "status": "done", "model_sha256": "ab"}  # fmt: skip
    config = {"preset": "small", "recipe": "fixed", "model": {"data": {"image_size": 64}}}
    (folder / "predictions" / "summary.json").write_text(json.dumps(summary))
    (folder / "predictions" / "classify.json").write_text("{}")
    (folder / "run" / "run.json").write_text(json.dumps(record))
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))


def test_every_published_number_is_the_papers():
    """Read from the table of the paper's own text, where that lies beside the project."""
    text = DATA.parent / "paper" / "paper.txt"
    if not text.is_file():
        pytest.skip("the paper's text is not there (shared/paper)")
    lines = text.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if "ResNet-18 | 90.9" in line)
    for method, line in zip(METHODS, lines[start:], strict=False):
        numbers = [
            float(part) for part in line.split("|") if part.strip().replace(".", "").isdigit()
        ]
        ours = [method.value(s, m) for s in ("chexpert", "isic") for m in METRICS]
        assert [100 * ours[0], ours[1], 100 * ours[2], ours[3]] == pytest.approx(numbers), line
    assert len(CELLS) == 22
    assert METHODS[0].value("isic", "auroc") is None


@pytest.mark.parametrize("scale", ["smoke", "full"])
@pytest.mark.parametrize("recipe", ["paper", "release"])
def test_every_command_is_one_that_the_verbs_take(root, tmp_path, scale, recipe):
    """Parsed by the command line itself, as if given: no option is unknown, no value refused."""
    plan = Plan(root, tmp_path, SCALES[scale], recipe=recipe, base="BASE", trials=5, limit=9)
    verbs = get_command(app).commands
    for one in CELLS:
        steps = plan.steps_of(one)
        assert steps[-1].arguments[0] == "classify"
        for step in steps:
            if step.program == "diffdx":
                verb, *arguments = repeat_names(step.command())
                verbs[verb].make_context(verb, list(arguments))


def test_the_full_scale_is_the_papers(full):
    words = " ".join(map(str, full.steps_of(cell("unet/chexpert"))))
    assert "--preset paper-unet --recipe paper --steps 89600" in words
    assert "--image-size 256" in words
    assert "--trials 501" in words
    assert "--limit" not in words
    tuned = list(map(str, full.steps_of(cell("sd-tuned/isic"))))
    assert "prepare union" in tuned[0]
    assert "--steps 15000" in tuned[1]
    assert "--steps 0" in tuned[3], "both sets share one fine-tuning"
    assert full.steps_of(cell("sd-tuned/chexpert"))[:3] == full.steps_of(cell("sd-tuned/isic"))[:3]


def test_zero_shot_never_sees_its_own_set(smoke):
    for own, other in (("chexpert", "isic-melanoma"), ("isic", "chest-xray")):
        trained = [s for s in smoke.steps_of(cell(f"sd-zero/{own}")) if "finetune" in s.arguments]
        assert other in trained[0].arguments[1]
        steps = [one.arguments[one.arguments.index("--steps") + 1] for one in trained]
        assert steps == [str(SMOKE.base[1]), "0"]


def test_published_lists_decide_the_roles_where_they_are(full, root):
    assert "--splits" not in str(full.steps_of(cell("resnet18/isic"))[0])
    (root / "paper-splits").mkdir()
    for role in ("train", "valid", "test"):
        (root / "paper-splits" / f"isic-{role}.csv").write_text("")
    words = str(full.steps_of(cell("resnet18/isic"))[0])
    assert words.count("isic-valid.csv") == 1
    assert "--allow-leak" in words
    assert "--splits" not in str(full.steps_of(cell("resnet18/chexpert"))[0])


def test_cells_are_chosen_by_name_method_and_set():
    assert [c.name for c in choose_cells(["unet", "dit/isic"])] == [
        "dit/isic", "unet/chexpert", "unet/isic"]  # fmt: skip
    assert len(choose_cells(["isic"])) == 11
    assert choose_cells(None) == list(CELLS)
    with pytest.raises(ConfigError, match="--only vgg: no such cell; give METHOD/SET"):
        choose_cells(["vgg"])


def test_what_is_missing_is_said(tmp_path, full):
    nothing = Plan(tmp_path / "none", tmp_path, FULL)
    assert nothing.missing(cell("resnet18/isic")) == f"no data at {tmp_path / 'none' / 'isic'}"
    assert full.missing(cell("sd-zero/isic")) is None
    without = replace(full, base=None)
    assert "give --base" in without.missing(cell("sd-zero/isic"))
    assert without.missing(cell("unet/isic")) is None


def test_a_folder_holds_cells_made_alike(smoke):
    assert stored_scale(smoke.out) is None
    smoke.begin()
    smoke.begin()
    assert stored_scale(smoke.out) == "smoke"
    prompts = yaml.safe_load(smoke.prompts("both").read_text())
    assert list(prompts) == ["NORMAL", "PNEUMONIA", "benign", "melanoma"]
    with pytest.raises(ConfigError, match="another trials than asked for"):
        replace(smoke, trials=7).begin()


def test_a_step_is_done_once_resumed_or_begun_again(smoke):
    step = smoke.steps_of(cell("unet/isic"))[0]
    assert not step.is_done
    assert "--resume" not in step.command()
    (step.makes / "checkpoints" / "last").mkdir(parents=True)
    assert step.command()[-1] == "--resume"
    (step.makes / "checkpoints" / "last").rmdir()
    assert step.command()[-1] == "--overwrite"
    step.mark.write_text('{"status": "interrupted"}')
    assert not step.is_done
    step.mark.write_text('{"status": "done"}')
    assert step.is_done
    do_steps([step], pytest.fail, smoke.out / "log.txt")


def test_a_failed_cell_does_not_stop_the_others(smoke, predictions_folder, mixed_labels):
    good = predictions_folder(mixed_labels)
    told = []

    def execute(step, log):
        if "resnet50" in str(step):
            log.write_text("reading\nerror: no such luck\n")
            return 2
        if step.is_run:
            step.makes.mkdir(parents=True)
            step.mark.write_text('{"status": "done"}')
        else:
            good.rename(step.makes)
        return 0

    cells = choose_cells(["resnet50/isic", "unet/isic"])
    assert make_cells(smoke, cells, execute, told.append) == ["resnet50/isic"]
    assert told[0].startswith("resnet50/isic: failed (diffdx baseline")
    assert "exit code 2: error: no such luck; see " in told[0]
    assert told[1] == "unet/isic: done; 1 of 2 done"
    looks = (smoke.out / "test-looks.jsonl").read_text().splitlines()
    assert [json.loads(look)["why"] for look in looks] == ["reproduce table1: unet/isic"]
    assert make_cells(smoke, cells[1:], pytest.fail, told.append) == []
    assert len((smoke.out / "test-looks.jsonl").read_text().splitlines()) == 1, "one look a cell"
    rows = cell_rows(smoke, cells[0])
    assert {row["status"] for row in rows} == {"absent"}
    assert rows[0]["reason"].startswith("failed: diffdx baseline")


def test_a_step_without_words_is_named(smoke):
    with pytest.raises(StepError, match="exit code 9: no words"):
        do_steps(smoke.steps_of(cell("unet/isic")), lambda *_: 9, smoke.out / "log.txt")


def test_a_row_is_worth_what_it_shows(smoke, full):
    """50 and 50 images: a guess reaches 1/2, F1 2/3 (p = 1/2: 2p / (1 + p)), AUROC 1/2."""
    one = cell("unet/isic")
    for plan, status in ((smoke, "smoke"), (replace(full, out=full.out / "full"), "done")):
        finish(plan, one, low=0.67)
        rows = {row["metric"]: row for row in cell_rows(plan, one)}
        assert {row["status"] for row in rows.values()} == {status}
        assert rows["accuracy"]["guess"] == 0.5
        assert rows["f1"]["guess"] == pytest.approx(2 / 3)
        assert rows["accuracy"]["n"] == 100
        assert rows["accuracy"]["published"] == 0.918
        assert not rows["f1"]["interval_includes_guess"]


def test_a_guess_is_never_done_unless_the_papers_is_one(full):
    for name, status in (("unet/isic", "smoke"), ("sd-zero/isic", "done")):
        finish(full, cell(name), right=(25, 27), low=0.42)
        rows = cell_rows(full, cell(name))
        assert all(row["interval_includes_guess"] for row in rows)
        assert rows[0]["status"] == status, name
    assert cell_rows(full, cell("sd-zero/isic"))[0]["pretrained"]


def test_the_table_has_every_cell(smoke):
    finish(smoke, cell("unet/isic"))
    audit = {"checks": [{"name": "source_rule", "verdict": "pass", "value": 0.5}]}
    (smoke.folder(cell("unet/isic")) / "run" / "audit.json").write_text(json.dumps(audit))
    found = build_table(smoke)
    assert len(found["rows"]) == 22 * 3
    assert sum(row["status"] == "absent" for row in found["rows"]) == 21 * 3
    assert found["audit"]["isic"] == {"paper": None, "here": 0.5, "verdict_here": "pass"}
    assert json.loads((smoke.out / "table1.json").read_text()) == found
    unpretrained = [m["name"] for m in found["methods"] if not m["pretrained"]]
    assert unpretrained == ["dit", "unet"]


@needs_lists
def test_the_source_alone_scores_what_the_audit_says(smoke):
    """Spec section 7: 93.8% on the authors' test split, above their UNet and DiT."""
    found = build_table(replace(smoke, root=DATA), choose_cells(["unet/isic"]))
    assert found["audit"]["isic"]["paper"] == pytest.approx(0.938, abs=0.002)
    assert found["audit"]["isic"]["paper"] > BY_NAME["unet"].value("isic", "accuracy")


def test_a_figure_without_cells_names_the_command(smoke):
    finish(smoke, cell("unet/isic"))
    with pytest.raises(DataError, match=r"fig5 needs .* --only dit/isic`$"):
        draw(FIGURES["fig5"], smoke, pytest.fail)


def test_validation_is_drawn_from_the_runs_own_metrics(smoke):
    lines = [{"step": 25, "loss": 1.0}]
    lines += [{"step": s, "validation": {"f1": s / 99, "accuracy": 0.5}} for s in (40, 80)]
    for name in ("unet/isic", "dit/isic"):
        finish(smoke, cell(name))
        file = smoke.folder(cell(name)) / "run" / "metrics.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
    pdf, png = draw(FIGURES["fig5"], smoke, pytest.fail)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    figure = FIGURES["fig5"].drawn(smoke, FIGURES["fig5"].cells, pytest.fail)
    drawn = figure.axes[1].lines[0].get_xydata().tolist()
    assert drawn == [[40, 40 / 99], [80, 80 / 99]]


def test_several_sets_become_one_table(tmp_path):
    """Each image once, with its own set's class, patient and role."""
    pytest.importorskip("transformers", reason="the extra 'sd' is not installed")
    out = tmp_path / "union.csv"
    for name, classes in (("one", ("a", "b")), ("two", ("c", "d"))):
        for k, label in enumerate(classes):
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(20):
                (tmp_path / name / label / f"{i}.png").write_bytes(bytes([k, i]))
    prepare(["union", str(out), "--data", str(tmp_path / "one"), str(tmp_path / "two")])
    union = open_dataset(out)
    assert union.classes == ("a", "b", "c", "d")
    assert len(union) == 80
    roles = [{r.role for r in union.records if r.label in two} for two in ("ab", "cd")]
    assert roles == [{"train", "val", "calib", "test"}] * 2
