"""Which file of the hub is meant, and bringing it here."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.catalogue import ModelName
from server.catalogue.hub import (
    Abandoned,
    HubFile,
    HubUnreachable,
    PullFailed,
    Source,
    choose,
    fetch,
    find_file,
    source_of,
    verify,
)
from server.catalogue.known import find_known, known_models
from server.domain.errors import InvalidRequest
from tests.engine.tiny_models import write_llama
from tests.fake_hub import REVISION, FakeHub, HubFileOnDemand

MIB = 2**20
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


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF of 25 MiB: the hub's library hands on 10 MiB at a time."""
    model = write_llama(tmp_path_factory.mktemp("hub") / "tiny.gguf").read_bytes()
    return model + bytes(25 * MIB - len(model))


@pytest.fixture
def hub(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.add("org/repo", tiny_Q4_K_M_gguf=content)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def file(hub: FakeHub) -> HubFile:
    return find_file(Source("org/repo"))


def part_of(target: Path) -> Path:
    [part] = target.parent.glob("*.part")
    return part


def test_the_hub_tells_what_the_file_is(hub: FakeHub, file: HubFile, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    assert file == HubFile("org/repo", "tiny_Q4_K_M.gguf", REVISION, len(content), sha256)
    assert find_file(Source("org/repo", file="tiny_Q4_K_M.gguf", sha256=sha256)) == file
    with pytest.raises(PullFailed, match=r"models/catalogue\.toml wants a{64}"):
        find_file(Source("org/repo", sha256="a" * 64))
    with pytest.raises(PullFailed, match=r"org/repo has no file other\.gguf"):
        find_file(Source("org/repo", file="other.gguf"))
    with pytest.raises(PullFailed, match="the hub does not have org/other, or not for this HF_TOKEN"):
        find_file(Source("org/other"))
    with pytest.raises(PullFailed, match="is no repository of the hub"):
        find_file(Source("org/re--po"))


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(HubUnreachable, match=r"the hub cannot be reached .* HF_ENDPOINT"):
        find_file(Source("org/repo"))


def test_a_download(hub: FakeHub, file: HubFile, content: bytes, tmp_path: Path) -> None:
    told: list[int] = []
    target = tmp_path / "new" / "tiny.gguf"
    fetch(file, target, told.append)
    assert not target.exists()
    verify(file, target, told.append)
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["tiny.gguf"]
    assert told[:4] == [0, 10 * MIB, 20 * MIB, 25 * MIB]
    assert told[-1] == len(content)


def test_a_broken_connection_is_taken_up_again(
    hub: FakeHub, file: HubFile, content: bytes, tmp_path: Path
) -> None:
    hub.faults = [12 * MIB]
    fetch(file, tmp_path / "tiny.gguf", lambda here_bytes: None)
    verify(file, tmp_path / "tiny.gguf", lambda here_bytes: None)
    assert (tmp_path / "tiny.gguf").read_bytes() == content
    assert hub.ranges == [None, f"bytes={10 * MIB}-"]


def test_a_download_that_failed_goes_on_later(
    hub: FakeHub, file: HubFile, content: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "tiny.gguf"

    def leave(here_bytes: int) -> None:
        if here_bytes >= 10 * MIB:
            raise Abandoned

    with pytest.raises(Abandoned):
        fetch(file, target, leave)
    hub.faults = [500]
    with pytest.raises(PullFailed, match=r"the hub answered with an error: .*500"):
        fetch(file, target, lambda here_bytes: None)
    kept_bytes = part_of(target).stat().st_size
    fetch(file, target, lambda here_bytes: None)
    verify(file, target, lambda here_bytes: None)
    assert target.read_bytes() == content
    assert hub.ranges[-1] == (f"bytes={kept_bytes}-" if kept_bytes else None)


def test_another_content_than_promised_is_thrown_away(hub: FakeHub, content: bytes, tmp_path: Path) -> None:
    hub.add("org/repo", tiny_gguf=HubFileOnDemand(content, sha256="a" * 64))
    file = find_file(Source("org/repo"))
    fetch(file, tmp_path / "tiny.gguf", lambda here_bytes: None)
    with pytest.raises(PullFailed, match=f"arrived damaged: its sha256 is .*, not {'a' * 64}"):
        verify(file, tmp_path / "tiny.gguf", lambda here_bytes: None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/repo", page_gguf=b"<html>" * 100)
    file = find_file(Source("org/repo"))
    fetch(file, tmp_path / "page.gguf", lambda here_bytes: None)
    with pytest.raises(PullFailed, match=r"org/repo/page\.gguf@\w+ is not a GGUF file"):
        verify(file, tmp_path / "page.gguf", lambda here_bytes: None)
    assert list(tmp_path.iterdir()) == []


def test_a_shorter_file_than_promised(hub: FakeHub, content: bytes, tmp_path: Path) -> None:
    hub.add("org/repo", tiny_gguf=HubFileOnDemand(content, size_bytes=len(content) + 5))
    with pytest.raises(PullFailed, match="Consistency check failed"):
        fetch(find_file(Source("org/repo")), tmp_path / "tiny.gguf", lambda here_bytes: None)


def test_room_is_checked_first(
    hub: FakeHub, file: HubFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PullFailed, match=r"has 0\.0 GB free, and 0\.0 GB are to come; .*models_dir"):
        fetch(file, tmp_path / "tiny.gguf", lambda here_bytes: None)
    assert hub.ranges == []


def test_a_folder_that_cannot_be_written(hub: FakeHub, file: HubFile, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(PullFailed, match="models could not be downloaded: "):
        fetch(file, tmp_path / "models" / "tiny.gguf", lambda here_bytes: None)
