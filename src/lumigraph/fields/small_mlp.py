"""The networks of Instant-NGP: a few narrow layers without biases (Müller et al. 2022, section 4)."""

from torch import nn


def small_mlp(inputs: int, width: int, hidden_layers: int, outputs: int) -> nn.Sequential:
    """Linear layers without bias and ReLU between them."""
    widths = [inputs, *[width] * hidden_layers]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=False))


def reset_linear(*networks: nn.Module) -> None:
    """Other first weights for the linear layers, which torch's random state decides."""
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
