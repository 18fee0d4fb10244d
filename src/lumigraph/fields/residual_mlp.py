"""The residual MLP of neural light fields, and a training step of it that keeps a CPU's arithmetic units busy.

    x_0 = relu(W_h code + b_h)
    x_{k+1} = x_k + W_k' relu(W_k x_k + b_k) + b_k'
    output = sigmoid(W_t (x_n + x_0) + b_t)

`ResidualMLP.forward` is that, in plain torch: the definition, and what runs on a GPU. `FusedError` is the same network
followed by a weighted squared error, for the CPU. It takes the rays a chunk at a time, forward and at once backward,
so that activations stay in the caches; it works in buffers that are made once; and since the loss is a sum over
rays, gradients add up over chunks. Matrix products then are all but a tenth of the time. What describes a ray comes in
as rows of numbers, is encoded chunk by chunk, and gets a gradient itself where something has learnt to make it.

Letters: B rays, W width, C outputs, S numbers of a ray, E numbers of its code, g the gradient with respect to the
residual stream x.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.ray_code import encode_rows, encoding_gradient, octave_major, scalar_major

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}


class ResidualBlock(nn.Module):
    """x -> outer(scale * layers(x) + x), an inner activation between the layers."""

    def __init__(self, width: int, layers: int, inner: str, outer: str, scale: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.inner, self.outer, self.scale = _ACTIVATIONS[inner](), _ACTIVATIONS[outer](), scale

    def forward(self, x: Float[Tensor, "*s W"]) -> Float[Tensor, "*s W"]:
        y = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            y = layer(self.inner(y))
        return self.outer(self.scale * y + x)


class ResidualMLP(nn.Module):
    """Head, body of residual blocks (or plain layers) with a global skip, tail with a sigmoid.

    Initialised as torch initialises `nn.Linear`; no normalisation (R2L section A.3, "nerf_v3.2").
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        *,
        layers_per_block: int = 2,
        residual: bool = True,
        global_skip: bool = True,
        residual_scale: float = 1.0,
        activation: str = "relu",
        inner_activation: str = "relu",
        outer_activation: str = "none",
    ):
        super().__init__()
        self.width, self.global_skip = width, global_skip
        self.head = nn.Linear(inputs, width)
        self.activation = _ACTIVATIONS[activation]()
        if residual:
            blocks = (depth - 2) // layers_per_block
            self.body = nn.ModuleList(
                ResidualBlock(width, layers_per_block, inner_activation, outer_activation, residual_scale)
                for _ in range(blocks)
            )
        else:
            self.body = nn.ModuleList(
                nn.Sequential(nn.Linear(width, width), _ACTIVATIONS[activation]()) for _ in range(depth - 2)
            )
        self.tail = nn.Linear(width, outputs)
        self.fusible = (
            residual
            and layers_per_block == 2
            and residual_scale == 1.0
            and (activation, inner_activation, outer_activation) == ("relu", "relu", "none")
        )
        """Whether `FusedError` and `fused_forward` compute this network."""

    def forward(self, code: Float[Tensor, "*s E"]) -> Float[Tensor, "*s C"]:
        """Outputs in (0, 1) of ray codes in the order of `positional_encoding`."""
        x = skip = self.activation(self.head(code))
        for block in self.body:
            x = block(x)
        if self.global_skip:
            x = x + skip
        # The sigmoid in float32: bfloat16 has 8 bits, and colours need all of them.
        return torch.sigmoid(self.tail(x).float())

    def multiplications(self) -> int:
        """Multiply-adds for one ray (5,894,912 for W256 D88)."""
        return sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))


class Workspace:
    """Buffers for one chunk, by name, made at first use and kept: a malloc of a megabyte costs page faults."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = 1
        for extent in shape:
            size *= extent
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


class PackedMLP:
    """Weights of a fusible `ResidualMLP` in the type of the matrix products, head columns in the order of `encode_rows`
    for codes of so many `octaves`.

    `matrices` are head, (first, second) of each block, tail as [out, in]; `biases` likewise.
    """

    def __init__(self, parameters: list[Tensor], dtype: torch.dtype, octaves: int, global_skip: bool):
        self.dtype, self.octaves, self.global_skip = dtype, octaves, global_skip
        self.scalars = parameters[0].shape[1] // (2 * octaves + 1)
        weights = [octave_major(parameters[0], self.scalars), *parameters[2::2]]
        self.matrices = [weight.detach().to(dtype).contiguous() for weight in weights]
        self.biases = [bias.detach().to(dtype) for bias in parameters[1::2]]

    @property
    def blocks(self) -> int:
        return (len(self.matrices) - 2) // 2

    @property
    def width(self) -> int:
        return self.matrices[0].shape[0]


def fusible_parameters(network: ResidualMLP) -> list[nn.Parameter]:
    """Weight, bias, weight, bias ... in the order head, blocks, tail."""
    layers = [network.head, *(layer for block in network.body for layer in block.layers), network.tail]  # type: ignore[union-attr]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def _head(packed: PackedMLP, rows: Tensor, work: Workspace) -> tuple[Tensor, Tensor]:
    """(code [E, n] in the type of the products, x_0 [n, W]) of some rays; in float32 the code is the buffer "code"."""
    shape = (packed.matrices[0].shape[1], rows.shape[1])
    code = work("code", shape, torch.float32)
    encode_rows(rows, packed.octaves, code)
    if packed.dtype != torch.float32:
        code = work("code low", shape, packed.dtype).copy_(code)
    x = work("x 0", (rows.shape[1], packed.width), packed.dtype)
    torch.addmm(packed.biases[0], code.T, packed.matrices[0].T, out=x)
    return code, x.relu_()


def _tail(packed: PackedMLP, x: Tensor, skip: Tensor | None, work: Workspace) -> tuple[Tensor, Tensor]:
    """(x_n + x_0, or x_n without a global skip; sigmoid outputs [n, C] in float32)."""
    if skip is not None:
        x = torch.add(x, skip, out=work("last", tuple(x.shape), packed.dtype))
    out = torch.addmm(packed.biases[-1], x, packed.matrices[-1].T)
    return x, out.float().sigmoid_()


@torch.no_grad()
def fused_forward(
    packed: PackedMLP, rows: Float[Tensor, "S B"], chunk: int, work: Workspace
) -> Float[Tensor, "B C"]:
    """Outputs of rays that `rows` describe, in chunks, in kept buffers."""
    rays = rows.shape[1]
    outputs = torch.empty(rays, packed.matrices[-1].shape[0])
    for first in range(0, rays, chunk):
        end = min(first + chunk, rays)
        _, skip = _head(packed, rows[:, first:end], work)
        hidden = work("hidden", tuple(skip.shape), packed.dtype)
        x = work("stream", tuple(skip.shape), packed.dtype).copy_(skip)
        for block in range(packed.blocks):
            first_matrix, second_matrix = packed.matrices[1 + 2 * block : 3 + 2 * block]
            first_bias, second_bias = packed.biases[1 + 2 * block : 3 + 2 * block]
            torch.addmm(first_bias, x, first_matrix.T, out=hidden)
            hidden.relu_()
            x.add_(second_bias).addmm_(hidden, second_matrix.T)
        outputs[first:end] = _tail(packed, x, skip if packed.global_skip else None, work)[1]
    return outputs


class FusedError(torch.autograd.Function):
    """Weighted squared error of a fusible `ResidualMLP`, whose gradient is made together with its value.

    `apply(rows [S, B], targets [B, C], weights [B, C], packed, chunk, work, *parameters)` gives

    - `loss`: sum of weights (output - target)^2, differentiable with respect to `parameters` (weights and biases of
      `fusible_parameters`), and to `rows`, the numbers that are encoded, where they require a gradient;
    - `squared_error` [B, C]: (output - target)^2, not differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        targets: Tensor,
        weights: Tensor,
        packed: PackedMLP,
        chunk: int,
        work: Workspace,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients(packed, torch.empty_like(rows) if ctx.needs_input_grad[0] else None)
        squared_error = torch.empty_like(targets)
        for first in range(0, len(targets), chunk):
            end = min(first + chunk, len(targets))
            outputs, trace = _forward(packed, rows[:, first:end], work)
            error = outputs - targets[first:end]
            torch.mul(error, error, out=squared_error[first:end])
            # d loss / d (input of the sigmoid) = 2 w (s - y) s (1 - s)
            gradient = error.mul_(weights[first:end]).mul_(2).mul_(outputs).mul_(1 - outputs)
            into_head = _backward(packed, gradient.to(packed.dtype), trace, gradients, work)
            gradients.add_to_rows(first, end, into_head, work)
        ctx.gradients = gradients.finished()
        ctx.mark_non_differentiable(squared_error)
        return (squared_error * weights).sum(), squared_error

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_rows, of_parameters = ctx.gradients
        scaled = tuple(upstream[0] * gradient for gradient in of_parameters)
        return (None if of_rows is None else upstream[0] * of_rows, *(None,) * 5, *scaled)


class _Gradients:
    """Sums over chunks, in float32, of the gradients of a packed network; and, where `rows` [S, B] is given to be
    filled, those of what describes the rays."""

    def __init__(self, packed: PackedMLP, rows: Tensor | None):
        self.packed, self.rows = packed, rows
        self.matrices = [torch.zeros(matrix.shape) for matrix in packed.matrices]
        self.biases = [torch.zeros(bias.shape) for bias in packed.biases]

    def add(self, index: int, gradient: Tensor, inputs: Tensor) -> None:
        """For a layer with output gradient [n, out] and inputs [n, in]."""
        if gradient.dtype == torch.float32:
            self.matrices[index].addmm_(gradient.T, inputs)
        else:
            self.matrices[index] += gradient.T @ inputs
        self.biases[index] += gradient.sum(0, dtype=torch.float32)

    def add_to_rows(self, first: int, end: int, into_head: Tensor, work: Workspace) -> None:
        """For rays first..end, where the gradient with respect to the head's output is `into_head` [n, W]."""
        if self.rows is None:
            return
        head, octaves = self.packed.matrices[0], self.packed.octaves
        shape = (head.shape[1], end - first)
        gradient = torch.mm(head.T, into_head.T, out=work("g code", shape, head.dtype))
        if head.dtype != torch.float32:
            gradient = work("g code float", shape, torch.float32).copy_(gradient)
        code = work("code", shape, torch.float32)  # as `_head` has left it
        encoding_gradient(code, gradient, octaves, self.rows[:, first:end])

    def finished(self) -> tuple[Tensor | None, list[Tensor]]:
        self.matrices[0] = scalar_major(self.matrices[0], self.packed.scalars).contiguous()
        pairs = zip(self.matrices, self.biases, strict=True)
        return self.rows, [tensor for pair in pairs for tensor in pair]


_Trace = tuple[Tensor, list[Tensor], list[Tensor], Tensor]
"""(code [E, n], x_0 .. x_n, hidden units of each block, input of the tail): what the backward pass needs."""


def _forward(packed: PackedMLP, rows: Tensor, work: Workspace) -> tuple[Tensor, _Trace]:
    code, x = _head(packed, rows, work)
    stream, hiddens, shape = [x], [], (rows.shape[1], packed.width)
    for block in range(packed.blocks):
        first_matrix, second_matrix = packed.matrices[1 + 2 * block : 3 + 2 * block]
        first_bias, second_bias = packed.biases[1 + 2 * block : 3 + 2 * block]
        hidden = work(f"hidden {block}", shape, packed.dtype)
        torch.addmm(first_bias, x, first_matrix.T, out=hidden)
        hidden.relu_()
        following = work(f"x {block + 1}", shape, packed.dtype)
        torch.add(x, second_bias, out=following)
        x = following.addmm_(hidden, second_matrix.T)
        hiddens.append(hidden)
        stream.append(x)
    last, outputs = _tail(packed, x, stream[0] if packed.global_skip else None, work)
    return outputs, (code, stream, hiddens, last)


def _backward(
    packed: PackedMLP, gradient: Tensor, trace: _Trace, gradients: _Gradients, work: Workspace
) -> Tensor:
    """Adds up the gradients; returns that with respect to the output [n, W] of the head's product."""
    code, stream, hiddens, last = trace
    shape = tuple(last.shape)
    gradients.add(len(packed.matrices) - 1, gradient, last)
    g = torch.mm(gradient, packed.matrices[-1], out=work("g", shape, packed.dtype))
    skipped = work("g skip", shape, packed.dtype).copy_(g) if packed.global_skip else None
    inner = work("g hidden", shape, packed.dtype)
    masked = work("g masked", shape, packed.dtype)
    for block in reversed(range(packed.blocks)):
        gradients.add(2 + 2 * block, g, hiddens[block])
        torch.mm(g, packed.matrices[2 + 2 * block], out=inner)
        torch.ops.aten.threshold_backward.grad_input(inner, hiddens[block], 0, grad_input=masked)
        gradients.add(1 + 2 * block, masked, stream[block])
        g.addmm_(masked, packed.matrices[1 + 2 * block])
    if skipped is not None:
        g.add_(skipped)
    torch.ops.aten.threshold_backward.grad_input(g, stream[0], 0, grad_input=masked)
    gradients.add(0, masked, code.T)
    return masked


def plain_forward(
    network: ResidualMLP, code: Float[Tensor, "B E"], dtype: torch.dtype
) -> Float[Tensor, "B C"]:
    """`network` on `code` with products in `dtype` through torch's autocast; float32 is the network as it stands."""
    if dtype == torch.float32:
        return network(code)
    with torch.autocast(code.device.type, dtype=dtype):
        return network(code)


def squared_error(outputs: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """(output - target)^2, channel by channel."""
    return (outputs - targets).square()
