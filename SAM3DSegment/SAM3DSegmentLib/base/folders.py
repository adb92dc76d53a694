"""Where the user's models, weights and caches are; for a user without a home, an InputError that names the variable.

Standard library only, because the panel asks before anything is installed; the paths are those of the packages
`platformdirs` and `appdirs`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import InputError

_NAME = "SAM3DSegment"


def models_folder() -> Path:
    """The user's own models; SAM3DSEGMENT_MODELS moves it, for instance to a folder that a group shares."""
    return _moved("SAM3DSEGMENT_MODELS") or _in_home(_data, "SAM3DSEGMENT_MODELS", "models") / "models"


def weights_folder() -> Path:
    """The user's checkpoints of SAM; SAM3DSEGMENT_WEIGHTS moves it, for instance to a folder that a group shares."""
    return _moved("SAM3DSEGMENT_WEIGHTS") or _in_home(_data, "SAM3DSEGMENT_WEIGHTS", "weights") / "weights"


def cache_folder() -> Path:
    """The cache of embeddings, a folder of our own; SAM3DSEGMENT_CACHE names the folder that it lies in."""
    return (_moved("SAM3DSEGMENT_CACHE") or _in_home(_cache, "SAM3DSEGMENT_CACHE", "cache")) / "embeddings"


def received_folder() -> Path:
    """What other computers have sent to this one, as their server of SSH; beside the cache."""
    return cache_folder().with_name("received")


def detached_folder() -> Path:
    """Trainings that other computers have begun on this one, and that go on without a connection."""
    return cache_folder().with_name("trainings")


def _moved(variable: str) -> Path | None:
    folder = os.environ.get(variable)
    return Path(folder) if folder else None


def _in_home(find: Callable[[], Path], variable: str, what: str) -> Path:
    """Raises InputError for a user without a home, as that of a container may be."""
    try:
        return find()
    except RuntimeError as error:
        raise InputError(f"this user has no home folder; set {variable} to a folder for the {what}.") from error


def _data() -> Path:
    if sys.platform == "win32":
        return _local_app_data() / _NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / _NAME
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / _NAME


def _cache() -> Path:
    if sys.platform == "win32":
        return _local_app_data() / _NAME / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _NAME


def _local_app_data() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
