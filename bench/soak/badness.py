"""Requests that are wrong, hostile, or of somebody who may not ask; and what each of them must get."""

import random
from typing import Any

from bench.soak.plans import Expected, Key, Plan, Wire

UNMATCHED = "unmatched"
NOBODY = "nobody:1b"
CHATS = (
    ("/api/chat", Wire.OLLAMA),
    ("/v1/chat/completions", Wire.OPENAI),
    ("/v1/responses", Wire.RESPONSES),
    ("/v1/messages", Wire.ANTHROPIC),
)
USER = ({"role": "user", "content": "Hello!"},)
INVALID = Expected(400, "invalid")
NOT_FOUND = Expected(404, "not_found")
REFUSED_401 = Expected(401, "refused", UNMATCHED)
REFUSED_403 = Expected(403, "refused", UNMATCHED)

HOSTILE_FORMS: tuple[dict[str, Any], ...] = (
    {"$ref": "#"},
    {"$ref": "file:///etc/hostname"},
    {"type": "string", "pattern": "^((a{1,999}){1,999}){1,999}$"},
    {"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/0"}]},
)


def draw_bad_plan(dice: random.Random, model: str, *, keys: bool, body_bytes: int | None) -> Plan:
    """A random one; those about ``keys`` only where the server has some, and those about the largest body
    only where its size is known."""
    kinds = [broken_json, no_object, wrong_type, wrong_option, unknown_model, too_long, hostile_form]
    kinds += [deep_form, no_such_route, wrong_method, wrong_page, image]
    kinds += [without_key, wrong_key, no_admin] if keys else []
    kind = dice.choice(kinds)
    if body_bytes is not None and dice.random() < 1 / (len(kinds) + 1):
        return too_large(model, body_bytes)
    return kind(dice, model)


def broken_json(dice: random.Random, model: str) -> Plan:
    """A body that breaks off."""
    path, wire = dice.choice(CHATS)
    return Plan("broken JSON", path, f'{{"model": "{model}", "messages": ['.encode(), wire, INVALID)


def no_object(dice: random.Random, model: str) -> Plan:
    """JSON, but no object."""
    path, wire = dice.choice(CHATS)
    return Plan("no JSON object", path, [model], wire, INVALID)


def wrong_type(dice: random.Random, model: str) -> Plan:
    """A field of another type."""
    path, wire = dice.choice(CHATS)
    body = {"model": model, "messages": 7, "input": 7, "max_tokens": 9}
    return Plan("wrong type", path, body, wire, INVALID)


def wrong_option(dice: random.Random, model: str) -> Plan:
    """An option that cannot be."""
    bodies = (
        ("/api/chat", Wire.OLLAMA, {"options": {"temperature": "warm"}}),
        ("/v1/chat/completions", Wire.OPENAI, {"max_tokens": "many"}),
        ("/v1/messages", Wire.ANTHROPIC, {"max_tokens": -1}),
    )
    path, wire, wrong = dice.choice(bodies)
    return Plan("wrong option", path, {"model": model, "messages": [*USER], **wrong}, wire, INVALID)


def unknown_model(dice: random.Random, model: str) -> Plan:
    """A model that is not here."""
    path, wire = dice.choice([*CHATS, ("/api/embed", Wire.EMBED), ("/api/show", Wire.OLLAMA_OTHER)])
    body = {"model": NOBODY, "messages": [*USER], "input": "Hello!", "max_tokens": 9}
    return Plan("unknown model", path, body, wire, NOT_FOUND)


def too_long(dice: random.Random, model: str) -> Plan:
    """A prompt that no window here holds, and that nothing may be left out of."""
    text = dice.choice(["hello ", "rain "]) * 60_000
    body = {"model": model, "prompt": text, "raw": True}
    return Plan("too long a prompt", "/api/generate", body, Wire.OLLAMA, Expected(400, "too_long"))


def hostile_form(dice: random.Random, model: str) -> Plan:
    """A schema without end, of elsewhere, or too large once written out."""
    form = dice.choice(HOSTILE_FORMS)
    path, wire = dice.choice(CHATS[:2])
    wanted = (
        {"format": form}
        if wire is Wire.OLLAMA
        else {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": form}}}
    )
    return Plan("hostile schema", path, {"model": model, "messages": [*USER], **wanted}, wire, INVALID)


def deep_form(dice: random.Random, model: str) -> Plan:
    """A body that is nested deeper than any reader goes."""
    depth = dice.choice([400, 5000, 100_000])
    form = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"model":"' + model.encode() + b'","messages":[],"format":' + form + b"}"
    return Plan("deep JSON", "/api/chat", body, Wire.OLLAMA, INVALID)


def no_such_route(dice: random.Random, model: str) -> Plan:
    """A path that leads nowhere."""
    expected = Expected(404, "not_found", UNMATCHED)
    return Plan("unknown route", "/api/nosuch", {}, Wire.OLLAMA_OTHER, expected)


def wrong_method(dice: random.Random, model: str) -> Plan:
    """A GET where a POST belongs."""
    expected = Expected(405, "invalid")
    return Plan("wrong method", "/api/chat", None, Wire.OLLAMA_OTHER, expected, method="GET")


def wrong_page(dice: random.Random, model: str) -> Plan:
    """A request of a foreign page."""
    headers = dice.choice([{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
    body = {"model": model, "messages": [*USER]}
    return Plan("foreign page", "/api/chat", body, Wire.OLLAMA, REFUSED_403, headers=headers)


def image(dice: random.Random, model: str) -> Plan:
    """A picture for a model without eyes."""
    body = {"model": model, "messages": [{**USER[0], "images": ["aGVsbG8="]}]}
    return Plan("image", "/api/chat", body, Wire.OLLAMA, INVALID)


def without_key(dice: random.Random, model: str) -> Plan:
    """Nobody's request."""
    path, wire = dice.choice(CHATS)
    return Plan("no key", path, {"model": model}, wire, REFUSED_401, key=Key.NONE)


def wrong_key(dice: random.Random, model: str) -> Plan:
    """A key that the server has not."""
    path, wire = dice.choice(CHATS)
    return Plan("wrong key", path, {"model": model}, wire, REFUSED_401, key=Key.WRONG)


def no_admin(dice: random.Random, model: str) -> Plan:
    """A user's key where an administrator's is needed."""
    body = {"source": model, "destination": "soak-forbidden"}
    return Plan("no right", "/api/copy", body, Wire.OLLAMA_OTHER, REFUSED_403)


def too_large(model: str, body_bytes: int) -> Plan:
    """More than the server reads."""
    body = {"model": model, "messages": [{"role": "user", "content": "x" * body_bytes}]}
    return Plan("too large a body", "/api/chat", body, Wire.OLLAMA, Expected(413, "invalid"))
