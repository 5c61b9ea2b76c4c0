"""The model card: what a trained model is, what it was trained on, and what it must not be used for."""

from typing import Any

from diffdx.config import RunConfig


def model_card(record: dict[str, Any], config: RunConfig) -> str:
    """Return the Markdown card of a finished run from its record and configuration."""
    counts = "\n".join(f"| {name} | {n} |" for name, n in record["counts"].items())
    warnings = "\n".join(f"- {text}" for text in record["warnings"]) or "- none"
    data = config.model.data
    return f"""# Class-conditional diffusion model: {" / ".join(record["classes"])}

**{record["research_use_only"]}** It must not be used for diagnosis, triage or any other decision about a patient.

| | |
|---|---|
| classes | {", ".join(record["classes"])} (positive: {record["positive"]}) |
| input | {data.image_size} x {data.image_size} px, {data.channels} channel(s), {data.resize} |
| backbone | {config.model.backbone.name}, {record["parameters"]:,} parameters |
| log-SNR | {config.model.schedule.logsnr_min} to {config.model.schedule.logsnr_max}, shift {config.model.schedule.shift:.4g} |
| trained | {record["images_seen"]:,} images seen, {record["steps"]:,} steps, {record["train_seconds"] / 60:.1f} minutes |
| machine | {record["device"]}, {record["precision"]}, {record["threads"]} threads |
| weights | SHA-256 {record["model_sha256"]} |
| data | {record["dataset"]}, fingerprint {record["data_fingerprint"][:16]} |
| best validation AUROC (vote, subset) | {record["best_validation_auroc"]} |

| role/class | images |
|---|---|
{counts}

Warnings:
{warnings}
"""
