"""Is the unconditional branch trained? Images drawn with and without guidance, judged by a CNN.

    python benchmarks/guidance.py RUN --judge BASELINE [--samples 256] [--guidance 1 3] [--steps 25]

RUN is a diffusion run, BASELINE a run of `diffdx baseline` on the same classes, trained on its own.
The same noise is turned into an image of each class at each guidance, and the judge says which
class it shows. Guidance adds the difference of the conditional and the unconditional prediction
(paper Eq. 5): if the network never learned the second, that difference points nowhere, and images
do not move towards their class.

Writes benchmarks/results/guidance.json: for each guidance the share of images judged as asked, by
class too, and the mean probability of the class asked for; and the exact McNemar test of the pairs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffdx.backbones.generation import generate
from diffdx.backbones.model import DiffusionModel
from diffdx.explain.judges import BaselineJudge
from diffdx.metrics.paired import mcnemar

RESULT = Path(__file__).parent / "results" / "guidance.json"


def probability_asked(
    model: DiffusionModel, judge: BaselineJudge, guidance: float, samples: int, steps: int
) -> np.ndarray:
    """Return the judge's probability of the class asked for, `samples` images a class (K, n)."""
    asked = []
    for y in range(len(model.classes)):
        labels = torch.full((samples,), y)
        x = generate(model, labels, num_steps=steps, guidance_scale=guidance).clamp(-1, 1)
        asked.append(judge(x.cpu().numpy())[:, y])
    return np.stack(asked)


def described(model: DiffusionModel, probability: np.ndarray) -> dict[str, Any]:
    """Return the share judged as asked and the mean probability, over all and by class."""
    as_asked = probability > 0.5
    return {
        "judged_as_asked": float(as_asked.mean()),
        "judged_as_asked_by_class": dict(
            zip(model.classes, as_asked.mean(1).tolist(), strict=True)
        ),
        "mean_probability": float(probability.mean()),
    }


def main() -> None:
    """Draw, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=256, help="Images a class.")
    parser.add_argument("--guidance", type=float, nargs=2, default=[1.0, 3.0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    model = DiffusionModel.load(given.run)
    judge = BaselineJudge(given.judge, model)
    plain, guided = (
        probability_asked(model, judge, scale, given.samples, given.steps)
        for scale in given.guidance
    )
    record = json.loads((given.run / "run.json").read_text(encoding="utf-8"))
    result = {
        "name": "guidance",
        "backbone": model.config.backbone.name,
        "training_steps": record["steps"],
        "samples_a_class": given.samples,
        "sampler_steps": given.steps,
        "by_guidance": {
            f"{scale:g}": described(model, probability)
            for scale, probability in zip(given.guidance, (plain, guided), strict=True)
        },
        "mcnemar_p": mcnemar((plain > 0.5).ravel(), (guided > 0.5).ravel()).p_value,
    }
    given.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
