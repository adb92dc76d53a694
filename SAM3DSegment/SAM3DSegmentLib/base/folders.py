"""Where the user's models, weights and caches are. Standard library only, because the panel asks before anything is
installed; the paths are those of the packages `platformdirs` and `appdirs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NAME = "SAM3DSegment"


def models_folder() -> Path:
    """The user's own models; SAM3DSEGMENT_MODELS moves it, for instance to a folder that a group shares."""
    return _moved("SAM3DSEGMENT_MODELS") or _data() / "models"


def weights_folder() -> Path:
    """The user's checkpoints of SAM; SAM3DSEGMENT_WEIGHTS moves it, for instance to a folder that a group shares."""
    return _moved("SAM3DSEGMENT_WEIGHTS") or _data() / "weights"


def cache_folder() -> Path:
    """The cache of embeddings, a folder of our own; SAM3DSEGMENT_CACHE names the folder that it lies in."""
    return (_moved("SAM3DSEGMENT_CACHE") or _cache()) / "embeddings"


def _moved(variable: str) -> Path | None:
    folder = os.environ.get(variable)
    return Path(folder) if folder else None


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
