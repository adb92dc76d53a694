"""Rows of a long benchmark in a file: written one by one, so that the same command goes on where it was cancelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import write_json


class KeptRows:
    """The rows of a file that were measured with these settings, or with settings of other names."""

    def __init__(self, path: Path, settings: dict[str, Any], usual: dict[str, Any] | None = None) -> None:
        """settings: as `to_json` gives them, by name; usual: what rows of older files do not say.

        Raises InputError for a file of something else, or of settings with these names but other values.
        """
        self._path = path
        self._settings = json.loads(json.dumps(settings))
        self.all: list[dict[str, Any]] = []
        if path.is_file():
            self._read(usual or {})

    def has(self, key: dict[str, Any]) -> bool:
        """Whether there is a row with these values."""
        return any(key.items() <= row.items() for row in self.all)

    def add(self, row: dict[str, Any]) -> None:
        """At the end, and in the file at once."""
        self.all.append(row)
        write_json(self._path, {"settings": self._settings, "rows": self.all})

    def _read(self, usual: dict[str, Any]) -> None:
        try:
            before = json.loads(self._path.read_text(encoding="utf-8"))
            known, self.all = dict(before["settings"]), [{**usual, **row} for row in before["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self._path)!r} was not written by this benchmark; give another folder.") from error
        changed = [name for name, value in self._settings.items() if name in known and known[name] != value]
        if changed:
            raise InputError(
                f"{str(self._path)!r} was measured with another {', '.join(changed)}; give another folder."
            )
        self._settings = {**known, **self._settings}
