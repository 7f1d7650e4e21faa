"""What Keras says of a format while ckptkit makes it whole: of no use to who asked for it.

with without("You are saving your model as an HDF5 file"):
    model.save("model.h5")
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without"]


@contextmanager
def without(*starts: str) -> Iterator[None]:
    """Leave out warnings, and lines in the log of Keras and TensorFlow, that start with one of some words."""
    log = logging.getLogger("absl")

    def is_of_use(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(starts)

    log.addFilter(is_of_use)
    try:
        with warnings.catch_warnings():
            for start in starts:
                warnings.filterwarnings("ignore", re.escape(start))
            yield
    finally:
        log.removeFilter(is_of_use)
