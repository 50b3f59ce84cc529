"""The one error that a wrong configuration ends in."""


class ConfigError(Exception):
    """The settings cannot be used. The text is for people and has one line for each fault."""

    def __init__(self, *faults: str) -> None:
        # Names from the system may hold bytes that are no text; printing the error must not fail on them.
        self.faults = tuple(fault.encode("utf-8", "backslashreplace").decode() for fault in faults)
        super().__init__("\n".join(self.faults))
