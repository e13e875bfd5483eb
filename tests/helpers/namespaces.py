"""Mount namespaces of a process's own, where the kernel allows them, and permissions that root obeys, too."""

import ctypes
import os
import subprocess
from pathlib import Path

INSIDE = ["unshare", "--map-root-user", "--mount"]
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # Linux's CLONE_NEWNS and CLONE_NEWUSER
VERSION_3 = 0x20080522  # of the capabilities' header
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2  # the bits of root's powers over permissions

allowed = subprocess.run([*INSIDE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0


def enter():
    """Have mounts of this process's own from here on, as its user's root: what INSIDE does for a program that it runs.

    Linux lets only a process of a single thread do so, which one is that has just been forked.
    """
    user, group = os.getuid(), os.getgid()
    check(ctypes.CDLL(None, use_errno=True).unshare(NEW_USERS | NEW_MOUNTS))
    for name, line in {"uid_map": f"0 {user} 1", "setgroups": "deny", "gid_map": f"0 {group} 1"}.items():
        Path("/proc/self", name).write_text(line)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def mount(folder, megabytes):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)


def obey():
    """Give up the powers over permissions that root has; what this process runs may have them again."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, of 32 bits each
    check(libc.capget(header, sets))
    for i in range(3):
        sets[i] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    check(libc.capset(header, sets))


def check(status):
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
