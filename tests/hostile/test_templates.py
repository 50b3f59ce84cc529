"""A chat template comes with a file from anywhere: it may waste a few seconds of its own process, no more."""

import time
from pathlib import Path

import pytest

from server.chat.template import ChatTemplate
from server.domain.chat import Message
from server.domain.errors import InvalidRequest

CHAT = [Message("user", "Hi")]
BIG = "{% set big = 'a' * 300000000 %}"
DOUBLED = "".join(f"{{% set l{n + 1} = [l{n}, l{n}] %}}" for n in range(60))

GREEDY_OF_MEMORY = {
    "multiplied text": "{{ messages[0].role * 10**10 }}",
    "multiplied list": "{{ messages * 10**9 }}",
    "centered": "{{ messages[0].role | center(10**10) }}",
    "justified": "{{ messages[0].role.ljust(10**10) }}",
    "percent format": "{{ '%10000000000d' % messages | length }}",
    "star format": "{{ '%*d' % (2000000000, 1) }}",
    "format": "{{ '{:>2000000000}'.format(messages[0].role) }}",
    "doubled": "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "joined": BIG + "{{ [big, big, big, big] | join }}",
    "replaced": BIG + "{{ big.replace('a', 'aaaaaaaa') }}",
    "indented JSON": "{{ messages | tojson(indent=1000000000) }}",
    "words of nothing": "{{ lipsum(n=100000000) | length }}",
    "expanded tabs": "{{ '\\t'.expandtabs(2000000000) | length }}",
}
ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "two calls each": "{% macro m(n) %}{% if n %}{{ m(n-1) ~ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "power": "{{ (messages | length + 9) ** (10 ** 9) % 7 }}",
    "structure told": "{% set l0 = messages %}" + DOUBLED + "{{ l60 }}",
    "structure compared": "{% set l0 = [1] %}"
    + DOUBLED.replace("l", "k").replace("k0", "l0")
    + DOUBLED
    + "{{ k60 == l60 }}",
    "filtered loop": "{% for a in range(99999) if range(99999) | sum < 0 %}{% endfor %}",
}
"""Each goes on for hours."""


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret.txt"
    file.write_text("the secret")
    return file


def stopped(source: str) -> str:
    """The error of a template that must not render."""
    began_s = time.monotonic()
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(source).render(CHAT)
    assert time.monotonic() - began_s < 60
    return str(caught.value)


@pytest.mark.parametrize("source", GREEDY_OF_MEMORY.values(), ids=GREEDY_OF_MEMORY.keys())
def test_a_greedy_template_is_refused(source: str) -> None:
    assert stopped(source)


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_template_is_stopped(source: str) -> None:
    assert stopped(source)
