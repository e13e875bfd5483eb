"""The processes that torchrun has started: joining them, and what they agree on."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from utils.errors import RunError


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun has started, if it has; all but the first say nothing.

    Raises:
        RunError: if torchrun's variables do not lead to the others.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, RuntimeError) as error:
        raise RunError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {error}: start this by torchrun") from None
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        dist.destroy_process_group()


def agreed(numbers: Sequence[int]) -> list[int]:
    """The largest of what the processes say, number by number; without waiting for an accelerator."""
    if world() == 1:
        return list(numbers)
    told = torch.tensor(numbers)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return told.tolist()


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()
