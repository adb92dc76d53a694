"""Checkpoints that torch has pickled (.pth): reading one can run a program, unless torch itself is safe from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..base.errors import WeightsError
from ..base.hashes import file_sha256
from .encoders import published_as

# Before, a crafted file runs code although only weights are asked for (CVE-2025-32434, to 2.5.1), or overwrites memory
# (CVE-2026-24747, to 2.9).
SAFE_TORCH = "2.10"


def load_pickled(path: Path) -> Any:
    """What `torch.load` gives. Raises WeightsError, before anything is read, where that is not safe from everybody."""
    if torch.__version__ < SAFE_TORCH and published_as(file_sha256(path)) is None:
        raise WeightsError(
            f"{str(path)!r} is not as SAM's authors published it, and with torch {torch.__version__} a crafted file "
            "could run a program; update torch to 2.10 or later, or give a .safetensors file or the published file."
        )
    return torch.load(path, map_location="cpu", weights_only=True)
