"""The processes that torchrun has started: how they are joined, and what they agree on."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from utils.errors import RunError

# What gloo and NCCL say when the process at the other end is gone.
LOST = re.compile(r"gloo.*(closed by peer|reset by peer|Broken pipe)|remote process exited", re.S)


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; the first one writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun has started, if it has; all but the first print nothing within.

    Raises:
        RunError: if torchrun's variables do not lead to the others, or one of these ends within.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, RuntimeError) as error:
        raise RunError(not_joined(str(error).partition("\n")[0])) from None
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise RunError("another process of this run has ended, whose own message says why") from error
    finally:
        dist.destroy_process_group()


def not_joined(reason: str) -> str:
    """Why this process cannot join the others, from the first line of PyTorch's error, and what to do about it."""
    count, port = os.environ["WORLD_SIZE"], os.environ.get("MASTER_PORT")
    place = f"{os.environ.get('MASTER_ADDR')}:{port}"
    if "EADDRINUSE" in reason:
        return f"port {port} of this machine is in use: choose another (torchrun --master_port), or use --standalone"
    if "environment variable" in reason or "RANK" in reason:
        return f"WORLD_SIZE is {count}, but {reason}: start this by torchrun, or unset WORLD_SIZE"
    return f"the {count} processes do not meet at {place} ({reason}): see that all are started and reach that port"


def agreed(numbers: Sequence[int]) -> list[int]:
    """The largest number that any process has, for each of `numbers`; does not wait for an accelerator."""
    if world() == 1:
        return list(numbers)
    told = torch.tensor(numbers)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return told.tolist()


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        dist.barrier()
