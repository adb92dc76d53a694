"""What decides the result of a training, as JSON: written beside the model, and compared before a training goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.jsonable import to_json
from .plan import Plan

_MAY_CHANGE = ("minutes", "epochs")  # when a training goes on


def make_record(plan: Plan, encoder_sha256: str) -> dict[str, Any]:
    """Settings, labels, encoder, decoder, split and the data's fingerprint."""
    record = {
        "settings": to_json(plan.config),
        "labels": [to_json(label) for label in plan.labels],
        "encoder": {"name": plan.config.encoder, "sha256": encoder_sha256, "image_size": plan.image_size},
        "decoder": to_json(plan.decoder),
        "splits": [to_json(split) for split in plan.splits],
        "fingerprint": plan.fingerprint,
    }
    return json.loads(json.dumps(record))  # as it will be read again


def require_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises InputError unless both records, the first of which is of `path`, are of one training."""
    settings = [
        key
        for key in sorted(set(before["settings"]) | set(now["settings"]))
        if before["settings"].get(key) != now["settings"].get(key) and key not in _MAY_CHANGE
    ]
    parts = []
    if settings:
        parts.append(f"other settings of {', '.join(settings)}")
    if changes := describe_difference(before["fingerprint"], now["fingerprint"]):
        parts.append(f"other data ({changes})")
    for key, name in (("labels", "labels"), ("encoder", "encoder"), ("decoder", "decoder"), ("splits", "cases")):
        if before[key] != now[key]:
            parts.append(f"other {name}")
    if parts:
        raise InputError(f"{str(path)!r} is of {', '.join(parts)}; use the same, or start anew with --overwrite.")


def describe_difference(before: dict[str, str], now: dict[str, str]) -> str:
    """ "" if two fingerprints are alike, else which cases were added, removed or changed."""
    parts = [
        ("added", sorted(set(now) - set(before))),
        ("removed", sorted(set(before) - set(now))),
        ("changed", sorted(name for name in set(before) & set(now) if before[name] != now[name])),
    ]
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
