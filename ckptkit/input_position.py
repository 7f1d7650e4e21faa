"""Where a run is in its input, over many epochs: saved, and found again in a fresh process.

    position = InputPosition(dataset)
    for batch in position:                              # each time it is gone over, an iterator of the dataset
        position.drew(1)
        ...
        state, tensor = position.save()
    again = InputPosition(dataset)                      # in another process
    again.move_to(state, tensor)                        # its next iterator goes on behind the last batch

Three ways, the best one first: ``iterator`` restores the iterator's own state, shuffle buffers included, and takes the
same time wherever the run was; ``replay`` draws and drops the batches before the place; ``restart`` begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ckptkit import randomness
from ckptkit.errors import CheckpointMismatchError
from ckptkit.pipeline import Pipeline
from ckptkit.snapshot import obstacle_of, pick_up_iterator, put_down_iterator, shuffles_in

__all__ = ["DEFAULT_LIMIT", "INPUT_STATES", "InputPosition"]

_log = logging.getLogger("ckptkit")

INPUT_STATES = ("auto", "iterator", "replay", "restart")
DEFAULT_LIMIT = 64 * 2**20
_MEANING = {
    "iterator": "the position is restored, exactly",
    "replay": "a resume draws and drops the batches before it, exact if the source is deterministic",
    "restart": "a resume goes on with the first batches",
}


class InputPosition:
    """Goes over an input and knows where it is.

    Args:
        dataset: A ``tf.data.Dataset``, or anything else that can be gone over.
        input_state: ``"auto"`` for the best way there is, or one of the three.
        limit: Most bytes that an iterator's state may take in a checkpoint.
        one_stream: Whether all iterators draw from one source, as those of a Python generator do.
        exact: Whether the iterator's state is known to hold everything, whatever TensorFlow says.
        obstacle: Why it is known not to.
        name: What to call the input in the log.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        *,
        input_state: str = "auto",
        limit: int = DEFAULT_LIMIT,
        one_stream: bool = False,
        exact: bool = False,
        obstacle: str | None = None,
        name: str = "input",
    ) -> None:
        self._dataset = dataset
        self._pipeline = Pipeline(dataset) if isinstance(dataset, tf.data.Dataset) else None
        self._asked = input_state
        self._limit = limit
        self._one_stream = one_stream
        self._exact = exact
        self._obstacle = obstacle
        self._name = name
        self._iterators: list[int] = []  # batches drawn from each iterator that was made
        self._current: Any = None
        self._pending: tuple[int, str, Sequence[tf.Tensor]] | None = None
        self._random: Mapping[str, Any] = {}  # when the newest iterator was made: Python code may draw from it
        self._outside: Mapping[str, Any] | None = None
        self._is_prepared = False
        self._next: tf.Tensor | None = None  # the state of the next iterator that is made
        self.way: str | None = None if input_state == "auto" else input_state

    def __iter__(self) -> Iterator[Any]:
        """Make an iterator; the first after :meth:`move_to` is moved."""
        if not self._is_prepared:
            self.prepare()
        self._is_prepared = False
        pending, self._pending = self._pending, None
        if pending is not None:
            self._fast_forward(self._iterators)
        self._current = iter(self._dataset)
        self._iterators.append(0)
        if self._next is not None:
            put_down_iterator(self._current, self._next)
            self._next = None
        if pending is not None:
            self._move(*pending)
        return self._current  # type: ignore[no-any-return]

    def prepare(self) -> None:
        """Get ready for the next iterator: a source in Python may begin to draw random numbers before it is made."""
        self._is_prepared = True
        if self._pending is None or not self._random:
            self._random = randomness.capture()
        elif self._pending[1] == "replay":
            self._outside = randomness.capture()
            randomness.reinstate(self._random)

    @property
    def drawn(self) -> int:
        """Batches drawn from the newest iterator, those before a resume included."""
        return self._iterators[-1] if self._iterators else 0

    def drew(self, batches: int) -> None:
        """Say that so many batches are drawn from the newest iterator."""
        self._iterators[-1] += batches

    def save(self, *, goes_on: bool = True) -> tuple[dict[str, Any], tuple[tf.Tensor, ...]]:
        """Return the place as JSON-able values and the state of the iterator, if it has one, as string tensors.

        Args:
            goes_on: Whether the newest iterator is the one to go on with; False if the next one will be new.
        """
        before = self._iterators[:-1] if goes_on else self._iterators
        drawn = self.drawn if goes_on else 0
        state = self._state() if drawn or (self.way is None and self._current is not None) else ()
        state = state if drawn else ()
        spec = None if self._pipeline is None else str(self._dataset.element_spec)  # type: ignore[attr-defined]
        way = self.way or "replay"
        place = {"before": list(before), "drawn": drawn, "way": way, "spec": spec}
        return (place, state) if way != "replay" or not drawn else ({**place, "random": self._random}, state)

    def move_to(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> None:
        """Let the next iterator begin where :meth:`save` was called.

        Raises:
            CheckpointMismatchError: The batches are of another kind than those that were saved.
        """
        way = place["way"] if self._asked == "auto" else self._asked
        way = "replay" if way == "iterator" and not state else way
        spec = None if self._pipeline is None else str(self._dataset.element_spec)  # type: ignore[attr-defined]
        if place["drawn"] and way != "restart" and spec != place["spec"]:
            raise CheckpointMismatchError(
                f"the checkpoint is at batch {place['drawn']} of another kind of {self._name}.\n"
                f"  checkpoint {place['spec']}   {self._name} {spec}\n"
                'Resume with the dataset it was saved with, or pass input_state="restart" to begin its data anew.'
            )
        self._iterators = list(place["before"])
        self._pending = (int(place["drawn"]), way, state)
        self._random = place.get("random", {})

    def stay(self) -> None:
        """Forget :meth:`move_to`."""
        self._iterators, self._pending = [], None

    def leave_behind(self, place: Mapping[str, Any]) -> None:
        """Leave the input as a run left it that had come to this place and is over."""
        self._fast_forward([*place["before"], place["drawn"]])

    def say(self) -> None:
        """Log which way it is, and why no better one."""
        obstacle = f" ({self._obstacle})" if self._obstacle else ""
        way = self.way or "replay"
        # What Python code yields may differ from run to run, and nobody can tell.
        in_doubt = way == "restart" or (way == "replay" and "Py" in (self._obstacle or ""))
        level = logging.WARNING if in_doubt else logging.INFO
        _log.log(level, "%s: %s, %s%s.", self._name, way, _MEANING[way], obstacle)

    def _decide(self) -> None:
        """Choose the way, if it is not known yet, by looking at the pipeline; the iterator's state is tried later."""
        if self.way is not None:
            return
        if self._obstacle is None:
            self._obstacle = self._find_obstacle()
        if self._obstacle is not None:
            unseeded = self._pipeline is not None and not self._pipeline.is_seeded
            self._obstacle += ", and a shuffle has no seed: call keras.utils.set_random_seed" if unseeded else ""
            self.way = "restart" if unseeded else "replay"

    def _find_obstacle(self) -> str | None:
        if self._one_stream:
            return "a Python generator has no state that can be saved"
        if self._pipeline is None:
            return f"the Python object of type {type(self._dataset).__name__} has no state that can be saved"
        if not isinstance(self._current, tf.data.Iterator):
            return f"a {type(self._current).__name__} has no state that can be saved"
        return None if self._exact else self._pipeline.obstacle(self._limit)

    def _state(self) -> tuple[tf.Tensor, ...]:
        self._decide()
        if self.way not in (None, "iterator"):
            return ()
        try:
            state = pick_up_iterator(self._current)
        except (tf.errors.OpError, NotImplementedError, AttributeError) as error:
            return self._give_up(obstacle_of(error))
        size = len(state.numpy())
        if size > self._limit:
            return self._give_up(f"its state takes {size / 2**20:,.0f} MiB, over the limit")
        self.way = "iterator"
        assert self._pipeline is not None
        if shuffles_in(state) >= self._pipeline.shuffles:
            return (state,)
        # A shuffle has come to its end before the pipeline has, and the state does not say how many seeds it has drawn.
        if not self._pipeline.goes_over_once:
            return ()  # and this iterator may come to it again: from here a resume has to replay
        # The state of the next iterator says it. It is made here for its state, which is given to the one that comes in
        # its place: here and in a resumed run alike.
        if self._next is None:
            self._next = pick_up_iterator(iter(self._dataset))
        return (state, self._next)

    def _give_up(self, obstacle: str) -> tuple[()]:
        if self._asked == "iterator":
            raise ValueError(
                f'input_state="iterator" was asked for, and the position in the {self._name} cannot be saved: '
                f'{obstacle}.\nPass input_state="auto" or "replay".'
            )
        known, self._obstacle, self.way = self.way, obstacle, None
        self._decide()
        if known is not None:
            self.say()
        return ()

    def _fast_forward(self, iterators: Sequence[int]) -> None:
        if not self._one_stream and self._pipeline is not None and self._pipeline.is_counted:
            self._pipeline.advance(iterators)
            return
        # Each time it is gone over it may draw a seed; only what is one stream has to be drawn as a whole.
        whole = self._one_stream or self._pipeline is not None
        for drawn in iterators:
            iterator = iter(self._dataset)
            for _ in range(drawn if whole else min(drawn, 1)):
                next(iterator, None)

    def _move(self, drawn: int, way: str, state: Sequence[tf.Tensor]) -> None:
        self._iterators[-1] = drawn
        if drawn and way == "iterator":
            assert self._pipeline is not None
            self._pipeline.catch_up()
            try:
                put_down_iterator(self._current, state[0])
                self._next = state[1] if len(state) > 1 else None
            except (tf.errors.OpError, NotImplementedError, AttributeError) as error:
                raise CheckpointMismatchError(
                    f"the position in the {self._name} does not fit it any more: {obstacle_of(error)}.\n"
                    'Resume with the dataset it was saved with, or pass input_state="replay" or "restart".'
                ) from error
        elif way == "replay":
            self._replay(drawn)

    def _replay(self, drawn: int) -> None:
        for done in range(drawn):
            try:
                next(self._current)
            except StopIteration:
                raise CheckpointMismatchError(
                    f"the checkpoint is at batch {drawn} of the {self._name}, which has come to its end after "
                    f"{done} batches.\nResume with the data it was saved with, or pass "
                    'input_state="restart" to begin it anew.'
                ) from None
        if self._outside is not None:
            # What the source has drawn from is where it was; what it has not belongs to others.
            drawn_from = randomness.changed_since(self._random)
            randomness.reinstate({name: state for name, state in self._outside.items() if name not in drawn_from})
            self._outside = None
