"""One process for one run folder, on one machine or on many that share it: a lock file that names its owner.

Where the owner's process can be seen (same machine, boot and PID namespace), the lock holds as long as that process
lives. Elsewhere it holds as long as the file is touched, which its owner does every BEAT seconds: the machines' clocks
must agree to within a few minutes.
"""

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path

from utils.errors import InUseError, RunError

BEAT, STALE = 20, 300  # seconds: many beats may be late before an owner elsewhere counts as dead


class Lock:
    """`with Lock(folder):` makes the folder and keeps other processes out of it; folders that stay empty are removed.

    `name` is that of the lock's file: work of another kind on the same folder has another one.

    Raises:
        InUseError: if a live process holds the folder; its message names the process.
        RunError: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str = "lock"):
        self.folder, self.path = folder, folder / name
        self._claim = b""  # what the file holds while it is ours
        self._made: list[Path] = []
        self._released = threading.Event()

    def __enter__(self) -> "Lock":
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self._claim = json.dumps(this_process()).encode()
        try:
            while not self._try():
                pass
        except OSError as error:
            self._remove_empty()
            raise RunError(f"cannot write to {self.folder} ({error.strerror}): choose --out") from None
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._released.set()
        with contextlib.suppress(
            OSError
        ):  # a disk has become read-only; others know that a dead process's claim is void
            if read(self.path) == self._claim:
                self.path.unlink(missing_ok=True)
        self._remove_empty()

    def check(self) -> None:
        """Raises InUseError if another machine has taken the folder over, as it does when beats stay away too long."""
        if read(self.path) != self._claim:
            raise InUseError(self.folder, owner(self.folder, self.path.name) or "another process")

    def _try(self) -> bool:
        """Try to take the lock; whether it is ours now. If not, another try is worth it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if create(self.path, self._claim):
                return True
        except FileNotFoundError:  # another process has just removed the folder, which it had left empty
            return False
        claim = read(self.path)
        if who := described(claim, self.path):
            raise InUseError(self.folder, who)
        return claim is not None and self._take_over(claim)

    def _take_over(self, dead: bytes) -> bool:
        """Replace the claim `dead`; whether this process did. Only one process can create the claim's guard file."""
        guard = self.path.with_name(f".lock.{hashlib.sha1(dead).hexdigest()}")
        if not create(guard, self._claim):
            if age(guard) > STALE:  # the guard's owner died while it had it
                guard.unlink(missing_ok=True)
            time.sleep(0.05)
            return False
        try:
            # A process that was slow to look may hold the guard of a claim that has been replaced since.
            if read(self.path) != dead:
                return False
            ours = self.path.with_name(f".lock.{uuid.uuid4().hex}")
            create(ours, self._claim)
            os.replace(ours, self.path)
            return True
        finally:
            guard.unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # a file server that is away for a moment
                os.utime(self.path)

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):  # which the first folder that is not empty raises
            for path in self._made:
                path.rmdir()


def owner(folder: Path, name: str = "lock") -> str | None:
    """The live process that holds a run's folder, in words; None if there is none."""
    path = folder / name
    return described(read(path), path)


def described(content: bytes | None, path: Path) -> str | None:
    """The process of a claim that `path` has held, in words; None for no claim, or that of a dead process."""
    if content is None:
        return None
    try:
        claim = json.loads(content)
        here = claim["place"] == place()
        alive = lives(claim["pid"], claim["started"]) if here else age(path) < STALE
        words = f"process {claim['pid']} on {claim['place'][0]} since {claim['since']}"
    except (ValueError, TypeError, KeyError):  # a claim that is being written, or was when the disk was full
        alive, words = age(path) < STALE, "a process that is starting"
    return words if alive else None


def this_process() -> dict:
    """The claim of this process: where and who it is, since when, and a token that no other claim has."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    pid = os.getpid()
    return {"place": place(), "pid": pid, "started": started(pid), "since": since, "token": uuid.uuid4().hex}


def place() -> list[str]:
    """Host, boot and PID namespace: within it a process number means one process at a time. Without /proc the host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]
    except OSError:  # macOS
        return [socket.gethostname()]


def lives(pid: int, since: str | None) -> bool:
    """Whether the process that got the number `pid` at the time `since` runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, which /proc may hide
    return started(pid) in (since, None)


def started(pid: int) -> str | None:
    """Ticks from the boot to the process's start; "" for a zombie, None where /proc does not tell."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]


def age(path: Path) -> float:
    """Seconds since the file was touched; infinite if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def read(path: Path) -> bytes | None:
    """The content of a file; None if it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def create(path: Path, content: bytes) -> bool:
    """Write the file, unless it exists. Only one of several processes can, also over NFS."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, content)
    except OSError:  # a full disk, say; an empty claim would stand for an owner
        path.unlink()
        raise
    finally:
        os.close(file)
    return True
