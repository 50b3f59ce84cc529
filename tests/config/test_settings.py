import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import ModelSettings, Settings, split_address


def model(**values: object) -> ModelSettings:
    return ModelSettings.model_validate(
        {"name": "m", "path": "m.gguf", "device": "cpu", "context": 512, "memory_margin_mib": 0} | values
    )


def test_nothing_can_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.log_level = "debug"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.generator.context = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.router.chunk_tokens = 1  # type: ignore[misc]
    assert hash(settings) == hash(Settings())


@pytest.mark.parametrize(
    ("keep_alive", "text", "seconds"),
    [
        ("-1", "-1", math.inf),
        (-1, "-1", math.inf),
        ("5m", "5m", 300),
        (300, "5m0s", 300),
        (0, "0s", 0),
        (0.5, "500ms", 0.5),
        (10**400, "-1", math.inf),
    ],
)
def test_keep_alive(keep_alive: str | float, text: str, seconds: float) -> None:
    settings = model(keep_alive=keep_alive)
    assert settings.keep_alive == text
    assert settings.keep_alive_s == seconds


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8512", ("127.0.0.1", 8512)),
        ("[::1]:8512", ("::1", 8512)),
        ("LocalHost:0", ("localhost", 0)),
        ("my-host.example:65535", ("my-host.example", 65535)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert Settings(listen=(address,)).addresses == (parts,)


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "qwen2.5-coder:7b",
        "n/m",
        "h.io:5000/n/m:t",
        "https://h.io/n/m:t",
        "_m",
        "hf.co/org/Some.Model-GGUF:Q4_K_M",
    ],
)
def test_model_names(name: str) -> None:
    assert model(name=name).name == name


@pytest.mark.parametrize(
    "device", ["cpu", "cuda:0", "cuda:12", "vulkan:0", "sycl:1", "GPU-1050abcd", "0000:01:00.0", "0a:00.0"]
)
def test_devices(device: str) -> None:
    assert model(device=device).device == device


def test_a_tree_that_was_not_loaded_keeps_its_paths_relative() -> None:
    assert Settings().generator.path == Path("qwen2.5-coder-7b-instruct-q4_k_m.gguf")
    assert Settings(models_dir=Path("/data")).resolved_models_dir == Path("/data")
