"""The networks of Instant-NGP: a few narrow layers without biases (Müller et al. 2022, section 4)."""

from torch import nn

from lumigraph.fields.first_weights import reset_he


def small_mlp(inputs: int, width: int, hidden_layers: int, outputs: int) -> nn.Sequential:
    """Linear layers without bias and ReLU between them, with the first weights of He et al. (2015).

    With smaller ones, such as Glorot's and torch's, a signal loses most of itself on its way: colours then stay grey
    for hundreds of steps, since what makes a pixel brighter is learnt long before what makes it redder.
    """
    widths = [inputs, *[width] * hidden_layers]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.Linear(width, outputs, bias=False))
    reset_he(network)
    return network
