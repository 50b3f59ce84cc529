import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.chat.arguments import ArgumentStream
from server.chat.fit import fitted

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "count": {"type": "integer"}, "list": {"type": "array"}},
}
KEYS = st.sampled_from(["text", "count", "list", "other", 'a "b" \\ c', "é"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def written(pieces: list[str], schema: dict[str, Any] = SCHEMA) -> str:
    stream = ArgumentStream(schema)
    shown = "".join(stream.feed(piece) for piece in pieces)
    assert shown == stream.written
    return shown


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.booleans(), st.sampled_from([None, 2]), st.data())
def test_what_is_written_is_the_object_without_its_last_bracket(
    arguments: dict[str, Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii_only, indent=indent)
    wanted = json.dumps(fitted(arguments, SCHEMA), ensure_ascii=False).removesuffix("}")
    assert written(list(text)) == wanted
    place = data.draw(st.integers(0, len(text)))
    assert written([text[:place], text[place:]]) == wanted


@given(st.text(alphabet='{}[]",:\\u0d8 a\n', max_size=40), st.data())
def test_what_is_no_json_harms_nobody(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    assert written(list(text)) == written([text]) == written([text[:place], text[place:]])


def test_text_comes_as_it_is_written_and_line_breaks_in_it_are_mended() -> None:
    stream = ArgumentStream(SCHEMA)
    assert stream.feed('{"text": "one\n') == '{"text": "one\\n'
    assert stream.feed("two \\ud83d") == "two "
    assert stream.feed("\\ude00!") == "😀!"
    assert stream.feed('", "count": "4') == '", "count": '
    assert stream.feed('2"}') == "42"
