"""How much two calls differ in time: a size, not a p-value, which any effect reaches with patience."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import fmean, median
from time import perf_counter_ns

Call = Callable[[], object]


@dataclass(frozen=True)
class Difference:
    """Of the second call to the first, in microseconds. `typical`: how long one call takes."""

    typical: float
    medians: float
    trimmed_means: float

    @property
    def percent(self) -> float:
        """The larger of the two as a part of the whole, whichever call was slower: a busy machine stretches both."""
        return 100 * max(abs(self.medians), abs(self.trimmed_means)) / self.typical

    def __str__(self) -> str:
        return (
            f"{self.medians:+.1f} µs of {self.typical:.1f} µs (medians), {self.trimmed_means:+.1f} µs (trimmed means)"
        )


def difference(first: Call, second: Call, *, pairs: int) -> Difference:
    """Make both calls `pairs` times, in turns whose order is drawn, so that what slows a machine down slows both."""
    order, times = Random(1), ([0.0] * pairs, [0.0] * pairs)
    gc.collect()
    gc.disable()
    try:
        for pair in range(pairs):
            for which in (0, 1) if order.random() < 0.5 else (1, 0):
                times[which][pair] = _microseconds(second if which else first)
    finally:
        gc.enable()
    medians, means = map(median, times), map(_trimmed_mean, times)
    one, other = medians
    one_mean, other_mean = means
    return Difference(one, other - one, other_mean - one_mean)


def _microseconds(call: Call) -> float:
    started = perf_counter_ns()
    call()
    return (perf_counter_ns() - started) / 1000


def _trimmed_mean(times: list[float]) -> float:
    """Without the fastest and the slowest fifth: a pause of the machine is in one of them."""
    cut = len(times) // 5
    return fmean(sorted(times)[cut : len(times) - cut])


def smallest_difference(first: Call, second: Call, *, pairs: int, below: float) -> Difference:
    """The smallest of at most three measurements: what a machine does beside it goes away, what the code does stays.

    `below`: the percentage that is good enough to stop.
    """
    found = [difference(first, second, pairs=pairs)]
    while found[-1].percent >= below and len(found) < 3:
        found.append(difference(first, second, pairs=pairs))
    return min(found, key=lambda one: one.percent)
