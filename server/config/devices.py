"""How the settings name devices: those of this machine, and rpc servers of llama.cpp on others."""

import ipaddress
import re

RPC = "rpc://"
MOST_DEVICES = 16
"""llama.cpp takes no more."""

_LOCAL = re.compile(
    r"cpu|(?:cuda|vulkan|sycl):(?:0|[1-9][0-9]?)"
    r"|GPU-[0-9a-fA-F-]{4,36}|(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
)
_NUMBERED = re.compile(r"cpu|[a-z]+:[0-9]{1,2}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LARGEST_PORT = 65535
_LARGEST_SHARE = 1_000_000


def is_rpc(device: str) -> bool:
    """Whether it is an rpc server, and no device of this machine."""
    return device.startswith(RPC)


def names_a_card(device: str) -> bool:
    """Whether it is the UUID or the PCI address of a card."""
    return not is_rpc(device) and _NUMBERED.fullmatch(device) is None


def check_device(device: str) -> str:
    """A device of this machine, or ValueError."""
    if not _LOCAL.fullmatch(device):
        raise ValueError(
            'must be "cpu", "cuda:N" with the number of a CUDA device, such as "cuda:0", or the card\'s UUID '
            '("GPU-...") or PCI address ("0000:01:00.0"), as nvidia-smi -L and -q show them'
        )
    return device


def check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    """The devices that share a model, or ValueError: the first of this machine, none twice, the CPU first."""
    for device in devices:
        if is_rpc(device):
            split_endpoint(device)
        else:
            _check_local(device)
    if devices and is_rpc(devices[0]):
        raise ValueError(
            f'must begin with a device of this machine, such as "cpu", and "{devices[0]}" is none'
        )
    if "cpu" in devices[1:]:
        raise ValueError(
            'must begin with "cpu" where the CPU is one of them: llama.cpp gives it the first layers'
        )
    if len({device.lower() for device in devices}) < len(devices):
        raise ValueError("must not hold the same device twice")
    if len(devices) > MOST_DEVICES:
        raise ValueError(f"must hold {MOST_DEVICES} devices at most: llama.cpp takes no more")
    return devices


def begins_with_a_device(devices: object) -> bool:
    """Whether it is a list, of whatever, that begins with a device of this machine."""
    first = devices[0] if isinstance(devices, list | tuple) and devices else None
    return isinstance(first, str) and _LOCAL.fullmatch(first) is not None


def check_shares(shares: tuple[int, ...]) -> tuple[int, ...]:
    """Parts of a whole, or ValueError."""
    if any(not 0 <= share <= _LARGEST_SHARE for share in shares) or (shares and not any(shares)):
        raise ValueError(f"must be whole numbers from 0 to {_LARGEST_SHARE}, not all of them 0")
    return shares


def split_endpoint(device: str) -> tuple[str, int]:
    """Host and port of ``rpc://HOST:PORT``, or ValueError."""
    host, colon, port = device.removeprefix(RPC).rpartition(":")
    if host.startswith("["):
        raise ValueError(
            f'"{device}" has an IPv6 address, and llama.cpp\'s rpc speaks IPv4 only: name the host by its '
            "IPv4 address, or by a name that has one"
        )
    right = colon and _PORT.fullmatch(port) and int(port) <= _LARGEST_PORT
    if not right or not _HOST.fullmatch(host) or not _is_name_or_address(host):
        raise ValueError(f'"{device}" must be rpc://HOST:PORT, such as rpc://192.168.1.20:50052')
    return host.lower(), int(port)


def literal_address(host: str) -> ipaddress.IPv4Address | None:
    """The address, where ``host`` is one and no name."""
    return ipaddress.IPv4Address(host) if re.fullmatch(r"[0-9.]+", host) else None


def refusal_of_public(device: str, address: ipaddress.IPv4Address) -> str | None:
    """Why a host that the whole internet can reach is not asked; None for others."""
    if not address.is_global:
        return None
    where = "" if str(address) in device else f" at {address}"
    return (
        f"{device}{where} is a public address, and llama.cpp's rpc knows neither keys nor encryption: "
        "whoever reaches it, or listens on the way, reads and changes the memory of both hosts. Use a "
        "private network or a tunnel (WireGuard, ssh -L), or set rpc_public = true to do it all the same"
    )


def _check_local(device: str) -> None:
    try:
        check_device(device)
    except ValueError as error:
        raise ValueError(f'"{device}" {error}, or "rpc://HOST:PORT"') from None


def _is_name_or_address(host: str) -> bool:
    try:
        literal_address(host)
    except ValueError:
        return False
    return True
