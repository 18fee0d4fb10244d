"""onnxruntime behind one function: the only place that makes a session and sets its threads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lumigraph.errors import LumigraphError
from lumigraph.export.onnx import require_libraries

ELEMENT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class Session:
    """One model in onnxruntime, on the CPU, with as many threads as torch has."""

    def __init__(self, data: bytes, where: str):
        """`data` is an ONNX file's content, `where` its name for messages.

        Raises:
            LumigraphError: onnxruntime is not installed, or refuses the model.
        """
        require_libraries(("onnxruntime",), "opening a bundle")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are raised as well
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class
            raise LumigraphError(
                f"onnxruntime cannot open this model: {_first_line(error)}",
                where=where,
                todo="Export the bundle again, or update onnxruntime",
            ) from error
        self._where = where

    @property
    def inputs(self) -> set[str]:
        """The names of the model's inputs."""
        return {str(port.name) for port in self._session.get_inputs()}

    def input_shape(self, name: str) -> list[int | str]:
        """Sides of the input `name`, those that vary by their letters."""
        return next(list(port.shape) for port in self._session.get_inputs() if port.name == name)

    def require_ports(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Raise `LumigraphError` unless the model has exactly these ports (as `Port.to_json` gives them)."""
        for kind, named, found in (
            ("inputs", inputs, self._session.get_inputs()),
            ("outputs", outputs, self._session.get_outputs()),
        ):
            said = [_signature(port["name"], port["dtype"], port["shape"]) for port in named]
            has = [
                _signature(port.name, ELEMENT_TYPES.get(str(port.type), str(port.type)), port.shape)
                for port in found
            ]
            if said != has:
                raise LumigraphError(
                    f"the model's {kind} are {'; '.join(has)}, but the manifest names {'; '.join(said)}",
                    where=self._where,
                    todo="Export the bundle again",
                )

    def run(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The model's first output for its named inputs."""
        return self.run_all(values)[0]

    def run_all(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs for the named inputs, in the model's order."""
        return self._session.run(None, dict(values))  # pyright: ignore


def _signature(name: str, dtype: str, shape: list[int | str]) -> str:
    return f"{name} {dtype} [{', '.join(map(str, shape))}]"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
