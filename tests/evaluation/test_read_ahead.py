"""Values come as asked for, each read once where it can be, and failures where they belong."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segformer.evaluation.read_ahead import ReadAhead

KEYS = "abcdefgh"
WAIT_SECONDS = 20


def test_next_values_are_read_before_they_are_asked_for() -> None:
    arrived = {key: threading.Event() for key in KEYS}

    def read(key: str) -> str:
        arrived[key].set()
        return key.upper()

    values = ReadAhead(read, KEYS, ahead=2)
    assert values["a"] == "A"
    assert arrived["b"].wait(WAIT_SECONDS)
    assert arrived["c"].wait(WAIT_SECONDS)
    assert not arrived["d"].is_set()


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_in_turn_each_value_is_read_once(ahead: int) -> None:
    times = Counter()

    def read(key: str) -> str:
        times[key] += 1
        return key.upper()

    values = ReadAhead(read, KEYS, ahead)
    assert [values[key] for key in KEYS for _ in range(2)] == [key.upper() for key in KEYS for _ in range(2)]
    assert times == Counter(KEYS)


def test_out_of_turn_nothing_is_read_ahead() -> None:
    times = Counter()

    def read(key: str) -> str:
        times[key] += 1
        return key

    values = ReadAhead(read, KEYS)
    for key in "fdbh":
        assert [values[key], values[key]] == [key, key]
    del values
    assert times == Counter("fdbh")


@given(st.lists(st.sampled_from(KEYS)), st.integers(0, 4))
def test_any_order_gives_the_values(asked: list[str], ahead: int) -> None:
    values = ReadAhead(str.upper, KEYS, ahead)
    assert [values[key] for key in asked] == [key.upper() for key in asked]


def test_failure_is_raised_for_its_key_alone_and_read_anew() -> None:
    broken = {"b"}

    def read(key: str) -> str:
        if key in broken:
            raise ValueError(f"{key} is broken")
        return key

    values = ReadAhead(read, KEYS)
    assert values["a"] == "a"
    with pytest.raises(ValueError, match="b is broken"):
        values["b"]
    assert values["c"] == "c"
    broken.clear()
    assert values["b"] == "b"


def test_unknown_key() -> None:
    with pytest.raises(KeyError):
        ReadAhead(str, KEYS)["z"]
