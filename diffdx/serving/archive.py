"""A case as a zip: what was said as JSON, the pictures as PNG. No identifier is in it."""

import io
import json
import zipfile
from typing import Any

from diffdx._notice import NOTICE
from diffdx.serving.jobs import Job

# The time of a case is no one's business, and equal cases give equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def case_archive(job: Job, facts: dict[str, Any]) -> bytes:
    """Return the zip of a finished job; with an explanation comes its classification.

    Args:
        job: Done.
        facts: What the model says of itself.
    """
    parts = [one for one in (job.of, job) if one is not None and one.outcome is not None]
    said: dict[str, Any] = {"notice": NOTICE, "model": facts}
    pictures: dict[str, bytes] = {}
    for part in parts:
        assert part.outcome is not None
        said[part.kind] = part.outcome.result
        pictures |= {
            f"{part.kind}/{name}.png": content for name, content in part.outcome.pictures.items()
        }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("case.json", _EPOCH), json.dumps(said, indent=2))
        for name, content in pictures.items():
            file.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return stream.getvalue()
