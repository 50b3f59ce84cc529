"""Which models there are: names as Ollama writes them, and the GGUF files behind them."""

from server.catalogue.catalogue import Catalogue
from server.catalogue.entries import Entry, Installed, Role
from server.catalogue.names import ModelName
from server.catalogue.records import Parameters, Recipe, Record

__all__ = ["Catalogue", "Entry", "Installed", "ModelName", "Parameters", "Recipe", "Record", "Role"]
