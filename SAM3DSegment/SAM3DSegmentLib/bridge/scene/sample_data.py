"""The bundled MRI, and its place in Slicer's Sample Data module."""

from __future__ import annotations

import hashlib
from pathlib import Path

_RESOURCES = Path(__file__).resolve().parents[3] / "Resources"
SAMPLE = _RESOURCES / "SampleData" / "hippocampus_015.nii.gz"
REFERENCE = _RESOURCES / "SampleData" / "hippocampus_015_label.nii.gz"


def registerSampleData() -> None:
    """It is copied from disk, not downloaded."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SAM3DSegment",
        sampleName="HippocampusMRI",
        uris=SAMPLE.as_uri(),
        fileNames=SAMPLE.name,
        checksums=f"SHA256:{hashlib.sha256(SAMPLE.read_bytes()).hexdigest()}",  # else a cached one is taken
        nodeNames="HippocampusMRI",
        thumbnailFileName=str(_RESOURCES / "Icons" / "SAM3DSegment.png"),
    )
