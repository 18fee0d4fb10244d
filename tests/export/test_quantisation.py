"""Which layers compute in 8 bits, and what is rounded between them."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from lumigraph.export.onnx import Graph, checked, trace
from lumigraph.export.parity import compare
from lumigraph.export.ports import CODE, Port
from lumigraph.export.quantisation import GOOD_PSNR, layers_in_8_bits, quantised
from lumigraph.export.runtime import Session
from lumigraph.fields.ray_grid_network import RayGridNetwork

INPUTS, SIDE, BLOCKS = 12, 6, 4


@pytest.fixture(scope="module")
def network() -> Graph:
    torch.manual_seed(3)
    layers = RayGridNetwork(
        INPUTS, 24, BLOCKS, up_factors=(2,), up_widths=(12,), up_blocks=1, activation="gelu", upsampling="transposed"
    )  # fmt: skip
    layers.eval()
    inputs = (Port(CODE, (1, INPUTS, SIDE, SIDE), ""),)
    outputs = (Port("colours", (1, 3, 2 * SIDE, 2 * SIDE), ""),)
    module = torch.nn.Sequential(layers.folded(), torch.nn.Sigmoid())
    return Graph(checked(trace(module, (torch.ones(inputs[0].shape),), inputs, outputs)), inputs, outputs)  # pyright: ignore


def codes(views: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(views, 1, INPUTS, SIDE, SIDE, generator=generator))


def nodes(graph: Graph) -> list[Any]:
    return list(onnx.load_from_string(graph.data).graph.node)


def answers(graph: Graph, seen: list[Tensor]) -> Tensor:
    session = Session(graph.data, "test")
    return torch.cat([torch.from_numpy(session.run({CODE: np.asarray(code)})) for code in seen])


def psnr(network: Graph, found: Graph, seen: list[Tensor]) -> float:
    return compare("network", len(seen), answers(network, seen), answers(found, seen)).psnr


def matrices(graph: Graph) -> Counter[int]:
    weights = onnx.load_from_string(graph.data).graph.initializer
    return Counter(tensor.data_type for tensor in weights if len(tensor.dims) > 1)


def test_what_blocks_add_up_is_not_rounded(network: Graph) -> None:
    found = quantised(network, codes(8))
    makers = {name: node for node in nodes(found) for name in node.output}
    rounded_sums = [node for node in nodes(found) if node.op_type == "QuantizeLinear"]
    assert any(
        makers[node.input[0]].op_type == "Add" for node in rounded_sums
    )  # for the layers that read them
    for node in nodes(found):
        for name in node.input if node.op_type == "Add" else ():
            if name in makers and makers[name].op_type == "DequantizeLinear":
                quantiser = makers[makers[name].input[0]]
                assert makers[quantiser.input[0]].op_type != "Add"
    assert psnr(network, found, codes(3, seed=1)) >= GOOD_PSNR


@pytest.fixture(scope="module")
def unlike(network: Graph) -> tuple[list[Tensor], Graph]:
    """Views of which some make far larger activations: more than a range that suits the others reaches over. And what
    became of the network that was shown them."""
    seen = codes(16)
    for view in (0, 5, 9):
        seen[view] *= 40
    return seen, quantised(network, seen)


def test_layers_in_which_views_differ_most_compute_in_float32_on_matrices_of_8_bits(
    network: Graph, unlike: tuple[list[Tensor], Graph]
) -> None:
    seen, found = unlike
    plain = quantised(network, codes(16))
    assert matrices(found) == matrices(plain)
    assert matrices(found)[onnx.TensorProto.INT8] == sum(matrices(network).values()) - 4
    kinds, fewer = (Counter(node.op_type for node in nodes(graph)) for graph in (plain, found))
    assert fewer["QuantizeLinear"] < kinds["QuantizeLinear"]
    assert layers_in_8_bits(network) == (0, 0)
    assert layers_in_8_bits(plain) == (8, 9)  # all but the transposed convolution
    assert layers_in_8_bits(found)[0] < 8
    assert psnr(network, plain, seen[:1]) < psnr(network, found, seen[:1])
    assert psnr(network, found, seen) >= GOOD_PSNR


def test_layers_of_rays_compute_in_float32_where_they_must() -> None:
    torch.manual_seed(1)
    layers = torch.nn.Sequential(
        *[part for _ in range(7) for part in (torch.nn.Linear(16, 16), torch.nn.GELU())]
    )
    inputs, outputs = (Port(CODE, ("rays", 16), ""),), (Port("colours", ("rays", 16), ""),)
    graph = Graph(checked(trace(layers, (torch.ones(4, 16),), inputs, outputs)), inputs, outputs)
    seen = list(torch.randn(8, 200, 16, generator=torch.Generator().manual_seed(2)))
    seen[2] *= 100
    found = quantised(graph, seen)
    assert matrices(found) == Counter({onnx.TensorProto.INT8: 3, onnx.TensorProto.FLOAT: 4})
    assert sum(node.op_type == "QuantizeLinear" for node in nodes(found)) < 6
    assert psnr(graph, found, seen) >= GOOD_PSNR


def test_transposed_convolutions_see_what_is_not_rounded(network: Graph) -> None:
    found = quantised(network, codes(4))
    makers = {name: node for node in nodes(found) for name in node.output}
    (finer,) = (node for node in nodes(found) if node.op_type == "ConvTranspose")
    assert makers[finer.input[0]].op_type == "Add"
    assert makers[finer.input[1]].op_type == "DequantizeLinear"


def test_nothing_is_left_that_nothing_reads(unlike: tuple[list[Tensor], Graph]) -> None:
    graph = onnx.load_from_string(unlike[1].data).graph
    read = {name for node in graph.node for name in node.input} | {port.name for port in graph.output}
    assert all(read & set(node.output) for node in graph.node)
    assert {tensor.name for tensor in graph.initializer} <= read


def test_a_network_that_answers_with_no_number_is_left_alone(network: Graph) -> None:
    seen = codes(4)
    seen[1][0, 0, 0, 0] = torch.nan
    assert quantised(network, seen) == network


def test_a_network_of_four_layers_is_left_alone() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(4)))
    inputs, outputs = (Port(CODE, ("rays", 5), ""),), (Port("colours", ("rays", 5), ""),)
    graph = Graph(checked(trace(layers, (torch.ones(4, 5),), inputs, outputs)), inputs, outputs)
    assert quantised(graph, [torch.ones(7, 5)]) == graph
