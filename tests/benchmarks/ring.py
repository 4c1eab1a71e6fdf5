"""All-reduce between processes of this machine: the ring in Python beside gloo's own."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from timing import table

from formulary.ddp.collectives import all_reduce
from formulary.ddp.cost_models import bus_bandwidth
from formulary.ddp.processes import run_ranks
from formulary.ddp.ring import ring_all_reduce

WORLDS = (2, 4)
SIZES = ((1 << 10, 60), (1 << 16, 30), (1 << 20, 15), (1 << 24, 5))  # bytes, rounds


def least_seconds(size: int, rounds: int) -> dict[str, float]:
    """Least wall seconds of each candidate, of the slowest rank; they take turns."""
    x = torch.ones(size // 4)
    candidates: dict[str, Callable[[], object]] = {
        "dist.all_reduce (gloo)": lambda: dist.all_reduce(x.clone()),
        "ring_all_reduce": lambda: ring_all_reduce(x),
        "ring_all_reduce(check=False)": lambda: ring_all_reduce(x, check=False),
        "all_reduce, every tensor to everybody": lambda: all_reduce(x),
    }
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            dist.barrier()
            start = time.perf_counter()
            run()
            seconds = torch.tensor(time.perf_counter() - start)
            dist.all_reduce(seconds, dist.ReduceOp.MAX)
            best[name] = min(best[name], seconds.item())
    return best


def main() -> None:
    """Loopback has no slow link: this shows overheads, not what a network would."""
    for world_size in WORLDS:
        for size, rounds in SIZES:
            times = run_ranks(world_size, least_seconds, size, rounds)[0]
            base = times["dist.all_reduce (gloo)"]
            table(
                f"all-reduce: {world_size} processes, {size >> 10} KiB of float32, "
                f"1 thread each, least of {rounds}",
                ("what", "ms", "ratio to gloo", "busbw, GB/s"),
                [
                    (
                        name,
                        f"{1e3 * s:.2f}",
                        f"{s / base:.2f}",
                        f"{bus_bandwidth(float(size), s, world_size) / 1e9:.2f}",
                    )
                    for name, s in times.items()
                ],
            )


if __name__ == "__main__":
    main()
