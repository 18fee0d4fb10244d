"""`lumigraph export`: a student's run as a bundle that other programs open."""

from dataclasses import dataclass
from pathlib import Path

from lumigraph.cli.parsing import Positional, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A bundle of a student: ONNX graphs (rays to colours, camera pose to image), a manifest and a poster.

    The graphs are compared with torch first; a bundle that differs by more than 1/255 does not appear.
    """

    run: Positional[Path]
    """Run folder of a student."""
    out: Path
    """Bundle folder to write."""
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
    from lumigraph.export.bundle import UNSTATED, write_bundle
    from lumigraph.training.runs import Run
    from lumigraph.viewers.player import require_player, write_player

    if arguments.web:
        require_player()
    run = Run.open(arguments.run)
    run.warn_if_unfinished()
    manifest = write_bundle(
        run,
        arguments.out,
        licence=arguments.licence or UNSTATED,
        check_views=arguments.check_views,
        overwrite=arguments.overwrite,
        report=print,
        **({"beside": write_player} if arguments.web else {}),
    )
    sizes = ", ".join(f"{part['file']} {part['bytes'] / 1e6:.2f} MB" for part in manifest["models"].values())
    camera = manifest["camera"]
    parameters = manifest["provenance"]["parameters"]
    print(f"{arguments.out}: {sizes}; {parameters:,} parameters, {camera['width']}x{camera['height']} pixels")
    if arguments.web:
        print(
            f"index.html beside it is the page, for any web server; lumigraph view {arguments.out} shows it"
        )
