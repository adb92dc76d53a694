"""The model whose weights a training begins with."""

from __future__ import annotations

from ..base.errors import InputError
from ..model_file import Sam3dModel, load_model
from .encoders import LoadedEncoder
from .plan import Plan


def load_start(plan: Plan, encoder: LoadedEncoder) -> Sam3dModel:
    """The model `start_from`. Raises InputError unless the plan's model can begin with it."""
    name, card = plan.config.start_from, plan.card
    start = load_model(name)
    encoder.check_start(name, card.decoder, start.card)
    (own, own_layout), (has, has_layout) = (
        ([channel.name for channel in one.channels], one.encoder.channel_layout) for one in (card, start.card)
    )
    if (own, own_layout) != (has, has_layout):
        raise InputError(
            f"{name!r} reads the channels {', '.join(has) or 'one'} ({has_layout}), not {', '.join(own) or 'one'} "
            f"({own_layout}); give the same input_channels and channel_layout, or do not start from it."
        )
    return start
