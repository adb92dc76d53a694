"""The page of `--page`: pictures, what comes first and why, links, merging; and what a real browser makes of it."""

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MRI, MRI_LABEL, ijk_to_ras_of
from SAM3DSegmentLib.card import IntensityRule, Label
from SAM3DSegmentLib.commands.measuring import Masks
from SAM3DSegmentLib.commands.page import Page
from SAM3DSegmentLib.commands.planes import HEIGHT, TILE_PIXELS, WIDTH, draw_planes
from SAM3DSegmentLib.commands.remarks import by_look, find_remarks

IMAGES = HIPPOCAMPUS / "imagesTr"
LABELS = (Label(1, "Anterior", (230, 159, 0)), Label(2, "Posterior", (86, 180, 233)))
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


def planes(image, labels, **options):
    masks = Masks.of_labels(sitk.GetArrayFromImage(labels), LABELS)
    return draw_planes(sitk.GetArrayFromImage(image), ijk_to_ras_of(image), masks, **options)


def test_pictures_are_the_same_however_the_voxels_are_stored():
    image, labels = sitk.ReadImage(str(MRI)), sitk.ReadImage(str(MRI_LABEL))
    picture = planes(image, labels)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    order, flips = (2, 0, 1), (True, False, True)
    turned = [sitk.Flip(sitk.PermuteAxes(volume, order), flips) for volume in (image, labels)]
    assert np.abs(planes(*turned).astype(int) - picture).max() <= 1


def test_each_plane_shows_both_labels_in_their_colours_and_an_image_without_any_all_of_it():
    image, labels = sitk.ReadImage(str(MRI)), sitk.ReadImage(str(MRI_LABEL))
    picture = planes(image, labels)
    for label in LABELS:
        assert (picture == label.color).all(2).sum() > 50
    empty = planes(image, labels * 0)
    assert (empty[..., 0] == empty[..., 1]).all()
    assert (empty[:, :TILE_PIXELS] > 0).any()
    window = planes(image, labels, rule=IntensityRule("window", -2000, -1000))
    grey = window[(window[..., 0] == window[..., 1]) & (window[..., 1] == window[..., 2])]
    assert set(np.unique(grey)) == {0, 255}  # above the window, and around the picture


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_of_any_numbers_is_drawn(axis):
    array = np.full((5, 6, 7), np.nan)
    array[2:4] = np.inf
    array[1] = 1e300
    one = np.take(array, [1], axis)
    for labels in (np.zeros(one.shape, np.uint8), np.ones(one.shape, np.uint8)):
        picture = draw_planes(one, np.diag([1e-4, 3.0, 1e4, 1.0]), Masks.of_labels(labels, LABELS))
        assert picture.shape == (HEIGHT, WIDTH, 3)


def test_a_segmentation_that_is_cropped_to_what_it_shows_is_drawn_at_its_place():
    image, labels = sitk.ReadImage(str(MRI)), sitk.GetArrayFromImage(sitk.ReadImage(str(MRI_LABEL)))
    array, matrix = sitk.GetArrayFromImage(image), ijk_to_ras_of(image)
    whole = Masks.of_labels(labels, LABELS)
    place = tuple(slice(found.min(), found.max() + 1) for found in labels.nonzero())
    cropped = dataclasses.replace(whole, layers=labels[place][None], place=place)
    assert (draw_planes(array, matrix, cropped) == draw_planes(array, matrix, whole)).all()


def entry(volume=2.0, confidence=90.0, cut_off=False, misfits=(), name="Blob"):
    segment = {"name": name, "volume_ml": volume, "voxels": round(1000 * volume), "mean_confidence": confidence}
    return {"misfits": list(misfits), "segments": [{**segment, "cut_off": cut_off}]}


def test_first_comes_what_failed_then_what_has_most_remarks_then_what_is_farthest():
    entries = {f"usual {i}": entry(2 + 0.02 * i, 90 + 0.3 * i) for i in range(8)}
    entries["large"] = entry(9.0)
    entries["larger"] = entry(19.0)
    entries["unsure"] = entry(confidence=66.0)
    entries["empty"] = entry(0.0, None)
    entries["cut"] = entry(cut_off=True)
    entries["strange and cut"] = entry(cut_off=True, misfits=["It is empty."])
    entries["broken"] = {"failed": "it cannot be read"}
    remarks = find_remarks(entries)
    order = by_look(entries, remarks)
    assert order[:2] == ["broken", "strange and cut"]
    assert order.index("larger") < order.index("large") < order.index("usual 0")
    assert not any(remarks[f"usual {i}"].texts for i in range(8))
    assert remarks["larger"].texts == ("Unusual volume: Blob 19 mL (median 2.06 mL).",)
    assert remarks["unsure"].texts == ("Low confidence: Blob 66 % (median 90 %).",)
    assert remarks["empty"].texts == ("Unusual volume: Blob is empty.",)
    assert remarks["cut"].texts == ("Cut off at the border: Blob.",)


def test_few_cases_are_not_compared_and_absolute_rules_count():
    entries = {"a": entry(2.0), "b": entry(9.0), "c": entry(0.0, None), "d": entry(2.0, 60.0)}
    remarks = find_remarks(entries)
    assert [case for case in entries if remarks[case].texts] == ["d"]


def shown(page):
    """Of each case on the page: number, link and what is remarked."""
    found = {}
    for body in re.findall(r"<tbody.*?</tbody>", page.read_text(encoding="utf-8"), re.DOTALL):
        link, name = re.search(r'<a href="([^"]*)">(.*?)</a>', body).groups()
        found[html.unescape(name)] = html.unescape(link), re.findall("<li>(.*?)</li>", body), body
    return found


def target(page, link):
    return Path(os.fsdecode(os.path.join(os.fsencode(page.parent), unquote_to_bytes(link))))


ODD = ["plain", "with blank", "100%25 & #1?", "<script>alert(1)<", "a:b", "'\"quoted", "M\u00fcller"]
if sys.platform == "win32":
    ODD = ["plain", "with blank", "100%25 & #1", "M\u00fcller"]
if sys.platform == "linux":
    ODD = [*ODD, os.fsdecode(b"bytes \xff")]


def odd_images(d):
    (d / "in").mkdir()
    for name, source in zip(ODD, [*sorted(IMAGES.iterdir())] * 2):
        shutil.copy(source, d / "in" / f"{name}.nii.gz")


def test_names_of_any_kind_are_shown_as_they_are_and_links_lead_to_the_masks(command, d):
    odd_images(d)
    page = d / "look #1 at%20.html"
    code, _, error = command("segment", "in", "-o", "out", "--page", page.name)
    assert code == 0, error
    found = shown(page)
    assert set(found) == {name.encode("utf-8", "backslashreplace").decode() for name in ODD}
    assert {target(page, link) for link, _, _ in found.values()} == {d / "out" / f"{n}.seg.nrrd" for n in ODD}
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1
    assert "http" not in text
    pictures = [target(page, link) for link in re.findall(r'src="([^"]+)"', text)]
    assert sorted(pictures) == sorted(Page(page).folder.glob("*.jpg"))
    assert {sitk.ReadImage(str(picture)).GetSize() for picture in pictures} == {(WIDTH, HEIGHT)}


def test_a_page_is_merged_and_what_was_there_before_is_added(command, d):
    (d / "in").mkdir()
    for path in sorted(IMAGES.iterdir())[:2]:
        shutil.copy(path, d / "in")
    (d / "in" / "broken.nii.gz").write_bytes(b"no image")
    first, second = (path.name[:-7] for path in sorted(IMAGES.iterdir())[:2])
    assert command("segment", "in", "-o", "out", "--table", "t.csv")[0] == 1
    table = (d / "t.csv").read_bytes()
    code, _, error = command("segment", "in", "-o", "out", "--table", "t.csv", "--page", "qc.html")
    assert code == 1
    assert "Traceback" not in error
    found = shown(d / "qc.html")
    assert list(found)[0] == "broken"
    assert "broken.nii.gz" in found["broken"][1][0]
    assert set(found) == {"broken", first, second}
    assert (d / "t.csv").read_bytes() == table  # with its confidences, which a mask does not have
    shutil.copy(MRI, d / "in" / "broken.nii.gz")
    (d / "out" / f"{first}.seg.nrrd").unlink()
    assert command("segment", "in", "-o", "out", "--page", "qc.html")[0] == 0
    again = shown(d / "qc.html")
    assert set(again) == set(found)
    assert "cannot" not in again["broken"][2]
    assert "tiny" in again[first][2]
    assert "tiny" not in again[second][2]  # measured, not segmented anew
    before = (d / "qc.html").read_bytes()
    assert command("segment", "in", "-o", "out", "--page", "qc.html")[0] == 0
    assert (d / "qc.html").read_bytes() == before
    (d / "qc.html").unlink()
    assert command("segment", "in", "-o", "out", "--page", "qc.html")[0] == 0
    assert shown(d / "qc.html") == again


def test_measured_masks_are_shown_with_their_colours(command, d):
    code, _, error = command("measure", HIPPOCAMPUS, "--page", "qc.html", "--progress", "none")
    assert code == 0, error
    found = shown(d / "qc.html")
    assert set(found) == {path.name[:-7] for path in IMAGES.iterdir()}
    for link, _, body in found.values():
        assert target(d / "qc.html", link).resolve().parent == (HIPPOCAMPUS / "labelsTr").resolve()
        assert "#e69f00" in body
    entries = json.loads((d / "qc_files" / "cases.json").read_text())
    assert all(segment["mean_confidence"] is None for e in entries.values() for segment in e["segments"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qc.html", "<html>mine</html>", "exists already"),
        ("qc_files", "mine", "is a file; rename the page"),
        ("qc_files/cases.json", "{}[", "exists already"),
    ],
)
def test_a_page_never_replaces_another_file(command, d, name, content, message):
    (d / name).parent.mkdir(exist_ok=True)
    (d / name).write_text(content)
    code, _, error = command("segment", MRI, "-o", "x.nii.gz", "--page", "qc.html")
    assert (code, (d / name).read_text()) == (1, content)
    assert message in error
    assert not (d / "x.nii.gz").exists()


def test_a_page_has_the_ending_of_one(command, d):
    code, _, error = command("segment", MRI, "-o", "x.nii.gz", "--page", "qc.csv")
    assert code == 1
    assert "does not end in .html" in error


PROBE = """<script>
const heads = [...document.querySelectorAll("thead th")];
const names = () => [...document.querySelectorAll("tbody")].map(body => body.dataset.case);
const volumes = () => [...document.querySelectorAll("tbody")].map(body => +body.dataset.volume);
const images = [...document.images], found = {lazy: images.every(image => image.loading == "lazy"), look: names()};
for (const image of images) image.loading = "eager";
heads[4].firstChild.click(); found.down = volumes();
heads[4].firstChild.click(); found.up = volumes();
heads[1].firstChild.click(); found.names = names();
addEventListener("load", () => {
  found.widths = images.map(image => image.naturalWidth);
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
});
</script>"""


def browse(page, *options):
    """With a clock that stands still while something is being loaded: a busy computer changes nothing."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--virtual-time-budget=20000", *options]
    done = subprocess.run([*command, page.absolute().as_uri()], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium; Testing/Host/libraries.sh installs it on Debian")
def test_a_real_browser_shows_every_picture_and_sorts(command, d):
    odd_images(d)
    page = d / "look #1 at%20.html"
    model = ("--model", "hippocampus-mri", "--quality", "fast")
    code, _, error = command("segment", "in", "-o", "out", "--page", page.name, *model)
    assert code == 0, error
    order = list(shown(page))
    probe = d / "probe.html"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    text = html.unescape(browse(probe, "--dump-dom"))
    found = json.loads(re.search(r"FOUND(.*)END", text)[1])
    assert found["lazy"]
    assert found["look"] == order
    assert found["widths"] == [WIDTH] * len(ODD)
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert sorted(found["names"]) == sorted(order)
    assert found["names"] != order
    browse(page, f"--screenshot={d / 'page.png'}", "--window-size=1500,900")
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(d / "page.png")))[..., :3].astype(int)
    for color in ((230, 159, 0), (86, 180, 233)):  # of the outlines, as JPEG keeps them
        assert (np.abs(picture - color).max(2) < 40).sum() > 500
