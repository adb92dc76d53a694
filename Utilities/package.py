"""Make the archive that Slicer's Extensions Manager takes with "Install from file".

The file lists of CMake say what is in it; Slicer's own macros are stood in for by Testing/Packaging/slicer_stub. What
the Extensions Manager asks of an archive: one folder of the archive's name, in it lib/Slicer-VERSION with the modules
and share/Slicer-VERSION/NAME.s4ext; on macOS below Slicer.app/Contents/Extensions-REVISION/NAME.
"""

from __future__ import annotations

import argparse
import gzip
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import cmake

ROOT = Path(__file__).resolve().parents[1]
NAME = "SAM3DSegment"
STUB = ROOT / "Testing" / "Packaging" / "slicer_stub"
SYSTEMS = {"Linux": "linux", "Darwin": "macosx", "Windows": "win"}  # Slicer's names
OLDEST = (5, 10)  # Slicer 5.8 has Python 3.9
ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the archive for Slicer's Extensions Manager.")
    parser.add_argument("--slicer-version", default="5.12", metavar="X.Y", help="default: %(default)s")
    parser.add_argument("--slicer-revision", default="0", metavar="N", help="see Help > About 3D Slicer; for macOS")
    parser.add_argument("--os", default=SYSTEMS[platform.system()], choices=tuple(SYSTEMS.values()))
    machine = platform.machine()
    parser.add_argument("--arch", default=ARCHITECTURES.get(machine, machine), choices=("amd64", "arm64"))
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    options = parser.parse_args()
    if not re.fullmatch(r"\d+\.\d+", options.slicer_version):
        parser.error(f"Slicer version {options.slicer_version!r} is not of the form 5.12")
    if tuple(map(int, options.slicer_version.split("."))) < OLDEST:
        parser.error(f"Slicer {options.slicer_version} cannot load the module; pack for 5.10 or later")
    if options.os == "macosx" and options.slicer_revision == "0":
        parser.error("on macOS the folders carry Slicer's revision; give the number of Help > About 3D Slicer")
    print(make_archive(options.slicer_version, options.slicer_revision, options.os, options.arch, options.output))


def make_archive(version: str, revision: str, system: str, architecture: str, output: Path) -> Path:
    """Build, install and pack; return the archive. The same commit gives the same bytes."""
    commit, short, date, seconds = _git("show", "-s", "--format=%H %h %cs %ct", "HEAD").split()
    if _git("status", "--porcelain", "--untracked-files=no"):
        sys.stderr.write(f"Files differ from commit {short}, whose name the archive gets.\n")
    name = f"{revision}-{system}-{architecture}-{NAME}-git{short}-{date}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        inside = folder / f"Slicer.app/Contents/Extensions-{revision}/{NAME}" if system == "macosx" else folder
        _install(version, Path(temporary) / "build", inside)
        share = inside / "share" / f"Slicer-{version}"
        share.mkdir(parents=True)
        description = (ROOT / f"{NAME}.s4ext").read_text(encoding="utf-8")
        pinned = re.sub(r"^scmrevision .*$", f"scmrevision {commit}", description, flags=re.MULTILINE)
        (share / f"{NAME}.s4ext").write_text(pinned, encoding="utf-8")
        output.mkdir(parents=True, exist_ok=True)
        pack = _zip if system == "win" else _tar
        return pack(folder, output, int(seconds))


def _install(version: str, build: Path, prefix: Path) -> None:
    program = Path(cmake.CMAKE_BIN_DIR) / "cmake"
    configure = [program, "-S", ROOT, "-B", build, f"-DSlicer_DIR={STUB}", f"-DSlicer_VERSION={version}"]
    configure += [f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DBUILD_TESTING=OFF"]
    for command in (configure, [program, "--build", build, "--target", "install"]):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(result.stdout + result.stderr)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _tar(folder: Path, output: Path, seconds: int) -> Path:
    def normalise(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime, entry.mode = seconds, 0o644
        return entry

    archive = output / f"{folder.name}.tar.gz"
    with gzip.GzipFile(archive, "wb", mtime=seconds) as packed, tarfile.open(fileobj=packed, mode="w") as file:
        for path in _files(folder):
            file.add(path, path.relative_to(folder.parent).as_posix(), filter=normalise)
    return archive


def _zip(folder: Path, output: Path, seconds: int) -> Path:
    archive = output / f"{folder.name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in _files(folder):
            entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), time.gmtime(seconds)[:6])
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
