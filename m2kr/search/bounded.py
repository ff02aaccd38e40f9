"""Exact search that multiplies most passages in few bits only: those that a proven bound keeps out of the best.

`m2kr.search.bounds` or `m2kr.search.bounds_int8`, or on a GPU `m2kr.search.half`, gives each passage of a chunk a lower
and an upper bound of its score. What has an upper bound below the k-th highest lower bound is not among the k best. Of
the others, those that look best are scored first, in float32, exactly as without all this; the k-th best score is then
nearly known, and only what can still reach it is scored after them. So scores, order and ties are the same to the bit.

The choice. All ways are tried on some passages of the first large chunk, and the search goes on in the fastest. It is
asked anew whether leaving passages out pays: after a chunk in which it did not, and, as the bar rises with the
passages seen, after 1, 2, 4, ... chunks of the plain way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from m2kr.search.best import Best
from m2kr.search.bounds import Bfloat16Bounded, Bounded
from m2kr.search.bounds_int8 import Int8Bounded
from m2kr.search.device import kind_of, wait_for
from m2kr.search.half import HalfBounded, again_plan, can_bound
from m2kr.search.layout import Layout, Sizes
from m2kr.search.maxsim import product_scores, scores_of
from m2kr.search.products import is_quick
from m2kr.search.ragged import Ragged, as_tensor
from m2kr.search.tiles import Block, Plan, Stack

if TYPE_CHECKING:
    from torch import Tensor

Way: TypeAlias = Literal["measured", "plain", "bounded", "int8"]
Kind: TypeAlias = "type[Bounded] | type[HalfBounded]"
T = TypeVar("T")
Positions: TypeAlias = npt.NDArray[np.int64]

_AGAIN_NUMBERS = 1 << 18  # in float32, of passages that are scored again: half of a second-level cache

# Measuring: one passage of so many is tried, at most so many, of chunks with so many passages and products. It has to
# be this much faster, as what is measured is not exact. On a GPU a product has more passages, and the kernel may have
# to be tuned, for some seconds; those numbers are reckoned, not measured.
_TRIED = {"cpu": 64, "other": 8}
_MOST_TRIED = {"cpu": 256, "other": 2048}
_ROUNDS = 2
_FEWEST_PASSAGES = 512
_FOR_EACH = 40  # passages seen, for each that is to be found: of fewer, too many are left to be scored again
_MANY_PASSAGES = 4096  # of a chunk, of whose time trying takes so little that a quarter of that is enough
_LEAST_WORK = {"cpu": 1 << 30, "other": 1 << 42}
_GAIN = 0.9
_MOST_LEFT = 0.5  # where bounds leave more, there is no second round


class Searched:
    """A search on its way: queries, and what was found so far.

    Args:
        queries: all of them, on the device.
        stacks: of them.
        plan: sizes.
        k: passages to find for each query.
        device: as torch names it. The plain way is the only one but on a CPU and, unless the fused kernel takes the
            queries as they are, on a CUDA GPU (`m2kr.search.half`).
        way: "plain": every product in float32. "bounded": as this module says, by products in half precision; "int8":
            on a CPU by those of whole numbers, elsewhere like "bounded". "measured": the fastest one.
    """

    def __init__(
        self, queries: Ragged, stacks: list[Stack], plan: Plan, k: int, *, device: str, way: Way = "measured"
    ) -> None:
        import torch

        self.best = [Best(len(stack.queries), k, device) for stack in stacks]
        self._queries, self._stacks, self._plan, self._k, self._device = queries, stacks, plan, k, device
        self._product = torch.empty(plan.product_numbers, device=device)
        self._half = kind_of(device) != "cpu"
        bounds = not self._half or (not plan.fused and can_bound(device, plan.dim))
        self._way = way if bounds and plan.dim else "plain"
        self._kind: Kind = HalfBounded if self._half else Int8Bounded if way == "int8" else Bfloat16Bounded
        again = max(1, min(plan.block_rows, _AGAIN_NUMBERS // max(plan.dim, 1)))
        self._room = torch.empty((0 if self._half else again, plan.dim))
        self._sizes = plan.sizes() if self._half else plan.tried_sizes()
        self._block = torch.empty((0 if self._half else plan.block_rows + 2 * plan.tile_rows, plan.dim))
        self._faster = self._way in ("bounded", "int8")
        self._plain_seconds = 0.0  # for a vector of a passage and one of a query
        self._wait, self._pause = 0, 1

    def add(self, chunk: Ragged, first: int) -> None:
        """Search the passages of a chunk as well, whose first has the row ``first``.

        Raises:
            M2KRError: NaN or infinity; a score is too large for float32.
        """
        if self._way == "plain" or not len(chunk.vectors) or not self._pays(chunk, first):
            for block in self._blocks(chunk, first):
                self._add_plain(block)
                del block
            return
        import torch

        start = self._seconds()
        bounded = self._bounded(self._kind, chunk, first)
        for stack, best in zip(self._stacks, self.best, strict=True):
            self._add_bounded(stack, best, bounded)
        if len(empty := first + np.flatnonzero(chunk.lengths == 0)):
            none = as_tensor(chunk.vectors)[:0].to(self._device)
            self._add_plain(Block(none, torch.from_numpy(empty).to(self._device), [], fused=False))
        if self._way == "measured":
            seconds = self._seconds() - start
            self._found(seconds < self._plain_seconds * len(chunk.vectors) * sum(one.width for one in self._stacks))

    def _seconds(self) -> float:
        wait_for(self._device)
        return time.perf_counter()

    def _bounded(
        self, kind: Kind, chunk: Ragged, first: int, passages: Positions | None = None
    ) -> Bounded | HalfBounded:
        if issubclass(kind, HalfBounded):
            return kind.of(self._there(chunk), first, self._plan, passages)
        return kind.of(chunk, first, self._layouts(kind, chunk, passages))

    def _there(self, chunk: Ragged) -> Ragged:
        return Ragged(as_tensor(chunk.vectors).to(self._device), chunk.offsets)

    def _blocks(self, chunk: Ragged, first: int) -> Iterator[Block]:
        """Yield blocks of a chunk, and see how long what is done with each takes."""
        blocks = Block.cut(
            chunk, first, self._plan, self._queries, self._device, self._sizes, None if self._half else self._block
        )
        while (block := next(blocks, None)) is not None:
            vectors = len(block.vectors)
            start = time.perf_counter()
            yield block
            del block
            if vectors:
                self._sizes.took(time.perf_counter() - start, vectors)

    def _layouts(self, kind: type[Bounded], chunk: Ragged, passages: Positions | None = None) -> Iterator[Layout]:
        """Lay out the passages that have vectors, or some of those."""
        rows = max(1, kind.tile_numbers // self._plan.dim) if kind.tile_numbers else self._plan.tile_rows
        every = Layout.of(chunk, Sizes(rows, rows, self._plan.part_rows), passages)
        return (layout for layout in every if layout.tiles)

    def _add_plain(self, block: Block) -> None:
        for stack, best in zip(self._stacks, self.best, strict=True):
            best.add(self._scores(stack, block), block.rows)

    def _scores(self, stack: Stack, block: Block) -> Tensor:
        return scores_of(stack, self._queries, block, self._product, self._plan)

    def _add_bounded(self, stack: Stack, best: Best, bounded: Bounded | HalfBounded) -> None:
        vectors = stack.vectors(self._queries, self._device)
        bounds = bounded.bounds(stack, vectors, self._product) if stack.longest else None
        if bounds is None:
            for block in self._blocks(bounded.chunk, bounded.first):
                if block.tiles:
                    best.add(self._scores(stack, block), block.rows)
                del block
            return
        lower, upper = bounds
        if isinstance(bounded, HalfBounded):
            self._add_left(stack, best, vectors, bounded, lower, upper)
            return
        left = (upper >= best.bar(lower)).numpy()
        middle = lower.add_(upper).numpy()
        promising = []
        for query, mine in enumerate(left):
            passages = np.flatnonzero(mine)
            if len(passages) > self._k:
                passages = np.sort(passages[np.argpartition(-middle[query, passages], self._k)[: self._k]])
            mine[passages] = False
            promising.append(passages)
        self._add_some(stack, best, vectors, bounded, promising, len(bounded.rows))
        left &= (upper >= best.bar()).numpy()
        self._add_some(stack, best, vectors, bounded, [np.flatnonzero(mine) for mine in left], 0)

    def _add_some(
        self, stack: Stack, best: Best, vectors: Tensor, bounded: Bounded, chosen: list[Positions], items: int
    ) -> None:
        """Score, for each query of a stack, the chosen ones of ``items`` passages, and take them in."""
        import torch

        scores = [self._again(stack, vectors, query, bounded, passages) for query, passages in enumerate(chosen)]
        best.add_some(scores, [torch.from_numpy(bounded.rows[passages]) for passages in chosen], items)

    def _add_left(
        self, stack: Stack, best: Best, vectors: Tensor, bounded: HalfBounded, lower: Tensor, upper: Tensor
    ) -> None:
        """Score what bounds leave, as `_add_bounded` does on a CPU, and take it in; all of it on the device."""
        import torch

        rows, items = torch.from_numpy(bounded.rows).to(lower.device), len(bounded.rows)
        left = upper >= best.bar(lower)
        middle = torch.where(left, lower.add_(upper), -torch.inf)
        promising = middle.topk(min(self._k, items), dim=1, sorted=False).indices
        marked = torch.zeros_like(left).scatter_(1, promising, True).logical_and_(left)
        best.add_marked(self._marked(stack, vectors, bounded, marked), rows, marked, items)
        left &= (upper >= best.bar()) & ~marked
        best.add_marked(self._marked(stack, vectors, bounded, left), rows, left, 0)

    def _marked(self, stack: Stack, vectors: Tensor, bounded: HalfBounded, marked: Tensor) -> Tensor:
        """Return scores as `scores_of` gives them, shape (queries, passages), where they are marked; others may be 0.

        Queries that are multiplied together get the scores of each other's passages too: those come for nothing.
        """
        import torch

        scores = torch.zeros(marked.shape, device=marked.device)
        vectors_at_once = self._plan.product_vectors
        plan = again_plan(self._device, self._plan, stack.columns(vectors_at_once))
        assert plan is not None  # or there were no bounds
        groups = list(stack.groups(vectors, vectors_at_once))
        wanted = torch.stack([marked[where].any(0) for where, _, _ in groups]).cpu().numpy()
        for (where, some, own), mine in zip(groups, wanted, strict=True):
            if len(passages := np.flatnonzero(mine)):
                blocks = bounded.some(passages, plan)
                found = torch.cat([product_scores(some, own, block, self._product, plan) for block in blocks])
                scores[where, torch.from_numpy(passages).to(scores.device)] = found.T
        return scores

    def _again(self, stack: Stack, vectors: Tensor, query: int, bounded: Bounded, passages: Positions) -> Tensor:
        """Return the scores of one query of a stack with some passages, given in order, as `scores_of` gives them."""
        import torch

        if stack.lengths[query] == 0 or not len(passages):
            return torch.zeros(len(passages))
        longest = stack.longest
        alone = Stack(stack.queries[query : query + 1], np.array([longest]), stack.source[:0])
        own = torch.nn.functional.pad(
            vectors[query * longest : (query + 1) * longest], (0, 0, 0, alone.width - longest)
        )
        size = max(1, min(len(self._room) // 2, self._plan.product_numbers // (2 * alone.width)))
        found = [
            product_scores(alone, own, some, self._product, self._plan)[:, 0]
            for some in bounded.some(passages, size, self._room)
        ]
        return torch.cat(found)

    def _pays(self, chunk: Ragged, first: int) -> bool:
        """Whether to leave passages of this chunk out; measured, where that is due."""
        if self._way != "measured":
            return self._faster
        # The first stack has the longest queries.
        width = self._stacks[0].width if self._stacks and self._stacks[0].longest else 0
        work = len(chunk.vectors) * self._plan.dim * width
        if len(chunk) < _FEWEST_PASSAGES or not work or work < _LEAST_WORK["other" if self._half else "cpu"]:
            return False
        for_each = _FOR_EACH if len(chunk) < _MANY_PASSAGES else _FOR_EACH // 4
        if self.best[0].seen + len(chunk) < for_each * self._k:
            return False
        if not self._faster:
            if self._wait:
                self._wait -= 1
                return False
            self._found(self._measured(chunk, first))
        return self._faster

    def _found(self, faster: bool) -> None:
        """Remember whether leaving passages out was faster, and if it was not, for how long not to try again."""
        self._faster = faster
        if not faster:
            self._wait, self._pause = self._pause, 2 * self._pause

    def _measured(self, chunk: Ragged, first: int) -> bool:
        """Try all ways on some passages of a chunk. Tell whether leaving passages out will be faster; choose how."""
        import torch

        kinds = self._kinds()
        if not kinds:
            return False
        stack, best, plan = self._stacks[0], self.best[0], self._plan
        vectors, chunk = stack.vectors(self._queries, self._device), self._there(chunk)
        name = "other" if self._half else "cpu"
        step = max(_TRIED[name], len(chunk) // _MOST_TRIED[name])
        order = np.argsort(-chunk.lengths, kind="stable")[: np.count_nonzero(chunk.lengths) : step]
        fastest: dict[Any, float] = {}

        def timed(work: Any, do: Callable[[], T]) -> T:
            start = self._seconds()
            done = do()
            fastest[work] = min(fastest.get(work, math.inf), self._seconds() - start)
            return done

        def plain() -> Tensor:
            blocks = Block.some(chunk, first, order, self._sizes.tile, plan.block_rows, plan.least_rows)
            return torch.cat([self._scores(stack, block) for block in blocks], dim=1)

        # Where among those tried the k-th of all will be, when this chunk has been searched.
        place = min(math.ceil(self._k / (best.seen + len(chunk)) * len(order)), len(order))
        left: dict[Kind, float] = {}
        for _ in range(_ROUNDS):  # in the first one everything starts up
            bounded = {  # says so where numbers are not finite
                kind: timed(("rounding", kind), partial(self._bounded, kind, chunk, first, order)) for kind in kinds
            }
            scores = timed("plain", plain)
            bar = torch.maximum(scores.topk(place, dim=1).values[:, -1:], best.bar())
            for kind in kinds:
                bounds = timed(("bounding", kind), partial(bounded[kind].bounds, stack, vectors, self._product))
                left[kind] = math.inf if bounds is None else self._left(stack, vectors, bounds[1] >= bar)
            kinds = [kind for kind in kinds if left[kind] <= _MOST_LEFT * len(stack.queries)]
            if not kinds:
                break
            again = timed("again", partial(self._all_again, stack, vectors, bounded[kinds[0]]))
            # That a product in another shape, or of other passages, gives the same bits is what all this rests on.
            if not torch.equal(again.view(torch.int32), scores[0].view(torch.int32)):
                return False
        stacks = sum(other.width for other in self._stacks) / stack.width
        self._plain_seconds = fastest["plain"] / int(chunk.lengths[order].sum()) / stack.width
        least = _GAIN * stacks * fastest["plain"]
        found = False
        for kind in kinds:
            scoring = left[kind] * fastest["again"]
            seconds = fastest["rounding", kind] + stacks * (fastest["bounding", kind] + scoring)
            if seconds < least:
                self._kind, least, found = kind, seconds, True
        return found

    def _left(self, stack: Stack, vectors: Tensor, left: Tensor) -> float:
        """Return how often all passages would be scored again, where bounds leave some of them for each query."""
        import torch

        if self._half:  # what is left of any of those that are multiplied together
            groups = stack.groups(vectors, self._plan.product_vectors)
            left = torch.stack([left[where].any(0) for where, _, _ in groups])
        return float(left.float().mean()) * len(left)

    def _kinds(self) -> list[Kind]:
        """Return the kinds of bounds that are worth trying on the device."""
        if self._half:
            return [HalfBounded]
        kinds: dict[Literal["bfloat16", "int8"], Kind] = {"bfloat16": Bfloat16Bounded, "int8": Int8Bounded}
        return [kind for numbers, kind in kinds.items() if is_quick(self._plan.dim, numbers)]

    def _all_again(self, stack: Stack, vectors: Tensor, bounded: Bounded | HalfBounded) -> Tensor:
        """Return the scores of the first query of a stack with all passages, as those that are left get them."""
        import torch

        items = len(bounded.rows)
        if not isinstance(bounded, HalfBounded):
            return self._again(stack, vectors, 0, bounded, np.arange(items))
        marked = torch.zeros((len(stack.queries), items), dtype=torch.bool, device=vectors.device)
        marked[0] = True
        return self._marked(stack, vectors, bounded, marked)[0]
