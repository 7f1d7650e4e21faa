"""What Keras' adapters tell of the data they go over, beside the dataset itself.

InputFacts(one_stream=True)          # of a Python generator: all iterators draw from one source
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["InputFacts"]


@dataclass(frozen=True)
class InputFacts:
    """What is known of the data of one ``fit``.

    Attributes:
        one_stream: Whether all iterators draw from one source.
        exact: Whether an iterator's state is known to hold everything, whatever TensorFlow says.
        obstacle: Why it is known not to.
    """

    one_stream: bool = False
    exact: bool = False
    obstacle: str | None = None
