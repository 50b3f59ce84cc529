"""No body at all may break anything."""

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.bodies import encoded, parse
from server.api.jsontext import parsed_json
from server.api.ollama.wire import ChatBody, GenerateBody, NamedBody
from server.api.options import FLOATS, INTEGERS, SERVER_SIDE
from server.domain.errors import InvalidRequest
from tests.api.asking import GENERATOR, HELLO
from tests.running import RunningServer

TEXT = st.text(st.characters(), max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 2**31, 1e300, 1e-300, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(["json", "low", "5m", "-1", "0", "user", "\ud800", "aGk="])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, right or wrong."""
    return st.fixed_dictionaries({}, optional={name: field | VALUES for name, field in fields.items()})


OPTIONS = some(**dict.fromkeys((*FLOATS, *INTEGERS, *SERVER_SIDE, "stop", "mirostat"), LEAVES))
CALLS = st.lists(some(id=TEXT, function=some(name=TEXT, arguments=st.dictionaries(TEXT, VALUES))), max_size=2)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", ""])
MESSAGES = st.lists(some(role=ROLES, content=TEXT, tool_calls=CALLS, images=st.just([])), max_size=3)
SCHEMAS = some(
    type=st.sampled_from(["object", "array", "string", "integer", "null"]),
    properties=st.dictionaries(TEXT, st.just({"type": "string"}), max_size=2),
    enum=st.lists(LEAVES, max_size=3),
    items=st.just({"type": "boolean"}),
    minLength=st.integers(0, 5),
    pattern=TEXT,
)
RUN = {
    "options": OPTIONS,
    "format": SCHEMAS,
    "stream": st.booleans(),
    "think": st.booleans(),
    "keep_alive": st.just(-1),
    "max_output_tokens": st.integers(),
}
CHATS = some(messages=MESSAGES, tools=st.just([]), **RUN)
PROMPTS = some(
    prompt=TEXT,
    suffix=TEXT,
    system=TEXT,
    raw=st.booleans(),
    context=st.lists(st.integers(0, 99)),
    images=st.just([]),
    **RUN,
)


@settings(max_examples=200, deadline=None)
@given(VALUES | CHATS | PROMPTS, st.sampled_from([ChatBody, GenerateBody, NamedBody]))
def test_a_value_becomes_a_request_or_an_error(value: Any, kind: Any) -> None:
    try:
        body = parse(kind, parsed_json(json.dumps(value).encode()))
        request = body.to_domain() if kind is not NamedBody else None
    except InvalidRequest as error:
        encoded({"error": str(error)}).decode()
    else:
        assert request is None or encoded({"ignored": list(request.options.ignored)}).decode()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30) | st.text('[]{}":,0123456789.eE-+truefalsn\\ud8 ', max_size=30).map(str.encode))
def test_bytes_become_an_object_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(parsed_json(data), dict)
    except InvalidRequest as error:
        assert str(error)


def short(body: dict[str, Any]) -> dict[str, Any]:
    """The same request, but for one token, and for a model that stays."""
    options = body.get("options")
    if isinstance(options, dict):
        body = {**body, "options": {**options, "num_predict": 1}}
    else:
        body = {"max_output_tokens": 1, **body, "options": options}
        body["max_output_tokens"] = 1
    return {"model": GENERATOR, **body, "keep_alive": -1}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=CHATS | PROMPTS)
def test_no_body_is_the_servers_fault(
    server: RunningServer, client: httpx.Client, body: dict[str, Any]
) -> None:
    before = len(server.log)
    path = "/api/chat" if "messages" in body else "/api/generate"
    told = {"messages": HELLO, "prompt": "Hi", **short(body)}
    response = client.post(path, content=json.dumps(told).encode())
    assert response.status_code in {200, 400}, response.text
    for line in response.content.splitlines():
        assert "error" not in json.loads(line) or response.status_code == 400
    assert not [line for line in server.log[before:] if "Traceback" in line]
