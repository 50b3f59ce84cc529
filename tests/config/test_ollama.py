"""What users of Ollama have set already."""

from pathlib import Path
from typing import Any

import pytest

from server.config import ConfigError, Settings, load_settings
from server.config.ollama import VARIABLES
from tests.running import PROJECT


def load(file: Path | None = None, **environ: str) -> Settings:
    return load_settings(file, environ, {})


def test_without_them_nothing_changes() -> None:
    empty = dict.fromkeys(VARIABLES, "")
    assert load(**empty) == load(**dict.fromkeys(VARIABLES, ' "" ')) == load()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0", "0.0.0.0:11434"),
        ("0.0.0.0:8512", "0.0.0.0:8512"),
        (":8600", "127.0.0.1:8600"),
        ("http://localhost:8512/", "localhost:8512"),
        ("https://box.example", "box.example:443"),
        ("[::1]", "[::1]:11434"),
        ("[::1]:8512", "[::1]:8512"),
        (' "10.0.0.1" ', "10.0.0.1:11434"),
    ],
)
def test_host(text: str, address: str) -> None:
    assert load(OLLAMA_HOST=text).listen == (address,)


@pytest.mark.parametrize(
    ("name", "text", "setting", "generator", "helper"),
    [
        ("OLLAMA_KEEP_ALIVE", "10m", "keep_alive_s", 600, 600),
        ("OLLAMA_KEEP_ALIVE", "30", "keep_alive_s", 30, 30),
        ("OLLAMA_KEEP_ALIVE", "-1", "keep_alive_s", float("inf"), float("inf")),
        ("OLLAMA_CONTEXT_LENGTH", "8192", "context", 8192, 4096),
        ("OLLAMA_CONTEXT_LENGTH", "0", "context", 32768, 4096),
        ("OLLAMA_NUM_PARALLEL", "2", "slots", 2, 2),
        ("OLLAMA_NUM_PARALLEL", "0", "slots", 8, 4),
        ("OLLAMA_MAX_QUEUE", "7", "queue", 7, 7),
        ("OLLAMA_MAX_QUEUE", "0", "queue", 0, 0),
        ("OLLAMA_FLASH_ATTENTION", "1", "flash_attention", "on", "on"),
        ("OLLAMA_KV_CACHE_TYPE", "q4_0", "kv_type", "q4_0", "q4_0"),
    ],
)
def test_what_both_models_have(name: str, text: str, setting: str, generator: Any, helper: Any) -> None:
    settings = load(**{name: text})
    assert (getattr(settings.generator, setting), getattr(settings.helper, setting)) == (generator, helper)


def test_flash_attention_can_be_off() -> None:
    settings = load(OLLAMA_FLASH_ATTENTION="false", OLLAMA_KV_CACHE_TYPE="f16")
    assert settings.generator.flash_attention == settings.helper.flash_attention == "off"


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://a.example", ("https://a.example",)),
        ("'https://a.example', \"http://b.example\",", ("https://a.example", "http://b.example")),
        ("*", ("*",)),
    ],
)
def test_origins(text: str, origins: tuple[str, ...]) -> None:
    assert load(OLLAMA_ORIGINS=text).origins == origins


def test_how_long_further_models_stay() -> None:
    assert (load().keep_alive, load(OLLAMA_KEEP_ALIVE="1h").keep_alive) == ("5m", "1h")


@pytest.mark.parametrize(("text", "level"), [("1", "debug"), ("true", "debug"), ("0", "info"), ("", "info")])
def test_debug(text: str, level: str) -> None:
    assert load(OLLAMA_DEBUG=text).log_level == level


def test_the_services_own_words_come_first(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('listen = ["127.0.0.1:9000"]\n[generator]\nslots = 3\n')
    settings = load(file, OLLAMA_HOST="0.0.0.0", OLLAMA_NUM_PARALLEL="2")
    assert settings.listen == ("127.0.0.1:9000",)
    assert (settings.generator.slots, settings.helper.slots) == (3, 2)
    own = {"LLM_OPTIMIZER_LISTEN": "127.0.0.1:9001", "OLLAMA_HOST": "0.0.0.0"}
    assert load_settings(None, own, {}).listen == ("127.0.0.1:9001",)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("OLLAMA_HOST", "x:y", 'OLLAMA_HOST = ["x:y"] (environment): "x:y" must be host:port'),
        ("OLLAMA_NUM_PARALLEL", "many", 'OLLAMA_NUM_PARALLEL = "many" (environment): must be a whole number'),
        ("OLLAMA_NUM_PARALLEL", "-1", "OLLAMA_NUM_PARALLEL = -1 (environment): must be a whole number"),
        ("OLLAMA_KV_CACHE_TYPE", "q5", 'OLLAMA_KV_CACHE_TYPE = "q5" (environment): must be one of'),
        ("OLLAMA_KEEP_ALIVE", "soon", 'OLLAMA_KEEP_ALIVE = "soon" (environment): must be a duration'),
    ],
)
def test_what_is_wrong_names_the_variable(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: text})
    assert str(caught.value).splitlines()[0].startswith(complaint)


def test_the_page_names_all_of_them() -> None:
    page = (PROJECT / "docs" / "coming-from-ollama.md").read_text()
    assert all(f"`{name}`" in page for name in VARIABLES)
