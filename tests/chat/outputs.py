"""What models are expected to write, and how they write a call."""

from typing import Any

from server.chat.calls import Tools
from server.chat.parse import Expected

THINKS = Expected(thinking=True)
KNOWN: Tools = {
    "look": {"type": "object", "properties": {"at": {"type": "string"}, "lines": {"type": "integer"}}},
    "read": {
        "type": "object",
        "properties": {
            "files": {"type": "array", "items": {"type": "object"}},
            "limit": {"type": "integer"},
        },
    },
    "go": {"type": "object", "properties": {}},
    "write_to_file": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "content": {"type": "string"},
            "force": {"type": "boolean"},
        },
    },
}
TOOLS = Expected(tools=KNOWN)
BOTH = Expected(thinking=True, tools=KNOWN)

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "a < b"}}\n</tool_call>'
LOOK: tuple[str, Any] = ("look", {"at": "a < b"})
BARE = '{"name": "look", "arguments": {"at": "a < b"}}'
XML = """<function=write_to_file>
<parameter=path>
a.txt
</parameter>
<parameter=content>
one
two
</parameter>
<parameter=force>
true
</parameter>
</function>"""
XML_OPEN = XML.removesuffix("\n</function>")
