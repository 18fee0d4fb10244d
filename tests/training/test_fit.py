"""The training loop: exact resume, budgets, early stopping, and what it refuses."""

import dataclasses
import errno
import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.nerf import NeRFConfig
from lumigraph.configs.ngp import NGPConfig
from lumigraph.errors import LumigraphError
from lumigraph.rendering.renderer import Batch, Losses
from lumigraph.scenes.scene import Scene, SceneInfo, Views
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import list_checkpoints, load_checkpoint
from lumigraph.training.fit import Cadence, EarlyStopping, TrainResult, fit
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.progress import ProgressLine
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource
from lumigraph.training.task import Budget, RayTask
from lumigraph.training.validation import Probe
from lumigraph.training.watch import Watch

BUSY = Cadence(report=0.0, probe=0.0, preview=0.0, checkpoint=0.0, share=math.inf)
"""Every chore after every step: whatever it disturbs shows."""


class StopAt(PhotoSource):
    """Photos that ask training to stop at the end of a step, as Ctrl-C would."""

    def __init__(self, scene: Scene, seed: int, step: int | None, interrupts: Interrupts):
        super().__init__(scene.split("train"), seed)
        self.step, self.interrupts, self.seen = step, interrupts, 0

    def batch(self, step: int, rays: int) -> Batch:
        if step == self.step:
            self.interrupts.request()
        return super().batch(step, rays)


def train(
    scene: Scene, method: str, config, options: TrainOptions, *, stop_at: int | None = None, **more
) -> tuple[Run, TrainResult]:
    run = begin(method, config, scene.info, options)
    interrupts = Interrupts()
    torch.manual_seed(options.seed)
    source = StopAt(scene, options.seed, stop_at, interrupts)
    result = fit(run.new_renderer(), source, run, options, scene.views["val"], interrupts=interrupts, **more)
    return run, result


def last_state(run: Run):
    return load_checkpoint(list_checkpoints(run.checkpoints)[0])


def assert_equal_states(one: Run, other: Run) -> None:
    first, second = last_state(one), last_state(other)
    assert first.step == second.step
    assert first.tensors.keys() == second.tensors.keys()
    different = [name for name in first.tensors if not torch.equal(first.tensors[name], second.tensors[name])]
    assert not different
    assert first.numbers["optimiser"] == second.numbers["optimiser"]


TEACHER = NGPConfig(
    levels=2, log2_entries=8, finest_resolution=32, cells=16, steps=48, hidden=16, first_rays=64
)


NERF = NeRFConfig(
    rays=48, samples=8, importance=4, depth=2, width=16, coarse_width=8, optimiser="ranger", schedule="cosine",
    warmup=3, warmup_multiplier=2.0, density_noise=0.5,
)  # fmt: skip


@pytest.mark.parametrize("method", ["r2l", "ngp", "nerf"])
def test_resumed_equals_uninterrupted(ball, student, options, tmp_path, method):
    config = {"r2l": student, "ngp": TEACHER, "nerf": NERF}[method]
    whole, _ = train(ball, method, config, options)
    parts = dataclasses.replace(options, run=tmp_path / "parts", resume=True)
    run, result = train(ball, method, config, parts, stop_at=6)
    assert (result.reason, result.step) == ("interrupted", 7)
    assert not run.finished
    moved = tmp_path / "moved"
    run.path.rename(moved)
    run, result = train(ball, method, config, dataclasses.replace(parts, run=moved), cadence=BUSY)
    assert (result.reason, result.step) == ("steps", 12)
    assert run.finished
    assert_equal_states(whole, run)
    assert run.weights.read_bytes()[8:] and torch.equal(
        run.load_renderer("cpu").render(probe_rays(ball)).rgb,
        whole.load_renderer("cpu").render(probe_rays(ball)).rgb,
    )


def probe_rays(scene: Scene):
    return Probe.of_views(scene.views["val"], "white", count=50).rays


def test_training_learns_and_reports(ball, student, options):
    often = Cadence(report=0.05, probe=0.05, preview=0.2, checkpoint=0.2, share=0.5)
    run, result = train(ball, "r2l", student, dataclasses.replace(options, max_steps=200), cadence=often)
    first = result.history[0]["val_psnr"]
    assert result.val_psnr is not None
    assert result.val_psnr > max(15, first + 3)
    training = run.results["training"]
    assert training["finished"]
    assert training["step"] == 200
    assert list(run.media.glob("step-*.png"))
    assert list(run.logs.glob("events*"))
    assert len(list_checkpoints(run.checkpoints)) == 2


def test_finished_run_is_refused_extended_or_replaced(ball, student, options):
    run, _ = train(ball, "r2l", student, options)
    with pytest.raises(LumigraphError, match="finished run here.*--overwrite"):
        begin("r2l", student, ball.info, options)
    again = dataclasses.replace(options, resume=True)
    _, result = train(ball, "r2l", student, again)
    assert result.step == 12
    _, result = train(ball, "r2l", student, dataclasses.replace(again, max_steps=15))
    assert result.step == 15
    _, result = train(ball, "r2l", student, dataclasses.replace(options, max_steps=3, overwrite=True))
    assert result.step == 3
    assert last_state(run).step == 3


def test_a_run_does_not_go_on_with_other_times_or_attributes(ball, student, options):
    cameras = ball.info.cameras["train"]
    told = dataclasses.replace(
        cameras, times=torch.linspace(0, 1, len(cameras)), attributes=torch.zeros(len(cameras), 1)
    )
    info = dataclasses.replace(ball.info, cameras={**ball.info.cameras, "train": told}, attributes=("arm",))
    begin("r2l", student, info, options)
    again = dataclasses.replace(options, resume=True)

    def changed(**values) -> SceneInfo:
        other = dataclasses.replace(told, **values)
        return dataclasses.replace(info, cameras={**info.cameras, "train": other})

    begin("r2l", student, info, again)
    with pytest.raises(LumigraphError, match="other times of training views"):
        begin("r2l", student, changed(times=told.times.flip(0)), again)
    with pytest.raises(LumigraphError, match="other attributes of training views"):
        begin("r2l", student, changed(attributes=told.attributes + 0.5), again)
    with pytest.raises(LumigraphError, match="other attributes of training views"):
        begin("r2l", student, dataclasses.replace(info, attributes=("leg",)), again)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        (MemoryError(), pytest.raises(LumigraphError, match="memory ran out while photos were read")),
        (OSError(errno.EIO, "input/output error"), pytest.raises(LumigraphError, match="ball.*disk")),
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    ],
)
def test_photos_that_cannot_be_read_leave_no_run_and_no_harm(ball, student, options, fault, ends, resumed):
    """A run that is new is gone afterwards; one that is resumed stays as it was."""
    before = None
    if resumed:
        run, _ = train(ball, "r2l", student, dataclasses.replace(options, max_steps=3))
        before = last_state(run)
        options = dataclasses.replace(options, resume=True)

    def image(index: int) -> np.ndarray:
        raise fault

    known = ball.split("train")
    views = Views(known.cameras, known.names, known.has_alpha, image)
    run = begin("r2l", student, ball.info, options)
    with ends:
        fit(run.new_renderer(), PhotoSource(views, 0), run, options)
    assert run.path.exists() == resumed
    if before is not None:
        assert last_state(run).step == before.step == 3
        assert train(ball, "r2l", student, options)[1].step == 12


def test_photos_are_read_before_signals_are_taken(ball, student, options, monkeypatch):
    """So that Ctrl-C ends a long reading at once."""
    order = []
    monkeypatch.setattr(PhotoSource, "read_photos", lambda self, quiet: order.append("read"))
    monkeypatch.setattr(Interrupts, "install", lambda self: order.append("watch"))
    train(ball, "r2l", student, options)
    assert order[:2] == ["read", "watch"]


def test_begun_run_needs_a_word(ball, student, options):
    train(ball, "r2l", student, options, stop_at=3)
    with pytest.raises(LumigraphError, match="begun.*--resume"):
        begin("r2l", student, ball.info, options)
    resumed = dataclasses.replace(options, resume=True)
    with pytest.raises(LumigraphError, match=r"other options: width was 16"):
        begin("r2l", dataclasses.replace(student, width=32), ball.info, resumed)
    other = dataclasses.replace(ball.info, background="black")
    with pytest.raises(LumigraphError, match="background white, now black"):
        begin("r2l", student, other, resumed)


def test_interrupted_weights_can_be_used(ball, student, options):
    run, _ = train(ball, "r2l", student, options, stop_at=3)
    assert Run.open(run.path).load_renderer("cpu").render(probe_rays(ball)).rgb.shape == (50, 3)


def test_time_budget_counts_over_resume(ball, student, options):
    timed = dataclasses.replace(options, max_steps=None, max_minutes=1.0 / 60, resume=True)
    _, result = train(ball, "r2l", student, timed, stop_at=5)
    assert result.reason == "interrupted"
    _, result = train(ball, "r2l", student, timed)
    assert result.reason == "time"
    assert 1.0 <= result.seconds < 1.5


def test_schedules_go_by_steps_exactly_or_by_the_clock():
    by_steps = Budget(first_step=10, last_step=40, seconds=None, schedule_steps=800_000)
    assert [by_steps.reached(10 + step, 99.0) for step in (0, 7, 799_999)] == [0, 7, 799_999]
    by_clock = Budget(first_step=0, last_step=None, seconds=60.0, schedule_steps=800_000)
    assert [by_clock.reached(3, seconds) for seconds in (0.0, 15.0, 90.0)] == [0, 200_000, 800_000]


def test_how_many_steps_fit_is_told_by_the_speed_so_far():
    by_clock = Budget(first_step=10, last_step=None, seconds=60.0, schedule_steps=800_000)
    assert by_clock.likely_last_step(10, 0.0) is None
    assert by_clock.likely_last_step(15, 6.0) == 60
    either = Budget(first_step=0, last_step=40, seconds=60.0, schedule_steps=800_000)
    assert either.likely_last_step(5, 30.0) == 10
    assert either.likely_last_step(20, 6.0) == 40


def test_photos_join_by_the_clock_where_it_ends_training(ball, options):
    """All have joined after half of the second, however few steps it holds."""

    class Watched(PhotoSource):
        def begin_step(self, reached: float) -> None:
            super().begin_step(reached)
            told.append(reached)

    told: list[float] = []
    config = dataclasses.replace(NERF, crop_steps=150_000, training_steps=300_000)
    timed = dataclasses.replace(options, max_steps=None, max_minutes=0.5 / 60)
    run = begin("nerf", config, ball.info, timed)
    renderer = run.new_renderer()
    source = Watched(ball.split("train"), 0, sampling=renderer.pixel_sampling())
    assert fit(renderer, source, run, timed).reason == "time"
    assert told == sorted(told)
    assert told[0] < 150_000 < told[-1] < 300_000


def test_early_stopping_keeps_the_best_weights(ball, student, options):
    rule = EarlyStopping(every=10, patience=2)
    # A rate at which nothing can be learnt: the first weights stay the best.
    wild = dataclasses.replace(student, lr=10.0, warmup_lr=10.0)
    run, result = train(
        ball, "r2l", wild, dataclasses.replace(options, max_steps=1000), early_stopping=rule, initial_step=100
    )
    assert (result.reason, result.best_step, result.step) == ("no more gain", 100, 120)
    torch.manual_seed(0)
    first = run.new_renderer().state_dict()
    assert all(
        torch.equal(first[name], tensor) for name, tensor in run.load_renderer("cpu").state_dict().items()
    )


def test_the_best_weights_may_be_kept_without_stopping_for_them(ball, student, options):
    rule = EarlyStopping(every=10, patience=None)
    wild = dataclasses.replace(student, lr=10.0, warmup_lr=10.0)
    wanted = dataclasses.replace(options, max_steps=45)
    run, result = train(ball, "r2l", wild, wanted, early_stopping=rule)
    assert (result.reason, result.best_step, result.step) == ("steps", 0, 45)
    torch.manual_seed(0)
    first = run.new_renderer().state_dict()
    kept = run.load_renderer("cpu").state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in kept.items())


def test_budget_is_the_methods_own_or_positive(ball, student, options):
    short = dataclasses.replace(student, training_steps=3)
    _, result = train(ball, "r2l", short, dataclasses.replace(options, max_steps=None))
    assert (result.reason, result.step) == ("steps", 3)
    with pytest.raises(LumigraphError, match="must be positive"):
        train(ball, "r2l", student, dataclasses.replace(options, max_steps=0))


def broken_losses(renderer, batch, step, seed):
    losses = type(renderer).losses(renderer, batch, step, seed)
    if step == 4:
        losses.terms["distortion"] = torch.tensor(float("nan"))
    return losses


def test_loss_that_is_not_finite_stops_before_the_update(ball, student, options, monkeypatch):
    run = begin("r2l", student, ball.info, options)
    renderer = run.new_renderer()
    before = {}

    def losses(batch: Batch, step: int, seed: int) -> Losses:
        if step == 4:
            before.update({name: tensor.clone() for name, tensor in renderer.state_dict().items()})
        return broken_losses(renderer, batch, step, seed)

    renderer.losses = losses
    with pytest.raises(LumigraphError, match="step 4: distortion is nan"):
        fit(renderer, PhotoSource(ball.split("train"), 0), run, options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in renderer.state_dict().items())
    assert not run.finished


def test_memory_far_beyond_is_refused(ball, student, options):
    run = begin("r2l", student, ball.info, options)
    renderer = run.new_renderer()
    renderer.memory_estimate = lambda rays: 10**15
    with pytest.raises(LumigraphError, match=r"100000\d\.\d GB needed"):
        fit(renderer, PhotoSource(ball.split("train"), 0), run, options)


@pytest.mark.parametrize("recovers", [False, True])
def test_collapse_is_said(ball, student, options, monkeypatch, recovers, capsys):
    monkeypatch.setattr("lumigraph.training.watch.COLLAPSE_STEPS", 5)
    run = begin("r2l", student, ball.info, dataclasses.replace(options, max_steps=60))
    renderer = run.new_renderer()
    good = {name: tensor.clone() for name, tensor in renderer.state_dict().items()}
    for parameter in renderer.parameters():
        parameter.data.zero_()
    renderer.lr_scale = lambda step, progress: 0.0
    asked = []

    def recover(seed: int) -> bool:
        asked.append(seed)
        if recovers:
            renderer.load_state_dict(good)
        return recovers

    renderer.recover = recover
    source = PhotoSource(ball.split("train"), 0)
    wanted = dataclasses.replace(options, max_steps=60)
    if recovers:
        fit(renderer, source, run, wanted, cadence=BUSY)
        assert "starts over" in capsys.readouterr().err
    else:
        with pytest.raises(LumigraphError, match="collapsed: at step 5 .*--seed"):
            fit(renderer, source, run, wanted, cadence=BUSY)
        assert not list_checkpoints(run.checkpoints)
    assert len(asked) == 1


def test_new_weights_have_all_the_patience(ball, student, options, monkeypatch):
    """Looks without gain while training had collapsed do not count against what it starts over with."""
    monkeypatch.setattr("lumigraph.training.watch.COLLAPSE_STEPS", 5)
    wanted = dataclasses.replace(options, max_steps=100)
    run = begin("r2l", student, ball.info, wanted)
    renderer = run.new_renderer()
    good = {name: tensor.clone() for name, tensor in renderer.state_dict().items()}
    for parameter in renderer.parameters():
        parameter.data.zero_()
    renderer.lr_scale = lambda step, progress: 0.0
    worse = {name: 10 * tensor for name, tensor in good.items()}
    renderer.recover = lambda seed: bool(renderer.load_state_dict(worse))
    source, rule = PhotoSource(ball.split("train"), 0), EarlyStopping(every=2, patience=4)
    result = fit(renderer, source, run, wanted, ball.views["val"], early_stopping=rule, cadence=BUSY)
    # Collapse is seen after 5 steps and 2 looks; what follows is worse than what all had in common at first.
    assert (result.reason, result.best_step, result.step) == ("no more gain", 0, 12)


def watching(ball, student, options) -> Watch:
    """One that is told of nothing but its task."""
    run = begin("r2l", student, ball.info, options)
    task = RayTask(run.new_renderer(), PhotoSource(ball.split("train"), 0), Budget(0, 0, None, 10), 0, None)
    nothing = {"validation": None, "held_out": False, "best": None, "history": []}
    return Watch(run, task, ProgressLine(), Interrupts(), cadence=Cadence(), **nothing)


def test_what_was_measured_long_ago_is_not_shown(ball, student, options):
    watch = watching(ball, student, options)
    watch.val_psnr, watch.val_step = 21.0, 50
    for step, shown in ((50, 21.0), (100, 21.0), (101, None)):
        watch.task.step = step
        assert watch.status().val_psnr == shown


def test_what_is_to_end_does_not_start_over(ball, student, options):
    """Another process says that time is up while the first one wants all to start over."""
    watch = watching(ball, student, options)
    renderer = watch.task.renderer
    watch._wanted_recovery = 1
    before = {name: tensor.clone() for name, tensor in renderer.state_dict().items()}
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    watch.on_train_batch_end(trainer, None, None, None, 0)
    assert trainer.should_stop
    assert watch.reason == "steps"
    assert all(torch.equal(before[name], tensor) for name, tensor in renderer.state_dict().items())


def test_damaged_checkpoint_is_skipped_and_said(ball, student, options, capsys):
    run, _ = train(ball, "r2l", student, options, cadence=BUSY)
    newest = list_checkpoints(run.checkpoints)[0]
    (newest / "state.safetensors").write_bytes(b"not tensors")
    _, result = train(ball, "r2l", student, dataclasses.replace(options, resume=True, max_steps=14))
    assert result.step == 14
    said = capsys.readouterr().err
    assert "step-00000012 is damaged" in said
    assert "going on from step 11" in said
    # The last line of the first training: the last step was not measured before it.
    assert "step 12/12" in said
    assert re.search(r"val \d+\.\d\d dB at step 11 ·", said)


def test_disk_that_fills_up(ball, student, options, monkeypatch):
    calls = []

    def full(*arguments, **more):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LumigraphError, match="the disk is full"):
        train(ball, "r2l", student, options)
    assert calls
    assert not list((options.run / "checkpoints").iterdir())


def test_works_outside_the_main_thread(ball, student, options):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(ball, "r2l", student, options)))
    thread.start()
    thread.join(60)
    assert results[0][1].reason == "steps"
    assert not list(Path(options.run).rglob("*.pt"))
