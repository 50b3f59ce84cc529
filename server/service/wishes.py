"""What a request asks for, brought to the terms in which the rest of the service works."""

from dataclasses import replace

from server.chat.calls import forced_call, schemas_of
from server.domain.chat import ChatRequest, ToolMode
from server.domain.errors import InvalidRequest


def with_tool_choice(request: ChatRequest) -> ChatRequest:
    """A chat that must not call tools loses them; one that must call one gets its schema as format.

    Raises:
        InvalidRequest: the tool that must be called is none of the request's.
    """
    choice = request.tool_choice
    if choice.mode is ToolMode.NONE:
        return replace(request, tools=())
    if choice.mode is not ToolMode.REQUIRED:
        return request
    tools = schemas_of(request.tools)
    if not tools:
        raise InvalidRequest("tool_choice asks for a tool call, but the request has no tools")
    if choice.name is not None and choice.name not in tools:
        known = ", ".join(tools)
        raise InvalidRequest(f'tool_choice names "{choice.name}", which is none of the tools: {known}')
    options = replace(request.options, format=forced_call(tools, choice.name))
    return replace(request, options=options)
