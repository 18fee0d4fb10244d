"""Monocular depth by a network of the Hugging Face hub that lies in a folder: its own code is not run, nothing is
downloaded, and only safetensors are read."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError

from lumigraph.errors import LumigraphError
from lumigraph.files import new_folder
from lumigraph.scenes.scene import Views

Predictor = Callable[[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "h w"]]


def load_predictor(folder: Path, device: torch.device) -> Predictor:
    """What the depth network in `folder` says of a picture: depth, or inverse depth, up to a scale and a shift; its
    model card tells which.

    Raises:
        LumigraphError: transformers is not installed, or the folder holds no such network.
    """
    if not (folder / "config.json").is_file():
        raise LumigraphError(
            "there is no model in this folder (config.json is missing)",
            where=folder,
            todo="Download a depth estimation model: config.json, preprocessor_config.json and model.safetensors",
        )
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline
    except ImportError as error:
        raise LumigraphError(
            "predicting depth needs the package transformers", todo="pip install lumigraph[depth]"
        ) from error
    try:
        # The backend that needs no torchvision.
        processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, backend="pil")
        model = AutoModelForDepthEstimation.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise LumigraphError(
            f"this is no depth estimation model: {reason[:200]}",
            where=folder,
            todo="Give the folder of a model for the task depth-estimation, with safetensors",
        ) from error
    estimate = pipeline("depth-estimation", model=model, image_processor=processor, device=device)

    def predict(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w"]:
        from PIL import Image

        found = estimate(Image.fromarray(image))
        return found["predicted_depth"].squeeze().float().cpu().numpy()

    return predict


def predict_depths(
    parts: Iterable[Views],
    white: bool,
    predict: Predictor,
    folder: Path,
    overwrite: bool,
    watch: Callable[[], None],
) -> int:
    """Writes what `predict` says of each picture of some splits as NAME.npy into `folder`, which appears when it is
    complete; returns how many. `white`: whether transparent pictures are shown on white, else on black. `watch` is
    called after each.

    Raises:
        LumigraphError: the folder exists (without `overwrite`), or a prediction is not finite.
    """
    count = 0
    with new_folder(folder, overwrite) as temporary:
        for views in parts:
            for index, name in enumerate(views.names):
                values = predict(_picture(views, index, white))
                if not np.isfinite(values).all():
                    raise LumigraphError(
                        "the network's depth of this picture is not finite",
                        where=name,
                        todo="Try another model",
                    )
                path = (temporary / name).with_suffix(".npy")
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, values)
                count += 1
                watch()
    return count


def _picture(views: Views, index: int, white: bool) -> UInt8[np.ndarray, "H W 3"]:
    image = views.image(index).numpy()
    if image.shape[2] == 3:
        return image
    # Premultiplied: what the background adds is what alpha lacks.
    return image[..., :3] + (255 - image[..., 3:] if white else np.uint8(0))
