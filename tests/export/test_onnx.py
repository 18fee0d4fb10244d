"""Graphs of any student that offers `ray_codes` and a network, in onnxruntime against torch."""

import builtins
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.export import onnx as graphs
from lumigraph.export.runtime import Session


class TinyStudent(nn.Module):
    """Sine code of the ray and one hidden layer; dropout shows whether it was traced in training mode."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3), nn.Sigmoid()]
        self.network = nn.Sequential(*layers)

    def ray_codes(self, origins: Tensor, directions: Tensor) -> Tensor:
        rays = torch.cat([origins, directions], -1)
        return torch.cat([torch.sin(3 * rays), torch.cos(3 * rays)], -1)

    def ray_colours(self, origins: Tensor, directions: Tensor) -> Tensor:
        return self.network(self.ray_codes(origins, directions))


@pytest.fixture(scope="module")
def student() -> TinyStudent:
    torch.manual_seed(0)
    return TinyStudent()


@pytest.fixture(scope="module")
def rays_graph(student: TinyStudent) -> graphs.Graph:
    return graphs.rays_graph(student, torch.eye(4, dtype=torch.float64))


def test_the_ray_graph_takes_any_number_of_rays(student: TinyStudent, rays_graph: graphs.Graph) -> None:
    session = Session(rays_graph.data, "rays.onnx")
    for count in (0, 1, 2, 7, 1000):
        origins, directions = torch.randn(2, count, 3).unbind(0)
        found = session.run({"origins": origins.numpy(), "directions": directions.numpy()})
        with torch.no_grad():
            wanted = student.eval().ray_colours(origins, directions)
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)


def test_a_graph_holds_standard_operators_and_nothing_of_this_machine(rays_graph: graphs.Graph) -> None:
    model = onnx.load_from_string(rays_graph.data)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", graphs.OPSET)]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert b".py" not in rays_graph.data
    assert b"site-packages" not in rays_graph.data


def test_the_same_weights_give_the_same_file(student: TinyStudent, rays_graph: graphs.Graph) -> None:
    student.train()  # which the exporter leaves as it was, and does not trace
    again = graphs.rays_graph(student, torch.eye(4, dtype=torch.float64))
    assert again.data == rays_graph.data
    assert all(module.training for module in student.modules())


@pytest.mark.parametrize("block", [1 << 16, 24])
def test_the_view_graph_makes_the_rays_of_a_pinhole_camera(
    student: TinyStudent, rays_graph: graphs.Graph, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "BLOCK_RAYS", block)  # 24: three blocks, the last one smaller
    width, height = 8, 7
    graph = graphs.rays_view_graph(rays_graph, width, height)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    pose = torch.cat([rotation, torch.tensor([[0.1], [-0.7], [2.0]])], 1)
    focal, principal = torch.tensor([9.0, 11.0]), torch.tensor([3.5, 4.25])
    found = Session(graph.data, "view.onnx").run(
        {"camera_to_world": pose.numpy(), "focal": focal.numpy(), "principal": principal.numpy()}
    )
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    local = torch.stack([(x - 3.5) / 9, (y - 4.25) / 11, torch.ones_like(x)], -1).reshape(-1, 3)
    with torch.no_grad():
        wanted = student.eval().ray_colours(pose[:, 3].expand_as(local), local @ rotation.T)
    assert found.shape == (height, width, 3)
    np.testing.assert_allclose(found.reshape(-1, 3), wanted.numpy(), atol=2e-6)


def test_ports_are_those_of_the_graph(rays_graph: graphs.Graph) -> None:
    session = Session(rays_graph.data, "rays.onnx")
    inputs = [port.to_json() for port in rays_graph.inputs]
    outputs = [port.to_json() for port in rays_graph.outputs]
    session.require_ports(inputs, outputs)
    with pytest.raises(
        LumigraphError, match=r"the model's inputs are origins float32 \[rays, 3\]; directions"
    ):
        session.require_ports(inputs[:1], outputs)


def test_a_file_that_is_no_model_is_one_message() -> None:
    with pytest.raises(LumigraphError, match=r"onnxruntime cannot open this model.*rays\.onnx"):
        Session(b"no protobuf at all", "rays.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(
    missing: str, student: TinyStudent, rays_graph: graphs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == missing else builtins)
    with pytest.raises(LumigraphError, match=r"pip install lumigraph\[export\]"):
        _use_everything(student, rays_graph)


def _use_everything(student: TinyStudent, graph: graphs.Graph) -> Any:
    return Session(graph.data, "rays.onnx"), graphs.rays_graph(student, torch.eye(4).double())
