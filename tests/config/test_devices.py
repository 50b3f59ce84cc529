"""How models are put on several devices."""

from pathlib import Path
from typing import Any

import pytest

from server.config import ConfigError, ModelSettings, load_settings
from server.config.devices import split_endpoint

FAR = "rpc://192.168.1.20:50052"


def model(**settings: Any) -> ModelSettings:
    return load_settings(None, {}, {"generator": settings}).generator


def fault(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        model(**settings)
    [line] = str(caught.value).splitlines()
    return line


def test_the_first_of_them_is_the_device_and_need_not_be_written() -> None:
    found = model(devices=["cpu", FAR, "cuda:1"])
    assert (found.device, found.rpc_servers, found.places_here) == ("cpu", (FAR,), ("cpu", "cuda:1"))
    assert found.is_split
    assert model(device="cpu", devices=["cpu", FAR]) == found.model_copy(update={"devices": ("cpu", FAR)})


def test_one_device_is_no_split() -> None:
    for found in (model(device="cuda:1"), model(devices=["cuda:1"])):
        assert (found.places, found.is_split, found.rpc_servers) == (("cuda:1",), False, ())


def test_several_may_stand_in_a_variable() -> None:
    found = load_settings(
        None,
        {"LLM_OPTIMIZER_HELPER__DEVICES": f"cpu, {FAR}", "LLM_OPTIMIZER_HELPER__DEVICE_SHARES": "1, 2"},
        {},
    )
    assert (found.helper.devices, found.helper.device_shares) == (("cpu", FAR), (1, 2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": [FAR]}, f'must begin with a device of this machine, such as "cpu", and "{FAR}" is none'),
        ({"devices": ["cuda:0", "cpu"]}, 'must begin with "cpu" where the CPU is one of them'),
        ({"devices": ["cpu", FAR, FAR.upper()]}, '"RPC://192.168.1.20:50052" must be "cpu", "cuda:N"'),
        ({"devices": ["cpu", "rpc://a:1", "rpc://A:1"]}, "must not hold the same device twice"),
        ({"devices": ["cuda:0", "gpu1"]}, '"gpu1" must be "cpu", "cuda:N"'),
        ({"devices": ["cpu", "rpc://far"]}, '"rpc://far" must be rpc://HOST:PORT, such as'),
        ({"devices": ["cpu", "rpc://far:0"]}, "must be rpc://HOST:PORT"),
        ({"devices": ["cpu", "rpc://far:65536"]}, "must be rpc://HOST:PORT"),
        ({"devices": ["cpu", "rpc://256.1.1.1:1"]}, "must be rpc://HOST:PORT"),
        ({"devices": ["cpu", "rpc://me@far:1"]}, "must be rpc://HOST:PORT"),
        ({"devices": ["cpu", "rpc://[fd00::1]:1"]}, "llama.cpp's rpc speaks IPv4 only"),
        ({"devices": "cpu"}, "must be a list of texts"),
        ({"devices": ["cpu", *(f"rpc://h{n}:1" for n in range(16))]}, "must hold 16 devices at most"),
        ({"device": "cpu", "devices": ["cuda:0", FAR]}, 'must begin with generator.device = "cpu"'),
        ({"devices": ["cpu", FAR], "device_shares": [1]}, "must hold a number for each of generator.devices"),
        ({"devices": ["cpu", FAR], "device_shares": [0, 0]}, "not all of them 0"),
        ({"devices": ["cpu", FAR], "device_shares": [1, -1]}, "must be whole numbers from 0"),
        ({"devices": ["cpu", FAR], "device_shares": ["a"]}, "must be a list of whole numbers"),
        ({"devices": ["cpu", FAR], "gpu_layers": 3}, "must be -1, for device_shares says who gets how much"),
        ({"devices": ["cpu", FAR], "fit": "layers"}, 'must be "auto" or "off"'),
    ],
)
def test_what_is_wrong_is_told_once(settings: dict[str, Any], words: str) -> None:
    assert words in fault(**settings)


def test_a_public_address_is_refused_unless_forced() -> None:
    told = fault(devices=["cpu", "rpc://8.8.8.8:50052"])
    assert told.startswith("generator.devices = [")
    assert (
        "rpc://8.8.8.8:50052 is a public address, and llama.cpp's rpc knows neither keys nor encryption"
        in told
    )
    assert told.endswith(
        "set rpc_public = true to do it all the same; now it is generator.rpc_public = false (default)"
    )
    assert model(devices=["cpu", "rpc://8.8.8.8:50052"], rpc_public=True).rpc_servers


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.2", "192.168.1.2", "172.16.0.1", "100.64.0.1", "a.lan"]
)
def test_private_addresses_and_names_are_taken(host: str) -> None:
    assert model(devices=["cpu", f"rpc://{host}:1"]).rpc_servers == (f"rpc://{host}:1",)
    assert split_endpoint(f"rpc://{host}:1") == (host, 1)


def test_models_that_are_pulled_stay_on_this_machine(tmp_path: Path, embedded_model: Path) -> None:
    from server.catalogue import Catalogue

    (tmp_path / "mine.gguf").symlink_to(embedded_model)
    flags = {"devices": ["cpu", FAR], "device_shares": [1, 1]}
    settings = load_settings(None, {}, {"models_dir": str(tmp_path), "generator": flags})
    assert Catalogue(settings).find("mine").settings.places == ("cpu",)
