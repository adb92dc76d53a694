"""The section "Setup" on the host: weights, the check of the computer, the cache; real child processes."""

from __future__ import annotations

import re
import socket
import time

import pytest
from panel_fixtures import STOP_S, TIMEOUT_S, choose, is_running, put_published_weights

import host
import qt
from web_server import Server


def test_a_chosen_checkpoint_is_for_the_encoder_that_it_was_chosen_for():
    from SAM3DSegmentLib.bridge.preferences import samCheckpoint, setSamCheckpoint

    setSamCheckpoint("/weights/sam_vit_b.pth")
    assert samCheckpoint() == samCheckpoint("sam_vit_b") == "/weights/sam_vit_b.pth"
    assert samCheckpoint("sam_vit_l") is None
    assert samCheckpoint("/models/mine.sam3d") is None
    setSamCheckpoint("/weights/mine.safetensors", "medsam_vit_b")
    assert samCheckpoint("medsam_vit_b") == "/weights/mine.safetensors"
    assert samCheckpoint() == "/weights/sam_vit_b.pth"
    setSamCheckpoint(None, "medsam_vit_b")
    assert samCheckpoint("medsam_vit_b") is None


def test_setup_says_where_an_encoder_is_from_and_offers_it_once_it_is_chosen(widget, tmp_path):
    """MedSAM's weights have no known hash: they are chosen, not downloaded, and never taken for SAM's."""
    from SAM3DSegmentLib.bridge.panel.training_request import TrainingRequest

    ui = widget.ui
    ui.setupSection.collapsed = False
    assert "sam_vit_b_01ec64.pth" in ui.weightsLabel.text
    assert ui.downloadWeightsButton.text == "Download (375 MB)"
    ui.weightsEncoderBox.currentIndex = ui.weightsEncoderBox.findData("medsam_vit_b")
    for part in ("medsam_vit_b.pth", "https://github.com/bowang-lab/MedSAM", "Apache-2.0"):
        assert part in ui.weightsLabel.text
    assert not ui.downloadWeightsButton.enabled
    assert "hash" in ui.downloadWeightsButton.toolTip
    assert ui.encoderBox.findText("MedSAM ViT-B") < 0
    chosen = tmp_path / "model.safetensors"
    chosen.write_bytes(b"weights")
    host.answerNext("file", str(chosen))
    ui.chooseWeightsButton.click()
    assert str(chosen) in ui.weightsLabel.text
    assert not ui.verifyWeightsButton.enabled
    ui.encoderBox.currentIndex = ui.encoderBox.findText("MedSAM ViT-B")
    assert "MedSAM's, as it was published (Apache-2.0)" in ui.encoderLabel.text
    request = TrainingRequest("mine", tmp_path, "medsam_vit_b", 1.0, "cpu")
    assert request.checkArguments()[-5:-3] == ["--sam-checkpoint", str(chosen)]
    ui.removeWeightsButton.click()
    assert chosen.exists()
    assert ui.encoderBox.findText("MedSAM ViT-B") < 0


@pytest.mark.slow
def test_check_my_computer_measures_and_lists_devices(widget, volume, tiny_model, tmp_path, monkeypatch):
    choose(widget, tiny_model)
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.setupSection.collapsed = False
    widget.ui.checkButton.click()
    assert host.pump(lambda: widget.ui.checkLabel.text, TIMEOUT_S)
    text = widget.ui.checkLabel.text
    assert "s per slice" in text
    assert "hippocampus_015 will take" in text
    devices = [widget.ui.deviceBox.itemData(i) for i in range(widget.ui.deviceBox.count)]
    assert devices[:2] == ["auto", "cpu"]
    assert widget.ui.checkButton.enabled
    assert not widget.ui.verifyWeightsButton.enabled  # there is nothing to verify


def test_setup_forgets_a_chosen_checkpoint_and_verifies_it(widget, tmp_path):
    widget.ui.setupSection.collapsed = False
    assert widget.ui.packagesLabel.text == "All packages are installed."
    checkpoint = tmp_path / "sam_vit_b_01ec64.pth"
    checkpoint.write_bytes(b"not a checkpoint")
    host.answerNext("file", str(checkpoint))
    widget.ui.chooseWeightsButton.click()
    assert str(checkpoint) in widget.ui.weightsLabel.text
    widget.ui.verifyWeightsButton.click()
    assert host.pump(lambda: [m for m in host.messages if m.kind == "error"], TIMEOUT_S)
    assert "SHA-256" in host.messages[-1].text
    widget.ui.removeWeightsButton.click()
    assert str(checkpoint) not in widget.ui.weightsLabel.text
    assert checkpoint.exists()


def test_the_panel_is_back_when_a_check_runs(widget, use_program):
    """Entering the panel while a check runs allows no second command, which would destroy the first."""
    use_program("import time; print('started', flush=True); time.sleep(0.5)")
    widget.ui.setupSection.collapsed = False
    for button in (widget.ui.checkButton, widget.ui.downloadWeightsButton):
        assert button.enabled
    widget.ui.checkButton.click()
    widget.panel.exit()
    widget.panel.enter()
    for name in ("check", "install", "downloadWeights", "chooseWeights", "verifyWeights", "removeWeights"):
        assert not getattr(widget.ui, f"{name}Button").enabled, name
    assert widget.ui.stopSetupButton.isVisibleTo(widget.parent)
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert "no findings" in host.messages[-1].text
    assert not widget.ui.stopSetupButton.isVisibleTo(widget.parent)


def test_a_check_is_read_also_if_a_library_has_the_last_word(widget, use_program):
    use_program(
        "import json\n"
        "print(json.dumps({'findings': [['torch', '2.4']], 'problems': [], 'devices': ['auto', 'cpu'], "
        "'seconds_per_slice': None}))\n"
        "print('a library says goodbye')"
    )
    widget.ui.checkButton.click()
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert "2.4" in widget.ui.checkLabel.text
    assert not host.messages


def test_a_download_is_stopped_and_leaves_nothing(widget, tmp_path, monkeypatch):
    """From a server that takes the request and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path / "weights"))
        monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        widget.ui.setupSection.collapsed = False
        widget.ui.downloadWeightsButton.click()
        connection = server.accept()[0]
        [process_id] = host.child_processes()
        began = time.monotonic()
        widget.ui.stopSetupButton.click()
        assert host.pump(lambda: widget.ui.downloadWeightsButton.enabled, TIMEOUT_S)
        assert time.monotonic() - began < STOP_S
        connection.close()
    assert not is_running(process_id)
    assert widget.ui.setupStatusLabel.text == "Stopped."
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.slow
def test_the_percentage_of_a_download_is_shown(widget, tmp_path, monkeypatch):
    """Of another content than the published one, so that it is refused at the end."""
    server = Server(bytes(2_000_000))
    server.bytes_per_s = 2e6
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", server.url)
    widget.ui.setupSection.collapsed = False
    widget.ui.downloadWeightsButton.click()
    said = set()

    def ended():
        said.add(widget.ui.setupStatusLabel.text)
        return widget.ui.downloadWeightsButton.enabled

    assert host.pump(ended, TIMEOUT_S)
    server.close()
    found = [re.search(r"(\d+) % of 2 MB", text) for text in said]
    assert len({int(match[1]) for match in found if match}) > 2
    assert "is not the published file" in host.messages[-1].text


@pytest.mark.parametrize("is_published", [True, False])
def test_only_weights_that_were_downloaded_are_removed(widget, tmp_path, monkeypatch, is_published):
    """A user's own file of the same name is left."""
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SAM3DSEGMENT_CACHE", str(tmp_path))
    path = put_published_weights()
    if not is_published:
        path.write_bytes(b"weights of my own")
    widget.ui.setupSection.collapsed = False
    host.answerNext("question", False)
    widget.ui.removeWeightsButton.click()
    assert widget.ui.removeWeightsButton.enabled  # nothing runs
    widget.ui.removeWeightsButton.click()
    assert not widget.ui.removeWeightsButton.enabled
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert widget.ui.removeWeightsButton.enabled == path.exists()
    assert path.exists() == (not is_published)
    assert ("were removed" if is_published else "is not the published file") in widget.ui.setupStatusLabel.text


def test_the_cache_is_shown_and_cleared(widget, tmp_path, monkeypatch):
    monkeypatch.setenv("SAM3DSEGMENT_CACHE", str(tmp_path))
    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / f"{'0' * 64}.safetensors").write_bytes(b"0" * 2**21)
    (tmp_path / "notes.txt").write_text("precious")
    widget.ui.setupSection.collapsed = False
    widget.ui.openCacheButton.click()
    assert host.openedUrls == [qt.QUrl.fromLocalFile(str(folder)).toString()]
    assert widget.ui.cacheLabel.text.startswith("2 MB")
    widget.ui.clearCacheButton.click()
    assert widget.ui.cacheLabel.text.startswith("0 MB")
    assert (tmp_path / "notes.txt").read_text() == "precious"
