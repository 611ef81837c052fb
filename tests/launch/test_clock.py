from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.launch.clock import in_words, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),  # minutes
        ("30:00", 1800),  # minutes:seconds
        ("1:30", 90),
        ("90:00", 5400),
        ("0:02:30", 150),
        ("12:00:00", 43200),
        ("100:00:00", 360000),
        ("1-12", 129600),  # days-hours
        ("7-12:30", 649800),
        ("2-00:00:00", 172800),
        ("01:00:00", 3600),  # as scontrol prints them
        ("0", 0),
    ],
)
def test_times_are_what_slurm_makes_of_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "2d", "1:75", "-5", "1.5", "1:2:3:4", "1-", "1-24", "1-2:60", "UNLIMITED", "²", "٣", "1:00:00\n", " 5", "+5"],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert seconds(text) is None


@given(days=st.integers(0, 99), hours=st.integers(0, 23), minutes=st.integers(0, 59), rest=st.integers(0, 59))
def test_every_form_of_one_time_is_the_same_time(days: int, hours: int, minutes: int, rest: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    assert seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == total
    assert seconds(f"{days * 24 + hours}:{minutes}:{rest}") == total
    assert seconds(f"{(days * 24 + hours) * 60 + minutes}:{rest:02}") == total
    assert seconds(f"{days}-{hours}:{minutes}") == total - rest
    assert seconds(f"{days}-{hours}") == (days * 24 + hours) * 3600


@pytest.mark.parametrize(
    ("total", "words"), [(129600, "1 day 12 h"), (172800, "2 days"), (1800, "30 min"), (150, "2 min 30 s"), (0, "0 s")]
)
def test_a_time_in_words_shows_what_was_understood(total: int, words: str) -> None:
    assert in_words(total) == words
