"""`lumigraph demo`: the whole path on a built-in scene, verb after verb, and a report page of what came out."""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lumigraph.cli.parsing import parse
from lumigraph.errors import LumigraphError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The whole path on a built-in scene: teacher, pseudo views, student, evaluation, bundle, movie, report page."""

    out: Path = Path("demo")
    """Folder to write; the report page is its index.html."""
    scene: str = "builtin:still"
    """Scene to take: a built-in one, or a folder of photos that has test views."""
    downscale: int = 1
    """Make the photos smaller by this factor."""
    minutes: float = 3.6
    """Minutes of training in all, shared between teacher, student and fine-tuning; the rest takes about a minute."""
    seed: int = 0
    """Seed of all that is random."""
    overwrite: bool = False
    """Replace what an earlier demo wrote in this folder."""


SHARES = {"teacher": 0.32, "student": 0.58, "finetune": 0.1}
"""How the minutes of training are shared."""
PSEUDO_VIEWS = 300
STUDENT_PRESET = "cpu-small"


@dataclass(frozen=True)
class Paths:
    """What the demo writes."""

    out: Path

    @property
    def teacher(self) -> Path:
        return self.out / "teacher"

    @property
    def shards(self) -> Path:
        return self.out / "pseudo-views"

    @property
    def student(self) -> Path:
        return self.out / "student"

    @property
    def finetuned(self) -> Path:
        return self.out / "fine-tuned"

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def movie(self) -> Path:
        return self.out / "orbit.mp4"

    @property
    def report(self) -> Path:
        return self.out / "index.html"

    def measured(self, name: str) -> Path:
        """The result file of one evaluation."""
        return self.out / f"{name}.json"


@dataclass(frozen=True)
class Step:
    """One verb of the path; `trains` is the run folder whose measurements over time the report shows."""

    title: str
    argv: list[str]
    trains: Path | None = None


def main(argv: list[str]) -> None:
    """Run the demo and print where its report page is."""
    arguments = parse(argv, Arguments, prog="lumigraph demo")
    if not arguments.minutes > 0:
        raise LumigraphError(
            f"--minutes must be positive, not {arguments.minutes}", todo="Give it a minute or more"
        )
    paths = Paths(arguments.out)
    if paths.report.exists() and not arguments.overwrite:
        raise LumigraphError(
            "an earlier demo is there", where=paths.out, todo="Give another --out, or --overwrite"
        )
    paths.out.mkdir(parents=True, exist_ok=True)
    paths.report.unlink(missing_ok=True)
    start = time.perf_counter()
    steps = list(plan(arguments, paths))
    for number, step in enumerate(steps, start=1):
        _announce(f"[{number}/{len(steps)}] {step.title}", f"$ lumigraph {shlex.join(step.argv)}")
        import_module(f"lumigraph.cli.{step.argv[0]}").main(step.argv[1:])
    from lumigraph.cli.demo_report import write_demo_report

    seconds = time.perf_counter() - start
    trained = {step.title: step.trains for step in steps if step.trains}
    write_demo_report(paths, [f"lumigraph {shlex.join(step.argv)}" for step in steps], trained, seconds)
    _announce(f"The report page, after {seconds / 60:.1f} minutes:", str(paths.report.resolve()))
    _announce("To turn the student in a browser:", f"$ lumigraph view {shlex.quote(str(paths.bundle))}")


def plan(arguments: Arguments, paths: Paths) -> Iterator[Step]:
    """The verbs of the path, in order, as one would type them."""
    minutes = {name: f"{arguments.minutes * share:.2f}" for name, share in SHARES.items()}
    seed = ["--seed", str(arguments.seed)]
    fresh = ["--overwrite"] if arguments.overwrite else []
    teacher, student, finetuned = str(paths.teacher), str(paths.student), str(paths.finetuned)
    bundle, shards = str(paths.bundle), str(paths.shards)
    scale = [] if arguments.downscale == 1 else ["--downscale", str(arguments.downscale)]

    train = ["train", "ngp", arguments.scene, "--run", teacher, "--max-minutes", minutes["teacher"], *scale]
    yield Step("Teacher, from photos", [*train, *seed, *fresh], paths.teacher)
    bake = ["bake", teacher, "--out", shards, "--views", str(PSEUDO_VIEWS)]
    yield Step("Pseudo views, from the teacher", [*bake, *seed, *fresh])
    distill = ["distill", "r2l", shards, "--run", student, "--preset", STUDENT_PRESET]
    limit = ["--max-minutes", minutes["student"]]
    yield Step("Student, from the pseudo views", [*distill, *limit, *seed, *fresh], paths.student)
    finetune = [
        "finetune",
        student,
        arguments.scene,
        "--run",
        finetuned,
        "--max-minutes",
        minutes["finetune"],
    ]
    yield Step("Student, fine-tuned on the photos", [*finetune, *scale, *seed, *fresh], paths.finetuned)
    yield Step("Bundle", ["export", finetuned, "--out", bundle, *fresh])
    for name, renderer in (
        ("teacher", teacher),
        ("student", student),
        ("fine-tuned", finetuned),
        ("bundle", bundle),
    ):
        yield Step(f"How good: {name}", ["eval", renderer, "--json", str(paths.measured(name))])
    yield Step("Movie", ["render", finetuned, "--path", "orbit", "--out", str(paths.movie), *fresh])


def _announce(*lines: str) -> None:
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    sys.stdout.flush()
