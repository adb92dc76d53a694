"""The picture of the page of `--page` for the documentation, taken by a browser: of the test cases, one of them cut."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import SimpleITK as sitk

from SAM3DSegmentLib.cli import main as sam3dsegment
from SAM3DSegmentLib.formats.pictures import JPEG, encode_picture

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "Testing" / "Data" / "hippocampus" / "imagesTr"
SAMPLE = ROOT / "SAM3DSegment" / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
OUTPUT = ROOT / "Resources" / "Screenshots" / "page.jpg"
SIZE = 1425, 510
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("no browser is here; install Debian's chromium-headless-shell.")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        shutil.copytree(CASES, images)
        sample = sitk.ReadImage(str(SAMPLE))
        sitk.WriteImage(sample, str(images / "hippocampus_015.nii.gz"))
        sitk.WriteImage(sample[:, : sample.GetHeight() // 2, :], str(images / "half of it.nii.gz"))
        (images / "unfinished copy.nii.gz").write_bytes(SAMPLE.read_bytes()[:20000])
        page = Path(folder, "qc.html")
        sam3dsegment(["segment", str(images), "-o", str(Path(folder, "masks")), "--page", str(page)])
        page.write_text(page.read_text(encoding="utf-8").replace(folder, "/home/you"), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        taken = Path(folder, "page.png")
        subprocess.run([browser, *options, size, f"--screenshot={taken}", page.as_uri()], check=True)
        picture = sitk.GetArrayFromImage(sitk.ReadImage(str(taken)))
        OUTPUT.write_bytes(encode_picture(picture[..., :3], JPEG))
    print(OUTPUT)


if __name__ == "__main__":
    main()
