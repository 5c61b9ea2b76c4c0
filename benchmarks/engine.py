"""The engine against the paper's loop: calls, seconds, memory and decisions, side by side.

    python benchmarks/engine.py [--images 64] [--trials 501] [--paper-images 1] [--paper-trials 8]
    python benchmarks/engine.py --device cuda --paper-images 4 --paper-trials 501

    appendix A loop             a batch of images, trials one by one, classes one by one, fp32
    one image at a time         its trials and classes in batches, fp32
    ours, full                  the library's defaults: a queue over images, trials and classes
    ours, exact | 0.01 | 0.001  the same with a stopping rule
    ours, full, fp32            the paper's networks, without the lower precision

On the committed reference run with images of its `calib` role, and per call on the paper's 256 px
networks with random weights. There a stopping rule would see noise, so its cost is replayed: the
calls that the rule needs on the reference run's stored errors, times the seconds of a call. Each
case runs in a process of its own, after a short warm-up, so that its peak memory is its own.

Writes benchmarks/results/engine-<device>.json. `agreement` is the share of images whose decision is
that of "ours, full"; the first two cases draw noise of their own, as the paper does, so theirs also
differs by chance. Measure alone: another busy process changes everything.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from loops import appendix_a, one_by_one
from memory import peak_mib, run_apart
from roofline import device_name, gflop_per_call, peak_tflops
from torch import Tensor, nn

from diffdx._device import Precision, keep_freed_memory, resolve_device, resolve_precision
from diffdx._files import write_json
from diffdx._typing import Errors
from diffdx.backbones.model import DiffusionModel
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors, resolve_batch_size
from diffdx.classification.stopping import StoppingRule, stopping_rule, truncated
from diffdx.classification.store import read_errors
from diffdx.classification.voting import count_trials, majority_vote, predict_vote
from diffdx.classification.work import Ending
from diffdx.config import resolve_config
from diffdx.data.images import read_image

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "assets" / "cxr64"
STORE = REFERENCE / "errors" / "calib"
LOOP, ONE_BY_ONE = "appendix A loop", "one image at a time"
FULL, FULL_FP32 = "ours, full", "ours, full, fp32"
STOPS = {FULL: "none", "ours, exact": "exact", "ours, 0.01": "0.01", "ours, 0.001": "0.001"}
IN_FP32 = (LOOP, ONE_BY_ONE, FULL_FP32)
PAPER = ("paper-unet", "paper-dit")
CASES = {
    "cxr64": (LOOP, ONE_BY_ONE, *STOPS),
    **dict.fromkeys(PAPER, (LOOP, ONE_BY_ONE, FULL_FP32, FULL)),
}


def ours(
    model: DiffusionModel, x: Tensor, num_trials: int, precision: Precision, rows: int, stop: str
) -> tuple[Errors, int]:
    """Return the library's v errors and the calls it made; memory is kept as `classify` does."""
    keep_freed_memory()
    results = list(
        denoising_errors(
            model.denoiser,
            model.schedule,
            x,
            TrialBank(),
            num_trials=num_trials,
            encode=model.transform.encode,
            batch_size=rows,
            device=x.device,
            precision=precision,
            ending=Ending(stop=rule(stop, num_trials)),
        )
    )
    return np.stack([result.errors for result in results]), sum(result.calls for result in results)


def rule(stop: str, num_trials: int) -> StoppingRule | None:
    """Return the stopping rule for votes of two classes; None for `none`."""
    if stop == "none":
        return None
    return stopping_rule(stop, rule="vote", num_classes=2, num_trials=num_trials, ties="split")


def decisions(errors: Errors) -> list[int]:
    """Return the class that each image's votes choose."""
    chosen: list[int] = predict_vote(majority_vote(errors))[0].tolist()
    return chosen


def measure(network: str, case: str, device: str, images: int, trials: int) -> dict[str, Any]:
    """Return what one case costs and decides; runs in a process of its own."""
    where = torch.device(device)
    precision = resolve_precision("fp32" if case in IN_FP32 else "auto", where)
    model, x = loaded(network, images)
    model, x = model.to(where), x.to(where)
    rows = resolve_batch_size("auto", where)

    def run(x: Tensor, trials: int) -> tuple[Errors, int]:
        if case not in (LOOP, ONE_BY_ONE):
            return ours(model, x, trials, precision, rows, STOPS.get(case, "none"))
        torch.manual_seed(0)
        with torch.no_grad():
            if case == LOOP:
                errors = appendix_a(model, x, trials)
            else:
                errors = one_by_one(model, x, trials, rows)
        return errors, errors.size

    run(x[:1], 1)
    started = time.perf_counter()
    errors, calls = run(x, trials)
    seconds = time.perf_counter() - started
    return {
        "network": network,
        "case": case,
        "precision": precision,
        "calls_per_image": calls / len(x),
        "seconds_per_image": round(seconds / len(x), 4),
        "seconds_per_call": seconds / calls,
        "peak_mib": peak_mib(where),
        "decisions": decisions(errors),
    }


def loaded(network: str, count: int) -> tuple[DiffusionModel, Tensor]:
    """Return the reference model with seeded images, or one of the paper's with random ones."""
    if network in PAPER:
        torch.manual_seed(0)
        model = DiffusionModel(resolve_config(network).model, ("A", "B")).eval()
        for layer in model.modules():
            # What starts at zero would make all classes equal.
            if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.any():
                nn.init.normal_(layer.weight, std=0.02)
        return model, torch.rand(count, 3, 256, 256) * 2 - 1
    paths = pd.read_parquet(STORE / "predictions.parquet")["path"]
    order = np.random.default_rng(0).permutation(len(paths))[:count]
    model = DiffusionModel.load(REFERENCE)
    pixels = [model.preprocess(read_image(ROOT / paths[i])) for i in order]
    return model, torch.from_numpy(np.stack(pixels))


def replayed(cases: list[dict[str, Any]], network: str) -> list[dict[str, Any]]:
    """Return what 501 trials x 2 classes would cost on a paper's network by each stopping rule."""
    call = next(c for c in cases if (c["network"], c["case"]) == (network, FULL))
    _, errors, logsnr = read_errors(STORE / "errors.parquet")
    result = []
    for case, stop in STOPS.items():
        chosen = rule(stop, errors.shape[2])
        stopped = errors if chosen is None else truncated(errors, logsnr, chosen)
        calls = float(count_trials(stopped).mean()) * errors.shape[1]
        result.append(
            {
                "network": network,
                "case": f"{case} (calls replayed)",
                "precision": call["precision"],
                "calls_per_image": round(calls, 1),
                "seconds_per_image": round(calls * call["seconds_per_call"], 3),
                "agreement": round(share_equal(decisions(stopped), decisions(errors)), 4),
            }
        )
    return result


def share_equal(a: list[int], b: list[int]) -> float:
    """Return the share of positions at which two lists agree."""
    return float(np.equal(a, b).mean())


def judge(cases: list[dict[str, Any]], peaks: dict[str, float]) -> None:
    """Replace each case's decisions by their agreement, and add the share of the peak it reached.

    Counted are the operations that were made: what classes share, once.
    """
    full = {case["network"]: case["decisions"] for case in cases if case["case"] == FULL}
    for case in cases:
        network = case["network"]
        gflop = gflop_per_call(resolve_config(network if network in PAPER else "small").model)
        made = gflop["alone" if case["case"] in (LOOP, ONE_BY_ONE) else "shared"]
        tflops = made / case["seconds_per_call"] / 1e3
        case["tflops"] = round(tflops, 3)
        case["share_of_peak"] = round(tflops / peaks[case["precision"]], 3)
        agreement = share_equal(case.pop("decisions"), full[network])
        # Random weights decide nothing.
        case["agreement"] = None if network in PAPER else round(agreement, 4)


def tasks(device: str, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the measurements to make; none on the reference run if its images are not there."""
    sizes = dict.fromkeys(PAPER, (chosen.paper_images, chosen.paper_trials))
    first = pd.read_parquet(STORE / "predictions.parquet")["path"][0]
    if (ROOT / first).exists():
        sizes = {"cxr64": (chosen.images, chosen.trials)} | sizes
    else:
        print("the reference run's images are not there: only the paper's networks are measured")
    return [
        {"network": network, "case": case, "device": device, "images": images, "trials": trials}
        for network, (images, trials) in sizes.items()
        if images > 0
        for case in CASES[network]
    ]


def main() -> None:
    """Run every case and write the result; without the device, say what would be run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--trials", type=int, default=501)
    parser.add_argument("--paper-images", type=int, default=1, help="0 leaves them out")
    parser.add_argument("--paper-trials", type=int, default=8)
    chosen = parser.parse_args()
    to_do = tasks(chosen.device, chosen)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here; with one, this would be measured:", *to_do, sep="\n")
        return
    device = resolve_device(chosen.device)
    precision = resolve_precision("auto", device)
    peaks = {name: peak_tflops(device, name) for name in ("fp32", precision)}
    cases = []
    for task in to_do:
        cases.append(run_apart(__file__, task))
        print({name: value for name, value in cases[-1].items() if name != "decisions"}, flush=True)
    # Before and after: the better of two moments is nearer to what the machine can do.
    peaks = {name: max(value, peak_tflops(device, name)) for name, value in peaks.items()}
    judge(cases, peaks)
    for network in PAPER if chosen.paper_images else ():
        cases += replayed(cases, network)
    result = {
        "name": f"engine-{device.type}",
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "images": chosen.images,
        "trials": chosen.trials,
        "peak_tflops": {name: round(value, 3) for name, value in peaks.items()},
        "cases": cases,
    }
    write_json(ROOT / "benchmarks" / "results" / f"engine-{device.type}.json", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main()
