"""A small disk of its own that can be filled, where the machine lets us mount one."""

import contextlib
import os
import subprocess

SIZE_BYTES = 32 << 20


@contextlib.contextmanager
def small_disk(folder):
    """Mount a small disk at a folder; yield why that was not possible, or None."""
    os.makedirs(folder)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "ckptkit-soak", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        why = done.stderr.strip() if done.returncode else None
    except OSError as error:
        why = str(error)
    try:
        yield why
    finally:
        if why is None:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, left_bytes):
    """Fill a disk up to so many bytes; return the file that takes the room."""
    ballast = os.path.join(folder, "ballast")
    space = os.statvfs(folder)
    with open(ballast, "wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(space.f_bavail * space.f_frsize - left_bytes, 1))
    return ballast
