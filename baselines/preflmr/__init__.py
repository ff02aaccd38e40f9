"""PreFLMR and FLMR: late-interaction retrieval with text and images (ACL 2024 and NeurIPS 2023), in plain PyTorch.

`PreFLMR.from_pretrained` reads the checkpoints of the official implementation as they are on the hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from baselines.preflmr.configuration import PreFLMRConfig

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR

__all__ = ["PreFLMR", "PreFLMRConfig"]


def __getattr__(name: str) -> Any:
    # torch and transformers cost seconds, and a command's --help imports this package.
    if name == "PreFLMR":
        from baselines.preflmr.preflmr import PreFLMR

        return PreFLMR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
