import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config.durations import LONGEST_S, format_duration, parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("300ms", 0.3),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("5m", 300),
        ("+5m", 300),
        (".5s", 0.5),
        ("1.s", 1),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("10μs", 1e-5),
        ("7ns", 7e-9),
        ("1h0.5s", 3600.5),
        ("300", 300),
        ("1.5", 1.5),
        (300, 300),
        (0, 0),
        (0.25, 0.25),
        (-0.0, 0),
    ],
)
def test_seconds(value: str | float, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "-1m",
        "-0.001",
        -1,
        -0.5,
        math.inf,
        -math.inf,
        10**400,
        1e300,
        LONGEST_S,
        "9" * 5000,
        "3000000h",
        "9" * 5000 + "h",
    ],
)
def test_negative_and_endless_is_for_ever(value: str | float) -> None:
    assert parse_duration(value) == math.inf


def test_just_under_the_longest_is_counted() -> None:
    assert parse_duration("2562047h") == 2562047 * 3600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("--5m", 'time: invalid duration "--5m"'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("nan", 'time: invalid duration "nan"'),
        ("inf", 'time: invalid duration "inf"'),
        ("1.2.3s", 'time: missing unit in duration "1.2.3s"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("5M", 'time: unknown unit "M" in duration "5M"'),
        ('"', r'time: invalid duration "\""'),
        ("é\n", r'time: invalid duration "\xc3\xa9\x0a"'),
        ("٣s", r'time: invalid duration "\xd9\xa3s"'),
    ],
)
def test_a_bad_string_fails_in_the_words_of_go(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == message


def test_nan_is_no_duration() -> None:
    with pytest.raises(ValueError, match="nan"):
        parse_duration(math.nan)
    with pytest.raises(ValueError, match="nan"):
        format_duration(math.nan)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "bool"),
        ([], "[]interface {}"),
        ({}, "map[string]interface {}"),
        (None, "%!s(<nil>)"),
    ],
)
def test_other_types_are_refused(value: object, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        parse_duration(value)  # type: ignore[arg-type]
    assert str(caught.value) == f"Unsupported type: '{name}'"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-10, "0s"),
        (1e-7, "100ns"),
        (1.5e-6, "1.5µs"),
        (0.3, "300ms"),
        (1, "1s"),
        (10.05, "10.05s"),
        (300, "5m0s"),
        (9900, "2h45m0s"),
        (5400.5, "1h30m0.5s"),
        (59.9999999999, "1m0s"),
        (math.inf, "-1"),
        (-3, "-1"),
    ],
)
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=LONGEST_S, exclude_max=True))
def test_what_is_formatted_parses_to_the_same_time(seconds: float) -> None:
    # A nanosecond is lost to rounding, and a float of many years has no nanoseconds at all.
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-12, abs=1e-9)


@given(st.text(alphabet="0123456789.+-nuµmsh \u0663é") | st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        assert str(error).startswith("time: ")
    else:
        assert seconds >= 0


@given(st.integers() | st.floats(allow_nan=False))
def test_any_number_is_a_time(value: float) -> None:
    seconds = parse_duration(value)
    assert seconds == math.inf or 0 <= seconds < LONGEST_S
