"""The DICOM node's folder: what has been received and is not yet sent back.

    inbox/KEY.dcm            received, waits
    work/KEY/image.dcm       being classified, beside what it gives
    outbox/KEY/*.dcm         results, to be sent

KEY is a hash of the SOP instance UID. Every step is one rename, so that a node that was killed goes
on where it was; what has been sent is removed at once. The folder is readable by its owner alone,
and refuses images beyond its quota.
"""

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path

from diffdx._files import atomic_path

IMAGE_FILE = "image.dcm"


def key_of(sop_instance_uid: str) -> str:
    """Return the name that stands for an instance in file names and messages."""
    salt = os.environ.get("DIFFDX_SALT", "")
    return hashlib.sha256(f"{salt}{sop_instance_uid}".encode()).hexdigest()[:16]


class Spool:
    """What waits in a node's folder.

    Attributes:
        root: The folder.
        max_bytes: Of all files in it.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        """Make the folder, or take up what an earlier node left there."""
        self.root, self.max_bytes = root, max_bytes
        self._inbox, self._work, self._outbox = (root / n for n in ("inbox", "work", "outbox"))
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        for folder in (self._inbox, self._work, self._outbox):
            folder.mkdir(exist_ok=True)

    def receive(self, key: str, content: bytes) -> None:
        """Keep an image; when this returns, it is on the disk.

        Raises:
            OSError: if the quota, or the disk, has no room for it.
        """
        with self._lock:
            if self.used_bytes() + len(content) > self.max_bytes:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            with atomic_path(self._inbox / f"{key}.dcm") as temporary:
                temporary.write_bytes(content)

    def used_bytes(self) -> int:
        """Return the size of everything here."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_size
                except FileNotFoundError:  # the worker was faster
                    continue
        return total

    def next_case(self) -> Path | None:
        """Return the folder of the next image to classify, one that was cut short first."""
        for case in sorted(self._work.iterdir()):
            if (case / IMAGE_FILE).is_file():
                return case
            shutil.rmtree(case)
        waiting = [path for path in self._inbox.iterdir() if not path.name.startswith(".")]
        if not waiting:
            return None
        oldest = min(waiting, key=lambda path: path.stat().st_mtime)
        case = self._work / oldest.stem
        case.mkdir()
        os.replace(oldest, case / IMAGE_FILE)
        return case

    def finish(self, case: Path, objects: Path) -> None:
        """Put a case's results into the outbox and forget the image."""
        target = self._outbox / case.name
        if target.exists():  # the same image came twice, and its first results still wait
            shutil.rmtree(target)
        os.replace(objects, target)
        shutil.rmtree(case)

    def drop(self, case: Path) -> None:
        """Forget an image, or results that have arrived."""
        shutil.rmtree(case)

    def to_send(self) -> list[Path]:
        """Return the folders of results that wait, oldest first."""
        return sorted(self._outbox.iterdir(), key=lambda path: path.stat().st_mtime)
