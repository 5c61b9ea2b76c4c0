"""HAM10000 as a table with roles: one image a lesion, 600 for test, 400 val, 600 calib.

    python benchmarks/ham10000_roles.py ../shared/data/ham10000 out/ham10000.csv

Lesions are ordered by a hash of their id, so the roles are the same everywhere.
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

ROLES = {"test": 600, "val": 400, "calib": 600}


def main() -> None:
    """Write the table."""
    root, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    table = pd.read_csv(root / "HAM10000_metadata.csv").drop_duplicates("lesion_id")
    place = [hashlib.sha256(lesion.encode()).hexdigest()[:12] for lesion in table["lesion_id"]]
    table = table.assign(place=place).sort_values("place")
    roles = [role for role, count in ROLES.items() for _ in range(count)]
    table["split"] = roles + ["train"] * (len(table) - len(roles))
    table["path"] = [str(root / "images" / f"{image}.jpg") for image in table["image_id"]]
    table = table.rename(columns={"dx": "label", "lesion_id": "patient_id"})
    out.parent.mkdir(parents=True, exist_ok=True)
    table[["path", "label", "patient_id", "split"]].to_csv(out, index=False)


if __name__ == "__main__":
    main()
