"""Where networks begin to learn from; torch's random state decides."""

from torch import nn


def reset_glorot(*networks: nn.Module) -> None:
    """Other first weights for linear layers, uniform as Glorot and Bengio (2010) have it, and biases of zero."""
    for layer in _linear_layers(*networks):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def reset_he(*networks: nn.Module) -> None:
    """Other first weights for linear layers without biases, uniform as He et al. (2015) have it for what goes through
    ReLU."""
    for layer in _linear_layers(*networks):
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")


def reset_linear(*networks: nn.Module) -> None:
    """Other first weights for linear layers, as torch initialises them."""
    for layer in _linear_layers(*networks):
        layer.reset_parameters()


def _linear_layers(*networks: nn.Module) -> list[nn.Linear]:
    return [layer for network in networks for layer in network.modules() if isinstance(layer, nn.Linear)]
