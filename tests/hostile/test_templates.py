"""A chat template comes with a file from anywhere: it may waste a few seconds of its own process, no more."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.chat import renderer, sandbox
from server.chat.template import ChatTemplate
from server.domain.chat import Message
from server.domain.errors import InvalidRequest
from tests.api.asking import eventually

SANDBOX = sandbox.__file__
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
TAKES_SECONDS = ("joined", "replaced", "words of nothing", "doubled", "indented JSON")
QUICK = ENDLESS["nested loops"]


def stopped(source: str) -> str:
    """The error of a template that must not render."""
    began_s = time.monotonic()
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(source).render(CHAT)
    assert time.monotonic() - began_s < 60
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in TAKES_SECONDS else [])
        for name in GREEDY_OF_MEMORY
    ],
)
def test_a_greedy_template_is_refused(name: str) -> None:
    assert stopped(GREEDY_OF_MEMORY[name])


@pytest.mark.slow
@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_no_endless_template_is_waited_for(source: str) -> None:
    assert "more than" in stopped(source)


def test_after_a_stop_the_template_rests_and_then_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "REST_S", 0.5)
    condition = "{% if messages[0].content == 'loop' %}" + QUICK + "{% endif %}fine"
    template = ChatTemplate(condition)
    assert template.render(CHAT) == "fine"
    with pytest.raises(InvalidRequest, match="took more than"):
        template.render([Message("user", "loop")])
    with pytest.raises(InvalidRequest, match="tried again"):
        template.render(CHAT)
    time.sleep(0.6)
    assert template.render(CHAT) == "fine"


def test_a_killed_process_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    process = template._renderer._child._process
    process.kill()
    process.wait()
    assert template.render([Message("user", "still here")]) == "still here"


def test_a_prompt_is_no_longer_than_what_it_is_made_of_allows() -> None:
    template = ChatTemplate("{% for a in range(90000) %}" + "0123456789" * 9 + "{% endfor %}")
    with pytest.raises(InvalidRequest, match="at most"):
        template.render(CHAT)


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as a %}",
        "{% extends '../../../etc/passwd' %}",
        "{{ self._TemplateReference__context.environment.loader }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''.format.__self__.__class__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__init__.__globals__}'.format(raise_exception) }}",
        "{{ ('%s' | attr('__class__')).__mro__ }}",
        "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
    ],
)
def test_a_template_reaches_nothing_outside(source: str) -> None:
    try:
        prompt = ChatTemplate(source).render(CHAT)
    except InvalidRequest:
        return
    assert "root:" not in prompt
    assert "subclass" not in prompt
    assert "<class" not in prompt


ESCAPED = f"""
import importlib.util, os, socket, sys
spec = importlib.util.spec_from_file_location("sandbox", {str(SANDBOX)!r})
sandbox = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
sandbox._shut_in()
for attempt in (
    lambda: open(sys.argv[1]),
    lambda: open("/dev/shm/written", "w"),
    lambda: socket.create_connection(("127.0.0.1", 1)),
    lambda: os.listdir("/"),
    lambda: bytearray(2**31),
    lambda: os.write(os.open("/tmp", os.O_TMPFILE | os.O_RDWR), b"x"),
):
    try:
        attempt()
        print("got through")
    except (OSError, MemoryError) as error:
        print(type(error).__name__, getattr(error, "errno", 0))
"""


def test_who_gets_out_of_jinjas_sandbox_still_opens_nothing(tmp_path: Path) -> None:
    """The kernel's limits hold for any code in that process."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    command = [sys.executable, "-I", "-c", ESCAPED, str(secret)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.split("\n")[:6] == [f"OSError {errno.EMFILE}"] * 4 + [
        "MemoryError 0",
        f"OSError {errno.EMFILE}",
    ]


@pytest.mark.slow
def test_a_template_ends_with_its_service() -> None:
    """Even one that is at work when the service is killed."""
    program = (
        "from server.chat.template import ChatTemplate; from server.domain.chat import Message; import os\n"
        f"template = ChatTemplate({QUICK!r})\n"
        "print(template._renderer._child._process.pid, flush=True)\n"
        "import threading; threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()\n"
        "template.render([Message('user', 'x')])\n"
    )
    dead = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert dead.returncode == -9
    child = Path(f"/proc/{dead.stdout.strip()}")
    assert eventually(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2], 30)
