"""The share of this machine's arithmetic that the bare step uses, beside a matrix product and a convolution."""

from collections.abc import Iterator

import torch
from torch.nn.functional import conv2d

from methods.run import Run
from scripts.benchmarks.counts import Counts
from scripts.benchmarks.timing import clock, in_turn, median_of, range_of

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
IMAGES = {"cpu": 8, "cuda": 256}  # of 64 channels, 56 x 56: ResNet-18's first stage


def against_peak(bare: Iterator[float], counts: Counts, run: Run, rounds: int) -> tuple[dict[str, list[float]], str]:
    """{what: FLOP/s by round}, and a sentence; `counts` are those of a step of `bare`, a clock. All in turn."""
    device = run.device
    kind = torch.bfloat16 if run.args.precision == "bf16" else torch.float32
    matrix = torch.randn(SIDE[device.type], SIDE[device.type], device=device, dtype=kind)
    images = torch.randn(IMAGES[device.type], 64, 56, 56, device=device, dtype=kind)
    images = images.to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, device=device, dtype=kind).to(memory_format=torch.channels_last)
    operations = {"bare": counts.flops, "matmul": 2 * len(matrix) ** 3, "convolution": 2 * 9 * 64 * images.numel()}
    clocks = [bare, clock(device, lambda: matrix @ matrix), clock(device, lambda: conv2d(images, weight, padding=1))]
    seconds = zip(*in_turn(clocks, 1, rounds, "peak"), strict=True)
    rates = {name: [operations[name] / s for s in column] for name, column in zip(operations, seconds, strict=True)}
    shares = {name: [a / b for a, b in zip(rates["bare"], rates[name], strict=True)] for name in list(rates)[1:]}
    told = ", ".join(f"{median_of(share)} ({range_of(share)}) of a {name}'s rate" for name, share in shares.items())
    sample, moved = counts.flops / run.args.batch_size / 1e9, counts.operand_bytes / 1e9
    speed = [rate / 1e9 for rate in rates["bare"]]
    return rates, (
        f"The bare step: {sample:.1f} GFLOP a sample, {median_of(speed, 1)} GFLOP/s; {told}. Its operations read and "
        f"return {moved:.2f} GB."
    )
