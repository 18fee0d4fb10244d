"""`lumigraph export`: a student's run as a bundle that other programs open."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lumigraph.cli.parsing import Positional, parse
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from lumigraph.training.runs import Run


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A bundle of a student: ONNX graphs (rays to colours, camera pose to image), a manifest and a poster.

    The graphs are compared with torch in float32 first. A bundle does not appear that differs by more than 1/255 in any
    pixel (float16: 2/255), or has less than 35 dB (int8).
    """

    run: Positional[Path]
    """Run folder of a student."""
    out: Path
    """Bundle folder to write."""
    form: Literal["fused", "lens"] = "fused"
    """fused: everything from the pose to the picture in one graph. lens: the three graphs of MobileR2L's lenses, from
    pose to points, from points to their code, from the code to the picture, and a folder with the lens's constants."""
    precision: Literal["float32", "float16", "int8"] = "float32"
    """What the network is shipped in; the encoding before it stays float32. int8: matrices in 8 bits, and activations
    where the student stands that, which pseudo views tell."""
    snap_gelu: bool = False
    """Of a lens, also the network with the operator GeluSnap, which nothing but Snap's runtime knows."""
    coreml: bool = False
    """Also an .mlpackage for Apple's devices, pose to image."""
    litert: bool = False
    """Also a .tflite file for LiteRT, pose to image."""
    executorch: bool = False
    """Also a .pte file for ExecuTorch, pose to image."""
    licence: str | None = None
    """Licence of the photos and the model, as the manifest is to state it."""
    check_views: int = 3
    """On how many cameras the graphs are compared with torch."""
    web: bool = False
    """Write the web player beside the model, so that any web server shows the bundle."""
    overwrite: bool = False
    """Replace a bundle that exists."""


def main(argv: list[str]) -> None:
    """Export one run and print what was written and how exact it is."""
    arguments = parse(argv, Arguments, prog="lumigraph export")
    from lumigraph.export.bundle import UNSTATED, Shape, write_bundle
    from lumigraph.export.phones import FORMATS
    from lumigraph.training.runs import Run
    from lumigraph.viewers.player import require_player, write_player

    if arguments.web:
        if arguments.form == "lens":
            raise LumigraphError(
                "the page plays bundles of one graph, not the three of a lens",
                todo="Leave out --web or --form lens, or export twice",
            )
        require_player()
    run = Run.open(arguments.run)
    run.warn_if_unfinished()
    manifest = write_bundle(
        run,
        arguments.out,
        shape=Shape(
            form=arguments.form,
            precision=arguments.precision,
            snap_gelu=arguments.snap_gelu,
            phones=tuple(name for name in FORMATS if getattr(arguments, name)),
        ),
        licence=arguments.licence or UNSTATED,
        check_views=arguments.check_views,
        overwrite=arguments.overwrite,
        report=print,
        **({"beside": write_player} if arguments.web else {}),
    )
    for line in _summary(manifest, arguments.out):
        print(line)
    if arguments.web:
        print(
            f"index.html beside it is the page, for any web server; lumigraph view {arguments.out} shows it"
        )


def check_export(method: str, out: Path | None, run: Path, overwrite: bool) -> None:
    """Of commands that train and then export (`--export`): refuses before training what would be refused after it."""
    if out is None:
        return
    from lumigraph.export.bundle import require_exportable

    if out.resolve() in (run.resolve(), *run.resolve().parents):
        raise LumigraphError(
            "the bundle cannot be the folder of the run, nor hold it",
            where=out,
            todo="Choose another folder for --export",
        )
    require_exportable(method, out, overwrite=overwrite)


def export_finished(run: "Run", out: Path | None, overwrite: bool) -> None:
    """A bundle of a run that has just been trained, as `lumigraph export RUN --out OUT` writes it."""
    from lumigraph.export.bundle import write_bundle
    from lumigraph.rendering.machine import process_rank

    if out is None or process_rank() > 0:
        return
    manifest = write_bundle(run, out, overwrite=overwrite, report=print)
    for line in _summary(manifest, out):
        print(line)


def _summary(manifest: dict[str, Any], out: Path) -> list[str]:
    snap = manifest["models"].get("network_snap_gelu")
    lines = []
    if snap:
        lines.append(
            f"{snap['file']}: PSNR {snap['psnr_as_gelu']:.1f} dB with GeluSnap computed as GELU, "
            f"{snap['psnr_as_tanh']:.1f} dB as its tanh approximation, {snap['psnr_as_relu']:.1f} dB as Relu"
        )
    parts = [(part["file"], part["bytes"]) for part in manifest["models"].values()]
    parts += [(part["files"][0]["file"].split("/")[0], part["bytes"]) for part in manifest["phones"].values()]
    sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in parts)
    camera, network = manifest["camera"], manifest["network"]
    lines.append(
        f"{out}: {sizes}; {network['parameters']:,} parameters in {manifest['precision']}, "
        f"{network['multiply_adds'] / 1e9:.2f} billion multiply-adds for {camera['width']}x{camera['height']} pixels"
    )
    return lines
