"""From a cell of Table 1 to the commands that make it.

OUT/plan.json                            what all cells have in common
OUT/prompts/SET.yaml                     prompts that stand for classes
OUT/base/...                             pipelines that Stable Diffusion's rows start from
OUT/cells/METHOD/SET/run                 the trained model
OUT/cells/METHOD/SET/predictions         its answers on the test images
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from diffdx._files import write_json, write_text
from diffdx.errors import ConfigError
from diffdx.paper.cells import Cell, Step
from diffdx.paper.published import DATASETS, DIFFUSION_FAMILY, DatasetName
from diffdx.paper.scales import SPLITS_FOLDER, Scale, ScaleName

Recipe = Literal["paper", "release"]
FINE_TUNED, ZERO_SHOT = "sd-tuned", "sd-zero"
STABLE_DIFFUSION = (FINE_TUNED, ZERO_SHOT)


PLAN_FILE = "plan.json"


def stored_scale(out: Path) -> ScaleName | None:
    """Return the scale of the cells in a folder; None if there are none."""
    file = out / PLAN_FILE
    if not file.is_file():
        return None
    scale: ScaleName = json.loads(file.read_text(encoding="utf-8"))["scale"]
    return scale


@dataclass(frozen=True)
class Plan:
    """All commands of a reproduction.

    Attributes:
        root: Folder of the sets.
        out: Folder to write.
        scale: How large.
        recipe: Of the baselines; of the diffusion models too, unless the scale has its own.
        base: Stable Diffusion's public weights at full scale, a folder or hub id.
        device: Of every command.
        steps: Of training, in place of the scale's.
        trials: In place of the scale's.
        limit: Test images, in place of the scale's.
    """

    root: Path
    out: Path
    scale: Scale
    recipe: Recipe = "paper"
    base: str | None = None
    device: str = "auto"
    steps: int | None = None
    trials: int | None = None
    limit: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return the content of `plan.json`: what must be the same for all cells of a folder."""
        return {
            "scale": self.scale.name,
            "recipe": self.recipe,
            "base": self.base,
            "steps": self.steps,
            "trials": self.trials or self.scale.trials,
            "limit": self.limit or self.scale.limit,
        }

    def begin(self) -> None:
        """Write `plan.json` and the prompts.

        Raises:
            ConfigError: if the folder holds cells of another plan, which would share a table.
        """
        file = self.out / PLAN_FILE
        if file.is_file() and (found := json.loads(file.read_text("utf-8"))) != self.settings():
            differing = [k for k, v in self.settings().items() if found.get(k) != v]
            raise ConfigError(
                f"{file}: another {', '.join(differing)} than asked for; cells of one table are "
                "made alike: give the same options, or choose another --out"
            )
        write_json(file, self.settings())
        both: dict[str, str] = {}
        for name, source in self.scale.sources.items():
            both |= source.prompts
            write_text(self.prompts(name), yaml.safe_dump(source.prompts, sort_keys=False))
        write_text(self.prompts("both"), yaml.safe_dump(both, sort_keys=False))

    def missing(self, cell: Cell) -> str | None:
        """Return why a cell cannot be made, if something that it needs is not there."""
        is_sd = cell.method.name in STABLE_DIFFUSION
        needed: tuple[DatasetName, ...] = (
            DATASETS if self._needs_both(cell.method.name) else (cell.dataset,)
        )
        for name in needed:
            folder = self.root / self.scale.sources[name].folder
            if not folder.exists():
                return f"no data at {folder}"
        if is_sd and self.scale.base is None and self.base is None:
            return "no base checkpoint; give --base FOLDER_OR_HUB_ID (Stable Diffusion v2-base)"
        return None

    def _needs_both(self, method: str) -> bool:
        """Say whether a method is trained on both sets, or a stand-in of it is."""
        return method == FINE_TUNED or (method == ZERO_SHOT and self.scale.base is not None)

    def title(self, cell: Cell) -> str:
        """Return what a cell's model is called: the method's title, or that of its stand-in."""
        return self.scale.titles.get(cell.method.name, cell.method.title)

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.out / "cells" / cell.method.name / cell.dataset

    def prompts(self, name: str) -> Path:
        """Return the prompts file of a set, or of both."""
        return self.out / "prompts" / f"{name}.yaml"

    def data(self, name: DatasetName) -> str:
        """Return DATA of a set."""
        source = self.scale.sources[name]
        return source.layout.format(self.root / source.folder)

    def lists(self, name: DatasetName) -> list[str]:
        """Return the published lists of a set; none if they are not there."""
        beginning = self.scale.sources[name].lists
        if beginning is None:
            return []
        files = [
            self.root / SPLITS_FOLDER / f"{beginning}-{role}.csv"
            for role in ("train", "valid", "test")
        ]
        return [str(file) for file in files] if all(file.is_file() for file in files) else []

    def steps_of(self, cell: Cell) -> list[Step]:
        """Return the commands that make a cell, in order."""
        method = cell.method.name
        if method in STABLE_DIFFUSION:
            training = self._finetuning(cell)
        elif cell.method.family == DIFFUSION_FAMILY:
            preset = ["--preset", self.scale.presets[method]]
            training = [self._run("train", cell, [*preset, *self._recipe(), *self._length(cell)])]
        else:
            named = ["--model", method, "--recipe", self.recipe]
            training = [self._run("baseline", cell, [*named, *self._length(cell)])]
        return [*training, self._classify(cell)]

    def _recipe(self) -> list[str]:
        return ["--recipe", self.scale.recipe or self.recipe]

    def _length(self, cell: Cell) -> list[str]:
        steps = self.steps or self.scale.steps.get(cell.method.name, {}).get(cell.dataset)
        return [] if steps is None else ["--steps", str(steps)]

    def _run(self, verb: str, cell: Cell, options: list[str]) -> Step:
        """Return the step that trains a cell's model on its set."""
        return self._training(
            verb,
            self.data(cell.dataset),
            self.folder(cell) / "run",
            [*self._roles(cell.dataset), *options],
        )

    def _roles(self, name: DatasetName) -> list[str]:
        lists = self.lists(name)
        return [*(["--splits", *lists] if lists else []), *self.scale.sources[name].options]

    def _training(self, verb: str, data: str, out: Path, options: list[str]) -> Step:
        size = ["--image-size", str(self.scale.image_size_px), "--device", self.device]
        more = self.scale.settings.get(verb, ())
        arguments = (verb, data, "--out", str(out), *size, *options, *more, "--no-progress")
        return Step("diffdx", arguments, out, out / "run.json")

    def _classify(self, cell: Cell) -> Step:
        folder = self.folder(cell)
        out, limit = folder / "predictions", self.limit or self.scale.limit
        options = ["--split", "test", "--device", self.device]
        options += [] if limit is None else ["--limit", str(limit)]
        if cell.method.family == DIFFUSION_FAMILY:
            options += ["--trials", str(self.trials or self.scale.trials)]
        data = self.data(cell.dataset)
        arguments = ("classify", str(folder / "run"), data, "--out", str(out), *options)
        return Step("diffdx", (*arguments, "--no-progress"), out, out / "classify.json")

    def _finetuning(self, cell: Cell) -> list[Step]:
        """Return the steps of Stable Diffusion's rows, or of the small pipeline in its place."""
        before, base = self._small_base(cell) if self.scale.base else self._public_base(cell)
        is_trained = cell.method.name == FINE_TUNED and self.scale.base is not None
        length = self._length(cell) if is_trained else ["--steps", "0"]
        prompts = ["--base", base, "--prompts", str(self.prompts(cell.dataset))]
        return [*before, self._run("finetune", cell, [*prompts, *self._recipe(), *length])]

    def _small_base(self, cell: Cell) -> tuple[list[Step], str]:
        """Return how a small pipeline comes to know the other set, and where it lies."""
        assert self.scale.base is not None
        other = next(name for name in DATASETS if name != cell.dataset)
        folder, data = self.out / "base" / other, self.data(other)
        autoencoder, network = (self.steps or steps for steps in self.scale.base)
        words = [str(self.prompts(name)) for name in DATASETS]
        start = folder / "start"
        drawn = ["--data", data, "--prompts", *words, "--steps", str(autoencoder)]
        options = ["--base", str(start), "--prompts", str(self.prompts(other)), *self._roles(other)]
        options += [*self._recipe(), "--steps", str(network)]
        learned = self._learned(folder, str(start))
        return [
            self._prepared("pipeline", start, drawn),
            self._training("finetune", data, folder / "run", options),
            learned,
        ], str(learned.makes)

    def _public_base(self, cell: Cell) -> tuple[list[Step], str]:
        """Return how public weights are fine-tuned on both sets (paper section 3.4), if so."""
        public = self.base or "BASE"
        if cell.method.name == ZERO_SHOT:
            return [], public
        folder = self.out / "base" / "both"
        table, lists = (
            folder / "union.csv",
            [file for name in DATASETS for file in self.lists(name)],
        )
        sets = ["--data", *(self.data(name) for name in DATASETS)]
        sets += ["--splits", *lists] if lists else []
        options = ["--base", public, "--prompts", str(self.prompts("both")), "--allow-leak"]
        options += [*self._recipe(), *self._length(cell)]
        learned = self._learned(folder, public)
        return [
            Step("prepare", ("union", str(table), *sets), table, table),
            self._training("finetune", str(table), folder / "run", options),
            learned,
        ], str(learned.makes)

    def _learned(self, folder: Path, base: str) -> Step:
        options = ["--base", base, "--run", str(folder / "run")]
        return self._prepared("learned", folder / "pipeline", options)

    def _prepared(self, what: str, out: Path, options: list[str]) -> Step:
        arguments = (what, str(out), *options)
        return Step("prepare", arguments, out, out / "model_index.json")
