"""The tape engine beside micrograd on scalars, and beside torch on tensors, on the CPU."""

import torch
import torch.nn.functional as F
from micrograd.engine import Value
from timing import alternate, table
from torch import Tensor

from formulary.autograd.tape import gradients
from formulary.autograd.tape_operations import Variable, cross_entropy

STEPS = 200
SIZES = ((64, 64, 10, 32, 40), (64, 64, 10, 1200, 20), (256, 1024, 10, 1200, 5))
Scalar = Value | Variable | Tensor


def scalar_program(x: Scalar, y: Scalar) -> Scalar:
    """Products, sums and powers of scalars; each value is used twice."""
    for _ in range(STEPS):
        x, y = (x * y + 0.5) * 0.5, (y + x * 0.25).relu() ** 2 * 0.25
    return x * y


def micrograd_scalars() -> float:
    """Forward and backward with micrograd."""
    x, y = Value(0.7), Value(0.4)
    scalar_program(x, y).backward()
    return x.grad


def tape_scalars() -> float:
    """Forward and backward with the tape engine."""
    x, y = (Variable(torch.tensor(v, dtype=torch.float64), True) for v in (0.7, 0.4))
    scalar_program(x, y).backward()
    return x.grad.data.item()


def torch_scalars() -> float:
    """Forward and backward with torch."""
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.4))
    scalar_program(x, y).backward()
    return x.grad.item()


def main() -> None:
    """All compute the same gradients, which is asserted before anything is timed."""
    torch.set_num_threads(1)
    scalars = {"micrograd": micrograd_scalars, "tape": tape_scalars, "torch": torch_scalars}
    first, *others = (run() for run in scalars.values())
    assert all(abs(other - first) <= 1e-12 * abs(first) for other in others)
    times = alternate(scalars, 15)
    table(
        f"Scalars, {STEPS} steps of 8 operations, forward and backward, 1 thread, median of 15",
        ("what", "ms", "ratio to tape"),
        [(n, f"{s * 1e3:.2f}", f"{s / times['tape']:.2f}") for n, s in times.items()],
    )
    generator = torch.Generator().manual_seed(0)
    for inputs, hidden, classes, batch, rounds in SIZES:
        shapes = ((inputs, hidden), (hidden,), (hidden, classes), (classes,))
        start = [0.1 * torch.randn(*shape, generator=generator) for shape in shapes]
        x = torch.randn(batch, inputs, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)

        def tape(start: list[Tensor] = start, x: Tensor = x, labels: Tensor = labels) -> Tensor:
            w, b, v, c = parameters = [Variable(p, requires_grad=True) for p in start]
            loss = cross_entropy((Variable(x) @ w + b).tanh() @ v + c, labels)
            return gradients(loss, parameters)[0].data

        def torch_(start: list[Tensor] = start, x: Tensor = x, labels: Tensor = labels) -> Tensor:
            w, b, v, c = parameters = [p.clone().requires_grad_() for p in start]
            loss = F.cross_entropy(torch.tanh(x @ w + b) @ v + c, labels)
            return torch.autograd.grad(loss, parameters)[0]

        torch.testing.assert_close(tape(), torch_())
        times = alternate({"tape": tape, "torch": torch_}, rounds)
        table(
            f"Two layers {inputs}-{hidden}-{classes}, B={batch}, loss and gradients, float32",
            ("what", "ms", "ratio to torch"),
            [(n, f"{s * 1e3:.2f}", f"{s / times['torch']:.2f}") for n, s in times.items()],
        )


if __name__ == "__main__":
    main()
