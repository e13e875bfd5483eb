"""Loader processes end with what they read for, and what goes wrong with them is one sentence within seconds."""

import errno
import os
import resource
import signal
import time
from multiprocessing import active_children

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dataset import workers
from dataset.base import Batch, MultimodalDataset
from dataset.loader import make_loader
from dataset.workers import Loader
from utils.errors import RunError, sentence
from utils.stopping import Stopped

SECONDS = 10  # in which everything must have ended
LOOK = 0.2  # seconds after which PyTorch looks after its processes here, for 5


class Numbers(MultimodalDataset):
    """Samples of 4 kB; the one at `place` is not read but does `act`, in a loader's process."""

    def __init__(self, count=64, place=None, act=None):
        self.count, self.place, self.act = count, place, act

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i == self.place:
            self.act()
        return {"audio": torch.full((1024,), float(i))}, i % 2, i


def sleep():
    time.sleep(1000)


def batches(act=None, place=40, count=2):
    """A loader of 16 batches; the 11th holds the sample that does `act`."""
    return make_loader(Numbers(place=place if act else None, act=act), 4, count)


@pytest.fixture
def timed(monkeypatch):
    """Fails a test that takes longer than SECONDS, or leaves processes behind."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (LOOK,))
    begun, before = time.monotonic(), set(active_children())
    yield
    assert not set(active_children()) - before
    assert time.monotonic() - begun < SECONDS


def test_they_read_what_one_process_reads(timed):
    read = [[torch.equal(a, b) for a, b in zip(*(batch.tensors for batch in pair), strict=True)] for pair in both()]
    assert len(read) == 16 and all(map(all, read))


def both():
    return zip(batches(count=0), batches(), strict=True)


@pytest.mark.parametrize("stopped", [False, True])
def test_they_end_where_the_iteration_is_left(timed, stopped):
    for _ in batches(act=sleep, place=12):  # which one of them is at by now
        children = active_children()
        if stopped:  # it cannot be told to end
            os.kill(children[0].pid, signal.SIGSTOP)
        break
    assert len(children) == 2
    assert not any(child.is_alive() for child in children)


def test_they_end_where_an_error_is_raised(timed):
    with pytest.raises(ZeroDivisionError):
        for _ in batches(act=sleep, place=12):
            assert len(active_children()) == 2
            raise ZeroDivisionError


KILLED = {
    signal.SIGKILL: ["killed", "memory", "--workers"],
    signal.SIGBUS: ["/dev/shm", "--shm-size", "--workers"],
    signal.SIGSEGV: ["SIGSEGV"],
}


@pytest.mark.parametrize("number", KILLED)
def test_one_that_is_killed_is_named(timed, number):
    with pytest.raises(RunError) as caught:
        for i, _ in enumerate(batches()):
            if i == 1:
                os.kill(active_children()[0].pid, number)
    assert all(word in str(caught.value) for word in KILLED[number]) and "\n" not in str(caught.value)


def test_a_signal_to_the_group_ends_none_that_has_just_been_started(timed, monkeypatch):
    begin, start = workers.begin, workers.Crew.start
    monkeypatch.setattr(workers, "begin", lambda number: (time.sleep(0.5), begin(number)))

    def signalled(crew, make):
        start(crew, make)
        for child in active_children():
            os.kill(child.pid, signal.SIGTERM)

    monkeypatch.setattr(workers.Crew, "start", signalled)
    assert len(list(batches())) == 16


def test_one_that_leaves_is_named(timed):
    with pytest.raises(RunError, match="with status 3"):
        list(batches(act=lambda: os._exit(3)))


def test_the_death_of_one_breaks_off_nothing_else(timed):
    """PyTorch's handler of SIGCHLD would raise in the midst of whatever this process does, a checkpoint say."""
    iterator = iter(batches())
    next(iterator)
    os.kill(active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.5)
    iterator.close()


def test_one_that_does_not_answer_is_given_up(timed, monkeypatch, capsys):
    monkeypatch.setattr(workers, "LONG", 1)
    monkeypatch.setattr(workers, "PATIENCE", 3)
    with pytest.raises(RunError, match="no batch has come for 3 seconds"):
        list(batches(act=sleep))
    assert "no batch has come for 1 seconds: still waiting" in capsys.readouterr().err


def test_one_that_is_stopped_is_given_up(timed, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 2)
    with pytest.raises(RunError, match="no batch has come"):
        for _ in batches():
            for child in active_children():
                os.kill(child.pid, signal.SIGSTOP)


def test_a_signal_ends_the_wait_for_one_that_does_not_answer(timed, monkeypatch):
    monkeypatch.setattr(workers, "STOPPING", 2)
    monkeypatch.setattr(workers, "asked", lambda: int(signal.SIGTERM))
    with pytest.raises(Stopped) as caught:
        list(batches(act=sleep))
    assert caught.value.status == 143


def test_patience_counts_the_wait_for_one_batch(timed, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 2)
    for i, _ in enumerate(batches()):
        if i < 6:
            time.sleep(0.6)  # in all longer than that


def test_a_batch_that_shared_memory_has_no_room_for_is_named(timed, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    with pytest.raises(RunError) as caught:
        list(batches())
    said = sentence(caught.value)
    assert said.startswith("a batch of 0.0 MB finds no room in shared memory (/dev/shm has ")
    assert "--shm-size" in said and "--workers" in said


@pytest.mark.parametrize(
    "text, said",
    [
        ("unable to allocate shared memory(shm) for file </torch_1>: Success (0)", "a batch of 0.0 MB finds no room"),
        ("unable to allocate shared memory(shm) for file </torch_1>: No such file or directory (2)", "finds no room"),
        ("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)", "ulimit -n"),
        ("unable to open shared memory object </torch_1> in read-write mode: Permission denied (13)", "Permission den"),
        ("something else", "cannot hand over a batch of 0.0 MB .for a reason that the system does not tell"),
    ],
)
def test_why_a_batch_cannot_be_handed_over(monkeypatch, text, said):
    """The first two are what PyTorch 2.11 really says about a small /dev/shm: it looks at the number too late."""

    def refuse(tensor):
        raise RuntimeError(text)

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    monkeypatch.setattr(workers, "get_worker_info", lambda: object())
    with pytest.raises(RunError, match=said):
        workers.shared([torch.zeros(1)])


def test_too_many_open_files_are_named(timed):
    def lower():
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))  # for what is opened from now on

    with pytest.raises(RunError) as caught:
        list(batches(act=lower))
    assert "too many open files: raise the limit (ulimit -n)" in sentence(caught.value)


class Unsendable:
    """An item that is read and then fails as it is sent, by a thread whose errors nobody sees."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        raise OSError(self.number, os.strerror(self.number))


UNSENT = {
    errno.EMFILE: "too many open files",
    errno.ENOSPC: "a batch finds no room in shared memory",
    errno.EIO: "a loader process cannot hand over a batch (Input/output error)",
}


@pytest.mark.parametrize("number", UNSENT)
def test_an_item_that_cannot_be_sent_is_not_waited_for(timed, number):
    with pytest.raises(RunError) as caught:
        list(Loader([1, 2, Unsendable(number), 4], batch_size=None, num_workers=1))
    assert str(caught.value).startswith(UNSENT[number])


def no_room(self):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_batches_that_would_fill_shared_memory_are_refused_at_the_first(timed, monkeypatch):
    size = sum(tensor.nbytes for tensor in next(iter(batches(count=0))).tensors)
    monkeypatch.setattr(workers, "free_shared", lambda: 5 * size)
    assert len(list(batches())) == 16  # 4 wait for this process, which has another one
    monkeypatch.setattr(workers, "free_shared", lambda: 5 * size - 1)
    with pytest.raises(RunError, match="5 batches of 0.0 MB may wait at a time.*--shm-size"):
        next(iter(batches()))


def test_a_system_without_room_for_processes_is_named(timed, monkeypatch):
    def fork(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(RunError, match="2 loader processes cannot be started .Resource temporarily unavailable"):
        list(batches())


def test_other_items_than_batches_are_passed_on(timed):
    class Squares(Numbers):
        def __getitem__(self, i):
            return i * i

    assert list(Loader(Squares(5), batch_size=None, num_workers=2)) == [0, 1, 4, 9, 16]
    assert isinstance(next(iter(batches())), Batch)
