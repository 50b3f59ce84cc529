"""Which file of the hub is meant, and what the hub says of it."""

import hashlib
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest
from huggingface_hub import errors

from server.catalogue import ModelName
from server.catalogue import hub as hub_module
from server.catalogue.faults import HubUnreachable, Passing, PullFailed, fault_of, in_words
from server.catalogue.hub import HubFile, Source, choose, find_file, source_of
from server.catalogue.known import find_known, known_models
from server.domain.errors import InvalidRequest
from tests.fake_hub import PAGE, REVISION, FakeHub

FILES = (
    "README.md",
    "m-Q8_0.gguf",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-Q4_K_XL.gguf",
    "m-IQ4_XS.gguf",
    "m.F16.GGUF",
    "mmproj-m-F16.gguf",
    "m-imatrix.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "sub/m_Q3_K_L.gguf",
)


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("q4_k_s", "m-Q4_K_S.gguf"),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("IQ4_XS", "m-IQ4_XS.gguf"),
        ("f16", "m.F16.GGUF"),
        ("Q3_K_L", "sub/m_Q3_K_L.gguf"),
        ("m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("M-Q8_0", "m-Q8_0.gguf"),
    ],
)
def test_the_file_that_is_meant(quant: str | None, file: str) -> None:
    assert choose(FILES, quant) == file
    assert choose(tuple(reversed(FILES)), quant) == file


@pytest.mark.parametrize("quant", ["Q4", "Q4_K", "Q9_0", "XS", "q", "imatrix"])
def test_what_no_file_fits_is_refused_with_what_there_is(quant: str) -> None:
    with pytest.raises(InvalidRequest, match=rf'fits "{quant}"; there are: .*m-Q8_0\.gguf') as refusal:
        choose(FILES, quant)
    assert "mmproj" not in str(refusal.value)


def test_parts_are_refused_unless_the_whole_is_there_as_well() -> None:
    with pytest.raises(InvalidRequest, match=r"m-BF16-00001-of-00002\.gguf is one of several parts.*m-Q8_0"):
        choose(FILES, "BF16")
    assert choose((*FILES, "x/longer-name-m-BF16.gguf"), "BF16") == "x/longer-name-m-BF16.gguf"
    with pytest.raises(InvalidRequest, match=r"one of several parts, which cannot be served$"):
        choose(("m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"), None)


@pytest.mark.parametrize(
    ("files", "file"),
    [
        (("a-Q8_0.gguf", "a-Q5_0.gguf"), "a-Q8_0.gguf"),
        (("a.gguf",), "a.gguf"),
        (("a-Q2_K.gguf", "a.gguf"), "a.gguf"),
        (("a-F16.gguf", "mmproj-a-Q8_0.gguf"), "a-F16.gguf"),
    ],
)
def test_without_the_usual_quantisation_another_is_taken(files: tuple[str, ...], file: str) -> None:
    assert choose(files, None) == file


def test_a_repository_without_models() -> None:
    with pytest.raises(InvalidRequest, match='fits "latest"; there is no GGUF that can be served'):
        choose(("README.md", "mmproj-a-F16.gguf"), None)


def test_where_names_come_from() -> None:
    def source(text: str) -> Source | None:
        name = ModelName.parse(text)
        return source_of(name, find_known(known_models(), name))

    assert source("hf.co/Org/Repo-GGUF") == Source("Org/Repo-GGUF")
    assert source("HuggingFace.co/Org/Repo:q8_0") == Source("Org/Repo", quant="q8_0")
    assert source("qwen3") == Source("unsloth/Qwen3-8B-GGUF", quant="Q4_K_M")
    assert source("nothing") is None
    assert source("example.org/a/b") is None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub() as running:
        running.add("org/repo", tiny_Q4_K_M_gguf=b"content")
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_hub_tells_what_the_file_is(hub: FakeHub) -> None:
    sha256 = hashlib.sha256(b"content").hexdigest()
    file = HubFile("org/repo", "tiny_Q4_K_M.gguf", REVISION, len(b"content"), sha256)
    assert find_file(Source("org/repo")) == file
    assert find_file(Source("org/repo", file="tiny_Q4_K_M.gguf", sha256=sha256)) == file
    with pytest.raises(PullFailed, match=r"models/catalogue\.toml wants a{64}"):
        find_file(Source("org/repo", sha256="a" * 64))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source("org/repo", file="other.gguf"), r"org/repo has no file other\.gguf .*/org/repo/tree/main"),
        (
            Source("org/other"),
            "does not have org/other, or does not show it to you: check the name; .*HF_TOKEN",
        ),
        (Source("org/re--po"), "org/re--po is no repository of the hub"),
    ],
)
def test_what_the_hub_does_not_have(hub: FakeHub, source: Source, words: str) -> None:
    with pytest.raises(PullFailed, match=words) as refusal:
        find_file(source)
    assert not isinstance(refusal.value, Passing)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", r"is gated: accept its terms at http://\S+/org/repo, and set HF_TOKEN"),
        (401, "GatedRepo", "is gated: accept its terms"),
        (401, "", r"wants an account for org/repo \(401\), .*: check the name, and set HF_TOKEN"),
        (403, "", r"refuses org/repo \(403\): accept its terms .*HF_TOKEN to a token that may read it"),
    ],
)
def test_what_the_hub_does_not_show(hub: FakeHub, status: int, code: str, words: str) -> None:
    hub.refusals["org/repo"] = (status, code)
    with pytest.raises(PullFailed, match=words):
        find_file(Source("org/repo"))


def test_the_token_goes_along(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    find_file(Source("org/repo"))
    assert hub.tokens == ["Bearer hf_secret"]


@pytest.mark.parametrize("page", [PAGE, b"[]", b"{}"])
def test_an_answer_that_is_not_the_hubs(hub: FakeHub, page: bytes) -> None:
    hub.page = page
    with pytest.raises(PullFailed, match=r"http://127\.0\.0\.1:\d+ answered with something that no hub says"):
        find_file(Source("org/repo"))


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:9", r"127\.0\.0\.1:9 refuses the connection; check the network.* HF_ENDPOINT"),
        ("http://no-such-host.invalid", r"the name no-such-host\.invalid is not known here \(no network"),
        ("ftp://127.0.0.1", "the connection to 127.0.0.1 broke .*HF_ENDPOINT"),
    ],
)
def test_a_hub_that_is_not_there(endpoint: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(HubUnreachable, match=f"the hub cannot be reached: {words}"):
        find_file(Source("org/repo"))


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HUB_TIMEOUT_S", 0.1)
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:\d+ did not answer in time"):
            find_file(Source("org/repo"))


def test_a_hub_with_a_certificate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    untrusted = httpx.ConnectError("x")
    untrusted.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    text = str(fault_of(untrusted, "org/repo"))
    assert "the certificate of hub.example.org is not trusted" in text
    assert "SSL_CERT_FILE" in text


def test_a_hub_that_is_not_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"), in_words("org/repo"):
        raise errors.OfflineModeIsEnabled("offline")
