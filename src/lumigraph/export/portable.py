"""A student cut in two for export: the code, which says where a ray or a picture lies and stays in float32, and the
network, which turns the code into colours and may be shipped in less.

The code has the world transform, normalised device coordinates, near and far, what moves rays, and the positional
encoding in it: its finest waves have no room in half precision. Methods that answer for rays offer `PortableRays`,
those that answer for whole pictures are a `PictureLightField`.
"""

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lumigraph.configs import registry
from lumigraph.errors import LumigraphError
from lumigraph.export.ports import Condition
from lumigraph.geometry.conventions import split_similarity
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.picture_light_field import PictureLightField


@runtime_checkable
class PortableRays(Protocol):
    """A renderer that is one graph of standard operators: no control flow that depends on data. By `ray_codes` such a
    method is known."""

    network: nn.Module
    """Codes [N, E] to what begins with red, green and blue in [0, 1], on the display background."""

    def ray_codes(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], **conditions: Tensor
    ) -> Float[Tensor, "N E"]:
        """What the network sees of rays, without perturbation. `conditions` are those of the renderer's own
        `conditions`, by their names: `times` [N], `attributes` [N, A]."""
        ...


def is_portable(renderer_class: type) -> bool:
    """Whether renderers of a class can be written as graphs."""
    return issubclass(renderer_class, PictureLightField) or hasattr(renderer_class, "ray_codes")


def require_portable(method: str) -> None:
    """Raise `LumigraphError` when a method cannot be written as a graph, naming those that can."""
    refused = registry.load_renderer_class(method)
    if is_portable(refused):
        return
    classes = {name: registry.load_renderer_class(name) for name in registry.methods()}
    portable = [name for name, of_method in classes.items() if is_portable(of_method)]
    alike = [name for name in portable if classes[name].conditions == refused.conditions]
    reason = "it is not one evaluation of a network"
    if registry.method_entry(method).kind == "teacher":
        reason = "a teacher marches along its rays through a field, and no standard operator does that"
    raise LumigraphError(
        f"{method} cannot be written as a graph: {reason}; what can be exported is {', '.join(portable)}",
        todo=f"Distil a student and export that: lumigraph distill {(alike or portable)[0]} RUN --run STUDENT",
    )


class ToScene(nn.Module):
    """Rays in the units of the capture to rays in scene units; `world_transform` is the similarity between them."""

    turn: Tensor
    turn_and_scale: Tensor
    translation: Tensor

    def __init__(self, world_transform: Float[Tensor, "4 4"]):
        super().__init__()
        scale, rotation, translation = split_similarity(world_transform)
        self.moved = not torch.equal(world_transform, torch.eye(4).to(world_transform))
        self.register_buffer("turn", rotation.T.float())
        self.register_buffer("turn_and_scale", (scale * rotation.T).float())
        self.register_buffer("translation", translation.float())

    def forward(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        if not self.moved:
            return origins, directions
        return origins @ self.turn_and_scale + self.translation, directions @ self.turn


class RayCode(nn.Module):
    """Rays of the capture [N, 3], [N, 3], and each of the `conditions` named, to codes [N, E]."""

    def __init__(self, renderer: nn.Module, world_transform: Tensor, conditions: Sequence[str]):
        super().__init__()
        self.renderer = renderer
        self.to_scene = ToScene(world_transform)
        self.conditions = conditions

    def forward(self, origins: Tensor, directions: Tensor, *conditions: Tensor) -> Tensor:
        named = dict(zip(self.conditions, conditions, strict=True))
        return self.renderer.ray_codes(*self.to_scene(origins, directions), **named)  # pyright: ignore


class PinholeRays(nn.Module):
    """Directions [h, w, 3] of the rays through the centres of the patches of a pinhole's picture, in the axes of the
    capture; with a `patch` of 1 through those of its pixels."""

    def __init__(self, width: int, height: int, patch: int):
        super().__init__()
        self.patch = patch
        self.columns, self.rows = -(-width // patch), -(-height // patch)

    def forward(
        self, camera_to_world: Tensor, focal: Tensor, principal: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Origin [3], a part of directions for each column [1, w, 3] and one for each row [h, 3]; their sums are the
        directions."""
        right, down, forward, origin = camera_to_world.unbind(1)
        focal, principal = focal / self.patch, principal / self.patch
        x = (torch.arange(self.columns, dtype=torch.float32) + 0.5 - principal[0]) / focal[0]
        y = (torch.arange(self.rows, dtype=torch.float32) + 0.5 - principal[1]) / focal[1]
        return origin, x[None, :, None] * right + forward, y[:, None] * down


class PictureCode(nn.Module):
    """A pose of the capture, focal lengths, a principal point, and each of the `conditions` named (of one moment), to
    the code [1, E, h, w] of a picture of `width` x `height` pixels."""

    def __init__(
        self,
        renderer: PictureLightField,
        world_transform: Tensor,
        width: int,
        height: int,
        conditions: Sequence[str],
    ):
        super().__init__()
        self.renderer = renderer
        self.to_scene = ToScene(world_transform)
        self.camera = PinholeRays(width, height, renderer.config.patch)
        self.conditions = conditions

    def forward(
        self, camera_to_world: Tensor, focal: Tensor, principal: Tensor, *conditions: Tensor
    ) -> Tensor:
        origin, across, down = self.camera(camera_to_world, focal, principal)
        directions = (down[:, None] + across).reshape(-1, 3)
        origins, directions = self.to_scene(origin.expand_as(directions), directions)
        shape = (1, self.camera.rows, self.camera.columns)
        named = {
            name: value.expand(*shape, *value.shape)
            for name, value in zip(self.conditions, conditions, strict=True)
        }
        nothing = torch.zeros(shape)  # codes know nothing of the extent of a ray
        rays = Rays(
            origins.reshape(*shape, 3), directions.reshape(*shape, 3), nothing, nothing, nothing, **named
        )
        return self.renderer.codes(rays)


class RayColours(nn.Module):
    """The network of rays: codes [N, E] to colours [N, 3]; `half`: in half precision, between float32 ends."""

    def __init__(self, network: nn.Module, half: bool = False):
        super().__init__()
        self.network, self.half_precision = network, half

    def forward(self, code: Tensor) -> Tensor:
        return self.network(code.half() if self.half_precision else code)[:, :3].float()


class PictureColours(nn.Module):
    """The network of pictures: codes [B, E, h, w] to colours [B, 3, h f, w f]; `half` as for `RayColours`."""

    def __init__(self, network: nn.Module, half: bool = False):
        super().__init__()
        self.network, self.half_precision = network, half

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.network(code.half() if self.half_precision else code).float())


def colours_module(renderer: nn.Module, half: bool = False) -> RayColours | PictureColours:
    """The network of a student, as it is shipped: batch norm folded. With `half` its weights are copies in half
    precision."""
    if isinstance(renderer, PictureLightField):
        return PictureColours(_halved(renderer.folded()) if half else renderer.folded(), half).eval()
    assert isinstance(renderer, PortableRays)
    return RayColours(_halved(renderer.network) if half else renderer.network, half)


def _halved(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).half()


class ViewImage(nn.Module):
    """A student from the inputs of its image graph to the image [H, W, 3], for converters that begin with torch; the
    rays of a student of rays are taken `block` rows at a time."""

    def __init__(self, code: nn.Module, network: nn.Module, width: int, height: int, block: int):
        """`code`: a `PictureCode`, or a `RayCode`; `network`: what turns it into colours."""
        super().__init__()
        self.encoder, self.network = code, network  # `code` is a name that traced modules have taken
        self.width, self.height, self.block = width, height, block
        self.camera = PinholeRays(width, height, 1)

    def forward(
        self, camera_to_world: Tensor, focal: Tensor, principal: Tensor, *conditions: Tensor
    ) -> Tensor:
        if isinstance(self.encoder, PictureCode):
            colours = self.network(self.encoder(camera_to_world, focal, principal, *conditions))
            image = colours[0].permute(1, 2, 0)
            # A side that is cut to what it is becomes a node which coremltools does not know.
            for side, size in enumerate((self.height, self.width)):
                image = image if image.shape[side] == size else image.narrow(side, 0, size)
            return image
        origin, across, down = self.camera(camera_to_world, focal, principal)
        parts = []
        for rows in down.split(self.block):
            directions = (rows[:, None] + across).reshape(-1, 3)
            repeated = [value.expand(len(directions), *value.shape) for value in conditions]
            parts.append(self.network(self.encoder(origin.expand_as(directions), directions, *repeated)))
        return torch.cat(parts).reshape(self.height, self.width, 3)


def view_image(
    renderer: nn.Module,
    world_transform: Float[Tensor, "4 4"],
    width: int,
    height: int,
    conditions: Sequence[Condition],
    half: bool,
    block_rays: int,
) -> ViewImage:
    """The module of a student; see `ViewImage`, and `colours_module` for `half`."""
    names = [condition.of_rays for condition in conditions]
    network, alone = colours_module(renderer, half), _without_network(renderer)
    if isinstance(alone, PictureLightField):
        code: nn.Module = PictureCode(alone, world_transform, width, height, names)
    else:
        code = RayCode(alone, world_transform, names)
    return ViewImage(code, network, width, height, max(1, block_rays // width)).eval()


def _without_network(renderer: nn.Module) -> nn.Module:
    """The same renderer without the weights of its network, which converters would look for in its code."""
    alone = copy.copy(renderer)
    alone._modules = {name: part for name, part in renderer._modules.items() if name != "network"}
    return alone


def shipped_parameters(renderer: nn.Module) -> int:
    """Parameters of the network as it is shipped, batch norm folded, and of what makes its codes: grids, and networks
    that move rays."""
    parts = (colours_module(renderer), _without_network(renderer))
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def multiply_adds(
    renderer: nn.Module,
    world_transform: Float[Tensor, "4 4"],
    width: int,
    height: int,
    conditions: Sequence[Condition] = (),
) -> tuple[int | None, int]:
    """Multiply-adds of a ray, None where pictures are made whole, and of a picture of `width` x `height` pixels."""
    names = [condition.of_rays for condition in conditions]
    values = [condition.example for condition in conditions]
    network = colours_module(renderer)
    if isinstance(renderer, PictureLightField):
        code = PictureCode(renderer, world_transform, width, height, names)
        return None, _counted(code, network, (torch.eye(3, 4), torch.ones(2), torch.zeros(2), *values))
    rays = (torch.zeros(1, 3), torch.ones(1, 3), *(value[None] for value in values))
    each = _counted(RayCode(renderer, world_transform, names), network, rays)
    return each, each * width * height


def _counted(code: nn.Module, network: nn.Module, example: tuple[Tensor, ...]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(code(*example))
    return counter.get_total_flops() // 2
