"""What is said of a save that failed: cause, path, what still stands, and what to do."""

import errno
import os

import pytest

from ckptkit.failures import cause_of, failure, remedy_for
from ckptkit.records import CheckpointRecord

REMEDIES = {
    errno.ENOSPC: "Free space there",
    errno.EDQUOT: "Free some of this user's quota there",
    errno.EACCES: "Let this user write there",
    errno.EPERM: "Let this user write there",
    errno.EROFS: "Mount it for writing",
    errno.EIO: "Have a look at that disk",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_each_error_of_a_disk_is_told_by_name_with_its_path_and_a_remedy_of_its_own(number):
    error = OSError(number, os.strerror(number), "runs/a/checkpoint")
    assert cause_of(error) == (
        f"{type(error).__name__} {errno.errorcode[number]} {os.strerror(number)}: 'runs/a/checkpoint'"
    )
    assert remedy_for(error).startswith(REMEDIES[number])


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), "OSError EXDEV Cross-device link: 'a' -> 'b'"),
        (OSError(errno.ESTALE, "Stale file handle"), "OSError ESTALE Stale file handle"),
        (OSError(12345, "Strange"), "OSError 12345 Strange"),
        (OSError("no number"), "OSError no number"),
        (ValueError("not of the disk"), "ValueError not of the disk"),
        (KeyboardInterrupt(), "KeyboardInterrupt "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_errors_are_told_as_they_are(error, cause):
    assert cause_of(error) == cause
    assert remedy_for(error) == "Mend the cause"


def test_the_message_has_what_why_what_stands_and_what_to_do():
    error = OSError(errno.ENOSPC, "No space left on device")
    what = "save of ckpt-900 to runs/a failed"
    assert failure(what, error, CheckpointRecord("runs/a/ckpt-800", 800)) == (
        "save of ckpt-900 to runs/a failed: OSError ENOSPC No space left on device\n"
        "runs/a/ckpt-800 is the newest complete checkpoint. Free space there or save to another directory, then save "
        "again; training state is unharmed."
    )
    assert "\nThere is no complete checkpoint yet. Free space" in failure(what, error, None)
