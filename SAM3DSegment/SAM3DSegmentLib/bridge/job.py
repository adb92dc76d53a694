"""Work on nodes of the scene in a child process: files for it, its command line, and its files into the scene."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import slicer

from ..base.stop import FOLDER_PREFIX
from .preferences import remoteOption
from .problems import explain
from .request import Choices, Request
from .scene.edits import ReplaceError
from .worker import BackgroundCall, CommandProcess, OnProgress, ignore, progressReader, removeFolder

logger = logging.getLogger(__name__)

VOLUME, LABELS, CONFIDENCE, REPORT = "volume.nrrd", "labels.nrrd", "confidence.nrrd", "report.json"
CHANNEL = "channel{}.nrrd"
Result = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]  # labels, confidence, record of how they were made


class Work(Protocol):
    """What is computed, of which there are two kinds: a segmentation by a model, and the completion of a painting.

    The files have bare names, as the command runs in their folder. They are written and read beside the main thread,
    without Qt and MRML.
    """

    def arguments(self) -> list[str]:
        """Of the command line."""
        ...

    def writeFiles(self, folder: Path) -> None: ...

    def readFiles(self, folder: Path) -> Any:
        """What the command has made."""
        ...

    def deliver(self, result: Any) -> slicer.vtkMRMLSegmentationNode:
        """Into the scene, which stays as it is if this raises; ReplaceError if somebody's work would be lost."""
        ...

    def intoNewSegmentation(self) -> Work:
        """The same, but for where the result goes."""
        ...


@dataclass(frozen=True)
class Callbacks:
    """What a job calls, on the main thread; exactly one of the last three, at its end.

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


class SceneJob:
    """Begins when it is made. The scene is changed only just before onFinished()."""

    def __init__(self, work: Work, callbacks: Callbacks) -> None:
        self._work: Work | None = work
        self._callbacks = callbacks
        self._cancelled = False
        self._folder = folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=slicer.app.temporaryPath))
        self._process = CommandProcess(
            work.arguments(),
            progressReader(callbacks.onProgress, lambda event: _reportChoice(event, callbacks.onChoice)),
            self._readResult,
            self._fail,
            self._endCancelled,
            folder,
        )
        self._call = BackgroundCall(lambda: work.writeFiles(folder), self._startProcess, self._failWith)

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
        work, folder = self._work, self._folder
        if work is not None:
            self._call = BackgroundCall(lambda: work.readFiles(folder), self._deliver, self._failWith)

    def _deliver(self, result: Any) -> None:
        work = self._work
        if self._cancelled or work is None:
            self._endCancelled()
            return
        try:
            node = _deliver(work, result)
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
        self._work = None
        removeFolder(self._folder)
        return callbacks


class SegmentationJob(SceneJob):
    def __init__(self, request: Request, callbacks: Callbacks) -> None:
        super().__init__(_Segmenting(request), callbacks)


def computingArguments(choices: Choices, modelPath: Path) -> list[str]:
    """Of the command `segment`: how to compute, and where."""
    arguments = ["--model", str(modelPath), "--quality", choices.quality, "--device", choices.device]
    arguments += ["--region", choices.region]
    arguments += ["--sam-checkpoint", choices.samCheckpoint] if choices.samCheckpoint else []
    return arguments + remoteOption(choices.remote or "")


@dataclass(frozen=True)
class _Segmenting:
    """The Work of the command `segment`."""

    request: Request

    def arguments(self) -> list[str]:
        arguments = ["segment", VOLUME, "-o", LABELS, "--report", REPORT, "--progress", "json"]
        arguments += computingArguments(self.request.choices, self.request.modelPath)
        if self.request.choices.confidenceMap:
            arguments += ["--confidence", CONFIDENCE]
        for number, channel in enumerate(self.request.channels):
            arguments += ["--channel", f"{channel.name}={CHANNEL.format(number)}"]
        return arguments

    # These import SimpleITK, which takes a quarter of a second: not when Slicer starts, and not on the main thread.
    def writeFiles(self, folder: Path) -> None:
        from ..formats.volumes import write_volume

        write_volume(folder / VOLUME, self.request.arrayKji, self.request.ijkToWorld)
        for number, channel in enumerate(self.request.channels):
            write_volume(folder / CHANNEL.format(number), channel.arrayKji, channel.ijkToWorld)

    def readFiles(self, folder: Path) -> Result:
        from ..formats.volumes import read_volume

        labels = read_volume(folder / LABELS).array_kji
        withConfidence = self.request.choices.confidenceMap
        confidence = read_volume(folder / CONFIDENCE).array_kji if withConfidence else None
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return labels, confidence, report["segmented"][0]

    def deliver(self, result: Result) -> slicer.vtkMRMLSegmentationNode:
        return self.request.deliver(*result)

    def intoNewSegmentation(self) -> _Segmenting:
        return _Segmenting(self.request.intoNewSegmentation())


def _deliver(work: Work, result: Any) -> slicer.vtkMRMLSegmentationNode:
    """Into a new segmentation if the chosen one was edited while this was computed: neither shall be lost."""
    try:
        return work.deliver(result)
    except ReplaceError as error:
        logger.warning("The result is in a new segmentation: %s", error)
        return work.intoNewSegmentation().deliver(result)


def _reportChoice(event: dict[str, Any], onChoice: Callable[[str, float], None]) -> None:
    if event["event"] == "quality":
        onChoice(event["quality"], event["seconds"])
