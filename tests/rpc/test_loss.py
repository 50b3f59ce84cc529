"""When an rpc server counts as lost, and what is said then. Decisions only: no server, no sleep."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.engine.rpc import RpcDevice
from server.service.crashes import Crashes
from server.service.faults import Faults
from server.service.lasting import Owner
from server.service.rpc_loss import RpcLoss
from server.service.rpc_servers import Held, RpcServers, Server, remembered

SERVER = Server("rpc://far:1", "10.0.0.2", 1, (RpcDevice(1, 1),))


@dataclass
class Case:
    """A model on one server, and a process that only says that it would end."""

    folder: Path
    beats: dict[str, float] = field(default_factory=dict)
    answering: int = 0
    ends: int = 0

    def __post_init__(self) -> None:
        self.rpc_servers, self.faults = RpcServers(self.folder), Faults()
        self.crashes = Crashes(self.folder)
        self.loss = RpcLoss(
            self.rpc_servers,
            self.crashes,
            self.faults,
            beats=lambda: self.beats,
            answering=lambda: self.answering,
            end=self.end,
        )
        self.loss._patience_s["m"] = 10  # arm() would start a task

    def end(self) -> None:
        self.ends += 1

    @property
    def held(self) -> Held:
        [found] = self.rpc_servers.held()
        return found


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


class Wire:
    """What a loaded model's wires say."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def broken(self) -> str | None:
        return self.reason

    def close(self) -> None:
        pass


def loaded(case: Case, reason: str | None = None) -> None:
    with case.rpc_servers.lending("m", [SERVER]):
        pass
    case.held.wires = {SERVER.device: Wire(reason)}  # type: ignore[dict-item]


def test_a_model_that_works_or_waits_is_left_alone(case: Case) -> None:
    loaded(case)
    for second in range(100):
        case.beats = {"m": float(second // 9)} if second < 50 else {}
        case.loss.look(second)
    assert case.ends == 0


def test_a_step_that_takes_longer_than_its_patience_ends_the_process(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(case)
    case.beats = {"m": 7}
    case.loss.look(0)
    case.loss.look(10)
    assert case.ends == 0
    case.loss.look(10.5)
    assert case.ends == 1
    assert "m makes no step over rpc://far:1 after 10 s; the service ends" in caplog.text


def test_a_load_that_does_not_get_on_is_one_too(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), case.rpc_servers.lending("m", [SERVER]):
        for second in (0, 9):
            case.loss.look(second)
        case.beats = {"loading m": 0.5}
        for second in (11, 20):
            case.loss.look(second)
        assert case.ends == 0
        case.loss.look(22)
        assert "m is still being loaded over rpc://far:1 after 11 s" in caplog.text
        raise ZeroDivisionError
    assert case.ends == 1


def test_a_second_load_has_all_of_its_patience(case: Case) -> None:
    for start_s in (0, 3600):
        with pytest.raises(ZeroDivisionError), case.rpc_servers.lending("m", [SERVER]):
            case.loss.look(start_s)
            case.loss.look(start_s + 5)
            raise ZeroDivisionError
    assert case.ends == 0


def test_a_broken_wire_waits_for_the_answers_of_others(case: Case) -> None:
    loaded(case, "it has closed the connection")
    case.answering = 1
    case.loss.look(0)
    case.loss.look(1)
    assert case.ends == 0
    assert [fault.text for fault in case.faults.recent()] == [
        "rpc://far:1 is lost: it has closed the connection"
    ], "told once"
    case.answering = 0
    case.loss.look(2)
    assert case.ends == 1


@pytest.mark.parametrize(
    ("words", "about_rpc", "ends"),
    [
        ("ggml-rpc.cpp:1: Remote RPC server crashed or returned malformed response", True, 1),
        ("ggml-cuda.cu:1: CUDA error", False, 0),
    ],
)
def test_ggmls_last_words(
    case: Case, caplog: pytest.LogCaptureFixture, words: str, about_rpc: bool, ends: int
) -> None:
    loaded(case)
    with case.crashes.risking("key", "loaded m", 1):
        case.loss._ggml_ends(words, about_rpc)
        blamed = list(case.folder.glob("risk-*.json"))
    assert case.ends == ends
    assert bool(blamed) is not about_rpc, "a lost server is no want of memory"
    expected = "m has lost one of rpc://far:1 (Remote RPC server crashed" if about_rpc else "CUDA error"
    assert expected in caplog.text


def test_what_a_process_left_behind_is_told_until_the_model_is_back(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(case)
    assert case.rpc_servers.look_back() == (), "its process lives"
    case.rpc_servers.last_words(case.held, "rpc://far:1 is lost: it has closed the connection")
    monkeypatch.setattr(Owner, "is_no_more", property(lambda _: True))
    monkeypatch.setattr("server.service.rpc_servers.resolve", lambda *_: ("10.0.0.2",))
    monkeypatch.setattr("server.service.rpc_servers.ask", lambda *_: (RpcDevice(1, 1),))
    told = "rpc://far:1 is lost: it has closed the connection; now it answers"
    assert [lost.reason for lost in remembered(case.folder)] == [told]
    after = RpcServers(case.folder)
    assert [lost.reason for lost in after.look_back()] == [told]
    assert after.look_back() == ()
    assert [lost.model for lost in remembered(case.folder)] == ["m"]
    monkeypatch.setattr(Owner, "is_no_more", property(lambda _: False))
    with after.lending("m", [SERVER]):
        pass
    assert (after.lost, remembered(case.folder)) == ({}, ())


def test_a_faulty_folder_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rpc_servers = RpcServers(tmp_path / "file")
    with rpc_servers.lending("m", [SERVER]):
        pass
    rpc_servers.give_back("m")
    assert rpc_servers.look_back() == ()


def test_without_servers_nothing_is_written(tmp_path: Path) -> None:
    with RpcServers(tmp_path / "none").lending("m", []):
        pass
    assert not (tmp_path / "none").exists()
