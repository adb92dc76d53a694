"""Downloading and verifying checkpoints, against a real HTTP server on this machine."""

import dataclasses
import functools
import hashlib
import http.server
import threading

import pytest

from SAM3DSegmentLib import weights
from SAM3DSegmentLib.errors import InputError, WeightsError

CONTENT = b"weights" * 1000


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", f"http://127.0.0.1:{running.server_port}")
        yield folder
        running.shutdown()


@pytest.fixture
def checkpoint():
    return dataclasses.replace(weights.published("sam_vit_b"), sha256=hashlib.sha256(CONTENT).hexdigest())


def test_download_is_verified_and_kept(server, checkpoint):
    (server / checkpoint.file_name).write_bytes(CONTENT)
    assert weights.download(checkpoint).read_bytes() == CONTENT
    weights.verify(checkpoint, checkpoint.path)
    (server / checkpoint.file_name).unlink()
    assert weights.download(checkpoint) == checkpoint.path  # it is not asked for twice


def test_a_damaged_download_leaves_nothing(server, checkpoint):
    (server / checkpoint.file_name).write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="could not be downloaded"):
        weights.download(checkpoint)
    assert list(weights.weights_folder().glob("*")) == []


def test_a_missing_file_names_the_address_and_the_remedy(server, checkpoint):
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1.*sam_vit_b_01ec64\.pth.*by hand"):
        weights.download(checkpoint)


def test_verify_tells_missing_from_damaged(tmp_path, checkpoint):
    with pytest.raises(WeightsError, match="does not exist"):
        weights.verify(checkpoint, tmp_path / "nowhere.pth")
    (tmp_path / "wrong.pth").write_bytes(b"wrong")
    with pytest.raises(WeightsError, match="as published"):
        weights.verify(checkpoint, tmp_path / "wrong.pth")


def test_published_checkpoints():
    assert weights.published("sam_vit_b").sha256.startswith("ec2df62732614e57")
    with pytest.raises(InputError, match="'sam_vit_x' has no published checkpoint"):
        weights.published("sam_vit_x")
