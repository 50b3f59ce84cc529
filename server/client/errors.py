"""What can go wrong between a command and the service, in words for the user.

ClientError
├── NotThere     no llm-optimizer answers at the address
└── Refused      the service says no, or broke off
    └── NoSuchModel
"""


class ClientError(Exception):
    """Base of all; the text is for people."""


class NotThere(ClientError):
    """Nothing listens at the address, it cannot be reached, or another program answers there."""


class Refused(ClientError):
    """The service answered with an error; the text is the service's."""


class NoSuchModel(Refused):
    """No model of that name is here; the text names those that sound alike."""
