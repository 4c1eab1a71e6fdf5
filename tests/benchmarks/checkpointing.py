"""Activation checkpoints on the CPU: time of a step against the bytes saved for backward."""

import torch
from nade import cheapest
from timing import table
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from formulary.autograd.checkpoint_memory import recomputed_layers
from formulary.autograd.saved_tensors import saved_bytes

LAYERS, WIDTH, BATCH, ROUNDS = 16, 256, 512, 15
SEGMENTS = (1, 2, 4, 8, 16)


def main() -> None:
    """One float32 network, forward and backward; all candidates take turns."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(LAYERS))
    net = nn.Sequential(*layers)
    x = torch.randn(BATCH, WIDTH, generator=generator).requires_grad_()

    def forward(segments: int) -> Tensor:
        return checkpoint_sequential(net, segments, x, use_reentrant=False)

    def step(segments: int | None) -> None:
        net.zero_grad()
        y = net(x) if segments is None else forward(segments)
        y.square().sum().backward()

    candidates = {"forward alone": lambda: net(x), "plain": lambda: step(None)}
    candidates |= {f"s={s}": lambda s=s: step(s) for s in SEGMENTS}
    times = cheapest(candidates, ROUNDS)
    plain = saved_bytes(lambda: net(x), net.parameters())
    forward_share = times["forward alone"] / times["plain"]
    rows = [
        ("forward alone", f"{times['forward alone'] * 1e3:.1f}", f"{forward_share:.2f}", "", ""),
        ("plain", f"{times['plain'] * 1e3:.1f}", "1.00", "1.00", "1.00"),
    ]
    for s in SEGMENTS:
        held = saved_bytes(lambda s=s: forward(s), net.parameters())
        predicted = 1 + recomputed_layers(LAYERS, s) / LAYERS * forward_share
        ratio = times[f"s={s}"] / times["plain"]
        millis = f"{times[f's={s}'] * 1e3:.1f}"
        rows.append((f"s={s}", millis, f"{ratio:.2f}", f"{predicted:.2f}", f"{held / plain:.2f}"))
    table(
        f"checkpoint_sequential: {LAYERS} layers of width {WIDTH}, B={BATCH}, float32, 1 thread, "
        f"least CPU time of {ROUNDS}",
        ("what", "ms", "time ratio", "predicted", "saved bytes ratio"),
        rows,
    )


if __name__ == "__main__":
    main()
