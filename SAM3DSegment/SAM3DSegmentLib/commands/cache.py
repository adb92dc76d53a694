"""`sam3dsegment cache`: the cached embeddings."""

from __future__ import annotations

import argparse
from typing import Any

from .shared import DONE, add_command, add_group, say


def add(commands: Any) -> None:
    group = add_group(commands, "cache", "cached embeddings")
    add_command(group, "info", _info, "where they are and how much disk they take")
    add_command(group, "clear", _clear, "remove them")


def _info(options: argparse.Namespace) -> int:
    from ..sam.cache import cache_info

    info = cache_info()
    say(f"{info.files} files, {info.bytes / 1e6:.1f} of at most {info.limit_bytes / 1e6:.1f} MB, in {info.folder}")
    return DONE


def _clear(options: argparse.Namespace) -> int:
    from ..remote.store import clear_store
    from ..sam.cache import clear_cache

    info, received = clear_cache(), clear_store()
    say(f"removed {info.files} files, {info.bytes / 1e6:.1f} MB from {info.folder}")
    if received:
        say(f"removed {received / 1e6:.1f} MB that other computers had sent with --remote")
    return DONE
