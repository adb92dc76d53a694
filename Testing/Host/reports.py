"""What happened in the host and must not go unnoticed: errors, messages, and requests that would have left the process.

Nothing here imports Qt or Slicer, so that every other file of the host may report.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message box that would have been shown. `kind` is info, warning, error, question, dialog, file, or menu."""

    kind: str
    title: str
    text: str
    detail: str = ""


errors: list[str] = []  # tracebacks of slots, observers, timers and threads; unknown widgets, properties and signals
messages: list[Message] = []
selectedModules: list[str] = []  # of slicer.util.selectModule
openedUrls: list[str] = []  # of QDesktopServices.openUrl
pipInstalls: list[Any] = []  # requirements given to pip_install, pip_ensure
pipConstraints: list[str] = []  # the content of the constraints file of each of these, "" without one
torchInstalls: list[list[str]] = []  # requirements of PyTorchUtilsLogic.installTorch; [] for uninstallTorch
sampleDataSources: list[dict[str, Any]] = []  # of SampleDataLogic.registerCustomSampleDataSource
_answers: dict[str, deque] = {}


def clear() -> None:
    """Forget everything, also answers that were never asked for."""
    for record in (errors, messages, selectedModules, openedUrls, pipInstalls, pipConstraints, torchInstalls):
        record.clear()
    sampleDataSources.clear()
    _answers.clear()


def answerNext(kind: str, answer: Any) -> None:
    """Queue what the user answers to the next message of this kind: a button or whether it is accepted, or a path for
    kind "file". For the kinds "pip" and "torch" it is the exception with which the next installation fails."""
    _answers.setdefault(kind, deque()).append(answer)


def nextAnswer(kind: str, default: Any = None) -> Any:
    queue = _answers.get(kind)
    return queue.popleft() if queue else default


def record(message: Message, default: Any) -> Any:
    """Note a message and return the queued answer for its kind, or `default`."""
    messages.append(message)
    logging.getLogger("host").info("%s: %s: %s", message.kind, message.title, message.text)
    return nextAnswer(message.kind, default)


def _collect(kind: type[BaseException], value: BaseException, trace: TracebackType) -> None:
    errors.append("".join(traceback.format_exception(kind, value, trace)))


def _onException(kind, value, trace) -> None:
    _collect(kind, value, trace)
    sys.__excepthook__(kind, value, trace)


def _onUnraisable(info) -> None:
    _collect(info.exc_type, info.exc_value, info.exc_traceback)
    sys.__unraisablehook__(info)


def _onThreadException(info) -> None:
    _collect(info.exc_type, info.exc_value, info.exc_traceback)
    threading.__excepthook__(info)


def collectExceptions() -> None:
    """Collect the exceptions that Qt and VTK print and then forget; they reach Python's hooks.

    Test runners set hooks of their own, so this is done again before every test.
    """
    sys.excepthook, sys.unraisablehook, threading.excepthook = _onException, _onUnraisable, _onThreadException
