"""Truth, rendering and error side by side, as PNG files."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lumigraph.evaluation.report import error_picture
from lumigraph.files import new_file

ERROR_CEILING = 0.25
"""Mean absolute error shown in the brightest colour."""
COMPARED_VIEWS = 4
LONGEST_SIDE = 400
"""Pictures of a comparison are reduced to this many pixels."""


class Gallery:
    """Collects what an evaluation saw: a few views for one comparison, and every view as files if `folder` is given.

    Files in `folder` are named NUMBER_NAME_truth.png, ..._render.png and ..._error.png after the view.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        self._names, self._folder = list(names), folder
        spread = np.linspace(0, len(names) - 1, min(COMPARED_VIEWS, len(names))).round().astype(int)
        self._compared = set(spread.tolist())
        self._rows: dict[int, UInt8[np.ndarray, "H W 3"]] = {}

    def add(self, index: int, truth: Float[Tensor, "H W 3"], image: Float[Tensor, "H W 3"]) -> None:
        """Takes view `index`, both pictures in [0, 1]."""
        if index not in self._compared and self._folder is None:
            return
        shown = {
            "truth": _eight_bits(truth),
            "render": _eight_bits(image),
            "error": error_picture(image.numpy(), truth.numpy(), ERROR_CEILING),
        }
        if self._folder is not None:
            stem = "_".join(PurePosixPath(self._names[index]).with_suffix("").parts)
            for kind, picture in shown.items():
                save_png(self._folder / f"{index:04d}_{stem}_{kind}.png", picture)
        if index in self._compared:
            self._rows[index] = np.concatenate([_reduced(picture) for picture in shown.values()], axis=1)

    def save_comparison(self, path: Path) -> Path:
        """Writes one PNG with a row (truth, rendering, error) for each of a few views, spread over all."""
        rows = [self._rows[index] for index in sorted(self._rows)]
        width = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
        save_png(path, np.concatenate(padded))
        return path


def save_png(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a PNG, wholly or not at all."""
    with new_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def _eight_bits(picture: Float[Tensor, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (picture * 255).round().byte().numpy()


def _reduced(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(image)
