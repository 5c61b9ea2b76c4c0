"""Stable Diffusion without the public weights: trained on dermoscopy, asked about chest X-rays.

    python benchmarks/small_stable_diffusion.py --dermoscopy DATA --chest DATA --work FOLDER
        [--vae-steps 1500] [--base-steps 1500] [--tune-steps 2000] [--trials 101] [--images 500]
        [--split calib] [--lora]

Five stages, each kept in FOLDER and not repeated, so the command continues where it was cut:

    start    a pipeline in diffusers' format whose autoencoder has learned to draw dermoscopy
    learned  the network learns lesions from captions, behind a text encoder that stays as it is
    base     the pipeline with that network: the checkpoint of what follows
    zero     that checkpoint is asked about chest X-rays in words it never saw (--steps 0)
    tuned    it is fine-tuned on captioned chest X-rays and asked again

`zero` and `tuned` are the commands that a user of a public checkpoint would give. Writes
benchmarks/results/small_stable_diffusion.json: AUROC and balanced accuracy with their intervals
before and after, whatever they are, and whether the two AUROCs' intervals are apart.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import running
import yaml

from diffdx.data import open_dataset
from diffdx.paper.prepare import SMALL, learned_pipeline, small_pipeline
from diffdx.paper.scales import SIDE_PX
from diffdx.paper.small_pipeline import Size

RESULT = Path(__file__).parent / "results" / "small_stable_diffusion.json"
LESIONS = {
    "nv": "a melanocytic naevus",
    "bkl": "a benign keratosis",
    "mel": "a melanoma",
    "bcc": "a basal cell carcinoma",
    "akiec": "an actinic keratosis",
    "vasc": "a vascular lesion",
    "df": "a dermatofibroma",
}
CHEST = {
    "NORMAL": "a frontal chest xray of a healthy patient",
    "PNEUMONIA": "a frontal chest xray of a sick patient with pneumonia",
}


def write_prompts(file: Path, prompts: dict[str, str]) -> Path:
    """Write the prompts file that `finetune` reads."""
    file.write_text(yaml.safe_dump(prompts), encoding="utf-8")
    return file


def finetuned(
    run: Path, data: str, base: Path, prompts: Path, side: int, steps: int, *more: str
) -> None:
    """Give the command of a user; continue a run that was cut, and leave a finished one alone."""
    options = ["--base", base, "--prompts", prompts, "--image-size", side, *more]
    settings = ["--set=train.batch_size=32", "--set=train.validation_images=128"]
    settings += ["--set=train.learning_rate=0.0003"]
    running.train(run, "finetune", data, *options, *settings, "--steps", steps)


def asked(run: Path, data: str, split: str, images: int, trials: int) -> dict[str, Any]:
    """Return the scores of a run's predictions."""
    out = run / f"{split}-{trials}"
    if not (out / "summary.json").is_file():
        options = ["--split", split, "--limit", images, "--trials", trials, "--no-progress"]
        running.diffdx("classify", run, data, "--out", out, *options)
        running.diffdx("evaluate", out)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    scores = {rule: summary["by_rule"][rule] for rule in ("vote", "mean_v")}
    return {"steps": record["steps"], "n": summary["n"], "scores": scores}


def run_all(
    asked_for: argparse.Namespace, size: Size = SMALL, side: int = SIDE_PX
) -> dict[str, Any]:
    """Do the stages that are missing; return the result."""
    work: Path = asked_for.work
    work.mkdir(parents=True, exist_ok=True)
    lesions = write_prompts(
        work / "lesions.yaml",
        {
            name: f"a dermoscopy photograph of {LESIONS.get(name, name)}"
            for name in open_dataset(asked_for.dermoscopy).classes
        },
    )
    chest = write_prompts(work / "chest.yaml", CHEST)
    start, learned, base = (work / name for name in ("start", "learned", "base"))
    if not (start / "model_index.json").is_file():
        small_pipeline(start, asked_for.dermoscopy, [lesions], asked_for.vae_steps, size)
    finetuned(learned, asked_for.dermoscopy, start, lesions, side, asked_for.base_steps)
    if not (base / "model_index.json").is_file():
        learned_pipeline(base, str(start), learned)
    lora = ["--lora"] if asked_for.lora else []
    finetuned(work / "zero", asked_for.chest, base, chest, side, 0)
    finetuned(work / "tuned", asked_for.chest, base, chest, side, asked_for.tune_steps, *lora)
    limits = (asked_for.chest, asked_for.split, asked_for.images, asked_for.trials)
    zero, tuned = (asked(work / name, *limits) for name in ("zero", "tuned"))
    before, after = (part["scores"]["vote"]["auroc"] for part in (zero, tuned))
    return {
        "name": "small_stable_diffusion",
        "steps": {stage: getattr(asked_for, f"{stage}_steps") for stage in ("vae", "base", "tune")},
        "lora": asked_for.lora,
        "split": asked_for.split,
        "trials": asked_for.trials,
        "prompts": CHEST,
        "zero_shot": zero,
        "fine_tuned": tuned,
        "intervals_apart": after["low"] > before["high"],
    }


def main() -> None:
    """Run the experiment and write its result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dermoscopy", required=True, help="Dataset that the base is trained on.")
    parser.add_argument("--chest", required=True, help="Dataset that it is asked about.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--base-steps", type=int, default=1500)
    parser.add_argument("--tune-steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=101)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--split", default="calib")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked_for = parser.parse_args()
    result = run_all(asked_for)
    asked_for.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
