"""Reads answers of all dialects, and tells what is wrong with them; nothing, one hopes."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.soak.plans import Answer, Plan, Told, Wire

FIGURES = (
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
)
DONE = "[DONE]"
BAD = 400
UNIT = 1e-3
"""How far the length of a vector may be from 1."""

Objects = list[dict[str, Any]]


class WrongAnswerError(Exception):
    """An answer that cannot be read to its end."""


def judged(plan: Plan, answer: Answer) -> Told:
    """What an answer says, and what is wrong with it."""
    if answer.status != plan.expected.status:
        return Told((f"status {answer.status}: {' '.join(answer.lines)[:200]}",))
    try:
        if answer.status >= BAD:
            return Told(tuple(error_faults(plan.wire, answer)), plan.expected.outcome or "")
        told = READERS[plan.wire](plan, answer)
        return Told((*told.faults, *_token_faults(plan, answer, told)), *_rest(told))
    except WrongAnswerError as wrong:
        return Told((str(wrong),))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return Told((f"not of the form that it should have: {error!r}",))


def error_faults(wire: Wire, answer: Answer) -> list[str]:
    """What is wrong with how an error is told in its dialect."""
    body = _object("\n".join(answer.lines))
    error = body.get("error")
    if wire in (Wire.OPENAI, Wire.RESPONSES):
        good = isinstance(error, dict) and bool(error.get("message")) and bool(error.get("type"))
    elif wire is Wire.ANTHROPIC:
        good = body.get("type") == "error" and isinstance(error, dict) and bool(error.get("message"))
    else:
        good = isinstance(error, str) and bool(error)
    return [] if good else [f"an error that is none of its dialect: {body}"]


def says_something(wire: Wire, line: str) -> bool:
    """Whether a line of a stream holds text or a call, or ends the answer; others only keep it alive."""
    try:
        chunk = _object(line.removeprefix("data:"))
    except WrongAnswerError:
        return False
    if wire in (Wire.RESPONSES, Wire.ANTHROPIC):
        kind = str(chunk.get("type"))
        return kind.endswith(("delta", ".completed", ".incomplete"))
    if wire is Wire.OPENAI:
        return any(
            choice.get("finish_reason") or _holds(_piece(choice)) for choice in chunk.get("choices", ())
        )
    return bool(chunk.get("response") or chunk.get("done") or _holds(chunk.get("message") or {}))


def _holds(piece: Mapping[str, Any]) -> bool:
    return bool(piece.get("content") or piece.get("tool_calls"))


def _read_ollama(plan: Plan, answer: Answer) -> Told:
    chunks = [_object(line) for line in answer.lines]
    faults = [f"error in the answer: {chunk['error']}" for chunk in chunks if "error" in chunk]
    faults += ["of another model"] * any(chunk.get("model") != plan.body["model"] for chunk in chunks)
    if faults or not answer.complete:
        return Told(tuple(faults))
    done = [chunk.get("done") for chunk in chunks]
    if done != [False] * (len(done) - 1) + [True]:
        return Told(("the answer does not end with the one object that is done",))
    if not plan.stream and len(chunks) > 1:
        return Told(("more than one object without a stream",))
    last = chunks[-1]
    faults = [f"no {name} at the end" for name in FIGURES if type(last.get(name)) is not int]
    reason = last.get("done_reason")
    if faults or reason not in {"stop", "length"}:
        return Told((*faults, *([] if faults else [f"done_reason {reason}"])))
    text = "".join(chunk.get("response") or chunk.get("message", {}).get("content", "") for chunk in chunks)
    outcome = "length" if reason == "length" else "ok"
    return Told(
        tuple(_form_faults(plan, outcome, text)), outcome, last["prompt_eval_count"], last["eval_count"]
    )


def _read_openai(plan: Plan, answer: Answer) -> Told:
    objects = _stream_objects(answer, ends_with=DONE) if plan.stream else [_object("\n".join(answer.lines))]
    if not answer.complete:
        return Told()
    choices = [choice for chunk in objects for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if len(reasons) != 1 or reasons[0] not in {"stop", "length", "tool_calls"}:
        return Told((f"it ends with {reasons}",))
    usage = [chunk["usage"] for chunk in objects if chunk.get("usage")][-1]
    outcome = "length" if reasons[0] == "length" else "ok"
    pieces = [_piece(choice) for choice in choices]
    text = "".join(piece.get("content") or "" for piece in pieces)
    calls = [call["function"] for piece in pieces for call in piece.get("tool_calls") or []]
    faults = [*_form_faults(plan, outcome, text), *_call_faults(plan, outcome, _joined(calls))]
    return Told(tuple(faults), outcome, usage["prompt_tokens"], usage["completion_tokens"])


def _read_responses(plan: Plan, answer: Answer) -> Told:
    objects = _stream_objects(answer) if plan.stream else [_object("\n".join(answer.lines))]
    if plan.stream and [item["sequence_number"] for item in objects] != list(range(len(objects))):
        return Told(("its events are not numbered one by one",))
    if not answer.complete:
        return Told()
    last = objects[-1]["response"] if plan.stream else objects[-1]
    if last["status"] not in {"completed", "incomplete"}:
        return Told((f"status {last['status']} of the answer",))
    outcome = "ok" if last["status"] == "completed" else "length"
    parts = [part for item in last["output"] if item["type"] == "message" for part in item["content"]]
    calls = [(item["name"], item["arguments"]) for item in last["output"] if item["type"] == "function_call"]
    text = "".join(part["text"] for part in parts)
    faults = [*_form_faults(plan, outcome, text), *_call_faults(plan, outcome, calls)]
    return Told(tuple(faults), outcome, last["usage"]["input_tokens"], last["usage"]["output_tokens"])


def _read_anthropic(plan: Plan, answer: Answer) -> Told:
    objects = _stream_objects(answer) if plan.stream else [_object("\n".join(answer.lines))]
    if not answer.complete:
        return Told()
    if not plan.stream:
        [message] = objects
        calls = [
            (block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"
        ]
        return _of_message(plan, message["stop_reason"], message["usage"], calls)
    kinds = [item["type"] for item in objects if item["type"] != "ping"]
    if (kinds[0], kinds[-2:]) != ("message_start", ["message_delta", "message_stop"]):
        return Told((f"its events are {kinds[:1]} to {kinds[-2:]}",))
    ending = next(item for item in objects if item["type"] == "message_delta")
    calls = list(_streamed_uses(objects))
    return _of_message(plan, ending["delta"]["stop_reason"], ending["usage"], calls)


def _of_message(plan: Plan, reason: str, usage: Mapping[str, int], calls: Sequence[tuple[str, Any]]) -> Told:
    if reason not in {"end_turn", "stop_sequence", "tool_use", "max_tokens"}:
        return Told((f"stop_reason {reason}",))
    outcome = "length" if reason == "max_tokens" else "ok"
    read = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    prompt_tokens = sum(usage.get(name) or 0 for name in read)
    return Told(tuple(_call_faults(plan, outcome, calls)), outcome, prompt_tokens, usage["output_tokens"])


def _read_embeddings(plan: Plan, answer: Answer) -> Told:
    body = _object("\n".join(answer.lines))
    vectors = body["embeddings"]
    faults = [] if len(vectors) == len(plan.body["input"]) else [f"{len(vectors)} vectors"]
    lengths = [math.sqrt(sum(value * value for value in vector)) for vector in vectors]
    faults += [f"a vector of the length {length}" for length in lengths if not abs(length - 1) < UNIT]
    return Told(tuple(faults), prompt_tokens=body["prompt_eval_count"])


def _read_count(_plan: Plan, answer: Answer) -> Told:
    count = _object("\n".join(answer.lines))["input_tokens"]
    return Told(() if count > 0 else (f"{count} tokens",))


def _read_other(_plan: Plan, answer: Answer) -> Told:
    objects = [_object(line) for line in answer.lines if line]
    return Told(tuple(f"error in the answer: {one['error']}" for one in objects if "error" in one))


def _read_events(_plan: Plan, answer: Answer) -> Told:
    _stream_objects(answer)
    return Told()


def _read_text(_plan: Plan, answer: Answer) -> Told:
    return Told(() if any(answer.lines) else ("nothing came",))


READERS: Mapping[Wire, Callable[[Plan, Answer], Told]] = MappingProxyType(
    {
        Wire.OLLAMA: _read_ollama,
        Wire.EMBED: _read_embeddings,
        Wire.OLLAMA_OTHER: _read_other,
        Wire.OPENAI: _read_openai,
        Wire.RESPONSES: _read_responses,
        Wire.ANTHROPIC: _read_anthropic,
        Wire.COUNT: _read_count,
        Wire.EVENTS: _read_events,
        Wire.TEXT: _read_text,
    }
)


def _rest(told: Told) -> tuple[str, int, int]:
    return told.outcome, told.prompt_tokens, told.generated_tokens


def _token_faults(plan: Plan, answer: Answer, told: Told) -> list[str]:
    """A whole answer has a token at least, and no more than were asked for."""
    if told.faults or not answer.complete or plan.most_tokens is None:
        return []
    if told.prompt_tokens <= 0:
        return ["no tokens of the prompt are told"]
    if not 0 < told.generated_tokens <= plan.most_tokens:
        return [f"{told.generated_tokens} tokens of {plan.most_tokens}"]
    return []


def _form_faults(plan: Plan, outcome: str, text: str) -> list[str]:
    """What a form asked for, held against a text that came to its end."""
    if not plan.formed or outcome != "ok":
        return []
    filled = _object(text)
    name, age = filled.get("name"), filled.get("age")
    good = isinstance(name, str) and type(age) is int and age >= 0
    return [] if good else [f"not of its form: {text[:100]}"]


def _call_faults(plan: Plan, outcome: str, calls: Sequence[tuple[str, Any]]) -> list[str]:
    """Where a call was demanded, there must be some, each of the tool and with its argument."""
    if plan.tool is None or outcome != "ok":
        return []
    if not calls:
        return ["no call of a tool, though one was demanded"]
    return [f"called {name} with {given}" for name, given in calls if not _is_call(plan.tool, name, given)]


def _is_call(tool: str, name: str, given: Any) -> bool:
    arguments = _object(given) if isinstance(given, str) else given
    return name == tool and isinstance(arguments.get("city"), str)


def _piece(choice: dict[str, Any]) -> dict[str, Any]:
    for name in ("delta", "message"):
        if name in choice:
            return dict(choice[name])
    return {"content": choice["text"]}


def _joined(pieces: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Calls as a stream brings them: one with a name begins another."""
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if piece.get("name"):
            calls.append((piece["name"], piece.get("arguments") or ""))
        else:
            name, begun = calls[-1]
            calls[-1] = (name, begun + (piece.get("arguments") or ""))
    return calls


def _streamed_uses(objects: Objects) -> Iterator[tuple[str, str]]:
    for start in objects:
        if start["type"] == "content_block_start" and start["content_block"]["type"] == "tool_use":
            parts = (
                item["delta"].get("partial_json", "")
                for item in objects
                if item["type"] == "content_block_delta" and item["index"] == start["index"]
            )
            yield start["content_block"]["name"], "".join(parts)


def _stream_objects(answer: Answer, *, ends_with: str | None = None) -> Objects:
    """The objects of an event stream; an error among them is raised."""
    texts = [line.removeprefix("data:").strip() for line in answer.lines if line.startswith("data:")]
    if ends_with is not None and texts[-1:] == [ends_with]:
        texts.pop()
    elif ends_with is not None and answer.complete:
        raise WrongAnswerError(f"the stream does not end with {ends_with}")
    objects = [_object(text) for text in texts]
    for one in objects:
        if one.get("error") or one.get("type") in {"error", "response.failed"}:
            raise WrongAnswerError(f"error in the answer: {one}")
    if answer.complete and not objects:
        raise WrongAnswerError("the stream is empty")
    return objects


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise WrongAnswerError(f"no JSON: {text[:100]!r}") from None
    if not isinstance(found, dict):
        raise WrongAnswerError(f"no JSON object: {text[:100]!r}")
    return found
