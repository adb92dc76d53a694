"""The cache of embeddings: bounded, shared by processes, and cleared without touching what is not ours."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import MODULE
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.base.folders import cache_folder
from SAM3DSegmentLib.card import EncoderConfig
from SAM3DSegmentLib.intensity import normalise
from SAM3DSegmentLib.sam import cached_encoder
from SAM3DSegmentLib.sam.cache import EmbeddingCache, cache_info, cache_limit_bytes, clear_cache, embedding_key

ARRAY = np.arange(4096, dtype=np.float16).reshape(256, 4, 4)
ENTRY_BYTES = 8192 + 90  # of ARRAY with its header, rounded up


def key(number):
    return embedding_key("encoder", 64, "float32", bytes([number]))


def test_an_array_comes_back_as_float16():
    cache = EmbeddingCache()
    assert cache.get(key(1)) is None
    cache.put(key(1), ARRAY.astype(np.float32))
    back = EmbeddingCache().get(key(1))
    assert back.dtype == np.float16
    np.testing.assert_array_equal(back, ARRAY)
    assert (cache_info().files, cache_info().bytes) == (1, cache._path(key(1)).stat().st_size)


def test_a_key_depends_on_all_that_the_embedding_depends_on():
    keys = {
        embedding_key("a", 64, "float32", b"x"),
        embedding_key("b", 64, "float32", b"x"),
        embedding_key("a", 48, "float32", b"x"),
        embedding_key("a", 64, "bfloat16", b"x"),
        embedding_key("a", 64, "float32", b"y"),
    }
    assert len(keys) == 5


def test_what_was_used_longest_ago_is_removed_first():
    cache = EmbeddingCache(limit_bytes=10 * ENTRY_BYTES)
    for number in range(10):
        cache.put(key(number), ARRAY)
        os.utime(cache._path(key(number)), (number, number))
    assert cache.get(key(0)) is not None  # used now, so 1 is the oldest
    cache.put(key(10), ARRAY)
    assert [number for number in range(11) if cache.get(key(number)) is not None] == [0, *range(3, 11)]
    assert cache_info().bytes <= 10 * ENTRY_BYTES


def test_the_limit_holds_whatever_is_put():
    cache = EmbeddingCache(limit_bytes=5 * ENTRY_BYTES)
    for number in range(50):
        cache.put(key(number), ARRAY)
        assert cache_info().bytes <= 5 * ENTRY_BYTES
    assert cache_info().files >= 4
    tiny = EmbeddingCache(limit_bytes=10)
    tiny.put(key(51), ARRAY)
    assert tiny.get(key(51)) is None


def test_a_damaged_entry_counts_as_missing_and_is_replaced():
    cache = EmbeddingCache()
    for content in (b"", b"nonsense", b"\xff" * 100):
        cache.folder.mkdir(parents=True, exist_ok=True)
        cache._path(key(1)).write_bytes(content)
        assert cache.get(key(1)) is None
        cache.put(key(1), ARRAY)
        np.testing.assert_array_equal(cache.get(key(1)), ARRAY)


def test_a_folder_that_cannot_be_written_is_said_once_and_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = EmbeddingCache(tmp_path / "file" / "embeddings", limit_bytes=10**6)
    cache.put(key(1), ARRAY)
    cache.put(key(2), ARRAY)
    assert cache.get(key(1)) is None
    assert len(caplog.records) == 1
    assert "are not cached" in caplog.text


def test_the_limit_is_set_by_the_environment(monkeypatch, tmp_path):
    default = cache_limit_bytes(cache_folder())
    assert 0 < default <= 50 * 10**9
    monkeypatch.setenv("SAM3DSEGMENT_CACHE_GB", "1.5")
    assert cache_limit_bytes(cache_folder()) == 1_500_000_000
    monkeypatch.setenv("SAM3DSEGMENT_CACHE_GB", "0")
    EmbeddingCache().put(key(1), ARRAY)
    assert cache_info().files == 0
    for bad in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("SAM3DSEGMENT_CACHE_GB", bad)
        with pytest.raises(InputError, match=f"'{bad}'"):
            EmbeddingCache()


def test_clearing_leaves_what_is_not_ours(tmp_path, monkeypatch, run_cli):
    """SAM3DSEGMENT_CACHE names a disk on which other people's files are, some with names much like ours."""
    monkeypatch.setenv("SAM3DSEGMENT_CACHE", str(tmp_path / "disk"))
    cache = EmbeddingCache()
    cache.put(key(1), ARRAY)
    cache.put(key(2), ARRAY)
    (cache.folder / f".7.partial.{key(3)}.safetensors").write_bytes(b"of a killed process")
    hexadecimal = hashlib.sha256().hexdigest()
    foreign = [
        tmp_path / "disk" / "thesis.tex",
        tmp_path / "disk" / f"{hexadecimal}.safetensors",
        tmp_path / "disk" / "other" / f"{hexadecimal}.safetensors",
        cache.folder / "model.safetensors",
        cache.folder / "notes" / "a.txt",
        cache.folder / f"{hexadecimal}.pth",
        cache.folder / ".7.partial.thesis.tex",
        cache.folder / f"{hexadecimal.replace('e', 'f')}.safetensors" / "inside",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"precious")
    result = run_cli("cache", "clear")
    assert result.returncode == 0, result.stderr
    assert "removed 2 files" in result.stdout
    assert sorted(path for path in (tmp_path / "disk").rglob("*") if path.is_file()) == sorted(foreign)
    assert all(path.read_bytes() == b"precious" for path in foreign)


def test_a_cleared_cache_leaves_no_folder():
    EmbeddingCache().put(key(1), ARRAY)
    assert clear_cache().files == 1
    assert not cache_folder().exists()
    assert clear_cache().files == 0


def test_a_cache_that_may_only_be_read_still_gives_what_it_holds(monkeypatch):
    """A colleague's, or one on a disk that is mounted read-only: the time of last use cannot be set."""
    cache = EmbeddingCache()
    cache.put(key(1), ARRAY)

    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    np.testing.assert_array_equal(cache.get(key(1)), ARRAY)


class Doubler:
    """An encoder whose answer is twice the first channel, and that counts its slices."""

    config = EncoderConfig("tiny", 32, "0" * 64)
    device, dtype, image_size, batch_size = torch.device("cpu"), torch.float32, 32, 8

    def __init__(self):
        self.slices = 0

    def __call__(self, slices):
        self.slices += len(slices)
        return 2 * slices[:, :1, :2, :2].expand(-1, 256, -1, -1)


@pytest.fixture
def slices():
    return normalise(torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 255, "sam")


def test_each_slice_is_hashed_once_and_only_its_grey_values(monkeypatch, slices):
    """A slice of 1024 pixels has 12.6 MB in its three channels: hashing all of them took longer than a GPU encodes."""
    hashed = []

    def note(*arguments):
        hashed.append(len(arguments[-1]))
        return embedding_key(*arguments)

    monkeypatch.setattr(cached_encoder, "embedding_key", note)
    encoder = cached_encoder.CachedEncoder(Doubler(), EmbeddingCache())
    first, keys = encoder.embed(slices)
    assert hashed == [32 * 32 * 4] * 4
    assert keys == encoder.keys(slices)
    assert torch.equal(encoder(slices), first)
    assert encoder._encoder.slices == 4


def test_an_encoder_that_computes_otherwise_does_not_serve_the_old_answers(monkeypatch, slices):
    inner = Doubler()
    encoder = cached_encoder.CachedEncoder(inner, EmbeddingCache())
    encoder(slices)
    encoder(slices)
    assert inner.slices == 4
    monkeypatch.setattr(cached_encoder, "COMPUTATION", cached_encoder.COMPUTATION + 1)
    encoder(slices)
    assert inner.slices == 8


def test_caches_of_two_normalisations_do_not_meet():
    """Even where their first channels agree: grey 123.675 is 0 there for "sam", and a slice of one value for "unit"."""
    grey = torch.full((1, 1, 32, 32), 123.675)
    answers, keys = {}, {}
    for normalisation in ("sam", "unit", "grey"):
        inner = Doubler()
        inner.config = EncoderConfig("tiny", 32, "0" * 64, normalisation=normalisation)
        encoder = cached_encoder.CachedEncoder(inner, EmbeddingCache())
        answers[normalisation], keys[normalisation] = encoder.embed(normalise(grey, normalisation))
        assert inner.slices == 1, "served by the answer for another normalisation"
    assert torch.equal(answers["sam"], answers["unit"])
    assert len({key for (key,) in keys.values()}) == 3


def test_keys_of_sams_normalisation_are_those_of_older_versions(slices):
    """A cache may hold days of work."""
    encoder = cached_encoder.CachedEncoder(Doubler(), EmbeddingCache())
    content = slices[0, 0].numpy().tobytes()
    assert encoder.keys(slices)[0] == hashlib.sha256(f"{'0' * 64} 32 1 torch.float32 ".encode() + content).hexdigest()


def test_two_processes_share_one_cache(tmp_path):
    """Each writes 60 entries where 20 fit and reads the other's: what is read is whole, and the bound holds."""
    code = """
import sys
import numpy as np
from pathlib import Path
from SAM3DSegmentLib.sam.cache import EmbeddingCache, embedding_key
cache = EmbeddingCache(Path(sys.argv[1]), int(sys.argv[2]))
found = 0
for turn in range(60):
    for number in (turn, (turn * 7) % 60):
        key = embedding_key("e", 64, "float32", bytes([number]))
        array = cache.get(key)
        if array is not None:
            assert array.shape == (256, 4, 4) and (array == number).all(), number
            found += 1
    cache.put(embedding_key("e", 64, "float32", bytes([turn])), np.full((256, 4, 4), turn))
print(found)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "shared"), str(20 * ENTRY_BYTES)]
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in both:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert int(output) > 0
    sizes = [path.stat().st_size for path in (tmp_path / "shared").iterdir()]
    assert 0 < sum(sizes) <= 20 * ENTRY_BYTES * 1.1
    assert all(path.suffix == ".safetensors" and path.name[0] != "." for path in (tmp_path / "shared").iterdir())
