"""Models that another server runs: the same face as a model in memory, over HTTP."""

from server.remote.model import RemoteModel, RemoteState
from server.remote.spec import Api, RemoteSpec

__all__ = ["Api", "RemoteModel", "RemoteSpec", "RemoteState"]
