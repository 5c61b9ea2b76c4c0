"""What a network call costs and what the machine could do: the roof beside every speed.

    python benchmarks/roofline.py [--device auto]

Writes benchmarks/results/roofline-<device>.json: the GFLOP of one call of each network (a multiply
and an add are two; matrix products and convolutions, as torch.utils.flop_counter counts them), with
and without the layers that the classes of a trial share, and the TFLOP/s of a large matrix product
in each precision. benchmarks/engine.py measures the same in its own run.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffdx._device import AUTOCAST_DTYPE, Precision, cpu_name, resolve_device
from diffdx._files import write_json
from diffdx.backbones.model import DiffusionModel
from diffdx.config import PRESETS, ModelConfig, resolve_config

RESULTS = Path(__file__).parent / "results"
REPEATS = 5


def gflop_per_call(config: ModelConfig, num_classes: int = 2) -> dict[str, float]:
    """Return the GFLOP of one row: `alone`, and `shared` with the other classes of its trial."""
    classes = tuple(str(k) for k in range(num_classes))
    with torch.device("meta"):
        model = DiffusionModel(config, classes)
        z_t, logsnr = torch.empty(1, *model.shape), torch.empty(1)
        y = torch.arange(num_classes)
        with FlopCounterMode(display=False) as alone:
            model(z_t, logsnr, y[:1])
        with FlopCounterMode(display=False) as shared:
            model.denoiser.under_classes(z_t, logsnr, y, torch.zeros_like(y))
    return {
        "alone": alone.get_total_flops() / 1e9,
        "shared": shared.get_total_flops() / 1e9 / num_classes,
    }


def peak_tflops(device: torch.device, precision: Precision) -> float:
    """Return the TFLOP/s of a large matrix product, the best of REPEATS after one not counted."""
    side = 4096 if device.type == "cpu" else 16384
    # As convolutions do on a GPU unless told otherwise.
    torch.backends.cuda.matmul.allow_tf32 = True
    dtype = AUTOCAST_DTYPE.get(precision, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:]) / 1e12


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def main() -> None:
    """Count every preset, measure both precisions and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    device = resolve_device(parser.parse_args().device)
    peaks = {name: round(peak_tflops(device, name), 3) for name in ("fp32", "bf16")}
    cases = [
        {"case": preset, "gflop_per_call": gflop_per_call(resolve_config(preset).model)}
        for preset in PRESETS
    ]
    result = {
        "name": "roofline",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "peak_tflops": peaks,
        "cases": cases,
    }
    write_json(RESULTS / f"roofline-{device.type}.json", result)
    print(result)


if __name__ == "__main__":
    main()
