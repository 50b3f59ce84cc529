"""Whether a build can use cards: rpc, which llama.cpp counts as such, does not count here."""

import llama_cpp.llama_cpp as native

from server.engine.llamacpp.devices import all_devices
from server.engine.llamacpp.library import Library


def test_rpc_is_no_card() -> None:
    library = Library()
    assert native.llama_supports_rpc(), "every build has it here"
    assert library.offloads is any(device.gpu for device in all_devices())
