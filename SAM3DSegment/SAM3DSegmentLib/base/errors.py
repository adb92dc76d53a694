"""The errors that a user can cause or fix. Each message quotes the bad value and says what to do."""


class Sam3dError(Exception):
    """Base class: the command line prints the message as one line and exits with 1."""


class InputError(Sam3dError):
    """A file, folder, array or option given by the user cannot be used."""


class GeometryError(Sam3dError):
    """A volume's axes, spacing or direction cannot be used."""


class WeightsError(Sam3dError):
    """An encoder checkpoint is missing, damaged, or not the one that a model was trained with."""


class ModelFileError(Sam3dError):
    """A `.sam3d` model file is missing, damaged, or of another format."""


class DependencyError(Sam3dError):
    """A Python package that this step needs is not installed."""


class OutOfMemoryError(Sam3dError):
    """There was not enough memory, even for the smallest parts into which the work can be divided."""


class TrainingError(Sam3dError):
    """A training cannot continue, because its loss is not a finite number."""


class Cancelled(Sam3dError):
    """The user cancelled; nothing was written."""


def require(condition: bool, message: str) -> None:
    """Raises InputError(message) unless `condition`; for checks of a value when it is made."""
    if not condition:
        raise InputError(message)
