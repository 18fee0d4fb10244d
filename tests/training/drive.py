"""A training as its own process, to be interrupted, killed or split: `drive.py RUN STEPS DEVICES SLEEP [KIND]`.

KIND "dead" trains a field whose density has died, so that it has to start over, "pictures" a student with batch norm;
each process then leaves the digest of what it has learnt beside the run, as RUN.0, RUN.1.
"""

import hashlib
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    run_path, steps, devices, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    kind = sys.argv[5] if len(sys.argv) > 5 else "rays"
    spec = spec_from_file_location("ball", Path(__file__).with_name("ball.py"))
    assert spec and spec.loader
    ball = module_from_spec(spec)
    spec.loader.exec_module(ball)

    import torch

    import lumigraph.rendering.machine as machine
    import lumigraph.training.watch as watch
    from lumigraph.cli.train import report
    from lumigraph.configs.common import TrainOptions
    from lumigraph.configs.nerf import NeRFConfig
    from lumigraph.rendering.machine import process_rank
    from lumigraph.training.begin import begin
    from lumigraph.training.fit import Cadence, fit
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
    small = NeRFConfig(
        rays=64, samples=8, importance=0, depth=2, width=16, skip=None, density="relu", lr=0.01
    )
    trained = {
        "dead": ("nerf", small),
        "pictures": ("mobile-r2l", ball.PICTURES),
        "rays": ("r2l", ball.STUDENT),
    }
    run = begin(*trained[kind], scene.info, options)
    torch.manual_seed(0)
    source, renderer = Slow(scene.split("train"), 0), run.new_renderer()
    cadence = Cadence(probe=0.01, checkpoint=0.02, longest=0.02, preview=0.1, share=0.5)
    if kind == "dead":
        watch.COLLAPSE_STEPS = 20
        torch.nn.init.constant_(renderer.coarse.density.bias, -100)
    report(run, fit(renderer, source, run, options, scene.views["val"], cadence=cadence), "train")
    if kind != "rays":
        learnt = b"".join(values.numpy().tobytes() for values in renderer.state_dict().values())
        Path(f"{run_path}.{process_rank()}").write_text(hashlib.sha256(learnt).hexdigest())


if __name__ == "__main__":
    main()
