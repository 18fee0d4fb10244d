"""Students of whole pictures as bundles: one graph from the pose to the picture, at every precision, and as a lens."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from lumigraph.configs import registry
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.lightspeed import LightSpeedConfig
from lumigraph.configs.mobile_dylin import MobileDyLiNConfig
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.export import lens, phones
from lumigraph.export.bundle import Shape, write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer, read_manifest
from lumigraph.export.onnx import view_ports
from lumigraph.export.orbit import orbit_of
from lumigraph.export.parity import view_values
from lumigraph.export.portable import multiply_adds, shipped_parameters, view_image
from lumigraph.export.ports import conditions_of
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import invert_similarity, opencv_to_opengl, similarity
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run

SIZES: dict[str, Any] = {
    "points": 3,
    "octaves": 2,
    "width": 8,
    "blocks": 2,
    "up_factors": (2, 2),
    "up_widths": (8, 6),
    "up_blocks": 1,
}
TINY = MobileR2LConfig(**SIZES)
MOVING = MobileDyLiNConfig(
    **SIZES, offset_layers=2, offset_width=8, offset_skip=1, hyper_layers=2, hyper_width=8, hyper_skip=1
)
GRIDS = LightSpeedConfig(
    width=8, blocks=2, up_factors=(2, 2), up_widths=(8, 6), up_blocks=1, resolutions=(4, 8), features=2
)
SIDE = 22
"""No multiple of a patch, so that pictures are cut."""


def moved(info: SceneInfo) -> SceneInfo:
    """The same scene, of a capture with other units and axes."""
    rotation = look_at(torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    return replace(info, world_transform=similarity(0.25, rotation[0, :, :3], torch.tensor([0.3, -0.2, 0.1])))


def forward_facing(info: SceneInfo) -> SceneInfo:
    """Cameras side by side that look along -z, and the frame of their average."""
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]])

    def aligned(cameras: Cameras) -> Cameras:
        poses = pose.repeat(len(cameras), 1, 1)
        poses[:, :2, 3] = torch.linspace(-0.3, 0.3, 2 * len(cameras)).reshape(-1, 2)
        return replace(cameras, camera_to_world=poses)

    cameras = {name: aligned(each) for name, each in info.cameras.items()}
    return replace(info, cameras=cameras, forward=ForwardFrame(pose, (0.5, 0.5), 1.0))


def scene_info() -> SceneInfo:
    return make_scene("still", 4, 2, 2, size=SIDE).info


def saved(folder: Path, info: SceneInfo, method: str = "mobile-r2l", config: Any = TINY) -> Run:
    """A student that has noted the pixels of its pictures, with batch norm that does something."""
    torch.manual_seed(1)
    run = Run.create(folder, method, config, info, TrainOptions(run=folder))
    renderer: Any = run.new_renderer()
    renderer.focal.copy_(info.cameras["train"].focal[0])
    for name, value in renderer.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.2, 1.5)
    for name, weights in renderer.named_parameters():
        if not name.startswith("network.") and not bool(weights.any()):
            torch.nn.init.normal_(weights, std=0.3)  # heads that begin at zero would move nothing
    with torch.no_grad():  # contrast, so that a wrong picture is seen
        raw = renderer.eval().view(info.cameras["train"][0]).rgb.logit()
        tail, spread = renderer.network.tail, raw.std((0, 1))
        tail.weight.div_(spread[:, None, None, None])
        tail.bias.sub_(raw.mean((0, 1))).div_(spread)
    run.save_weights(renderer, 1)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return saved(tmp_path_factory.mktemp("runs") / "student", moved(scene_info()))


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(run, folder, check_views=1)
    return folder


@pytest.fixture(scope="module")
def lens_bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "lens"
    write_bundle(run, folder, shape=Shape(form="lens", snap_gelu=True), check_views=2)
    return folder


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    assert wanted.std((0, 1)).mean() > 0.02
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=tolerance)


# ---- one graph


def test_a_bundle_of_pictures_has_one_graph_of_the_whole_way(run: Run, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert list(manifest["models"]) == ["view"]
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "poster.png", "view.onnx"]
    assert (manifest["schema"], manifest["form"], manifest["precision"]) == (4, "fused", "float32")
    assert manifest["picture"] == {"patch": 4, "focal": run.info.cameras["train"].focal[0].tolist()}
    assert manifest["network"]["parameters"] == TINY.parameters
    assert manifest["models"]["view"]["outputs"][0]["shape"] == [SIDE, SIDE, 3]
    model = onnx.load(bundle / "view.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    # Whoever opens it gives it a pose of the capture.
    camera = run.info.cameras["test"][0]
    captured = camera.transformed(invert_similarity(run.info.world_transform))
    names = ("camera_to_world", "focal", "principal")
    found = Session((bundle / "view.onnx").read_bytes(), "view.onnx").run(
        {name: getattr(captured, name)[0].numpy() for name in names}
    )
    close(torch.from_numpy(found), run.load_renderer("cpu").view(camera).rgb)


def test_a_forward_facing_scene_has_its_device_coordinates_in_the_graph(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", moved(forward_facing(scene_info())))
    renderer: Any = run.load_renderer("cpu")
    assert renderer.frame is not None
    write_bundle(run, tmp_path / "bundle", check_views=2)
    camera = run.info.cameras["test"][1]
    close(BundleRenderer(tmp_path / "bundle").view(camera).rgb, renderer.view(camera).rgb)


@pytest.mark.parametrize("size", [(22, 22), (44, 44), (11, 11), (31, 31)])
def test_other_sizes_are_drawn_as_the_student_draws_them(
    run: Run, bundle: Path, size: tuple[int, int]
) -> None:
    renderer = BundleRenderer(bundle)
    assert renderer.whole_views
    camera = run.info.cameras["test"][1].resized(*size)
    close(renderer.view(camera).rgb, run.load_renderer("cpu").view(camera).rgb)


def test_a_longer_lens_shows_a_part_and_a_wider_one_is_refused(run: Run, bundle: Path) -> None:
    renderer, student = BundleRenderer(bundle), run.load_renderer("cpu")
    camera = run.info.cameras["test"][0]
    longer = replace(camera, focal=1.5 * camera.focal)
    found, wanted = renderer.view(longer).rgb, student.view(longer).rgb
    # The student's picture ends where the graph's goes on: neighbours are missing at two rims.
    close(found[:12, :12], wanted[:12, :12])
    for other in (replace(camera, focal=0.7 * camera.focal), camera_of(camera, 2 * SIDE, SIDE)):
        with pytest.raises(LumigraphError, match=r"draws 22x22 pixels of the field of view.*any size"):
            renderer.view(other)
    bent = replace(camera, distortion=torch.full((1, 6), 0.01))
    with pytest.raises(LumigraphError, match="lens distorts"):
        renderer.view(bent)
    with pytest.raises(LumigraphError, match="whole pictures, not for single rays"):
        renderer.render(camera.view_rays(0))


def several_lenses(info: SceneInfo, factors: list[float]) -> SceneInfo:
    """The same scene, its held-out cameras with other focal lengths, as of a rig or with --poses r2l."""
    held_out = make_scene("still", 4, 2, len(factors), size=SIDE).info.cameras["test"]
    zoomed = replace(held_out, focal=held_out.focal * torch.tensor(factors)[:, None])
    return replace(info, cameras={**info.cameras, "test": zoomed})


@pytest.mark.slow
def test_held_out_cameras_with_other_lenses_are_checked_with_the_pixels_learnt(tmp_path: Path) -> None:
    info = several_lenses(scene_info(), [1.0, 1.05, 0.8])
    run = saved(tmp_path / "run", info)
    learnt = info.cameras["train"].focal[0].tolist()
    for form in ("fused", "lens"):
        manifest = write_bundle(run, tmp_path / form, shape=Shape(form=form), check_views=3)
        assert manifest["parity"]["view"]["cameras"] == 3
        assert manifest["parity"]["view"]["max_abs_error"] < 1e-4
        assert manifest["camera"]["focal"] == pytest.approx(learnt)
        assert (manifest["camera"]["width"], manifest["camera"]["height"]) == (SIDE, SIDE)
    first_is_long = saved(tmp_path / "long", several_lenses(info, [2.0, 1.0]))
    manifest = write_bundle(first_is_long, tmp_path / "bundle", check_views=2)
    # Half the field of view, with pixels as large.
    assert manifest["camera"]["width"] == SIDE // 2
    assert manifest["camera"]["focal"] == pytest.approx(learnt)


def camera_of(camera: Cameras, width: int, height: int) -> Cameras:
    return replace(camera, size=torch.tensor([[width, height]]))


def test_multiply_adds_are_those_of_the_network() -> None:
    info = scene_info()
    renderer = registry.load_renderer_class("mobile-r2l").from_scene(TINY, info)
    each, picture = multiply_adds(renderer, torch.eye(4).double(), SIDE, SIDE)
    assert each is None
    assert picture == TINY.multiplications(SIDE, SIDE)


@pytest.mark.parametrize(
    ("method", "config", "scene"),
    [("mobile-r2l", TINY, "still"), ("mobile-dylin", MOVING, "moving"), ("lightspeed", GRIDS, "still")],
)
def test_parameters_are_those_of_all_that_is_shipped(method: str, config: Any, scene: Any) -> None:
    info = make_scene(scene, 4, 2, 2, size=SIDE).info
    renderer = registry.load_renderer_class(method).from_scene(config, info)
    trained = sum(parameter.numel() for parameter in renderer.parameters())
    assert shipped_parameters(renderer) == config.parameters < trained  # batch norm is folded


# ---- a student of pictures that change


def changing(folder: Path) -> Run:
    info = make_scene("attributes", 4, 2, 2, size=SIDE).info
    cameras = {
        name: replace(each, times=torch.linspace(0, 1, len(each))) for name, each in info.cameras.items()
    }
    return saved(folder, replace(info, cameras=cameras), "mobile-dylin", MOVING)


def test_time_and_attributes_are_inputs_of_the_picture(tmp_path: Path) -> None:
    run = changing(tmp_path / "run")
    info = run.info
    manifest = write_bundle(run, tmp_path / "bundle", shape=Shape(precision="float16"), check_views=1)
    ports = manifest["models"]["view"]["inputs"]
    assert [port["name"] for port in ports[3:]] == ["time", "attributes"]
    assert ports[4]["names"] == list(info.attributes)
    renderer = BundleRenderer(tmp_path / "bundle")
    assert renderer.conditions == ("times", "attributes")
    camera = replace(
        info.cameras["test"][0], times=torch.tensor([0.7]), attributes=torch.tensor([[0.5, -0.25]])
    )
    student = run.load_renderer("cpu")
    wanted, found = student.view(camera).rgb, renderer.view(camera).rgb
    close(found, wanted, 2 / 255)
    later = replace(camera, times=torch.tensor([0.1]))
    change = student.view(later).rgb - wanted
    assert change.abs().max() > 0.01
    np.testing.assert_allclose((renderer.view(later).rgb - found).numpy(), change.numpy(), atol=2 / 255)
    with pytest.raises(LumigraphError, match="lens form is MobileR2L's"):
        write_bundle(run, tmp_path / "lens", shape=Shape(form="lens"))


# ---- the lens


def test_a_lens_has_the_published_names_and_paints_the_same(run: Run, lens_bundle: Path) -> None:
    folder, manifest = lens_bundle, read_manifest(lens_bundle)
    ports = {
        form: ([p["name"] for p in m["inputs"]], [p["name"] for p in m["outputs"]])
        for form, m in manifest["models"].items()
    }
    assert ports == {
        "sampler": (["c2w33", "c2w13"], ["pts"]),
        "embedder": (["rays"], ["embbrays"]),
        "network": (["input"], ["output"]),
        "network_snap_gelu": (["input"], ["output"]),
    }
    camera = run.info.cameras["test"][1]
    wanted = run.load_renderer("cpu").view(camera).rgb
    close(BundleRenderer(folder).view(camera).rgb, wanted)
    # As a lens does it: OpenGL's pose of the capture in, channels put last, a batch of pictures out.
    pose = opencv_to_opengl(camera.transformed(run.info.to_capture).camera_to_world)[0].numpy()
    open_ = {form: Session((folder / f"{lens.FILES[form]}.onnx").read_bytes(), form) for form in lens.PARTS}
    points = open_["sampler"].run(
        {"c2w33": pose[None, None, :, :3].copy(), "c2w13": pose[:, 3][None, None, None].copy()}
    )
    assert points.shape == (1, 1, 36, 9)
    embedded = open_["embedder"].run({"rays": points})
    assert embedded.shape == (1, 5, 36, 9)
    code = np.ascontiguousarray(embedded[0].transpose(2, 0, 1).reshape(45, 6, 6)[None])
    colours = open_["network"].run({"input": np.concatenate([code] * 3)})
    assert colours.shape == (3, 3, 24, 24)
    close(torch.from_numpy(colours[2]).permute(1, 2, 0)[:SIDE, :SIDE], wanted)
    script = (folder / "lens" / "constants.js").read_text()
    assert "var NSAMPLE = 3;" in script and "var OUTPUT_SCALE = 255;" in script
    constants = manifest["lens"]["constants"]
    assert constants["H"] == 6
    # The orbit is the capture's own, about its own vertical axis.
    for name in ("target", "up", "east", "azimuth", "elevation", "distance"):
        assert constants[name.upper()] == manifest["orbit"][name]
    assert constants["DISTANCE"][0] < constants["RADIUS"] < constants["DISTANCE"][1]
    # Another focal length than the sampler's is refused.
    with pytest.raises(LumigraphError, match="field of view"):
        BundleRenderer(folder).view(replace(camera, focal=1.5 * camera.focal))


def test_snaps_network_is_the_same_where_its_operator_is_gelu(lens_bundle: Path) -> None:
    folder = lens_bundle
    snap = read_manifest(folder)["models"]["network_snap_gelu"]
    assert snap["psnr_as_gelu"] > 100 > snap["psnr_as_tanh"] > snap["psnr_as_relu"]
    kinds = [node.op_type for node in onnx.load(folder / snap["file"]).graph.node]
    # One after the head, one in each residual block.
    assert kinds.count("GeluSnap") == 1 + TINY.blocks + 2 * TINY.up_blocks
    assert not {"Relu", "Erf", "Gelu"} & set(kinds)


def test_snaps_gelu_is_refused_where_there_is_none(run: Run, tmp_path: Path) -> None:
    with pytest.raises(LumigraphError, match="Add --form lens"):
        write_bundle(run, tmp_path / "bundle", shape=Shape(snap_gelu=True))
    other = saved(tmp_path / "run", scene_info(), config=replace(TINY, activation="relu"))
    with pytest.raises(LumigraphError, match="no GELU"):
        write_bundle(other, tmp_path / "bundle", shape=Shape(form="lens", snap_gelu=True))
    assert not (tmp_path / "bundle").exists()


def test_the_published_elevations_are_for_scenes_in_blenders_format(run: Run) -> None:
    renderer = lens.require_lens(run.load_renderer("cpu"))
    orbit = orbit_of(run.info, run.info.cameras["test"][0])
    camera = run.info.cameras["test"][0].transformed(run.info.to_capture)
    own, published = (
        lens.lens_constants(renderer, replace(run.info, format=kind), camera, orbit)
        for kind in ("transforms", "blender")
    )
    assert own["ELEVATION"] == orbit["elevation"] != [15, 75]
    assert published["ELEVATION"] == [15, 75]
    assert {**own, "ELEVATION": None} == {**published, "ELEVATION": None}


def test_a_damaged_lens_is_one_message(lens_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(lens_bundle, tmp_path / "lens")
    (tmp_path / "lens" / "lens" / "constants.js").write_text("var H = 1;")
    with pytest.raises(LumigraphError, match=r"checksum differs.*constants\.js"):
        BundleRenderer(tmp_path / "lens")


# ---- phones


def test_the_module_for_phones_is_the_student(run: Run) -> None:
    renderer: Any = run.load_renderer("cpu").eval()
    camera = run.info.cameras["test"][0]
    captured = camera.transformed(run.info.to_capture)
    module = view_image(renderer, run.info.world_transform, SIDE, SIDE, (), False, 100)
    with torch.no_grad():
        found = module(captured.camera_to_world[0], captured.focal[0], captured.principal[0])
    close(found, renderer.view(camera).rgb)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("coreml", r"lumigraph\[coreml\]"),
        ("litert", "'litert-torch>=0.10' && pip install --upgrade typing_extensions"),
        ("executorch", r"lumigraph\[executorch\]"),
    ],
)
def test_a_missing_converter_says_how_it_is_installed(
    name: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumigraph.export.onnx.find_spec", lambda library: None)
    with pytest.raises(LumigraphError, match=rf"--{name} needs .*pip install {packages}"):
        phones.require_formats((name,))


def test_the_module_for_phones_takes_time_and_attributes(tmp_path: Path) -> None:
    """And for a format that knows no number without an axis, a time of shape [1]."""
    run = changing(tmp_path / "run")
    renderer: Any = run.load_renderer("cpu").eval()
    camera = replace(
        run.info.cameras["test"][0], times=torch.tensor([0.7]), attributes=torch.tensor([[0.5, -0.25]])
    )
    conditions = conditions_of(renderer, run.info, camera)
    inputs, _, _ = view_ports(SIDE, SIDE, conditions)
    values = view_values(camera, run.info.to_capture, conditions)
    module = view_image(renderer, run.info.world_transform, SIDE, SIDE, conditions, False, 100)
    vectors = phones.FromVectors(module, inputs)
    wanted = renderer.view(camera).rgb
    with torch.no_grad():
        close(module(*values), wanted)
        close(vectors(*(torch.atleast_1d(value) for value in values)), wanted)


def write_for_phones(name: str, run: Run, folder: Path, views: int, precision: Any = "float32") -> Any:
    """What the manifest says of the files of a format; skips the test where its packages are missing."""
    try:
        phones.require_formats((name,))
    except LumigraphError as missing:
        pytest.skip(str(missing))
    shape = Shape(phones=(name,), precision=precision)
    manifest = write_bundle(run, folder, shape=shape, check_views=views)
    read_manifest(folder)
    written = manifest["phones"][name]
    assert written["files"][0]["file"].startswith(phones.FORMATS[name].file)
    allowed = {"float32": 1 / 255, "float16": 2 / 255}[precision]
    assert name == "coreml" or written["parity"]["max_abs_error"] < allowed
    return written


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ["coreml", "litert", "executorch"])
def test_files_for_phones_paint_the_same(tmp_path: Path, name: str, precision: str) -> None:
    """Whatever lenses the held-out cameras have."""
    run = saved(tmp_path / "run", several_lenses(scene_info(), [1.0, 1.05, 0.8]))
    write_for_phones(name, run, tmp_path / "bundle", 3, precision)


@pytest.mark.parametrize("name", ["coreml", "litert", "executorch"])
def test_time_and_attributes_reach_the_phone(tmp_path: Path, name: str) -> None:
    written = write_for_phones(name, changing(tmp_path / "run"), tmp_path / "bundle", 2)
    ports = {port["name"]: port["shape"] for port in written["inputs"]}
    # Core ML's inputs have an axis at least; the file and the manifest say the same.
    assert ports["time"] == ([1] if name == "coreml" else [])
    assert ports["attributes"] == [2]
    if name == "coreml":
        coremltools = pytest.importorskip("coremltools")
        path = tmp_path / "bundle" / "view.mlpackage"
        told = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description.input
        assert {port.name: list(port.type.multiArrayType.shape) for port in told} == ports


def test_int8_is_not_for_phones() -> None:
    with pytest.raises(LumigraphError, match="--precision float16 --litert"):
        phones.require_formats(("litert",), "int8")


# ---- grids of rays


@pytest.mark.parametrize(
    ("facing", "precision"),
    [
        ("inward", "float32"), ("forward", "float16"), ("inward", "int8"),
        # The others go the same ways.
        pytest.param("forward", "float32", marks=pytest.mark.slow),
        pytest.param("inward", "float16", marks=pytest.mark.slow),
        pytest.param("forward", "int8", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_features_of_grids_are_looked_up_in_the_graph(tmp_path: Path, facing: str, precision: Any) -> None:
    """LightSpeed: six coordinates of a ray around an object, or the four of a slab in front of the cameras."""
    info = moved(forward_facing(scene_info()) if facing == "forward" else scene_info())
    run = saved(tmp_path / "run", info, "lightspeed", GRIDS)
    student: Any = run.load_renderer("cpu")
    planes = {"inward": 15, "forward": 6}[facing]
    assert len(student.grids.grids[0]) == planes
    manifest = write_bundle(run, tmp_path / "bundle", shape=Shape(precision=precision), check_views=2)
    assert manifest["network"]["parameters"] == shipped_parameters(student)
    assert "GridSample" in {node.op_type for node in onnx.load(tmp_path / "bundle" / "view.onnx").graph.node}
    camera = info.cameras["test"][1]
    wanted, found = student.view(camera).rgb, BundleRenderer(tmp_path / "bundle").view(camera).rgb
    if precision == "int8":
        assert wanted.std() > 0.02
        assert float((found - wanted).square().mean()) < 10**-3.5
    else:
        close(found, wanted, {"float32": 1e-4, "float16": 2 / 255}[precision])
    if facing == "inward" and precision == "float32":
        with pytest.raises(LumigraphError, match="lens form is MobileR2L's"):
            write_bundle(run, tmp_path / "lens", shape=Shape(form="lens"))
