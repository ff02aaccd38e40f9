"""How many inputs a model gets at once: what the user said, or else as many as the device has memory for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

from m2kr.common.devices import full_precision
from m2kr.common.progress import say
from m2kr.errors import M2KRError


class BatchSize:
    """The size of batches. One that the user did not choose is halved each time the device runs out of memory.

    It changes no result beyond float noise: see `m2kr.evaluate.batch_effect`.

    Args:
        given: what the user said, which is kept.
        default: what is tried first where the user said nothing.
        quiet: do not say that it is halved.
    """

    def __init__(self, given: int | None, default: int, *, quiet: bool = False) -> None:
        self.size = given or default
        self._given, self._quiet = given, quiet

    def call(self, model: Callable[..., Any], inputs: Sequence[Any], label: str) -> Any:
        """Return ``model(inputs, batch_size=...)``, in full precision where it computes in float32.

        Raises:
            M2KRError: the device has no memory for what the user said, or for a single input.
        """
        while True:
            try:
                with full_precision():
                    return model(inputs, batch_size=self.size)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                if self._given or self.size == 1:
                    remedy = f"a smaller --batch-size than {self.size}" if self.size > 1 else "--device cpu"
                    few = f"batches of {self.size} do" if self.size > 1 else "a single input does"
                    raise M2KRError(f"{label}: {few} not fit into the device's memory. Try {remedy}.") from error
            # Not in the handler above: the exception holds on to what the batch took.
            self.size //= 2
            say(f"{label}: the device's memory is too small for more: {self.size} at once from here", quiet=self._quiet)
            gc.collect()
            sys.modules["torch"].cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # whoever raises its error has imported it
    return torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
