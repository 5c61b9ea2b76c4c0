"""`diffdx sample`: generate images of a class."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffdx.cli import options
from diffdx.cli.console import NOTICE, Reporter
from diffdx.cli.folders import require_room
from diffdx.errors import ConfigError


def sample(
    run: Annotated[Path, typer.Argument(help="Run or checkpoint folder.")],
    class_: Annotated[str, typer.Option("--class", help="Class to generate.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default RUN-samples.")] = None,
    guidance: Annotated[float, typer.Option(min=0, max=100, help="Scale; 1 is none.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 50,
    method: Annotated[Literal["ddim", "ddpm"], typer.Option(help="Sampler.")] = "ddim",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Generate images of one class as PNG files and one grid. Research use only."""
    reporter = Reporter(quiet, verbose, as_json=as_json)
    with reporter.ending():
        import torch

        from diffdx._device import resolve_device, resolve_precision
        from diffdx.backbones.generation import generate
        from diffdx.backbones.model import DiffusionModel
        from diffdx.transforms.pictures import grid_image, write_png

        where = resolve_device(device)
        model = DiffusionModel.load(run).to(where)
        if class_ not in model.classes:
            raise ConfigError(f"--class {class_}: the model knows {', '.join(model.classes)}")
        folder = out or run.with_name(f"{run.name}-samples")
        require_room(folder, overwrite=overwrite, inputs=[run])
        x = generate(
            model,
            torch.full((n,), model.classes.index(class_)),
            seed=seed,
            num_steps=steps,
            guidance_scale=guidance,
            method=method,
            precision=resolve_precision(precision, where),
        )
        columns = max(c for c in range(1, min(n, 8) + 1) if n % c == 0)
        write_png(folder / "grid.png", grid_image(x, columns))
        paths = [folder / f"{class_}-{i:04d}.png".replace("/", "_") for i in range(n)]
        for path, image in zip(paths, torch.split(x, 1), strict=True):
            write_png(path, grid_image(image, 1))
        record = {"out": str(folder), "class": class_, "n": n, "seed": seed, "notice": NOTICE}
        reporter.result(f"{n} images of {class_}. {NOTICE}\n{folder / 'grid.png'}", record)
