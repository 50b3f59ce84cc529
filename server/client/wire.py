"""Names that the service and its clients have agreed on."""

CHAT = "/api/chat"

VERSION_HEADER = "X-LLM-Optimizer-Version"
"""``/api/version`` has it, and no other server's."""

POLICY_HEADER = "X-LLM-Optimizer-Policy"
"""By what rules a chat wants to be routed."""

KEY_VARIABLE = "LLM_OPTIMIZER_API_KEY"
