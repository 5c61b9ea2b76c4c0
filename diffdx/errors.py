"""Errors that users meet. Every message names the file and the field, and says what to do next.

A message never contains a patient's identifier: a short hash stands for it.
"""


class DiffdxError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class ConfigError(DiffdxError):
    """An option, configuration key or combination of them that cannot be carried out."""

    exit_code = 2


class DataError(DiffdxError):
    """An image, table, label or split that cannot be used as it is."""

    exit_code = 2


class CheckpointError(DiffdxError):
    """A run folder, checkpoint or stored result that is damaged or belongs to something else."""


class TrainingError(DiffdxError):
    """Training that cannot go on, with the last good checkpoint kept."""


class WorkerError(DiffdxError):
    """A process of a cluster that failed; what was finished before is kept."""
