"""Whether the photos of a scene come with the normals that a teacher is to be trained with."""

from lumigraph.errors import LumigraphError
from lumigraph.scenes.scene import Scene


def check_normals(scene: Scene) -> None:
    """Raises LumigraphError where the training views have no maps of normals, or none of these knows any."""
    views = scene.split("train")
    if not views.has_normals:
        raise LumigraphError(
            "training with normals is asked for (--normal-loss), and the training views of this scene have none",
            where=scene.info.source,
            todo="Leave --normal-loss out, or add maps of normals: NAME_normal_0001.png, NAME_normal_0001.exr or "
            "NAME_normal.npy beside NAME.png in Blender's format, omni/NAME_normal.png beside rgb/NAME.png, or files "
            "named by 'normal_file_path' in transforms.json",
        )
    for index in range(len(views)):
        normals = views.normals(index)
        if normals is not None and bool(normals.isfinite().any()):
            return
    raise LumigraphError(
        "none of the maps of normals of the training views knows any: no vector in them has a length of about 1",
        where=scene.info.source,
        todo="Check how they were written: as unit vectors, which images hold with their levels for -1 to 1",
    )
