"""`m2kr.search.fused` behind `search`: with a function of the kernel's signature that runs on the CPU."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest
import torch

from m2kr.search import fused
from m2kr.search.exact import search
from tests.m2kr.search.items import assert_exactly, whole_numbers


class FakeKernel:
    """Stands in for the package late-interaction-kernels, with the parameters of its ``maxsim`` (0.4.5)."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Size, torch.Size, torch.dtype]] = []

    def maxsim(
        self,
        Q: torch.Tensor,  # noqa: N803
        D: torch.Tensor,  # noqa: N803
        q_mask: torch.Tensor | None = None,
        d_mask: torch.Tensor | None = None,
        *,
        normalize: bool = False,
        backward: str | None = None,
    ) -> torch.Tensor:
        assert Q.dtype == D.dtype
        assert Q.dim() == D.dim() == 3
        assert q_mask is d_mask is backward is None
        assert not normalize
        self.calls.append((Q.shape, D.shape, Q.dtype))
        return torch.einsum("qid,pjd->qpij", Q.float(), D.float()).amax(3).sum(2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setitem(sys.modules, "late_interaction_kernels", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(fused, "_DEVICES", ("cpu",))
    return fake


def test_the_fake_kernel_has_the_parameters_of_the_real_one() -> None:
    real = pytest.importorskip("late_interaction_kernels").maxsim
    if "Q" not in inspect.signature(real).parameters:
        pytest.skip("this late-interaction-kernels has no Triton")
    mine = inspect.signature(FakeKernel().maxsim).parameters
    theirs = inspect.signature(real).parameters
    assert {name: (p.kind, p.default) for name, p in mine.items()} == {
        name: (p.kind, p.default) for name, p in theirs.items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("dim", "memory"), [(16, 1), (16, 1 << 30), (48, 200_000), (48, 1), (48, 1 << 30), (1024, 1 << 30)]
)
def test_the_kernel_gives_what_the_double_loop_gives(
    kernel: FakeKernel, dtype: torch.dtype, dim: int, memory: int
) -> None:
    rng = np.random.default_rng(13)
    queries = whole_numbers(rng, [70, 5, 0, 33, 64], dim)
    queries[0][3] = 0  # dropped
    passages = [-abs(p) - 1 for p in whole_numbers(rng, [3, 0, 70, 9, 130, 1], dim)]
    queries = [abs(q) for q in queries]  # no similarity above zero: padding would show
    passages += [passages[0], passages[4], passages[1]]
    given = [[torch.from_numpy(item).to(dtype) for item in items] for items in (queries, passages)]
    found = search(*given, 8, memory=memory)
    assert_exactly(found, queries, passages, 8)
    assert kernel.calls
    for stack, tile, used in kernel.calls:
        assert used == dtype
        assert stack[1] == 64  # pieces of one length in every call
        assert stack[0] * tile[0] > 500  # never the package's other kernel for little work


def test_short_queries_come_in_short_pieces(kernel: FakeKernel) -> None:
    search([torch.ones(20, 16).half()], [torch.ones(4, 16).half()], 1)
    assert {stack[1] for stack, _, _ in kernel.calls} == {32}


@pytest.mark.parametrize(
    ("queries", "passages"),
    [
        (torch.float32, torch.float32),  # the kernel would round them
        (torch.float16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float16),
    ],
)
def test_the_kernel_is_left_alone_where_it_is_not_exact(
    kernel: FakeKernel, queries: torch.dtype, passages: torch.dtype
) -> None:
    rng = np.random.default_rng(14)
    mine, theirs = whole_numbers(rng, [20, 3], 32), whole_numbers(rng, [5, 1, 9], 32)
    found = search(
        [torch.from_numpy(q).to(queries) for q in mine], [torch.from_numpy(p).to(passages) for p in theirs], 3
    )
    assert_exactly(found, mine, theirs, 3)
    assert not kernel.calls


@pytest.mark.parametrize("dim", [15, 1025])
def test_the_kernel_is_left_alone_in_dimensions_it_does_not_take(kernel: FakeKernel, dim: int) -> None:
    search([torch.ones(3, dim).half()], [torch.ones(4, dim).half()], 1)
    assert not kernel.calls


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_DEVICES", ("cpu",))
    monkeypatch.setitem(sys.modules, "late_interaction_kernels", None)
    assert fused.fused_kernel("cpu", torch.float16, 128) is None
