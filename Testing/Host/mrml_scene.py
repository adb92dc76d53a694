"""How a qMRML widget follows a scene, and lets go of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import shiboken6
import slicer
import vtk

_EVENTS = (  # event, method, priority: widgets know a node before modules hear of it
    ("NodeAddedEvent", "_onNodesChanged", 10.0),
    ("NodeRemovedEvent", "_onNodesChanged", 10.0),
    ("EndCloseEvent", "_onSceneReplaced", 0.0),
    ("EndImportEvent", "_onSceneReplaced", 0.0),
)
_followers: weakref.WeakSet = weakref.WeakSet()
# Kept for good: a node in garbage still tells its observers that it goes, when the collector has emptied them already.
_observers: list[Callable] = []


def observe(subject: vtk.vtkObject, event: int, method: Callable, priority: float = 0.0) -> int:
    """Call a widget's method on an event for as long as the widget lives: the observer does not keep it alive."""
    reference = weakref.WeakMethod(method)

    def onEvent(caller, eventName):
        alive = reference()
        if alive is not None and shiboken6.isValid(alive.__self__):
            alive(caller, eventName)

    _observers.append(onEvent)
    return subject.AddObserver(event, onEvent, priority)


class SceneFollower:
    """mrmlScene(), setMRMLScene() and the signal mrmlSceneChanged(vtkMRMLScene*) of Slicer's qMRML widgets."""

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self.__dict__.get("_scene")

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        if scene is self.mrmlScene():
            return
        self.stopFollowing()
        self._scene = scene
        if scene is not None:
            self._sceneTags = [
                observe(scene, getattr(scene, event), getattr(self, method), priority)
                for event, method, priority in _EVENTS
            ]
            _followers.add(self)
        self._onSceneChanged()
        self.mrmlSceneChanged.emit(scene)

    def stopFollowing(self) -> None:
        """Slicer's widgets do this in their destructors, which Python objects cannot count on."""
        for tag in self.__dict__.pop("_sceneTags", []):
            self._scene.RemoveObserver(tag)

    def _onNodesChanged(self, _caller, _event) -> None:
        self._onSceneChanged()

    def _onSceneReplaced(self, _caller, _event) -> None:
        """The scene has been closed, or another one imported."""
        self._onSceneChanged()

    def _onSceneChanged(self) -> None:
        """For widgets that show what is in the scene."""


def releaseWidgets() -> None:
    """Let go of the scene in every widget, before widgets are deleted."""
    for follower in list(_followers):
        follower.stopFollowing()
    _followers.clear()
