"""The commands within a chat: what begins with a slash."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from server.client.answers import in_full
from server.client.captured import read_captured
from server.client.conversation import Conversation
from server.client.errors import ClientError
from server.client.near import near
from server.client.wire import CHAT
from server.commands.parameters import value_of
from server.commands.show import lines_of
from server.commands.talk import Talk

OPTIONS = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop", "num_predict", "num_ctx"),
    *("repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty"),
)
_THINKING: Mapping[str, bool | str | None] = {
    **{"on": True, "off": False, "auto": None},
    **{level: level for level in ("low", "medium", "high", "max")},
}
_SWITCH = {"on": True, "off": False}

Act = Callable[[Talk, str], None]


@dataclass(frozen=True, slots=True)
class Slash:
    """One of them: what stands behind its name, what it is for, and what it does with it."""

    wants: str
    purpose: str
    act: Act


def obey(talk: Talk, text: str) -> None:
    """Do what a line that begins with a slash says."""
    name, _, rest = text.partition(" ")
    command = COMMANDS.get(_OTHER_NAMES.get(name, name))
    if command is None:
        meant = near(name, list(COMMANDS))
        talk.complain(f"{name} is no command" + (f"; did you mean {meant[0]}?" if meant else "; see /help"))
        return
    try:
        command.act(talk, rest.strip())
    except (ClientError, OSError) as error:
        talk.complain(str(error))


def table() -> str:
    """All of them as a table in Markdown."""
    rows = (
        f"| `{name}{' ' * bool(one.wants)}{one.wants}` | {one.purpose} |\n" for name, one in COMMANDS.items()
    )
    return "| command | |\n|---|---|\n" + "".join(rows).replace("[on|off]", "[on\\|off]")


def completions(talk: Talk, line: str) -> list[str]:
    """What may stand for the last word of a line."""
    name, space, rest = line.partition(" ")
    if not space:
        return [one for one in COMMANDS if one.startswith(name)] if name.startswith("/") else []
    candidates: list[str] = []
    if name in ("/model", "/show"):
        candidates = _quietly(talk.service.names)
    elif name == "/set":
        candidates = [*OPTIONS]
    elif name == "/think":
        candidates = [*_THINKING, "show", "hide"]
    elif name in ("/save", "/load"):
        candidates = _files(rest)
    return [one for one in candidates if one.startswith(rest)]


def _help(talk: Talk, _: str) -> None:
    width = max(len(f"{name} {one.wants}") for name, one in COMMANDS.items())
    lines = [f"  {f'{name} {one.wants}':<{width}}  {one.purpose}" for name, one in COMMANDS.items()]
    keys = (
        '  """ begins and ends a text of several lines.',
        "  Ctrl-C stops an answer, Ctrl-D ends the chat, Tab completes.",
    )
    talk.say("\n".join((*lines, "", *keys)))


def _model(talk: Talk, name: str) -> None:
    if not name:
        current = talk.conversation.model
        others = [one for one in talk.service.names() if one != current]
        talk.say("\n".join((f"* {current}", *(f"  {one}" for one in others))))
        return
    talk.service.post("/api/show", {"model": name})
    talk.conversation = replace(talk.conversation, model=name)
    talk.say(f"{name} answers from now on")


def _show(talk: Talk, name: str) -> None:
    told = talk.service.post("/api/show", {"model": name or talk.conversation.model})
    talk.say("\n".join(lines_of(told)))


def _system(talk: Talk, text: str) -> None:
    if not text:
        talk.say(talk.conversation.system or "no system prompt but the model's own")
        return
    talk.conversation = replace(talk.conversation, system="" if text == "off" else text)
    talk.say("no system prompt any more" if text == "off" else "the system prompt is set")


def _clear(talk: Talk, _: str) -> None:
    talk.conversation = replace(talk.conversation, messages=())
    talk.say("the chat is forgotten; model, system prompt and options stay")


def _set(talk: Talk, text: str) -> None:
    name, _, value = (part.strip() for part in text.partition(" "))
    if name in _OLLAMAS_SETS:
        _OLLAMAS_SETS[name](talk, value)
        return
    if not name:
        options = (talk.conversation.options or {}).items()
        lines = [f"{key} = {json.dumps(one)}" for key, one in options]
        talk.say("\n".join(lines) or "no options are set; try /set temperature 0.2")
    elif not value:
        talk.complain(f"/set {name} wants a value; {name} default takes it back")
    else:
        chosen = None if value == "default" else value_of(value)
        talk.conversation = talk.conversation.with_option(name, chosen)
        talk.say(f"{name} is as the model has it" if chosen is None else f"{name} = {json.dumps(chosen)}")


def _form(talk: Talk, text: str) -> None:
    form = value_of(text) if text else "json"
    talk.conversation = replace(talk.conversation, form=form)
    talk.say("answers come as JSON")


def _no_form(talk: Talk, _: str) -> None:
    talk.conversation = replace(talk.conversation, form=None)
    talk.say("answers come as they are")


def _stats(talk: Talk, text: str) -> None:
    if text in _SWITCH:
        talk.stats = _SWITCH[text]
        talk.say(f"figures after each answer: {text}")
    elif text:
        talk.complain(f'/stats takes on, off or nothing, and not "{text}"')
    elif talk.last is None or talk.last.last is None:
        talk.say("there is no whole answer yet")
    else:
        talk.say("\n".join(in_full(talk.last)))


def _save(talk: Talk, text: str) -> None:
    file = _file(text, "/save")
    if file.exists() and str(file) not in talk.own_files:
        raise ClientError(f"{file} is there already; give another name")
    content = json.dumps(talk.conversation.body, indent=2, ensure_ascii=False)
    with os.fdopen(
        os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="replace"
    ) as out:
        out.write(content + "\n")
    talk.own_files.add(str(file))
    talk.say(f"saved to {file}")


def _load(talk: Talk, text: str) -> None:
    file = _file(text, "/load")
    try:
        content = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ClientError(f"there is no file {file}; /model chooses a model") from None
    except ValueError:
        raise ClientError(f"{file} is no text") from None
    captured = read_captured(content)
    if captured.path != CHAT:
        raise ClientError(f"{file} is a request to {captured.path}; those to {CHAT} can be gone on with")
    talk.conversation = Conversation.of(captured.body)
    talk.own_files.add(str(file))
    count = len(talk.conversation.messages)
    talk.say(f"{count} messages with {talk.conversation.model} from {file}")


def _retry(talk: Talk, _: str) -> None:
    talk.again()


def _think(talk: Talk, text: str) -> None:
    if text in ("show", "hide"):
        talk.screen.show_thinking = text == "show"
        talk.say("thinking is shown" if text == "show" else "thinking is hidden")
        return
    if text:
        if text not in _THINKING:
            raise ClientError(f'/think takes {", ".join(_THINKING)}, show or hide, and not "{text}"')
        talk.conversation = replace(talk.conversation, think=_THINKING[text])
    words = {True: "on", False: "off", None: "auto: as the model does by itself"}
    think = talk.conversation.think
    talk.say(f"thinking is {think if isinstance(think, str) else words[think]}")


def _bye(talk: Talk, _: str) -> None:
    talk.is_over = True


def _file(text: str, command: str) -> Path:
    if not text:
        raise ClientError(f"{command} wants the name of a file")
    return Path(text).expanduser()


def _files(beginning: str) -> list[str]:
    folder = Path(beginning).expanduser()
    parent = folder if beginning.endswith("/") else folder.parent
    if not parent.is_dir():
        return []
    # As it was typed, with or without "./" and "~".
    typed = beginning[: beginning.rfind("/") + 1]
    return sorted(f"{typed}{one.name}" + ("/" if one.is_dir() else "") for one in parent.iterdir())


def _quietly(names: Callable[[], list[str]]) -> list[str]:
    try:
        return names()
    except ClientError:
        return []


COMMANDS: Mapping[str, Slash] = {
    "/help": Slash("", "these lines", _help),
    "/model": Slash("[NAME]", "the models that are here, or another one for this chat", _model),
    "/show": Slash("[NAME]", "what a model is, this one or another", _show),
    "/system": Slash("[TEXT]", 'the system prompt, or another one; "off" for none', _system),
    "/set": Slash("[NAME VALUE]", 'the options, or another value for one; "default" takes it back', _set),
    "/think": Slash("[HOW]", "on, off, auto, low, medium, high, max; show or hide", _think),
    "/stats": Slash("[on|off]", "figures of the last answer, or whether each is followed by them", _stats),
    "/retry": Slash("", "ask the last question once more", _retry),
    "/clear": Slash("", "forget the chat so far", _clear),
    "/save": Slash("FILE", "write the chat as the body of an /api/chat", _save),
    "/load": Slash("FILE", "go on with a chat that was saved, or with a captured request", _load),
    "/bye": Slash("", "end", _bye),
}
_OTHER_NAMES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye"}
_OLLAMAS_SETS: Mapping[str, Act] = {
    "parameter": _set,
    "system": _system,
    "format": _form,
    "noformat": _no_form,
    "think": lambda talk, text: _think(talk, text or "on"),
    "nothink": lambda talk, _: _think(talk, "off"),
    "verbose": lambda talk, _: _stats(talk, "on"),
    "quiet": lambda talk, _: _stats(talk, "off"),
}
"""What ``ollama run`` has behind /set."""
