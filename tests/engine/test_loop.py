import pytest

from dist_rmd.engine.loop import Ahead


def test_ahead_gives_every_item_once_in_order_whenever_they_are_prefetched():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    ahead, seen = Ahead(items()), []
    for item in ahead:
        seen.append(item)
        if item % 2:  # twice is once
            ahead.prefetch()
            ahead.prefetch()
        assert len(made) == min(len(seen) + item % 2, 5)
    ahead.prefetch()
    assert seen == made == list(range(5))


def test_what_fails_to_be_made_is_told_to_who_prefetches_it():
    def items():
        yield 1
        raise ValueError("no second")

    ahead = Ahead(items())
    assert next(iter(ahead)) == 1
    with pytest.raises(ValueError, match="no second"):
        ahead.prefetch()
