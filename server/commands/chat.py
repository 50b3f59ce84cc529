"""``chat``: a conversation on the terminal."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.client.conversation import Conversation
from server.client.errors import Refused
from server.commands.completing import model_names
from server.commands.connecting import connect
from server.commands.failing import FAILED
from server.commands.lines import history_file, texts
from server.commands.parameters import Config, HideThinking, Options, System, Think, Url, options_of
from server.commands.screen import screen

if TYPE_CHECKING:
    from server.client.service import Service
    from server.commands.talk import Talk


@dataclass(frozen=True, slots=True)
class Manner:
    """How a chat is shown. ``stats`` None: on a terminal."""

    hide_thinking: bool = False
    stats: bool | None = None
    history: bool = True


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Name of a model; else the generator.",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    system: System = None,
    option: Options = None,
    think: Think = None,
    hide_thinking: HideThinking = False,
    stats: Annotated[
        bool | None,
        typer.Option("--stats/--no-stats", help="Figures after each answer.", show_default=False),
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Neither read nor write the file of what was typed.")
    ] = False,
    url: Url = None,
    config: Config = None,
) -> None:
    """Talk with a model. /help lists what else can be typed.

    Answers come as they are generated; below each stand strategy, tokens, time to the first one and speed.
    Three double quotes begin and end a text of several lines, Ctrl-C stops an answer, Ctrl-D ends the chat.
    From a pipe, each line is a question.

    \b
    Examples:
      llm-optimizer chat
      llm-optimizer chat qwen3:1.7b --system "Answer in one sentence." -o temperature=0
    """
    with connect(url, config) as service:
        asked = Conversation(model or _usual_model(service), system or "", (), options_of(option), think)
        converse(service, asked, Manner(hide_thinking, stats, not no_history))


def converse(service: "Service", conversation: Conversation, manner: Manner) -> None:
    """Talk until the end of what is typed."""
    from server.commands.talk import Talk

    at_terminal = sys.stdin.isatty()
    shown = screen(show_thinking=not manner.hide_thinking)
    stats = at_terminal if manner.stats is None else manner.stats
    talk = Talk(service, conversation, shown, stats=stats)
    if at_terminal:
        talk.say(f"{conversation.model}   /help lists the commands, Ctrl-D ends")
    _listen(talk, history_file(os.environ) if manner.history else None)
    if at_terminal and not talk.is_over:
        talk.say("")
    if talk.failed and not at_terminal:
        raise typer.Exit(FAILED)


def _listen(talk: "Talk", history: Path | None) -> None:
    from server.commands.slash import completions, obey

    for typed in texts(
        history=history,
        complete=lambda line: completions(talk, line),
        hint=lambda: talk.say("\nCtrl-D or /bye ends the chat"),
    ):
        if typed.is_command:
            obey(talk, typed.text)
        elif typed.text.strip():
            talk.ask(typed.text)
        if talk.is_over:
            return


def _usual_model(service: "Service") -> str:
    """The generator where it is loaded, else the newest."""
    try:
        loaded = service.get("/health/gpu").get("models", [])
    except Refused:  # the cards may be none of this user's business
        loaded = []
    generator = next((str(one["name"]) for one in loaded if one.get("role") == "generator"), None)
    names = [generator] if generator else service.names()
    if not names:
        raise Refused('no model is here; "llm-optimizer pull" brings the two of the settings')
    return names[0]
