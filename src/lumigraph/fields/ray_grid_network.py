"""The convolutional network of light fields that answer with a whole picture (MobileR2L, Cao et al., CVPR 2023,
arXiv 2212.08057, figure 3).

One ray stands for a patch of the picture. On the grid of these rays everything is a convolution of 1x1, that is, an MLP
of each ray by itself; then stages make the grid finer, and only there do neighbours see each other:

    x_0 = act(Conv(code))        x_n = x_{n-1} + BN(Conv(act(BN(Conv(x_{n-1})))))        y = x_N + x_0
    for each stage: y = Up(y), then residual blocks as above        colour = sigmoid(Conv(y))

For rendering, batch norm is folded into the convolutions (`folded`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "none": nn.Identity}


class NormalisedConv(nn.Module):
    """A 1x1 convolution, and batch norm unless it is folded."""

    def __init__(self, channels: int, normalised: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels) if normalised else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.norm(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that is the same as both with the running statistics:
        gamma (W x + b - mean) / sqrt(var + eps) + beta = (s W) x + s (b - mean) + beta, s = gamma / sqrt(var + eps)."""
        norm, bias = self.norm, self.conv.bias
        # Of whatever class training has left it: several processes share statistics (SyncBatchNorm).
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm) and bias is not None
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.conv.weight * scale[:, None, None, None], scale * (bias - norm.running_mean) + norm.bias


class ResidualConvs(nn.Module):
    """x + BN(Conv(act(BN(Conv(x))))), with nothing after the sum."""

    def __init__(self, channels: int, activation: str, normalised: bool):
        super().__init__()
        self.first = NormalisedConv(channels, normalised)
        self.act = ACTIVATIONS[activation]()
        self.second = NormalisedConv(channels, normalised)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.second(self.act(self.first(x)))


def finer(inputs: int, outputs: int, factor: int, upsampling: str) -> nn.Module:
    """What makes a grid `factor` (2 or 3) times finer: a transposed convolution, of kernel 4 and stride 2 with a margin
    of 1, or of kernel and stride 3; or a convolution whose outputs are laid side by side, of the smallest kernel
    that can be the same (3 for factor 2, 1 for factor 3)."""
    if upsampling == "transposed":
        even = factor == 2
        return nn.ConvTranspose2d(inputs, outputs, 4 if even else 3, stride=factor, padding=int(even))
    kernel = 3 if factor == 2 else 1
    conv = nn.Conv2d(inputs, outputs * factor**2, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.PixelShuffle(factor))


class RayGridNetwork(nn.Module):
    """Codes of rays [B, E, h, w] -> what a sigmoid makes colours of [B, 3, h f, w f]; f: the product of the factors."""

    def __init__(
        self,
        inputs: int,
        width: int,
        blocks: int,
        *,
        up_factors: tuple[int, ...],
        up_widths: tuple[int, ...],
        up_blocks: int,
        activation: str,
        upsampling: str,
        normalised: bool = True,
    ):
        super().__init__()
        self._sizes = {
            "inputs": inputs,
            "width": width,
            "blocks": blocks,
            "up_factors": up_factors,
            "up_widths": up_widths,
            "up_blocks": up_blocks,
            "activation": activation,
            "upsampling": upsampling,
        }
        self.head = nn.Conv2d(inputs, width, 1)
        self.act = ACTIVATIONS[activation]()
        self.body = nn.Sequential(*(ResidualConvs(width, activation, normalised) for _ in range(blocks)))
        self.up = nn.ModuleList()
        before = width
        for factor, channels in zip(up_factors, up_widths, strict=True):
            further = (ResidualConvs(channels, activation, normalised) for _ in range(up_blocks))
            self.up.append(nn.Sequential(finer(before, channels, factor, upsampling), *further))
            before = channels
        self.tail = nn.Conv2d(before, 3, 1)

    def forward(self, code: Float[Tensor, "B E h w"]) -> Float[Tensor, "B 3 H W"]:
        first = self.act(self.head(code))
        x = self.body(first) + first
        for stage in self.up:
            x = stage(x)
        return self.tail(x)

    @torch.no_grad()
    def folded(self) -> "RayGridNetwork":
        """The same function with batch norm's running statistics, without batch norm: what is rendered and shipped.
        Weights that need no folding are shared."""
        with torch.device("meta"):
            plain = RayGridNetwork(**self._sizes, normalised=False)
        weights = {name: value for name, value in self.state_dict().items() if ".norm." not in name}
        for name, module in self.named_modules():
            if isinstance(module, NormalisedConv):
                weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"] = module.folded()
        plain.load_state_dict(weights, assign=True)
        return plain.eval()
