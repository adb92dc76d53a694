"""One segmentation in a child process: the volume into a file, the command line, and its files into the scene."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..base.stop import FOLDER_PREFIX
from .problems import explain
from .request import Request
from .scene.edits import ReplaceError
from .worker import BackgroundCall, CommandProcess, OnProgress, ignore, progressReader, removeFolder

logger = logging.getLogger(__name__)

VOLUME, LABELS, CONFIDENCE, REPORT = "volume.nrrd", "labels.nrrd", "confidence.nrrd", "report.json"
Result = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]  # labels, confidence, record of how they were made


@dataclass(frozen=True)
class Callbacks:
    """What a segmentation calls, on the main thread; exactly one of the last three, at its end.

    onProgress(stage, parts done, parts in all, seconds to go or None).
    onChoice(quality, seconds): with the quality "auto", before it computes: what was chosen, and how long it will
    probably take.
    onFinished(segmentation node); onFailed(message); onCancelled().
    """

    onProgress: OnProgress = ignore
    onChoice: Callable[[str, float], None] = ignore
    onFinished: Callable[[slicer.vtkMRMLSegmentationNode], None] = ignore
    onFailed: Callable[[str], None] = logger.error
    onCancelled: Callable[[], None] = ignore


NO_CALLBACKS = Callbacks(onFailed=ignore)


class SegmentationJob:
    """Begins when it is made. The scene is changed only just before onFinished()."""

    def __init__(self, request: Request, callbacks: Callbacks) -> None:
        self._request: Request | None = request
        self._callbacks = callbacks
        self._cancelled = False
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=slicer.app.temporaryPath))
        self._process = CommandProcess(
            _arguments(request),
            progressReader(callbacks.onProgress, lambda event: _reportChoice(event, callbacks.onChoice)),
            self._readResult,
            self._fail,
            self._endCancelled,
            self._folder,
        )
        path, array, matrix = self._folder / VOLUME, request.arrayKji, request.ijkToWorld
        self._call = BackgroundCall(lambda: _write(path, array, matrix), self._startProcess, self._failWith)

    def cancel(self) -> None:
        """The child ends within PATIENCE_MS of worker.py; onCancelled() is called then."""
        self._cancelled = True
        self._process.cancel()

    def abandon(self) -> None:
        """Stop, without any callback, and return when nothing is left; for when the module is closed."""
        self._end()

    def childId(self) -> int:
        """Process id of the child that computes; 0 before it runs."""
        return self._process.childId()

    def _startProcess(self, _written: None) -> None:
        if self._cancelled:
            self._endCancelled()
        else:
            self._process.start()

    def _readResult(self) -> None:
        folder, withConfidence = self._folder, self._request is not None and self._request.choices.confidenceMap
        self._call = BackgroundCall(lambda: _readFiles(folder, withConfidence), self._deliver, self._failWith)

    def _deliver(self, result: Result) -> None:
        request = self._request
        if self._cancelled or request is None:
            self._endCancelled()
            return
        try:
            node = _deliver(request, result)
        except Exception as error:  # Slicer would only print it, and the panel would wait for ever
            self._failWith(error)
            return
        self._end().onFinished(node)

    def _failWith(self, error: BaseException) -> None:
        self._fail(explain(error))

    def _fail(self, message: str) -> None:
        self._end().onFailed(message)

    def _endCancelled(self) -> None:
        self._end().onCancelled()

    def _end(self) -> Callbacks:
        """Release all arrays, files and callbacks, even if somebody keeps this job. Returns the callbacks."""
        callbacks, self._callbacks = self._callbacks, NO_CALLBACKS
        self._call.abandon()
        self._process.abandon()
        self._request = None
        removeFolder(self._folder)
        return callbacks


def _deliver(request: Request, result: Result) -> slicer.vtkMRMLSegmentationNode:
    """Into a new segmentation if the chosen one was edited while this was computed: neither shall be lost."""
    try:
        return request.deliver(*result)
    except ReplaceError as error:
        logger.warning("The result is in a new segmentation: %s", error)
        return request.intoNewSegmentation().deliver(*result)


def _arguments(request: Request) -> list[str]:
    """Of the command line; its files have bare names, as it runs in their folder."""
    choices = request.choices
    arguments = ["segment", VOLUME, "-o", LABELS, "--report", REPORT, "--progress", "json"]
    arguments += ["--model", str(request.modelPath), "--quality", choices.quality, "--device", choices.device]
    if choices.confidenceMap:
        arguments += ["--confidence", CONFIDENCE]
    if choices.samCheckpoint:
        arguments += ["--sam-checkpoint", choices.samCheckpoint]
    return arguments


def _reportChoice(event: dict[str, Any], onChoice: Callable[[str, float], None]) -> None:
    if event["event"] == "quality":
        onChoice(event["quality"], event["seconds"])


# These import SimpleITK, which takes a quarter of a second: not when Slicer starts, and not on the main thread.
def _write(path: Path, arrayKji: np.ndarray, ijkToWorld: np.ndarray) -> None:
    from ..formats.volumes import write_volume

    write_volume(path, arrayKji, ijkToWorld)


def _readFiles(folder: Path, withConfidence: bool) -> Result:
    from ..formats.volumes import read_volume

    labels = read_volume(folder / LABELS).array_kji
    confidence = read_volume(folder / CONFIDENCE).array_kji if withConfidence else None
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return labels, confidence, report["segmented"][0]
