"""An engine that computes with a Python function: the device of every test that is not about the device.

It holds callers to the same rules as the real engines, and remembers the batch sizes it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from serving.engine.protocol import EngineError, Tensor, TensorSpec, check_inputs

Compute = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class FakeEngine:
    """`compute` maps a checked batch of inputs to outputs by name.

    A result that lacks an output, or has one of the wrong dtype or shape, raises EngineError: a fake that
    drifts from its own specification would make tests lie.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        compute: Compute,
        *,
        max_batch: int = 8,
    ) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._compute = compute
        self._max_batch = max_batch
        self._closed = False
        self.batches: list[int] = []

    @property
    def name(self) -> str:
        return "fake"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def max_batch(self) -> int:
        return self._max_batch

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._closed:
            raise EngineError("fake: run after close")
        check_inputs(self.name, self._inputs, inputs, self._max_batch)
        self.batches.append(next((a.shape[0] for a in inputs.values() if a.ndim), 1))
        outputs = self._compute(inputs)
        if outputs.keys() != {spec.name for spec in self._outputs}:
            raise EngineError(
                f"fake: computed {sorted(outputs)} instead of {[s.name for s in self._outputs]}"
            )
        for spec in self._outputs:
            array = outputs[spec.name]
            if str(array.dtype) != spec.dtype or not spec.accepts(array.shape):
                raise EngineError(f"fake: output {spec} was computed as {array.dtype}{list(array.shape)}")
        return outputs

    def close(self) -> None:
        self._closed = True
