from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import server
from server.config import ConfigError, FlagValue, Settings, load_settings

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        file = tmp_path / "x.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


def load(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    return load_settings(file, environ or {}, flags or {})


def faults(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environ, flags)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return str(caught.value).splitlines()


# The four sources


def test_defaults() -> None:
    settings = load()
    assert settings.addresses == (("127.0.0.1", 8512),)
    assert (settings.generator.name, settings.generator.context) == ("qwen2.5-coder:7b", 32768)
    assert (settings.helper.kv_type, settings.helper.slots) == ("q8_0", 4)
    assert settings.router == Settings().router


def test_each_source_wins_over_the_one_before(write: Write) -> None:
    file = write("[router]\nchunk_tokens = 101\nsummary_chars_max = 101\nstrategy_a_max = 101")
    environ = {"LLM_OPTIMIZER_ROUTER__SUMMARY_CHARS_MAX": "102", "STRATEGY_A_MAX": "102"}
    router = load(file, environ, {"router": {"strategy_a_max": 103}}).router
    assert router.strategy_b_max == 6000
    assert router.chunk_tokens == 101
    assert router.summary_chars_max == 102
    assert router.strategy_a_max == 103


def test_a_section_keeps_the_defaults_of_what_it_does_not_name(write: Write) -> None:
    helper = load(write('[helper]\nslots = 2\nkeep_alive = "5m"')).helper
    assert (helper.slots, helper.keep_alive_s) == (2, 300)
    assert helper.model_dump(exclude={"slots", "keep_alive", "path"}) == Settings().helper.model_dump(
        exclude={"slots", "keep_alive", "path"}
    )


@pytest.mark.parametrize("name", ["strategy_a_max", "strategy_b_max", "max_ctx_size"])
def test_the_plain_name_of_a_variable_loses_to_the_prefixed_one(name: str) -> None:
    plain = {name.upper(): "4000"}
    assert getattr(load(environ=plain).router, name) == 4000
    both = {f"LLM_OPTIMIZER_ROUTER__{name.upper()}": "5000"} | plain
    assert getattr(load(environ=both).router, name) == 5000


def test_a_model_knows_which_of_its_settings_are_no_mere_defaults(write: Write) -> None:
    file = write("[generator]\nbatch = 512\n[helper]\nslots = 2")
    environ = {"LLM_OPTIMIZER_GENERATOR__DRAFT": "63", "OLLAMA_CONTEXT_LENGTH": "4096"}
    settings = load(file, environ, {"generator": {"kv_type": "f16", "queue": None}})
    assert settings.generator.set_by_user == {"batch", "draft", "context", "kv_type"}
    assert settings.helper.set_by_user == {"slots"}
    assert load().generator.set_by_user == frozenset()


def test_a_flag_of_none_was_not_given() -> None:
    assert load(flags={"listen": None, "generator": {"path": None}}) == load()


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATEGY_A_MAX", "77")
    monkeypatch.setenv("LLM_OPTIMIZER_LISTEN", "127.0.0.1:1")
    assert load().router.strategy_a_max == 2000
    assert Settings().listen == ("127.0.0.1:8512",)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:8512", ("127.0.0.1:8512",)),
        ("[::1]:8512, 127.0.0.1:8512", ("[::1]:8512", "127.0.0.1:8512")),
        ('["[::1]:8512", "localhost:11434"]', ("[::1]:8512", "localhost:11434")),
    ],
)
def test_a_variable_holds_a_list_as_json_or_with_commas(text: str, listen: tuple[str, ...]) -> None:
    assert load(environ={"LLM_OPTIMIZER_LISTEN": text}).listen == listen


def test_numbers_in_variables() -> None:
    environ = {
        "LLM_OPTIMIZER_GENERATOR__CONTEXT": "8192",
        "LLM_OPTIMIZER_ROUTER__HELPER_TIMEOUT_S": "2.5",
        "LLM_OPTIMIZER_HELPER__KEEP_ALIVE": "300",
    }
    settings = load(environ=environ)
    assert settings.generator.context == 8192
    assert settings.router.helper_timeout_s == 2.5
    assert settings.helper.keep_alive_s == 300


def test_a_file_with_a_byte_order_mark_loads(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b'\xef\xbb\xbflog_level = "debug"')
    assert load(file).log_level == "debug"


# Paths


def test_the_models_stand_beside_the_package_by_default() -> None:
    settings = load()
    beside = Path(server.__file__).resolve().parent.parent / "models"
    assert settings.resolved_models_dir == beside
    assert settings.generator.path == beside / "qwen2.5-coder-7b-instruct-q4_k_m.gguf"


def test_a_relative_models_dir_is_taken_from_the_folder_of_its_file(write: Write) -> None:
    file = write('models_dir = "data"\n[helper]\npath = "small/h.gguf"\n[generator]\npath = "/big/g.gguf"')
    settings = load(file)
    assert settings.resolved_models_dir == file.parent / "data"
    assert settings.helper.path == file.parent / "data/small/h.gguf"
    assert settings.generator.path == Path("/big/g.gguf")


def test_a_relative_file_gives_absolute_paths(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write('models_dir = "data"')
    monkeypatch.chdir(file.parent)
    assert load(Path(file.name)).resolved_models_dir == Path.cwd() / "data"


def test_an_empty_models_dir_is_the_default(write: Write) -> None:
    file = write('models_dir = "elsewhere"')
    assert load(file, {"LLM_OPTIMIZER_MODELS_DIR": ""}) == load()


def test_a_model_path_in_a_variable_is_taken_from_models_dir() -> None:
    environ = {"LLM_OPTIMIZER_MODELS_DIR": "/data", "LLM_OPTIMIZER_HELPER__PATH": "h.gguf"}
    assert load(environ=environ).helper.path == Path("/data/h.gguf")


def test_flags_are_taken_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(flags={"models_dir": "m", "helper": {"path": Path("h.gguf")}})
    assert settings.resolved_models_dir == Path.cwd() / "m"
    assert settings.helper.path == Path.cwd() / "h.gguf"
    assert settings.generator.path.parent == Path.cwd() / "m"


def test_a_tilde_is_the_home_folder_of_the_given_environment(write: Write) -> None:
    file = write('models_dir = "~/models"\n[helper]\npath = "~/h.gguf"')
    settings = load(file, {"HOME": "/home/u"})
    assert settings.resolved_models_dir == Path("/home/u/models")
    assert settings.helper.path == Path("/home/u/h.gguf")


def test_a_tilde_without_a_home(write: Write) -> None:
    file = write('models_dir = "~/models"')
    assert faults(file) == [
        f'models_dir = "~/models" (from {file}): begins with ~, but the environment variable HOME is not set'
    ]
    file = write('models_dir = "~nobody-of-that-name/models"')
    assert "a user who has no home folder" in faults(file)[0]


def test_a_relative_models_dir_in_a_variable_is_refused() -> None:
    assert faults(environ={"LLM_OPTIMIZER_MODELS_DIR": "models"}) == [
        'LLM_OPTIMIZER_MODELS_DIR = "models" (environment): must be an absolute path, or begin with ~/'
    ]


# Faults in values

HOST_PORT = "must be host:port, such as 127.0.0.1:8512 or [::1]:8512"
A_NAME = "must be a model name, such as qwen3:1.7b or namespace/model:tag"
A_DURATION = 'must be a duration such as "5m" or "1h30m", a number of seconds, or negative to stay loaded'


@pytest.mark.parametrize(
    ("text", "key", "fault"),
    [
        ('generator.kv_type = "q9"', "generator.kv_type", 'must be one of "f16", "q8_0", "q4_0"'),
        ('log_level = "loud"', "log_level", 'must be one of "debug", "info", "warning", "error"'),
        ('helper.slots = "4"', "helper.slots", "must be a whole number from 1 to 64"),
        ("helper.slots = 65", "helper.slots", "must be a whole number from 1 to 64"),
        ("helper.slots = 0", "helper.slots", "must be a whole number from 1 to 64"),
        ("helper.slots = true", "helper.slots", "must be a whole number from 1 to 64"),
        ("helper.slots = 4.0", "helper.slots", "must be a whole number from 1 to 64"),
        ("generator.context = 255", "generator.context", "must be a whole number from 256 to 1048576"),
        ("generator.batch = {}", "generator.batch", "must be a whole number from 128 to 4096"),
        ("generator.gpu_layers = -2", "generator.gpu_layers", "must be a whole number from -1 to 10000"),
        (
            "router.helper_timeout_s = 0",
            "router.helper_timeout_s",
            "must be a number above 0 and at most 86400",
        ),
        (
            "router.helper_timeout_s = nan",
            "router.helper_timeout_s",
            "must be a number above 0 and at most 86400",
        ),
        (
            "router.helper_timeout_s = inf",
            "router.helper_timeout_s",
            "must be a number above 0 and at most 86400",
        ),
        (
            "router.helper_timeout_s = true",
            "router.helper_timeout_s",
            "must be a number above 0 and at most 86400",
        ),
        ('generator.name = ""', "generator.name", A_NAME),
        ('generator.name = "a b"', "generator.name", A_NAME),
        ('generator.name = "a/b/c/d"', "generator.name", A_NAME),
        ('generator.name = "a:"', "generator.name", A_NAME),
        ("generator.name = 7", "generator.name", "must be a text"),
        ('generator.path = ""', "generator.path", "must be the path of a GGUF file"),
        ("generator.path = 1", "generator.path", "must be a text"),
        ('models_dir = "a\\u0000b"', "models_dir", "must be the path of a folder"),
        ('generator.keep_alive = "1d"', "generator.keep_alive", A_DURATION),
        ("generator.keep_alive = true", "generator.keep_alive", A_DURATION),
        ("generator.keep_alive = nan", "generator.keep_alive", A_DURATION),
        ('listen = ["8512"]', "listen", f'"8512" {HOST_PORT}'),
        ('listen = ["a:70000"]', "listen", f'"a:70000" {HOST_PORT}'),
        ('listen = ["::1:8512"]', "listen", f'"::1:8512" {HOST_PORT}'),
        ('listen = ["[::g]:1"]', "listen", f'"[::g]:1" {HOST_PORT}'),
        ('listen = ["256.0.0.1:1"]', "listen", f'"256.0.0.1:1" {HOST_PORT}'),
        ('listen = [":1"]', "listen", f'":1" {HOST_PORT}'),
        ("listen = []", "listen", "must hold at least one host:port"),
        ('listen = ["a:1", "A:1"]', "listen", "must not hold the same address twice"),
        ('listen = "a:1"', "listen", "must be a list of texts"),
        ("listen = [1, 2]", "listen", "must be a list of texts"),
    ],
)
def test_a_wrong_value_in_a_file(write: Write, text: str, key: str, fault: str) -> None:
    file = write(text)
    shown = text.partition(" = ")[2]
    assert faults(file) == [f"{key} = {shown} (from {file}): {fault}"]


@pytest.mark.parametrize("device", ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:01", "cpu:0", "CPU"])
def test_a_wrong_device(device: str) -> None:
    assert faults(flags={"helper": {"device": device}}) == [
        f'helper.device = "{device}" (command line): '
        'must be "cpu", "cuda:N" with the number of a CUDA device, such as "cuda:0", or the card\'s UUID '
        '("GPU-...") or PCI address ("0000:01:00.0"), as nvidia-smi -L and -q show them'
    ]


def test_a_wrong_value_in_a_variable() -> None:
    environ = {
        "STRATEGY_A_MAX": "abc",
        "LLM_OPTIMIZER_GENERATOR__CONTEXT": "",
        "LLM_OPTIMIZER_LISTEN": "[[" * 9999,
    }
    listen, context, strategy = faults(environ=environ)
    assert strategy == 'STRATEGY_A_MAX = "abc" (environment): must be a whole number from 0 to 1048576'
    assert context.startswith('LLM_OPTIMIZER_GENERATOR__CONTEXT = "" (environment): must be a whole number')
    assert listen.startswith('LLM_OPTIMIZER_LISTEN = ["[[[[')


def test_a_wrong_flag_is_named_as_the_user_typed_it() -> None:
    assert faults(flags={"listen": FlagValue(["127.0.0.1:x"], "--port")}) == [
        f'listen = ["127.0.0.1:x"] (flag --port): "127.0.0.1:x" {HOST_PORT}'
    ]
    assert load(flags={"listen": FlagValue(["h:1"], "--port")}).listen == ("h:1",)


def test_every_fault_is_told_at_once(write: Write) -> None:
    file = write("[helper]\nslots = 0\nbatch = 1\nspeed = 3")
    assert [line.partition(" ")[0] for line in faults(file, {"LLM_OPTIMIZER_X": ""})] == [
        "helper.speed",
        "LLM_OPTIMIZER_X",
        "helper.slots",
        "helper.batch",
    ]


def test_a_long_value_is_cut_in_the_message() -> None:
    (fault,) = faults(environ={"LLM_OPTIMIZER_LOG_LEVEL": "x" * 10_000})
    assert len(fault) < 300


def test_a_value_that_is_no_text_can_be_told() -> None:
    (fault,) = faults(environ={"LLM_OPTIMIZER_LOG_LEVEL": "\udcff"})
    assert fault.encode()


# Faults between values


def test_b_below_a_names_both_and_their_origins(write: Write) -> None:
    file = write("router.strategy_b_max = 1000")
    assert faults(file, {"STRATEGY_A_MAX": "1500"}) == [
        f"router.strategy_b_max = 1000 (from {file}): must not be below STRATEGY_A_MAX = 1500 (environment)"
    ]
    assert faults(flags={"router": {"strategy_a_max": 7000}}) == [
        "router.strategy_b_max = 6000 (default): "
        "must not be below router.strategy_a_max = 7000 (command line)"
    ]
    assert (
        load(write("router = {strategy_a_max = 6000, strategy_b_max = 6000}")).router.strategy_a_max == 6000
    )


@pytest.mark.parametrize(
    ("generator", "helper"),
    [("m", "m"), ("m", "M:Latest"), ("h.io/n/m:7B", "h.io/N/m:7b"), ("h:1/n/m", "h:1/n/m:latest")],
)
def test_the_two_models_have_different_names(write: Write, generator: str, helper: str) -> None:
    file = write(f'generator.name = "{generator}"\nhelper.name = "{helper}"')
    assert faults(file) == [
        f'helper.name = "{helper}" (from {file}): '
        f'must be another model than generator.name = "{generator}" (from {file})'
    ]


def test_tags_tell_models_apart(write: Write) -> None:
    assert load(write('generator.name = "m:7b"\nhelper.name = "m"')).helper.name == "m"


def test_a_small_cache_type_needs_flash_attention(write: Write) -> None:
    file = write('generator.kv_type = "q8_0"\ngenerator.flash_attention = "off"')
    assert faults(file) == [
        f'generator.flash_attention = "off" (from {file}): '
        f'must be "auto" or "on" with generator.kv_type = "q8_0" (from {file})'
    ]
    assert load(write('generator.flash_attention = "off"')).generator.flash_attention == "off"


# Names that are no settings


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[router]\nstratgy_a_max = 1",
            "router.stratgy_a_max is not a setting (from {}); did you mean router.strategy_a_max?",
        ),
        (
            "strategy_a_max = 1",
            "strategy_a_max is not a setting (from {}); did you mean router.strategy_a_max?",
        ),
        ("[genrator]", "genrator is not a setting (from {}); did you mean generator?"),
        ("zzz = 1", "zzz is not a setting (from {})"),
        ("helper = 3", "helper = 3 (from {}): must be a section with settings in it"),
    ],
)
def test_an_unknown_key(write: Write, text: str, fault: str) -> None:
    file = write(text)
    assert faults(file) == [fault.format(file)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLM_OPTIMIZER_GENERATOR_CONTEXT", "LLM_OPTIMIZER_GENERATOR__CONTEXT"),
        ("llm_optimizer_listen", "LLM_OPTIMIZER_LISTEN"),
        ("LLM_OPTIMIZER_STRATEGY_A_MAX", "LLM_OPTIMIZER_ROUTER__STRATEGY_A_MAX"),
    ],
)
def test_an_unknown_variable(name: str, meant: str) -> None:
    assert faults(environ={name: "1", "PATH": "/bin"}) == [
        f"{name} is not a setting (environment); did you mean {meant}?"
    ]


# Files that cannot be read


def test_a_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "no.toml"
    assert faults(file) == [f"{file}: there is no such file"]


def test_an_unreadable_file(tmp_path: Path) -> None:
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    assert "cannot be read" in faults(tmp_path / "a\0b")[0]


def test_a_syntax_error_has_its_line(write: Write) -> None:
    file = write('log_level = "info"\nlisten = [')
    (fault,) = faults(file)
    assert fault.startswith(f"{file}: not valid TOML: ")
    file = write('log_level = "info"\nlisten 3')
    assert "line 2" in faults(file)[0]


def test_absurd_toml(write: Write) -> None:
    assert "not valid TOML" in faults(write("a = " + "[" * 100_000))[0]
    assert "not valid TOML" in faults(write("a = " + "9" * 10_000))[0]


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes("# one\n# gr\xfc\xdfe\n".encode("latin-1"))
    assert faults(file) == [f"{file}: must be UTF-8 text (at line 2)"]


# Where states are kept


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({}, None),
        ({"HOME": "/home/u"}, "/home/u/.cache/llm-optimizer"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/fast"}, "/fast/llm-optimizer"),
        ({"HOME": "/home/u", "CACHE_DIRECTORY": "/var/cache/a:/var/cache/b"}, "/var/cache/a"),
        ({"HOME": "/home/u", "LLM_OPTIMIZER_CACHE_DIR": "~/states"}, "/home/u/states"),
    ],
)
def test_the_cache_folder(environ: dict[str, str], folder: str | None) -> None:
    assert load(environ=environ).cache_dir == (Path(folder) if folder else None)


def test_a_switch_is_true_or_false(write: Write) -> None:
    assert load(write("helper.preload = false")).helper.preload is False
    assert load(environ={"LLM_OPTIMIZER_HELPER__PRELOAD": "False"}).helper.preload is False
    assert faults(environ={"LLM_OPTIMIZER_HELPER__PRELOAD": "no"}) == [
        'LLM_OPTIMIZER_HELPER__PRELOAD = "no" (environment): must be true or false'
    ]
