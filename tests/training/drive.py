"""A training as its own process, to be interrupted, killed or split: `drive.py RUN STEPS [DEVICES] [SLEEP]`."""

import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    run_path, steps, devices, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    spec = spec_from_file_location("ball", Path(__file__).with_name("ball.py"))
    assert spec and spec.loader
    ball = module_from_spec(spec)
    spec.loader.exec_module(ball)

    import torch

    import lumigraph.rendering.machine as machine
    from lumigraph.cli.train import report
    from lumigraph.configs.common import TrainOptions
    from lumigraph.training.fit import Cadence, begin, fit
    from lumigraph.training.sources import PhotoSource

    machine.available_cores = lambda: devices  # one thread each: the tests share the machine

    class Slow(PhotoSource):
        def batch(self, step: int, rays: int):
            time.sleep(pause)
            return super().batch(step, rays)

    options = TrainOptions(
        run=Path(run_path), max_steps=steps, device="cpu", devices=devices, precision="float32", resume=True
    )
    scene = ball.ball_scene()
    run = begin("r2l", ball.STUDENT, scene.info, options)
    torch.manual_seed(0)
    source = Slow(scene.split("train"), 0)
    cadence = Cadence(checkpoint=0.02, longest=0.02, preview=0.1, share=0.5)
    report(run, fit(run.new_renderer(), source, run, options, scene.views["val"], cadence=cadence), "train")


if __name__ == "__main__":
    main()
