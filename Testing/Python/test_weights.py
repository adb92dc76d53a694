"""Downloading, verifying and removing checkpoints, against a real HTTP server on this machine."""

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from conftest import MODULE
from SAM3DSegmentLib.base import hashes
from SAM3DSegmentLib.base.errors import Cancelled, InputError, WeightsError
from SAM3DSegmentLib.base.folders import weights_folder
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.inference import watch_of
from SAM3DSegmentLib.sam import download, weights
from SAM3DSegmentLib.sam.cache import clear_cache
from SAM3DSegmentLib.sam.encoders import ENCODERS, published
from web_server import Server

CONTENT = random.Random(0).randbytes(1_000_000)
PUBLISHED = published("sam_vit_b")


@pytest.fixture
def server(monkeypatch):
    running = Server(CONTENT)
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", running.url)
    monkeypatch.setattr(download, "WAITS_S", (0.01, 0.01))
    yield running
    running.close()


@pytest.fixture
def checkpoint(monkeypatch):
    """sam_vit_b, as if its published content were CONTENT: the real one is 375 MB."""
    changed = dataclasses.replace(PUBLISHED, sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(ENCODERS, "sam_vit_b", changed)
    return changed


def here():
    return sorted(path.name for path in weights_folder().glob("*"))


def first_byte(request):
    return int(request[1].removeprefix("bytes=").removesuffix("-"))


def test_a_download_tells_its_bytes_and_is_verified(server, checkpoint):
    server.bytes_per_s = 4e6
    seen = []
    path = weights.download(checkpoint, watch_of(lambda *progress: seen.append(progress), None))
    assert path.read_bytes() == CONTENT
    assert here() == [checkpoint.file_name]
    stages, done, totals = zip(*seen)
    assert set(stages) == {"download"}
    assert set(totals) == {len(CONTENT)}
    assert list(done) == sorted(done)
    assert len(done) > 1
    weights.verify(checkpoint, path)


def test_what_is_here_is_not_asked_for_again(server, checkpoint):
    weights.download(checkpoint)
    weights.download(checkpoint)
    assert len(server.requests) == 1


def test_a_cut_at_two_fifths_is_gone_on_from(server, checkpoint):
    server.behaviours = ["cut"]
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert 380_000 < first_byte(server.requests[1]) <= 400_000


def test_the_next_command_goes_on_from_what_the_last_one_left(server, checkpoint):
    server.behaviours = ["cut", 503, 503, 503]
    with pytest.raises(WeightsError, match=r"503.*0\.4 MB are kept and the next download continues from there"):
        weights.download(checkpoint)
    assert here() == [f".{checkpoint.file_name}.partial"]
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert 380_000 < first_byte(server.requests[-1]) <= 400_000
    assert here() == [checkpoint.file_name]


def test_attempts_begin_anew_while_more_and_more_arrives(server, checkpoint):
    server.behaviours = ["cut"] * 5
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert len(server.requests) == 6


def test_a_server_without_ranges_sends_all_again(server, checkpoint):
    server.behaviours = ["cut", "whole"]
    assert weights.download(checkpoint).read_bytes() == CONTENT


def test_all_was_here_but_its_end_was_not_seen(server, checkpoint):
    weights_folder().mkdir(parents=True)
    download.partial_path(checkpoint.path).write_bytes(CONTENT)
    assert weights.download(checkpoint).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 1000])
def test_what_was_left_of_another_file_is_thrown_away(server, checkpoint, length):
    weights_folder().mkdir(parents=True)
    download.partial_path(checkpoint.path).write_bytes(bytes(length))
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert here() == [checkpoint.file_name]


def test_a_wrong_hash_leaves_nothing(server, checkpoint):
    server.behaviours = ["other", "other"]
    with pytest.raises(WeightsError, match="is not the published file"):
        weights.download(checkpoint)
    assert here() == []


def test_a_missing_file_names_the_address_and_the_remedy(server, checkpoint):
    server.behaviours = [404]
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1.*sam_vit_b_01ec64\.pth.*404.*by hand"):
        weights.download(checkpoint)
    assert len(server.requests) == 1
    assert here() == []


def test_an_error_of_the_server_is_tried_again(server, checkpoint):
    server.behaviours = [500, 503]
    assert weights.download(checkpoint).read_bytes() == CONTENT
    server.behaviours = [500] * 3
    checkpoint.path.unlink()
    with pytest.raises(WeightsError, match="500"):
        weights.download(checkpoint)
    assert here() == []


@pytest.mark.slow
def test_a_server_slower_than_the_time_out(server, checkpoint):
    server.behaviours = ["stall"] * 3
    with pytest.raises(WeightsError, match="timed out"):
        download.fetch(checkpoint.url, checkpoint.path, checkpoint.sha256, timeout_s=0.5)
    server.behaviours = ["stall"]
    download.fetch(checkpoint.url, checkpoint.path, checkpoint.sha256, timeout_s=0.5)
    assert checkpoint.path.read_bytes() == CONTENT


def test_no_server_at_all(server, checkpoint, monkeypatch):
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", "http://127.0.0.1:1")
    with pytest.raises(WeightsError, match=r"Connection refused.*check the network or proxy") as error:
        weights.download(checkpoint)
    assert "object at 0x" not in str(error.value)


def test_a_mirror_that_is_no_address(server, checkpoint, monkeypatch):
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", "ftp:/mirror")
    with pytest.raises(WeightsError, match="check the address"):
        weights.download(checkpoint)


def test_a_redirect_is_followed(server, checkpoint):
    server.behaviours = ["redirect"]
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [f"/{checkpoint.file_name}", "/elsewhere"]


def test_a_cancelled_download_ends_at_once_and_leaves_nothing(server, checkpoint):
    for behaviour in ("stall", "serve"):
        server.behaviours, server.bytes_per_s = [behaviour], 2e5
        began = time.monotonic()
        with pytest.raises(Cancelled):
            weights.download(checkpoint, Watch(cancelled=lambda began=began: time.monotonic() - began > 0.3))
        assert time.monotonic() - began < 30  # the server is silent for 60
        assert here() == []


def test_a_file_that_cannot_be_written(server, checkpoint, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.download(checkpoint)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """Weights go to a file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(folder))
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("behaviour", "message"), [("serve", "1 MB more are needed"), ("unmeasured", "No space left")])
def test_a_full_disk(server, checkpoint, small_disk, behaviour, message):
    server.behaviours = [behaviour]
    with pytest.raises(WeightsError, match=message):
        weights.download(checkpoint)
    assert here() == []


def test_a_limit_on_file_sizes(server, tmp_path):
    """The file cannot grow in the midst of it: what a quota does, also where no file system can be mounted."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from SAM3DSegmentLib.base import errors\n"
        "from SAM3DSegmentLib.sam import download\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))\n"
        "try: download.fetch(sys.argv[1], Path(sys.argv[2]), '0' * 64)\n"
        "except errors.WeightsError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path / "weights" / "x.pth")]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(MODULE)})
    assert "cannot be written (File too large)" in result.stdout, result.stderr
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_proxy_of_the_environment_is_used(server, checkpoint, monkeypatch):
    proxy = Server(CONTENT)
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", "http://weights.invalid/sam")
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert weights.download(checkpoint).read_bytes() == CONTENT
    assert proxy.requests == [(f"http://weights.invalid/sam/{checkpoint.file_name}", None)]
    proxy.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not here")
def test_a_certificate_of_ones_own_network(server, checkpoint, monkeypatch, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
        + ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    secret = Server(CONTENT)
    secret.encrypt(certificate, key)
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", secret.url)
    with pytest.raises(WeightsError, match=r"not trusted.*REQUESTS_CA_BUNDLE"):
        weights.download(checkpoint)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert weights.download(checkpoint).read_bytes() == CONTENT
    secret.close()


def test_two_downloads_of_one_file_do_not_meet(server, checkpoint):
    server.bytes_per_s = 2e6
    first = threading.Thread(target=weights.download, args=(checkpoint,))
    first.start()
    while not download.partial_path(checkpoint.path).exists():
        time.sleep(0.01)
    with pytest.raises(WeightsError, match="already being downloaded"):
        weights.download(checkpoint)
    first.join()
    assert checkpoint.path.read_bytes() == CONTENT
    assert here() == [checkpoint.file_name]


def test_a_file_that_was_not_downloaded_is_described(run_cli, checkpoint):
    """Also by the command, whose idea of the published file is the real one."""
    weights_folder().mkdir(parents=True)
    checkpoint.path.write_bytes(b"fine-tuned here")
    result = run_cli("weights", "clear")
    assert result.returncode == 0
    assert "is not the published file, so it was kept" in result.stderr
    assert checkpoint.path.exists()


def test_a_users_own_file_is_neither_replaced_nor_removed(server, checkpoint):
    weights_folder().mkdir(parents=True)
    checkpoint.path.write_bytes(b"fine-tuned here")
    with pytest.raises(WeightsError, match="as published"):
        weights.download(checkpoint)
    assert weights.clear() == ([], [checkpoint.path])
    assert checkpoint.path.read_bytes() == b"fine-tuned here"


def test_clearing_removes_only_what_was_downloaded(server, checkpoint):
    weights.download(checkpoint)
    foreign = weights_folder() / "medsam_vit_b.pth"
    foreign.write_bytes(b"somebody's")
    partial = download.partial_path(published("sam_vit_l").path)
    partial.write_bytes(b"half")
    assert weights.clear() == ([checkpoint.path, partial], [])
    assert here() == [foreign.name]


def test_a_hash_is_computed_once_for_path_size_and_time(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    assert hashes.remembered_sha256(path) == right
    reads = []
    monkeypatch.setattr(hashes, "file_sha256", lambda path: reads.append(path) or "computed")
    assert hashes.remembered_sha256(path) == right
    assert reads == []
    os.utime(path, ns=(1, 1))
    assert hashes.remembered_sha256(path) == "computed"
    path.write_bytes(b"more weights")
    os.utime(path, ns=(1, 1))
    hashes.remembered_sha256(path)
    assert len(reads) == 2


def test_the_memory_of_hashes_is_cleared_with_the_cache_and_may_be_damaged(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    right = hashes.remembered_sha256(path)
    for damage in ("", "[]", json.dumps({str(path): {"size": 7}}), json.dumps({str(path): 3})):
        hashes.memory_path().write_text(damage)
        assert hashes.remembered_sha256(path) == right
    clear_cache()
    assert not hashes.memory_path().parent.exists()
    assert hashes.remembered_sha256(path) == right


def test_verify_tells_missing_from_damaged(tmp_path, checkpoint):
    with pytest.raises(WeightsError, match="does not exist"):
        weights.verify(checkpoint, tmp_path / "nowhere.pth")
    (tmp_path / "wrong.pth").write_bytes(b"wrong")
    with pytest.raises(WeightsError, match="as published"):
        weights.verify(checkpoint, tmp_path / "wrong.pth")


def test_published_checkpoints():
    assert PUBLISHED.sha256.startswith("ec2df62732614e57")
    with pytest.raises(InputError, match="'sam_vit_x' has no published checkpoint"):
        published("sam_vit_x")


def test_a_folder_is_no_checkpoint(run_cli, tmp_path):
    result = run_cli("weights", "verify", "--file", tmp_path)
    assert result.returncode == 1
    assert "is a folder; give the file sam_vit_b_01ec64.pth in it" in result.stderr


def test_a_link_of_git_annex_is_not_listed_as_here(run_cli):
    """Such a file of some bytes stands where the real one was not fetched; here one of the real size is sparse."""
    path = PUBLISHED.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"/annex/objects/MD5E-s375042383--0")
    assert re.search("^sam_vit_b .* damaged ", run_cli("weights", "list").stdout, re.MULTILINE)
    with open(path, "r+b") as file:
        file.truncate(375_042_383)
    assert re.search("^sam_vit_b .* here ", run_cli("weights", "list").stdout, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, row in ENCODERS.items() if not row.sha256])
def test_a_file_without_a_known_hash_is_neither_downloaded_nor_verified(run_cli, server, name):
    """The user is told which file, and from where; nobody is sent to SAM's."""
    row = published(name)
    for command in ("download", "verify"):
        with pytest.raises(InputError, match=f"{row.family}'s .*{re.escape(row.source)}") as error:
            getattr(weights, command)(row, *([row.path] if command == "verify" else []))
        assert row.file_name in str(error.value)
        assert "\n" not in str(error.value)
    assert server.requests == []


def test_the_list_says_of_every_encoder_where_its_weights_are_from_and_their_licence(run_cli):
    row = published("medsam_vit_b")
    row.path.parent.mkdir(parents=True)
    row.path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    lines = dict(line.split(maxsplit=1) for line in run_cli("weights", "list").stdout.splitlines())
    assert list(lines) == list(ENCODERS)
    for name, line in lines.items():
        assert published(name).file_name in line
        assert published(name).licence in line
    assert lines["medsam_vit_b"].startswith("damaged")
    assert lines["samed_vit_b"].endswith("changes sam_vit_b")
    with open(row.path, "r+b") as file:
        file.truncate(375_000_000)
    assert re.search("^medsam_vit_b +here ", run_cli("weights", "list").stdout, re.MULTILINE)
    assert weights.clear() == ([], [])  # the user put it there
