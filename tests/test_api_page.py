"""The page about the routes names all of them, and no others."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI

from server.api.access import Access
from server.app import build_app, build_service
from server.config import load_settings
from tests.running import PROJECT, embedded_config

PAGE = PROJECT / "docs" / "api.md"


@contextlib.asynccontextmanager
async def no_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield


def test_the_page_names_every_route(embedded_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model))
    settings = load_settings(config, {}, {})
    app = build_app(build_service(settings), settings, Access(settings.limits, ()), no_lifespan)
    served = set(app.openapi()["paths"])
    table = PAGE.read_text().partition("<!-- routes -->")[2].partition("<!-- /routes -->")[0]
    first_columns = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {path for column in first_columns for path in re.findall(r"`([^`]+)`", column)} == served
