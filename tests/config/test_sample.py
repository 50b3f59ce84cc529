import re
import tomllib
from pathlib import Path

from server.config import load_settings
from server.config.options import OPTIONS, toml_text
from server.config.sample import sample_toml

COMMITTED = Path(__file__).parents[2] / "docs" / "config.sample.toml"
OPTION_LINE = re.compile(r"^# ([a-z_]+ = .+)$", re.MULTILINE)


def test_the_committed_sample_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == sample_toml()


def test_the_sample_as_it_stands_sets_nothing() -> None:
    assert tomllib.loads(sample_toml()) == {"generator": {}, "helper": {}, "limits": {}, "router": {}}


def test_every_option_line_holds_the_default(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    text, count = OPTION_LINE.subn(r"\1", sample_toml())
    file.write_text(text, encoding="utf-8")
    assert count == len(OPTIONS)
    assert load_settings(file, {}, {}) == load_settings(None, {}, {})


def test_every_option_is_explained() -> None:
    assert all(option.field.description for option in OPTIONS.values())


def test_every_variable_of_the_sample_sets_its_option() -> None:
    for line in re.findall(r"^# Environment: (.+)$", sample_toml(), re.MULTILINE):
        for name in line.split(" or "):
            option = next(option for option in OPTIONS.values() if name in option.env_names)
            text = toml_text(option.default).strip('"')
            assert load_settings(None, {name: text}, {}) == load_settings(None, {}, {})
