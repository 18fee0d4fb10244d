"""A distilled student goes on learning, from the photos themselves.

It overfits within thousands of steps (R2L, section A.9), so the validation views decide when to stop and which weights
are kept; the test views are never looked at. The optimiser's moments and the decayed learning rate are carried over.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import load_renderer_class
from lumigraph.distillation.origins import (
    Origin,
    check_same_scene,
    check_tells,
    needed_by,
    with_hard_rays,
    without_unknown,
)
from lumigraph.distillation.shard_source import MixedSource
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import mean_squared_error, psnr_of
from lumigraph.rendering.background import as_rgba, display_target
from lumigraph.rendering.machine import process_rank, resolve_device
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import Scene
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import Checkpoint, list_checkpoints, newest_checkpoint, save_checkpoint
from lumigraph.training.fit import EarlyStopping, TrainResult, fit
from lumigraph.training.runs import Run, load_weights
from lumigraph.training.sources import PhotoSource, RaySource
from lumigraph.training.validation import ValidationViews, looking, mask_of, training_and_validation

STAGE = "finetune"
"""The folder inside a run in which it is fine-tuned when no other run is asked for."""


@dataclass(frozen=True)
class Finetuned:
    """How fine-tuning went; PSNR in dB, the mean over all validation views."""

    run: Run
    result: TrainResult
    val_psnr_before: float
    val_psnr_after: float
    held_from_training: bool
    """Whether the validation views are training photos that were held out."""

    @property
    def gained(self) -> bool:
        """Whether the weights that are kept are better ones than before."""
        return self.val_psnr_after > self.val_psnr_before


def finetune(
    student: Run,
    scene: Scene,
    options: TrainOptions,
    rule: EarlyStopping,
    lr: float | None = None,
    pseudo: Origin | None = None,
    pseudo_ratio: float = 0.0,
) -> Finetuned:
    """Fine-tunes `student` on the training photos of `scene`, and where `pseudo` is given, on these for a part
    `pseudo_ratio` of what it learns from.

    Where `options.run` is the student's own folder, training happens in its subfolder `finetune`, and at the end the
    student takes the weights over; else `options.run` becomes a run of its own. `lr` overrides the decayed rate.
    """
    needs = needed_by(load_renderer_class(student.method), student.info)
    check_same_scene(student.info, scene.info, needs)
    own = options.run.resolve() == student.path.resolve()
    place = student.path / STAGE if own else options.run
    training, validation, held = training_and_validation(scene, needs)
    begun = newest_checkpoint(student.checkpoints, print)
    step, rate = _where_it_stood(student, begun)
    config = replace(student.config, schedule="constant", warmup_steps=0, lr=rate if lr is None else lr)
    again = (student.path / STAGE).is_dir()
    provenance = {"finetuned_from_step": step, "validation_held_from_training": held}
    if pseudo is not None:
        check_same_scene(student.info, pseudo.info)
        check_tells(pseudo, student.method, needs, student.path)
        provenance |= {"mixed_with": {**pseudo.provenance, "pseudo_ratio": pseudo_ratio}}
    run = begin(student.method, config, student.info, replace(options, run=place), provenance)
    # The run's own renderer, not the student's: its rate is that of fine-tuning.
    renderer = run.new_renderer()
    load_weights(renderer, student.newest_weights()[1], where=student.path)
    renderer.to(resolve_device(options.device)).eval()
    if begun is not None and again:
        # It was fine-tuned in place before: its weights are that stage's, its checkpoint is distillation's.
        load_weights(renderer, begun.part("renderer"), where=student.checkpoints)
    start = {name: tensor.detach().clone() for name, tensor in renderer.state_dict().items()}
    before = mean_psnr(renderer, validation)
    if begun is not None and process_rank() == 0 and not list_checkpoints(run.checkpoints):
        save_checkpoint(run.checkpoints, _seed(begun, start))
    photos = PhotoSource(
        training,
        options.seed,
        depths=getattr(config, "learn_depth", False),
        sampling=renderer.pixel_sampling(),
        attribute_masks=renderer.wants_attribute_masks,
    )
    source: RaySource = photos
    if pseudo is not None:
        photos.cameras = without_unknown(photos.cameras, pseudo.tells)
        source = MixedSource(pseudo.source, photos, pseudo_ratio)
    result = fit(
        renderer.train(),
        with_hard_rays(source, config, options.seed),
        run,
        # The first step finds the student's optimiser in the checkpoint just written.
        replace(options, run=place, resume=True),
        validation,
        initial_step=step,
        early_stopping=rule,
    )
    after = mean_psnr(renderer, validation)
    if after < before and not result.interrupted:
        # Early stopping goes by a sample of the pixels; by all of them the start was better.
        load_weights(renderer, start, where=run.path)
        run.save_weights(renderer, result.step)
        after = before
    done = Finetuned(run, result, before, after, held)
    if not result.interrupted and process_rank() == 0:
        _record(student, renderer, done, own)
    return done


def _where_it_stood(student: Run, begun: Checkpoint | None) -> tuple[int, float]:
    """Step and learning rate at the end of distillation."""
    if begun is not None:
        return begun.step, float(begun.numbers["optimiser"]["groups"][0]["lr"])
    config = student.config
    return 0, config.lr * (config.final_lr if config.schedule == "budget" else 1.0)


def _seed(begun: Checkpoint, start: dict[str, torch.Tensor]) -> Checkpoint:
    """The student's last checkpoint as the first of the fine-tuning: weights, moments and random state; not the rays'
    state, which belongs to pseudo views, nor the time."""
    kept = {name: tensor for name, tensor in begun.tensors.items() if name.startswith(("optimiser.", "rng."))}
    weights = {f"renderer.{name}": tensor.cpu() for name, tensor in start.items()}
    return Checkpoint(begun.step, 0.0, {**kept, **weights}, {"optimiser": begun.numbers["optimiser"]})


def _record(student: Run, renderer: Renderer, done: Finetuned, own: bool) -> None:
    summary: dict[str, Any] = {
        "val_psnr_before": round(done.val_psnr_before, 4),
        "val_psnr_after": round(done.val_psnr_after, 4),
        "validation_held_from_training": done.held_from_training,
        "first_step": done.run.provenance["finetuned_from_step"],
        "best_step": done.result.best_step,
        "last_step": done.result.step,
        "seconds": done.result.seconds,
        "reason": done.result.reason,
    }
    done.run.update_results(STAGE, summary)
    if not own:
        return
    results = student.results
    if "distillation" not in results and "training" in results:
        student.update_results("distillation", results["training"])
    student.save_weights(renderer, done.result.step)
    student.update_results("training", json.loads(json.dumps(done.run.results["training"])))
    student.update_results(STAGE, summary)


def mean_psnr(renderer: Renderer, views: ValidationViews) -> float:
    """Mean over views of the PSNR, dB, on the display background, of the pixels inside the masks. Views of which the
    mask leaves nothing do not count.

    Raises:
        LumigraphError: the masks leave no pixel at all.
    """
    values = []
    with looking(renderer):
        for index in range(len(views)):
            mask = mask_of(views, index)
            if mask is not None and not bool(mask.any()):
                continue
            truth = display_target(as_rgba(views.image(index)), renderer.background)
            seen = renderer.view(views.cameras[index : index + 1]).rgb.float().clamp(0, 1).cpu()
            values.append(psnr_of(mean_squared_error(seen, truth, mask)))
    if not values:
        raise LumigraphError(
            "the masks of the validation views leave no pixel", todo="Mend the masks (white = use)"
        )
    return float(np.mean(values))
