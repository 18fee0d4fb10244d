"""`lumigraph doctor`: what this machine has, what is missing, and how to mend it.

Every library is imported in a child process, so that one that raises, hangs, or dies of an illegal instruction is
a line of the report instead of the end of it. For the same reason this module needs the standard library only: it
still answers where tyro or rich are broken. What takes seconds, importing lightning and the export libraries and
compiling a kernel, is left to `--thorough`.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lumigraph import __version__
from lumigraph.machine_limits import available_cores, memory_limit

PROBE_SECONDS = 180
LOW_DISK_BYTES = 2 * 2**30
LOW_MEMORY_BYTES = 2 * 2**30
# Import name and package of each library of the core install; torch, lightning and numba have their own probes.
CORE_LIBRARIES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tyro": "tyro",
    "rich": "rich",
    "imageio": "imageio",
    "jaxtyping": "jaxtyping",
    "psutil": "psutil",
    "yaml": "pyyaml",
    "tensorboard": "tensorboard",
}
EXPORT_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
REINSTALL = "pip install --force-reinstall lumigraph"

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `problem`: the core does not work. `note`: something optional is missing."""

    name: str
    status: Status
    detail: str
    mend: str | None = None


def main(argv: list[str]) -> None:
    """Print the report; exit code 0 when the core works, 1 when it does not."""
    parser = argparse.ArgumentParser(
        prog="lumigraph doctor",
        description="What this machine has, what is missing, and how to mend it.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="also import lightning and the export libraries, and compile a kernel: some ten seconds",
    )
    arguments = parser.parse_args(argv)
    findings = examine(thorough=arguments.thorough)
    works = all(finding.status != "problem" for finding in findings)
    if arguments.json:
        report = {"version": __version__, "works": works, "thorough": arguments.thorough}
        print(json.dumps({**report, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        print(report_text(findings, thorough=arguments.thorough))
    if not works:
        raise SystemExit(1)


def examine(*, thorough: bool) -> list[Finding]:
    """Look at everything; the libraries two at a time, each in its own process. Unless `thorough`, what takes seconds
    is only looked up among the installed packages."""
    names = [*PROBES, *SLOW_PROBES] if thorough else list(PROBES)
    with ThreadPoolExecutor(max_workers=2) as pool:
        probes = dict(zip(names, pool.map(run_probe, names), strict=True))
    if not thorough:
        probes |= {"lightning": installed("lightning"), "export": installed(*EXPORT_LIBRARIES)}
    return [
        _python(),
        _cores(),
        _memory(),
        _disk(),
        *_torch(probes["torch"]),
        *_torch_companions(probes["torch"]),
        _lightning(probes["lightning"]),
        _numba({**probes["numba"], **probes.get("kernel", {})}),
        _libraries(probes["libraries"]),
        _ffmpeg(probes["ffmpeg"]),
        _export(probes["export"]),
        _player(),
        _lpips(),
    ]


def report_text(findings: list[Finding], *, thorough: bool) -> str:
    """The report for a terminal: one line a finding, and below it how to mend it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"lumigraph {__version__}", ""]
    for finding in findings:
        lines.append(f"  {finding.status:<8} {finding.name:<{width}}  {finding.detail}")
        if finding.mend:
            lines.append(f"  {'':<8} {'':<{width}}  mend: {finding.mend}")
    problems = [finding.name for finding in findings if finding.status == "problem"]
    ending = f"The core does not work: {', '.join(problems)}." if problems else "The core works."
    if not thorough:
        ending += " (--thorough also imports what is slow to import and compiles a kernel.)"
    return "\n".join([*lines, "", ending])


# ---- probes: they run in a child process and answer a dictionary


def _probe_torch() -> dict[str, Any]:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "devices": devices,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)],
        "threads": torch.get_num_threads(),
        "sum": float(torch.ones(4, 4).matmul(torch.ones(4, 4)).sum()),
    }


def _probe_lightning() -> dict[str, Any]:
    import lightning
    import lightning.pytorch

    return {"versions": {"lightning": lightning.__version__}}


def _probe_numba() -> dict[str, Any]:
    import numba

    return {"version": numba.__version__, "cache": _kernel().stats.cache_path}


def _probe_kernel() -> dict[str, Any]:
    import numba
    import numpy as np

    if _kernel()(np.ones(64)) != 64.0:
        raise RuntimeError("a compiled sum is wrong")
    return {"threads": numba.get_num_threads(), "layer": numba.threading_layer()}  # pyright: ignore


def _kernel() -> Any:
    """A kernel that is kept like the project's: where no folder for them can be written, numba refuses here as it does
    there. It is compiled when it is first called."""
    import numba

    @numba.njit(parallel=True, cache=True)
    def total(values):  # pyright: ignore
        result = 0.0
        for index in numba.prange(values.size):
            result += values[index]
        return result

    return total


def _probe_libraries() -> dict[str, Any]:
    broken = {}
    for module, package in CORE_LIBRARIES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  a broken library may raise anything
            broken[package] = f"{type(error).__name__}: {error}"
    return {"broken": broken}


def _probe_ffmpeg() -> dict[str, Any]:
    import imageio_ffmpeg

    return {"path": imageio_ffmpeg.get_ffmpeg_exe(), "version": imageio_ffmpeg.get_ffmpeg_version()}


def _probe_export() -> dict[str, Any]:
    versions = {name: importlib.import_module(name).__version__ for name in EXPORT_LIBRARIES}
    import onnxruntime

    return {"versions": versions, "providers": onnxruntime.get_available_providers()}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _probe_torch,
    "numba": _probe_numba,
    "libraries": _probe_libraries,
    "ffmpeg": _probe_ffmpeg,
}
SLOW_PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "lightning": _probe_lightning,
    "kernel": _probe_kernel,
    "export": _probe_export,
}


def installed(*packages: str) -> dict[str, Any]:
    """The answer of a slow probe that is not asked: the packages' versions, which say nothing of whether they work."""
    try:
        return {"versions": {name: importlib.metadata.version(name) for name in packages}}
    except importlib.metadata.PackageNotFoundError as error:
        return {"error": f"{error.name} is not installed"}


def answer_probe(name: str) -> None:
    """What the child process runs: the probe's answer as the last line of its output."""
    print("\n" + json.dumps({**PROBES, **SLOW_PROBES}[name]()))


def run_probe(name: str) -> dict[str, Any]:
    """Run one probe in a child process; `{"error": reason}` when it raised, died or hung."""
    code = f"from lumigraph.cli.doctor import answer_probe; answer_probe({name!r})"
    search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=False,
            timeout=PROBE_SECONDS,
            env={**os.environ, "PYTHONPATH": search_path},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS} s"}
    except OSError as error:
        return {"error": f"could not start {sys.executable}: {error}"}
    if child.returncode < 0:
        return {"error": f"ended by {signal.Signals(-child.returncode).name}"}
    if child.returncode > 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        return {"error": lines[-1] if lines else f"exit code {child.returncode}"}
    try:
        return json.loads(child.stdout.decode(errors="replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": "it ended without an answer"}


# ---- findings


def _python() -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", detail)


def _cores() -> Finding:
    usable = available_cores()
    return Finding("cores", "ok", f"{usable} usable of {os.cpu_count() or usable}")


def _memory() -> Finding:
    total = memory_limit()
    if total is None:
        return Finding("memory", "note", "unknown on this system")
    detail = f"{total / 2**30:.1f} GiB"
    if total < LOW_MEMORY_BYTES:
        return Finding("memory", "note", detail, "train with a larger --downscale")
    return Finding("memory", "ok", detail)


def _disk() -> Finding:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "note", f"{folder} cannot be written", "work in a folder of your own")
    if free < LOW_DISK_BYTES:
        return Finding("disk", "note", detail, "free some space: runs and pseudo views need a few GiB")
    return Finding("disk", "ok", detail)


def _torch(probe: dict[str, Any]) -> list[Finding]:
    if "error" in probe:
        return [Finding("torch", "problem", probe["error"], "pip install --force-reinstall torch")]
    build = f"CUDA {probe['cuda_build']}" if probe["cuda_build"] else "CPU build"
    detail = f"{probe['version']} ({build}), {probe['capability']}, {probe['threads']} threads"
    found = [Finding("torch", "ok", detail)]
    if probe["bfloat16"]:
        found.append(Finding("bfloat16", "ok", f"in hardware on this CPU ({', '.join(probe['bfloat16'])})"))
    else:
        words = "not in this CPU's hardware; students train in float32 on it"
        found.append(Finding("bfloat16", "note", words))
    return [*found, _gpu(probe)]


def _gpu(probe: dict[str, Any]) -> Finding:
    if probe["devices"]:
        return Finding("gpu", "ok", ", ".join(probe["devices"]))
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if driver and not probe["cuda_build"]:
        words = "an NVIDIA driver is here, but torch is a CPU build"
        return Finding("gpu", "note", words, "install a CUDA build of torch in place of this one")
    if driver:
        words = f"an NVIDIA driver is here, but torch (CUDA {probe['cuda_build']}) finds no device"
        return Finding(
            "gpu", "note", words, "check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version"
        )
    return Finding("gpu", "note", "none; every method also runs on the CPU")


def _torch_companions(probe: dict[str, Any]) -> list[Finding]:
    """torchvision and torchaudio: not needed, and harmful beside a CPU build of torch."""
    found = [name for name in ("torchvision", "torchaudio") if _installed(name)]
    if not found:
        return []
    names = " and ".join(found)
    verb = "is" if len(found) == 1 else "are"
    if probe.get("cuda_build"):
        return [Finding("torchvision", "ok", f"{names} {verb} installed; lumigraph does not use it")]
    words = (
        f"{names} {verb} installed beside a CPU build of torch. Their compiled operators do not fit together, which "
        "makes lightning and torchmetrics fail at import ('operator torchvision::nms does not exist')"
    )
    return [
        Finding("torchvision", "note", words, f"pip uninstall {' '.join(found)} (lumigraph needs neither)")
    ]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _lightning(probe: dict[str, Any]) -> Finding:
    if "error" not in probe:
        return Finding("lightning", "ok", probe["versions"]["lightning"])
    mend = "pip install --force-reinstall lightning"
    if "torchvision" in probe["error"]:
        mend = "pip uninstall torchvision (it does not fit this torch, and lumigraph does not need it)"
    return Finding("lightning", "problem", probe["error"], mend)


def _numba(probe: dict[str, Any]) -> Finding:
    if "error" not in probe:
        compiled = f", {probe['threads']} threads ({probe['layer']})" if "threads" in probe else ""
        kept = f"kernels are kept in folders like {probe['cache']}"
        return Finding("numba", "ok", f"{probe['version']}{compiled}, {kept}")
    mend = "pip install --force-reinstall numba"
    if "cannot cache" in probe["error"]:
        mend = "set NUMBA_CACHE_DIR to a folder that can be written: compiled kernels are kept there"
    return Finding("numba", "problem", probe["error"], mend)


def _libraries(probe: dict[str, Any]) -> Finding:
    if "error" in probe:
        return Finding("libraries", "problem", probe["error"], REINSTALL)
    if not probe["broken"]:
        return Finding("libraries", "ok", ", ".join(CORE_LIBRARIES.values()))
    words = "; ".join(f"{package}: {reason}" for package, reason in probe["broken"].items())
    mend = "pip install --force-reinstall " + " ".join(probe["broken"])
    return Finding("libraries", "problem", words, mend)


def _ffmpeg(probe: dict[str, Any]) -> Finding:
    if "error" in probe:
        words = f"{probe['error']}; mp4 movies cannot be written"
        return Finding("ffmpeg", "note", words, "pip install --force-reinstall imageio-ffmpeg")
    return Finding("ffmpeg", "ok", f"{probe['version']}, {probe['path']}")


def _export(probe: dict[str, Any]) -> Finding:
    if "error" in probe:
        words = f"{probe['error']}; bundles can be neither written nor opened"
        return Finding("export", "note", words, "pip install lumigraph[export]")
    versions = ", ".join(f"{name} {version}" for name, version in probe["versions"].items())
    providers = f"; providers {', '.join(probe['providers'])}" if "providers" in probe else ""
    return Finding("export", "ok", versions + providers)


def _player() -> Finding:
    # viewers.player.BUILT, without the libraries that its module imports.
    if (Path(__file__).parents[1] / "viewers" / "static" / "index.html").is_file():
        return Finding("web player", "ok", "built")
    words = "not built: `view` and `export --web` have no page to show"
    return Finding("web player", "note", words, "in a clone of the repository: make player, which needs node")


def _lpips() -> Finding:
    path = os.environ.get("LUMIGRAPH_LPIPS")
    if not path:
        words = "LUMIGRAPH_LPIPS is not set: `eval` reports PSNR and SSIM, and lpips as null"
        mend = (
            "set it to a folder with squeezenet1_1_features.pth and heads_v0.1_squeeze.pth "
            "(`lumigraph eval --help` says where they come from)"
        )
        return Finding("lpips", "note", words, mend)
    if not Path(path).exists():
        return Finding(
            "lpips", "note", f"LUMIGRAPH_LPIPS names {path}, which is not there", "correct the path"
        )
    return Finding("lpips", "ok", path)
