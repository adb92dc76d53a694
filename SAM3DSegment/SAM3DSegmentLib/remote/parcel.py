"""What a command needs and makes, with its names on both computers: there the folders of here are `@0`, `@1`, ..."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.hashes import remembered_sha256


@dataclass
class Parcel:
    """Files that are sent, and folders of which everything comes back that is new there.

    sent: by the name there, the path here. kept: the names of those that are kept there by their hash. results: by the
    path here, the name there of what is to be made.
    """

    sent: dict[str, Path] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    results: dict[Path, str] = field(default_factory=dict)
    _places: list[Path] = field(default_factory=list)  # the folder here of @0, @1, ...

    def send(self, path: Path, also: Iterable[Path] = (), keep: bool = False) -> str:
        """A file, and others beside it or below that it refers to; its name there."""
        name = f"@{self._place(path.parent)}/{path.name}"
        self._add(path.parent, name.partition("/")[0], (path, *also), keep)
        return name

    def send_folder(self, folder: Path, files: Iterable[Path], keep: bool = False) -> str:
        """Some files in a folder, or in folders in it; the folder's name there."""
        whole = Path(os.path.abspath(folder))
        name = f"@{self._place(whole.parent)}/{whole.name}"
        self._add(folder, name, files, keep)
        return name

    def receive(self, path: Path) -> str:
        """The name there of a file that will be made for `path`, beside which there may be others."""
        self.results[path] = f"@{self._place(path.parent)}/{path.name}"
        return self.results[path]

    def as_here(self, text: str) -> str:
        """A text from there with the paths of here."""
        return re.sub(r"@(\d+)/", self._prefix, text)

    def description(self) -> dict[str, Any]:
        """For the other computer: files with size and, of those to be kept, hash; folders of results."""
        files: list[dict[str, Any]] = []
        for name, path in self.sent.items():
            file: dict[str, Any] = {"name": name, "size": path.stat().st_size}
            files.append(file | {"sha256": remembered_sha256(path)} if name in self.kept else file)
        return {"files": files, "folders": [name.partition("/")[0] for name in self.results.values()]}

    def to_json(self) -> dict[str, Any]:
        """What is needed to receive the results later, with whole paths."""
        results = {os.path.abspath(path): name for path, name in self.results.items()}
        return {"places": list(map(os.path.abspath, self._places)), "results": results}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Parcel:
        results = {Path(path): str(name) for path, name in value["results"].items()}
        return cls(results=results, _places=list(map(Path, value["places"])))

    def _place(self, folder: Path) -> int:
        """Always a new one: inputs and outputs that lie together here do not there."""
        self._places.append(folder)
        return len(self._places) - 1

    def _add(self, folder: Path, there: str, files: Iterable[Path], keep: bool) -> None:
        for path in files:
            try:
                relative = path.relative_to(folder).as_posix()
            except ValueError as error:
                raise InputError(
                    f"{str(path)!r} is not below {str(folder)!r}, so it cannot be sent with it; save the volume as one "
                    "file."
                ) from error
            name = f"{there}/{relative}"
            self.sent[name] = path
            if keep:
                self.kept.add(name)

    def _prefix(self, found: re.Match[str]) -> str:
        number = int(found[1])
        if number >= len(self._places):
            return found[0]
        place = self._places[number]
        return "" if place == Path() else f"{place}{os.sep}"
