"""A volume that is to be segmented, and how it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base.errors import require
from ..formats.channels import ChannelFile, read_channels
from ..formats.header import ImageHeader
from ..formats.images import read_header
from ..formats.volumes import Volume, VolumeFile, read_volume, volume_name
from .report import frame_title


@dataclass(frozen=True)
class Source:
    """A volume to be segmented: a file, with its header if that can be used, or a DICOM folder.

    relative: its path in the folder that was given. seen: the file's size and time of change when the header was read.
    channels: of several, all of them, in the order of the model's card; `path` is one of them, or the folder of a DICOM
    study. frame: which one of a 4-D file, from 0. hindrance: why it cannot be read; "" if that is not known yet.
    """

    path: Path
    relative: PurePosixPath
    header: ImageHeader | None = None
    seen: tuple[int, int] = (0, 0)
    channels: tuple[ChannelFile, ...] = ()
    frame: int | None = None
    hindrance: str = ""

    @classmethod
    def of_file(cls, file: VolumeFile, folder: Path) -> Source:
        return cls(file.path, PurePosixPath(file.path.relative_to(folder).as_posix()), file.header, _state(file.path))

    @property
    def case(self) -> str:
        """`relative` without the file's ending."""
        return str(self.relative.with_name(volume_name(Path(self.relative.name))))

    @property
    def files(self) -> list[Path]:
        """Of all channels; one may be a DICOM folder."""
        return [channel.path for channel in self.channels] or [self.path]

    @property
    def title(self) -> str:
        """For messages and reports."""
        return str(self.path) if self.frame is None else frame_title(str(self.path), self.frame)

    @property
    def name(self) -> str:
        """`case`, and the frame if it is one."""
        return self.case if self.frame is None else f"{self.case}_frame{self.frame:03d}"

    def count_frames(self, series_uid: str | None) -> int:
        """How many there are; 1 of a volume that is not 4-D. Raises InputError if that cannot be said."""
        require(not self.hindrance, self.hindrance)
        channels = self.channels or (ChannelFile("", self.path, series_uid=series_uid),)
        counts = [self._count_frames_of(channel) for channel in channels]
        require(
            len(set(counts)) == 1,
            f"{str(self.path)!r}: the channels have {', '.join(map(str, counts))} frames; give volumes over the same "
            "times.",
        )
        return counts[0]

    def _count_frames_of(self, channel: ChannelFile) -> int:
        if channel.path.is_dir():
            from ..formats.dicom import count_volumes  # pydicom is loaded where there is DICOM

            return count_volumes(channel.path, channel.series_uid)
        known = self.header if channel.path == self.path else None
        return (known or read_header(channel.path)).frames

    def read(self, series_uid: str | None, resample: bool = False) -> Volume:
        """As `read_volume`, or of several channels `read_channels`.

        In a long run over a folder the file may have been replaced since its header was read.
        """
        if self.channels:
            return read_channels(self.channels, resample, self.frame)
        is_as_seen = self.header is not None and _state(self.path) == self.seen
        return read_volume(self.path, series_uid, self.header if is_as_seen else None, self.frame)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change; (0, 0) for a file that has gone, which is told when it is read."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
