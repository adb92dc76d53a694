"""One object tells how far work is and says whether to stop."""

import pytest

from SAM3DSegmentLib.base.errors import Cancelled
from SAM3DSegmentLib.base.progress import Silent
from SAM3DSegmentLib.base.watch import UNWATCHED, Watch


class Recorded(Silent):
    def __init__(self):
        self.told = []

    def progress(self, stage, done, total):
        self.told.append((stage, done, total))

    def event(self, name, **values):
        self.told.append((name, values))


def test_items_are_handed_out_one_by_one_and_counted():
    display = Recorded()
    watch = Watch(display)
    assert [display.told.copy() for _ in watch.each("look", ["a", "b"])] == [[], [("look", 1, 2)]]
    watch.event("report", file="x")
    assert display.told[1:] == [("look", 2, 2), ("report", {"file": "x"})]


def test_no_item_is_handed_out_after_it_was_cancelled():
    seen = []
    watch = Watch(cancelled=lambda: len(seen) == 2)
    with pytest.raises(Cancelled, match="^cancelled; add --resume to go on.$"):
        seen.extend(watch.each("look", range(5), "add --resume to go on."))
    assert seen == [0, 1]


def test_a_part_of_the_work_may_be_silent_or_not_finish_early():
    display = Recorded()
    watch = Watch(display, cancelled=lambda: True, finishing=lambda: True)
    watch.silent().progress("look", 1, 2)
    assert display.told == []
    assert watch.silent().cancelled()
    assert not watch.unfinished().finishing()
    assert watch.unfinished().cancelled()
    UNWATCHED.check()
