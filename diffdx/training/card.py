"""The model card: what a model is, what it was trained on, what it must not be used for."""

from typing import Any

from diffdx.config import DiscreteScheduleConfig, RunConfig, ScheduleConfig


def model_card(record: dict[str, Any], config: RunConfig) -> str:
    """Return the Markdown card of a finished run from its record and configuration."""
    data, auroc = config.model.data, record["best_validation_auroc"]
    rows = {
        "classes": f"{', '.join(record['classes'])} (positive: {record['positive']})",
        "input": f"{data.image_size} x {data.image_size} px, {data.channels} channel(s)",
        "resizing": data.resize,
        "backbone": f"{config.model.backbone.name}, {record['parameters']:,} parameters",
        "log-SNR": _levels(config.model.schedule),
        "trained": f"{record['images_seen']:,} images seen in {record['steps']:,} steps",
        "time": f"{record['train_seconds'] / 60:.1f} minutes",
        "machine": f"{record['device']}, {record['precision']}, {record['threads']} threads",
        "weights": f"SHA-256 {record['model_sha256']} (as trained)",
        "data": f"{record['dataset']}, fingerprint {record['data_fingerprint'][:16]}",
        "validation": "none: not trained here"
        if auroc is None
        else f"AUROC on a subset {auroc:.4f}",
        **{f"images, {name}": str(n) for name, n in record["counts"].items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    warnings = "\n".join(f"- {text}" for text in record["warnings"]) or "- none"
    return f"""# Class-conditional diffusion model: {" / ".join(record["classes"])}

**{record["research_use_only"]}** It must not be used for diagnosis, triage or any other
decision about a patient.

| | |
|---|---|
{table}

Warnings:

{warnings}
"""


def _levels(schedule: ScheduleConfig | DiscreteScheduleConfig) -> str:
    if isinstance(schedule, ScheduleConfig):
        return f"{schedule.logsnr_min:.4g} to {schedule.logsnr_max:.4g}, shift {schedule.shift:.4g}"
    return (
        f"{schedule.num_levels} levels, {schedule.beta_schedule} betas "
        f"{schedule.beta_start:g} to {schedule.beta_end:g}"
    )
