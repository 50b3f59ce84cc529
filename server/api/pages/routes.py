"""The pages, the few files that they are made of, and their event stream."""

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from server.api.http import EVENT_STREAM, LineStream
from server.api.pages.feed import Feed, as_event

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    # Nothing from elsewhere, nothing inline, no frames around: what a request says can only be text here.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def pages_router(feed: Feed) -> APIRouter:
    """``/`` for browsers, ``/dashboard``, ``/chat`` and what they load."""
    router = APIRouter()
    found = {file.name: file.read_bytes() for file in (files(__package__) / "static").iterdir()}

    def page(name: str) -> Response:
        if name not in found:
            raise HTTPException(404)
        kind = TYPES["." + name.rpartition(".")[2]]
        return Response(found[name], media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    def root(request: Request) -> Response:
        """Programs look for Ollama here, people for a page."""
        wants_page = "text/html" in request.headers.get("accept", "")
        answer = page("dashboard.html") if wants_page else PlainTextResponse("Ollama is running")
        answer.headers["vary"] = "Accept"
        return answer

    def dashboard() -> Response:
        return page("dashboard.html")

    def chat() -> Response:
        return page("chat.html")

    def events() -> Response:
        return LineStream(
            feed.events(),
            heartbeat=lambda: b":\n\n",
            last_words=lambda error: as_event({"error": str(error)}),
            close=_nothing,
            media_type=EVENT_STREAM,
            headers={"cache-control": "no-store"},
        )

    router.add_api_route("/", root, methods=["GET"])
    router.add_api_route("/", root, methods=["HEAD"], include_in_schema=False)
    for path, answer in (("/dashboard", dashboard), ("/chat", chat), ("/pages/{name}", page)):
        router.add_api_route(path, answer, methods=["GET"], include_in_schema=False)
    router.add_api_route("/dashboard/events", events, methods=["GET"], include_in_schema=False)
    return router


async def _nothing() -> None:
    """A stream that holds nothing has nothing to let go."""
