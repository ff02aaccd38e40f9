"""Bounds of scores on a CUDA GPU, from products in float16: those of `m2kr.search.bounds`, by a GPU's means.

Float32 on a GPU that does not round to TF32 is computed beside the tensor cores, which multiply half precision 10 to 15
times as fast. Here they find the MaxSims of rounded vectors, through the fused kernel of `m2kr.search.fused`, or where
that is not installed through torch's product of float16 into float32, whose maximum is then taken. It has not run on a
GPU: only on a CPU, with torch or Triton's interpreter in the place of the tensor cores.

Rounding. Each passage and each query is first multiplied by a power of two that takes its largest number to between
2**13 and 2**14, so that none overflows and only what is 2**-27 times the largest loses more than the eleven
significant bits leave. What that changes is measured, vector by vector, and so never has to be foreseen. bfloat16 has
eight bits, a bound eight times as wide at the same speed, and with the scale its range is of no use.

Adding up, in the places of 2 and 3 of the proof. Products of two float16 numbers are exact in float32, and MaxSims of
scaled vectors are powers of two times those of the vectors. Tensor cores take b products and what was added up before,
shift all of them to the largest exponent, cut off what lies below float32's last place there, add up, and cut the sum
off again; b is 4 on a V100, 8 on an A100, which keeps one bit more when it shifts, and 16 on an H100 or B200, which
keep two (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science
7:e330, 2021; Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv:2512.07004). Supposed is b of 4 or
more, and no bit more: (b + 2) 2**-23 of the sum of the absolute products for every b of n products, which is less than
gamma(n + 4) with u = 2**-22. The exponent of a subnormal number counts as 2**-14, at most 2**-27 of the largest, so
that what it adds is far below the hundredth in 1.01 n. Sums of m maxima, here and in the scores, are float32's, so u is
2**-24, and the product in float32 has 2**-23 as on a CPU. `adds_up` tries on the device whether what was found is that
near.

Why half precision and not 8 bits, which are twice as fast: see the shares of passages left in docs/gpu.md. Moreover, an
H100 adds products of fp8 up with ten bits fewer, which for 128 numbers alone would widen the bound beyond use.

Scoring again gives the bits of the plain way as long as an element of a product does not depend on the row where its
vector lies: products have one shape, or a lower one of the same bits, and `again_plan` tries whether that is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.bfloat16 import more
from m2kr.search.bounds import LARGEST, error_of
from m2kr.search.device import kind_of
from m2kr.search.fused import fused_kernel
from m2kr.search.layout import Layout
from m2kr.search.maxsim import half_product, kernel_scores, product_scores
from m2kr.search.ragged import Ragged, as_tensor, first_not_finite
from m2kr.search.tiles import Block, Plan, Stack

if TYPE_CHECKING:
    from torch import Tensor

_DEVICES = ("cuda",)
_CAPABILITY = (7, 5)  # that the kernel asks for
_WHOLE_WORDS = 4  # numbers: all vectors begin at multiples of 16 bytes, or kernels could be chosen by where they begin
_TOP = 14  # exponent to which the largest numbers are scaled
_EXPONENTS = 126  # at most, of a scale or one divided by it
_TENSOR_CORES, _PRODUCT, _SUM = 2.0**-22, 2.0**-23, 2.0**-24  # u
_LOWER, _LEAST_AGAIN = 8, 16  # products in which passages are scored again: so many times lower, but of so many rows
_TRIED = 16  # passages whose scores are compared with exact ones


def can_bound(device: str, dim: int) -> bool:
    """Whether passages can be left out on a device: a CUDA GPU whose tensor cores multiply float16 into float32."""
    import torch

    if kind_of(device) not in _DEVICES or dim % _WHOLE_WORDS:
        return False
    if torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    if fused_kernel(device, torch.float16, dim) is not None:
        return True
    try:
        one = torch.ones((16, 16), dtype=torch.float16, device=device)
        half_product(one, one, torch.empty((16, 16), device=device))
    except (TypeError, RuntimeError):  # torch before 2.8
        return False
    return True


@dataclass(frozen=True)
class Scaled:
    """Items of float16 vectors, each multiplied by a power of two, and how far rounding takes them.

    Attributes:
        vectors: shape (items, vectors, dim), float16.
        exponents: of the powers of two, shape (items,), int32.
        lengths: at least the length of each vector, rounded or not, without the power, shape (items, vectors), float32.
        lost: at least the length of the difference, likewise.
    """

    vectors: Tensor
    exponents: Tensor
    lengths: Tensor
    lost: Tensor

    @classmethod
    def of(cls, items: Tensor) -> Scaled:
        """Scale and round items of shape (items, vectors, dim), float32.

        NaN or infinity gives a length that is none, either.
        """
        import torch

        dim = items.shape[2]
        exponents = _TOP - torch.frexp(items.abs().amax((1, 2))).exponent
        exponents.clamp_(-_EXPONENTS, _EXPONENTS)
        scaled = items * _power(exponents)[:, None, None]
        vectors = scaled.half()
        lengths = torch.linalg.vector_norm(scaled, dim=2)
        lost = torch.linalg.vector_norm(scaled.sub_(vectors), dim=2)
        lengths, lost = (more(norms, dim) for norms in (lengths, lost))
        back = _power(-exponents)[:, None]
        return cls(vectors, exponents, lengths.add_(lost).mul_(back), lost.mul_(back))


@dataclass(frozen=True)
class HalfBounded:
    """The passages of a chunk that have vectors, or some of them, with what bounds of their scores are made of.

    Attributes:
        chunk: all of it, on the device.
        first: the row of its first passage.
        rows: of the passages, shape (passages,), int64; no passage has more vectors than one before it.
        blocks: their vectors, in the order of `rows`, scaled, float16.
        exponents: of the scales, shape (passages,), int32.
        longest: for each passage at least the length of its longest vector, rounded or not, shape (passages,), float32.
        lost: at least the length of the largest rounding error of a vector.
        plan: sizes.
    """

    chunk: Ragged
    first: int
    rows: npt.NDArray[np.int64]
    blocks: list[Block]
    exponents: Tensor
    longest: Tensor
    lost: Tensor
    plan: Plan

    @classmethod
    def of(cls, chunk: Ragged, first: int, plan: Plan, passages: npt.NDArray[np.int64] | None = None) -> HalfBounded:
        """Scale and round the passages of a chunk that have vectors, or some of those.

        Raises:
            M2KRError: NaN or infinity.
        """
        import torch

        every = as_tensor(chunk.vectors)
        device, dim = every.device, every.shape[1]
        fused = fused_kernel(str(device), torch.float16, dim) is not None
        blocks, rows = [], []
        facts: list[tuple[Tensor, Tensor, Tensor]] = []
        for layout in Layout.of(chunk, plan.sizes(fused), passages):
            if not layout.tiles:
                continue
            count = len(layout.source)
            half = torch.zeros(
                (count if fused else max(count, plan.least_rows), dim), dtype=torch.float16, device=device
            )
            source = torch.from_numpy(layout.source).to(device)
            for row, members, length in layout.tiles:
                some = slice(row, row + members * length)
                tile = every.index_select(0, source[some]).to(torch.float32).view(members, length, dim)
                scaled = Scaled.of(tile)
                half[some] = scaled.vectors.view(-1, dim)
                facts.append((scaled.exponents, scaled.lengths.amax(1), scaled.lost.amax(1)))
            own = first + layout.passages
            rows.append(own)
            blocks.append(Block(half, torch.from_numpy(own).to(device), layout.tiles, fused))
        exponents, longest, lost = (torch.cat(kind) for kind in zip(*facts, strict=True))
        if not torch.isfinite(longest).all() and (bad := first_not_finite(chunk)) is not None:
            raise M2KRError(f"the embeddings of passage {first + bad} hold NaN or infinity")
        return cls(chunk, first, np.concatenate(rows), blocks, exponents, longest, lost, plan)

    def some(self, passages: npt.NDArray[np.int64], plan: Plan) -> Iterator[Block]:
        """Yield some of the passages, given in order, in float32, as `Block.some` does, in the sizes of a plan."""
        rows = self.rows[passages] - self.first
        return Block.some(self.chunk, self.first, rows, plan.tile_rows, plan.block_rows, plan.least_rows)

    def bounds(self, stack: Stack, vectors: Tensor, product: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what scores are at least and at most, each of shape (queries, passages), float32.

        They hold for scores as `m2kr.search.maxsim.product_scores` gives them. None where there are no bounds, or where
        scoring some of the passages again would give other bits.

        Args:
            stack: which queries; the longest has a vector.
            vectors: theirs, as the stack gives them.
            product: scratch, float32.
        """
        import torch

        count, longest, dim = len(stack.queries), stack.longest, vectors.shape[1]
        queries = Scaled.of(vectors[: count * longest].view(count, longest, dim))
        lengths, lost = (norms.sum(1) * (1 + longest * 2.0**-22) for norms in (queries.lengths, queries.lost))
        added_up = unsure(dim, longest) + unsure(dim, longest, _PRODUCT)
        scales = torch.stack([kind for side in (queries, self) for kind in torch.aminmax(side.exponents)])
        low, high, *more = (int(exponent) for exponent in scales.tolist())
        if low + more[0] < -_EXPONENTS or high + more[1] > _EXPONENTS or not added_up < 0.5:
            return None
        if not float(lengths.max()) * float(self.longest.max()) < LARGEST:
            return None
        device, columns = str(vectors.device), stack.columns(self.plan.product_vectors)
        if again_plan(device, self.plan, columns) is None or not adds_up(device, self.plan, count, longest):
            return None
        nearly = maxsims(stack, queries.vectors, self.blocks, self.plan, product)
        nearly.mul_(_power(-queries.exponents[:, None] - self.exponents))
        error = error_of(lengths, lost, self.longest, self.lost, added_up=added_up, dim=dim, longest=longest)
        return nearly - error, nearly.add_(error)


def maxsims(stack: Stack, queries: Tensor, blocks: list[Block], plan: Plan, product: Tensor) -> Tensor:
    """Return the MaxSims of float16 vectors as tensor cores find them, shape (queries, passages), float32.

    Args:
        stack: which queries.
        queries: shape (queries, vectors, dim).
        blocks: the passages.
        plan: sizes.
        product: scratch, float32.
    """
    import torch

    found = torch.empty((sum(len(block.rows) for block in blocks), len(queries)), device=queries.device)
    places = torch.split(found, [len(block.rows) for block in blocks])
    if blocks[0].fused:
        padding = (0, 0, 0, -queries.shape[1] % plan.piece)
        pieces = torch.nn.functional.pad(queries, padding).view(len(queries), -1, plan.piece, plan.dim)
        for block, place in zip(blocks, places, strict=True):
            place.copy_(kernel_scores(pieces, block))
        return found.T
    with _summed_in_float32():
        for where, some, own in stack.groups(queries.view(-1, plan.dim), plan.product_vectors):
            for block, place in zip(blocks, places, strict=True):
                place[:, where] = product_scores(some, own, block, product, plan)
    return found.T


def unsure(dim: int, longest: int, unit: float = _TENSOR_CORES) -> float:
    """Return how far computed MaxSims are off at most, in units of the sum of |q| times the largest |d|.

    Args:
        dim: numbers in a vector.
        longest: vectors of a query.
        unit: u of the products.
    """
    products, sums = (terms * u / (1 - terms * u) for terms, u in ((1.01 * dim + 8, unit), (1.01 * longest + 8, _SUM)))
    return (1 + products) * (1 + sums) - 1


@cache
def adds_up(device: str, plan: Plan, count: int, longest: int) -> bool:
    """Whether MaxSims of float16 vectors on a device are as near to the exact ones as `unsure` says.

    Tried with passages whose vectors are near those of a query, as sums are largest then, have numbers with exponents
    far apart, as shifts then lose most, or are much smaller than another. Sums of the smallest numbers that there are,
    which are not to be taken for zero, have to be exact.

    Args:
        device: as torch names it.
        plan: sizes.
        count: queries of a stack. As many as a product has are tried.
        longest: vectors of each.
    """
    import torch

    generator = torch.Generator(device).manual_seed(0)
    fused = fused_kernel(device, torch.float16, plan.dim) is not None
    each, length = min(count, max(1, plan.product_vectors // longest)), min(9, plan.tile_rows)
    stack = Stack(np.arange(each), np.full(each, longest), np.empty(0, np.int64))
    product = torch.empty(0 if fused else plan.tile_rows * stack.columns(plan.product_vectors), device=device)
    many = _TRIED if fused else plan.tile_rows // length
    some = slice(0, None, max(1, many // _TRIED))

    def both(queries: Tensor, passages: Tensor) -> tuple[Tensor, Tensor]:
        """Return the MaxSims of some passages as the device finds them, and exactly."""
        padding = (0, 0, 0, -(many * length) % plan.tile_rows)
        vectors = torch.nn.functional.pad(passages.view(-1, plan.dim), padding)
        block = Block(vectors, torch.arange(many, device=device), [(0, many, length)], fused)
        found = maxsims(stack, queries, [block], plan, product)[:, some].double()
        return found, torch.einsum("qid,pjd->qpij", queries.double(), passages[some].double()).amax(3).sum(2)

    queries = torch.randn((each, longest, plan.dim), generator=generator, device=device)
    passages, spread = torch.randn((2, many, length, plan.dim), generator=generator, device=device)
    near = queries[0, torch.arange(length, device=device) % longest] + spread / 8
    tiny = passages * torch.where(torch.arange(length, device=device) == 0, 1.0, 2.0**-32)[:, None]
    kinds = torch.arange(many, device=device)[:, None, None] % 3
    passages = torch.where(kinds == 1, passages * 2.0 ** (8 * spread.clamp(-3, 3)), tiny)
    queries, passages = (Scaled.of(side).vectors for side in (queries, torch.where(kinds == 0, near, passages)))
    found, exact = both(queries, passages)
    lengths = queries.double().norm(dim=2).sum(1), passages[some].double().norm(dim=2).amax(1)
    if not ((found - exact).abs() <= torch.outer(*lengths) * unsure(plan.dim, longest)).all():
        return False
    smallest = torch.randint(4, passages.shape, generator=generator, device=device) * 2.0**-24
    return torch.equal(*both(torch.ones_like(queries), smallest.half()))


@cache
def again_plan(device: str, plan: Plan, columns: int) -> Plan | None:
    """Return sizes in which passages can be scored again with the bits of the plain way, wherever they lie.

    Of lower products than those of the plan if they have its bits, as few passages are scored again at once; else of
    the same. None where its own bits depend on the row. Tried with random numbers, all of which take other places.

    Args:
        device: as torch names it.
        plan: sizes of the plain way.
        columns: of a product.
    """
    import torch

    generator, many = torch.Generator(device).manual_seed(0), plan.tile_rows
    queries, passages = (
        torch.randn((count, plan.dim), generator=generator, device=device) for count in (columns, many)
    )
    stack = Stack(np.arange(columns), np.ones(columns, np.int64), np.empty(0, np.int64))
    product, order = torch.empty(many * columns, device=device), torch.arange(many, device=device)

    def scores(own: Plan, far: int) -> Tensor:
        rows = own.tile_rows
        tiles = [(row, min(rows, many - row), 1) for row in range(0, many, rows)]
        block = Block(passages.roll(far, 0), order, tiles, fused=False)
        return product_scores(stack, queries, block, product, own).roll(-far, 0).view(torch.int32)

    wanted = scores(plan, 0)
    for rows in (max(_LEAST_AGAIN, many // _LOWER), many):
        again = replace(plan, tile_rows=rows, least_rows=rows)
        if rows <= many and all(torch.equal(scores(again, far), wanted) for far in (1, many // 3, many // 2 + 1)):
            return again
    return None


@contextmanager
def _summed_in_float32() -> Iterator[None]:
    """Add up products of float16 in float32, whatever the caller's setting."""
    import torch

    settings = torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    before = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    for name in before:
        setattr(settings, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _power(exponents: Tensor) -> Tensor:
    """Return powers of two, float32, of exponents from -126 to 127, exactly."""
    import torch

    return ((exponents + 127) << 23).view(torch.float32)
