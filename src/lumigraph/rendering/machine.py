"""Device, arithmetic, threads and processes: the one place that asks what the machine has, chooses, and sets them."""

import os
import sys

import torch

from lumigraph.errors import LumigraphError
from lumigraph.machine_limits import available_cores
from lumigraph.machine_limits import available_memory as available_host_memory


def process_rank() -> int:
    """Which of the processes that train together this is; 0 for the one that the user started."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def resolve_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"; one that is not there raises `LumigraphError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise LumigraphError(f"there is no device {name!r}", todo="Choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LumigraphError(
            f"this machine has {torch.cuda.device_count()} CUDA devices, {name!r} was asked for",
            todo="Use --device cpu, or see `lumigraph doctor`",
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are done by the hardware rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of large matrix products for "auto", "float32" or "bfloat16"."""
    if name == "auto":
        name = "bfloat16" if has_bfloat16(device) else "float32"
    if name not in ("float32", "bfloat16"):
        raise LumigraphError(f"there is no precision {name!r}", todo="Choose auto, float32 or bfloat16")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def set_threads(ranks: int = 1) -> int:
    """Gives torch and numba an equal share of the cores for each of `ranks` processes; returns the share.

    torchrun sets one thread per process and Lightning and numba take all cores each: neither is what we want.
    """
    share = max(1, available_cores() // ranks)
    if "numba" not in sys.modules:
        # Numba reads this when it is first imported, which for many commands is never.
        os.environ["NUMBA_NUM_THREADS"] = str(share)
    else:
        import numba

        numba.set_num_threads(min(share, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore
    # Last: numba starts its threads with the line above, and thereby sets the number for all users of OpenMP.
    torch.set_num_threads(share)
    return share


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`, within the limit of this process's container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_host_memory()
