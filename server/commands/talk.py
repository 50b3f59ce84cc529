"""A chat on the terminal: what it knows, and how it asks."""

import typer

from server.client.answers import Answer, in_one_line
from server.client.conversation import Conversation
from server.client.errors import ClientError
from server.client.service import Service
from server.commands.asking import ask, tell_warnings
from server.commands.screen import Screen


class Talk:
    """``stats``: whether figures are shown after each answer. ``last`` is the last answer."""

    def __init__(self, service: Service, conversation: Conversation, screen: Screen, *, stats: bool) -> None:
        self.service = service
        self.conversation = conversation
        self.screen = screen
        self.stats = stats
        self.last: Answer | None = None
        self.failed = False
        self.is_over = False
        self.own_files: set[str] = set()
        self._unanswered: str | None = None

    def ask(self, question: str) -> None:
        """Ask, show the answer, and remember both. What fails or is stopped before its first word is not
        remembered, and may be asked again."""
        asked = self.conversation.asked(question)
        self._unanswered = question
        try:
            answer = ask(self.service, asked, self.screen)
        except ClientError as error:
            self.complain(str(error))
            return
        self.last = answer
        if answer.words or answer.last is not None:
            self.conversation = asked.answered(answer.message)
            self._unanswered = None
        tell_warnings(answer, self.screen)
        if self.stats and answer.last is not None:
            self.screen.note(in_one_line(answer))

    def again(self) -> None:
        """Ask the last question once more."""
        if self._unanswered is not None:
            self.ask(self._unanswered)
            return
        found = self.conversation.before_last_question()
        if found is None:
            self.complain("nothing was asked yet")
            return
        self.conversation, question = found
        self.ask(question)

    def say(self, text: str) -> None:
        """Tell the user."""
        typer.echo(text)

    def complain(self, text: str) -> None:
        """Tell the user what went wrong; the chat goes on."""
        self.failed = True
        typer.echo(f"llm-optimizer: {text}", err=True)
