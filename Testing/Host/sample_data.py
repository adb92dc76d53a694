"""`import SampleData`: registration is kept as Slicer keeps it and recorded; nothing is downloaded."""

from __future__ import annotations

import types
from typing import Any

import slicer

import reports


class SampleDataLogic:
    """SampleDataLogic of Slicer's Sample Data module."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: dict | None = None,
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        source = {name: value for name, value in locals().items() if value is not None}
        reports.sampleDataSources.append(source)
        sources = slicer.modules.__dict__.setdefault("sampleDataSources", {})
        sources.setdefault(category, []).append(types.SimpleNamespace(**source))


def createModule() -> types.ModuleType:
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    return module
