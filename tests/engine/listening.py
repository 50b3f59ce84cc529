"""Waiting for an engine's events in a test."""

import threading
from dataclasses import dataclass, field

from server.domain.generation import (
    EngineEvent,
    Failed,
    Finished,
    Generation,
    Sampling,
    TextDelta,
    TokenScore,
)
from server.engine.engine import Engine
from server.engine.lane import Job

WAIT_S = 240
GREEDY = Sampling(temperature=0)


@dataclass
class Listener:
    """Collects the events of one generation."""

    texts: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    end: Finished | Failed | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    job: Job | None = None

    def __call__(self, event: EngineEvent) -> None:
        if isinstance(event, TextDelta):
            self.texts.append(event.text)
            self.scores.extend(event.scores)
            self.begun.set()
        else:
            assert self.end is None, "a generation ends once"
            self.end = event
            self.ended.set()

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def wait(self) -> "Listener":
        assert self.ended.wait(WAIT_S), "the generation did not end"
        return self

    def finished(self) -> Finished:
        self.wait()
        assert isinstance(self.end, Finished), self.end
        return self.end

    def failed(self) -> Failed:
        self.wait()
        assert isinstance(self.end, Failed), self.end
        return self.end


def ask(engine: Engine, text: str, max_tokens: int | None = 16, **wishes: object) -> Listener:
    """Start a generation; greedy unless told otherwise."""
    tokens = tuple(engine.model.tokenize(text, add_special=True))
    generation = Generation(tokens, **{"sampling": GREEDY, "max_tokens": max_tokens, **wishes})  # type: ignore[arg-type]
    listener = Listener()
    listener.job = engine.submit(generation, listener)
    return listener


def chat(question: str, before: str = "") -> str:
    """A prompt in the embedded model's own form."""
    return f"{before}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
