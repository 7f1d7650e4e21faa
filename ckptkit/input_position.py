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
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ckptkit import randomness
from ckptkit.errors import CheckpointMismatchError
from ckptkit.options import DEFAULT_LIMIT
from ckptkit.pipeline import Pipeline
from ckptkit.snapshot import is_seeded, obstacle_of, pick_up_iterator, put_down_iterator, shuffles_in

__all__ = ["InputPosition", "shared_out_anew"]

_log = logging.getLogger("ckptkit")

# Datasets that iterators were made of in this process: their shuffles have drawn seeds, which nobody can give back.
_gone_over: weakref.WeakSet[tf.data.Dataset] = weakref.WeakSet()

_MEANING = {
    "iterator": "the position is restored, exactly",
    "replay": "a resume draws and drops the batches before it, exact if the source is deterministic",
    "restart": "a resume goes on with the first batches",
}


def shared_out_anew(place: Mapping[str, Any]) -> dict[str, Any]:
    """Return the place behind as many batches, for data that is shared out among another number of workers.

    Nothing else is kept of what :meth:`InputPosition.save` returned. If there are fewer batches, it is their end.
    """
    way = "restart" if place["way"] == "restart" else "replay"
    return {"before": list(place["before"]), "drawn": place["drawn"], "way": way, "is_shared_out_anew": True}


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
        verbose: 0 for no line in the log about the way, unless it is a warning.
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
        verbose: int = 1,
    ) -> None:
        self._dataset = dataset
        self._pipeline = Pipeline(dataset) if isinstance(dataset, tf.data.Dataset) else None
        self._asked = input_state
        self._limit = limit
        self._one_stream = one_stream
        self._exact = exact
        self._obstacle = obstacle
        self._name = name
        self._verbose = verbose
        self._iterators: list[int] = []  # batches drawn from each iterator that was made
        self._current: Any = None
        self._pending: tuple[Mapping[str, Any], Sequence[tf.Tensor]] | None = None
        self._before: Mapping[str, Any] = {}  # what the newest iterator began with, beside the seeds of its shuffles
        self._outside: Mapping[str, Any] | None = None
        self._fresh: tuple[tf.data.Iterator, tf.Tensor] | None = None
        self._is_prepared = False
        self._carried: tuple[InputPosition, Mapping[str, Any], Sequence[tf.Tensor]] | None = None
        self._is_caught_up = False
        self._drawn_from: set[str] = set()  # names of global generators, by a source that was replayed
        self._measured = (0, 0)  # bytes of the iterator's state, and batches drawn, when it was last looked at
        self.way: str | None = None if input_state == "auto" else input_state

    def __iter__(self) -> Iterator[Any]:
        """Make an iterator; the first after :meth:`move_to` is moved."""
        if not self._is_prepared:
            self.prepare()
        self._is_prepared = False
        pending, self._pending = self._pending, None
        by_state = pending is not None and pending[0]["drawn"] and pending[0]["way"] == "iterator"
        if by_state and self._pipeline is not None and self._pipeline.goes_over_once and self._pipeline.draws_seeds:
            scratch = self._pipeline.fresh_iterator()
            self._fresh = (scratch, pick_up_iterator(scratch))  # now: its count of seeds is that of this moment
        self._current = iter(self._dataset)
        self._iterators.append(0)
        if self._pipeline is not None and self._pipeline.draws_seeds:
            _gone_over.add(self._dataset)
        if pending is not None:
            self._move(*pending)
        return self._current  # type: ignore[no-any-return]

    def prepare(self) -> None:
        """Get ready for the next iterator: a source in Python may begin to draw random numbers before it is made."""
        self._is_prepared = True
        if self._pending is not None and not self._is_caught_up:
            place, state = self._pending
            if self._pipeline is not None and self._dataset in _gone_over:
                _log.warning(
                    "%s: this dataset was gone over in this process before, and its shuffles go on from there. For the "
                    "order that the run would have had, make the dataset anew before it is resumed.",
                    self._name,
                )
            self._outside = randomness.capture()
            self._catch_up(place, state)
            if self._carried is not None:
                other, place_of_other, state_of_other = self._carried
                other._catch_up(place_of_other, state_of_other)
            randomness.reinstate(self._outside)
            self._begin_with(place.get("begun_with", {}))
        self._before = {"random": randomness.capture(), "variables": self._variables()}

    def begin_again(self) -> None:
        """Say that the newest iterator is drawn from only now, whatever has drawn random numbers since it was made."""
        if not self.drawn:
            self._before = {"random": randomness.capture(), "variables": self._variables()}

    def catch_up(self) -> None:
        """Bring the shuffles to where :meth:`move_to` was told, for another input that shares them and comes first."""
        self.prepare()
        self._is_prepared, self._is_caught_up = False, True

    @property
    def is_under_way(self) -> bool:
        """Whether the next iterator is to go on behind some batches."""
        return self._pending is not None and self._pending[0]["drawn"] > 0

    def without_its_own(self, random: Mapping[str, Any]) -> dict[str, Any]:
        """Return the states of the global generators but for those that the source, which was replayed, draws from."""
        return {name: state for name, state in random.items() if name not in self._drawn_from}

    @property
    def is_begun(self) -> bool:
        """Whether there is an iterator, and the next one is not to be moved."""
        return self._current is not None and self._pending is None

    @property
    def drawn(self) -> int:
        """Batches drawn from the newest iterator, those before a resume included."""
        return self._iterators[-1] if self._iterators else 0

    def drew(self, batches: int) -> None:
        """Say that so many batches are drawn from the newest iterator, or that it is asked for them and has no more."""
        self._iterators[-1] += batches

    def save(self, *, goes_on: bool = True) -> tuple[dict[str, Any], tuple[tf.Tensor, ...]]:
        """Return the place as JSON-able values and the state of the iterator, if it has one, as variant tensors.

        Args:
            goes_on: Whether the newest iterator is the one to go on with; False if the next one will be new.
        """
        if self._pending is not None:
            return dict(self._pending[0]), tuple(self._pending[1])
        before = self._iterators[:-1] if goes_on else self._iterators
        drawn = self.drawn if goes_on else 0
        state = self._state() if drawn or (self.way is None and self._current is not None) else ()
        place: dict[str, Any] = {"before": list(before), "drawn": drawn, "way": self.way or "replay", "usual": self.way}
        place["begun_with"] = self._before if drawn and self.way != "iterator" else {"variables": self._variables()}
        if self._pipeline is not None:
            place |= {"spec": str(self._dataset.element_spec), "layout": self._pipeline.layout}  # type: ignore[attr-defined]
            place |= {"batches": self._pipeline.batches, "is_counted": self._pipeline.is_counted}
        if place["way"] == "iterator" and not state:
            place["way"] = self._way_without_state()
        if not goes_on:
            return place, self._left()
        return place, state if drawn else ()

    def compare(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> None:
        """Refuse a place that is not in this input.

        Raises:
            CheckpointMismatchError: The batches are of another kind, or the input of another length.
        """
        way = self._way_to(place, state)
        if place["drawn"] and way != "restart" and not place.get("is_shared_out_anew"):
            self._compare(place, way)

    def is_like(self, place: Mapping[str, Any]) -> bool:
        """Say whether a place was saved of an input that is made in the same way."""
        return self._pipeline is not None and place.get("layout") == self._pipeline.layout

    def shares_a_shuffle(self, other: InputPosition) -> bool:
        """Say whether going over the other one changes the order of this one."""
        return self._pipeline is not None and other._pipeline is not None and self._pipeline.shares(other._pipeline)

    def carry(self, other: InputPosition, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> None:
        """Catch up with the past of another input, which shares a shuffle, together with that of this one."""
        self._carried = (other, place, state)

    def move_to(self, place: Mapping[str, Any], state: Sequence[tf.Tensor], *, is_caught_up: bool = False) -> None:
        """Let the next iterator begin where :meth:`save` was called.

        Args:
            place: What it returned first.
            state: What it returned second.
            is_caught_up: Whether another input has carried this one's past.

        Raises:
            CheckpointMismatchError: As :meth:`compare` does.
        """
        self.compare(place, state)
        way = self._way_to(place, state)
        self._iterators = list(place["before"])
        self._pending = ({**place, "way": way}, tuple(state))
        self._is_caught_up = is_caught_up

    def leave_behind(self, place: Mapping[str, Any]) -> None:
        """Leave the input as a run left it that had come to this place and is over."""
        before = [*place["before"], place["drawn"]] if place["drawn"] else place["before"]
        self._catch_up({**place, "before": before, "drawn": 0}, place.get("state", ()))
        self._begin_with({"variables": place.get("begun_with", {}).get("variables", ())})

    def say(self) -> None:
        """Log which way it is, and why no better one."""
        obstacle = f" ({self._obstacle})" if self._obstacle else ""
        way = self.way or "replay"
        # What Python code yields may differ from run to run, and nobody can tell.
        in_doubt = way == "restart" or (way == "replay" and re.search("Py|no seed", self._obstacle or ""))
        level = logging.WARNING if in_doubt else logging.INFO if self._verbose else logging.DEBUG
        _log.log(level, "%s: %s, %s%s.", self._name, way, _MEANING[way], obstacle)

    def guarantee(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> str:
        """Say how this input comes back to what :meth:`save` returned, and how exactly."""
        if place.get("is_shared_out_anew"):
            return f"{self._name}: goes on behind as many batches of another share, not exactly"
        if not place["drawn"] and not place["before"]:
            return f"{self._name}: not gone over so far"
        way = self._way_to(place, state)
        is_counted = bool(state) or place.get("is_counted", False)
        if not place["drawn"] and way == "replay" and is_counted and place.get("usual") == "iterator":
            way = "iterator"  # between two epochs there is no iterator to keep, and nothing to draw and drop either
        return f"{self._name}: {way}, {_MEANING.get(way, 'which this version does not know')}"

    def _decide(self) -> None:
        """Choose the way, if it is not known yet, by looking at the pipeline; the iterator's state is tried later."""
        if self.way is not None:
            return
        if self._obstacle is None:
            self._obstacle = self._find_obstacle()
        if self._obstacle is not None:
            self.way = self._way_without_state()
            if self.way == "restart":
                self._obstacle += ", and a shuffle has no seed: call keras.utils.set_random_seed"
            elif "is stateful" in self._obstacle and not is_seeded():
                self._obstacle += ", and no seed is set: call keras.utils.set_random_seed for the same batches"

    def _way_to(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> str:
        way = place["way"] if self._asked == "auto" else self._asked
        return self._way_without_state() if way == "iterator" and not state else str(way)

    def _way_without_state(self) -> str:
        return "restart" if self._pipeline is not None and not self._pipeline.is_seeded else "replay"

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
        if self._asked == "iterator" and self._obstacle is None:
            self._obstacle = self._find_obstacle()
        if self._asked == "iterator" and self._obstacle is not None:
            return self._give_up(self._obstacle)
        if self.way not in (None, "iterator"):
            return ()
        try:
            state = pick_up_iterator(self._current)
        except (tf.errors.OpError, NotImplementedError, AttributeError) as error:
            return self._give_up(obstacle_of(error))
        assert self._pipeline is not None
        is_whole = self._pipeline.goes_over_once
        size, drawn = self._measured
        # To make bytes of it takes as long as to take it, and is left to who writes it where nothing hangs on them: a
        # cache that fills has at most doubled when the batches have.
        if not is_whole or not drawn or not drawn <= self.drawn <= 2 * drawn or 2 * size > self._limit:
            content = tf.io.serialize_tensor(state).numpy()
            size = len(content)
            self._measured = (size, self.drawn)
            is_whole = is_whole or shuffles_in(content) >= self._pipeline.shuffles
        if size > self._limit:
            return self._give_up(f"its state takes {size / 2**20:,.0f} MiB, over the limit")
        self.way = "iterator"
        if is_whole:
            return (state,)
        # A shuffle has come to its end before the pipeline has, and this iterator may come to it again: the state does
        # not say how many seeds it has drawn. From this place a resume has to replay.
        return ()

    def _left(self) -> tuple[tf.Tensor, ...]:
        """Return the state of an iterator that was left on its way, if only that tells what its shuffles have drawn.

        TensorFlow reads ahead of what is drawn, perhaps into the next round of a ``repeat()``.
        """
        pipeline = self._pipeline
        if pipeline is None or pipeline.is_counted or not self.drawn:
            return ()
        if self._asked not in ("auto", "iterator") or self._find_obstacle() is not None:
            return ()
        try:
            state = pick_up_iterator(self._current)
        except (tf.errors.OpError, NotImplementedError, AttributeError):
            return ()
        content = tf.io.serialize_tensor(state).numpy()
        is_whole = shuffles_in(content) >= pipeline.shuffles and len(content) <= self._limit
        return (state,) if is_whole else ()

    def _catch_up(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> None:
        """Bring the shuffles to where they were when the iterators before this place had been made and gone over."""
        if state and not place["drawn"] and self._pipeline is not None and self.is_like(place):
            put_down_iterator(self._pipeline.fresh_iterator(), state[0])
        else:
            self._fast_forward(place["before"])

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
        if isinstance(self._dataset, Sequence):
            return
        # Nobody knows what it remembers of having been gone over: it is gone over again.
        for drawn in iterators:
            iterator = iter(self._dataset)
            for _ in range(drawn):
                next(iterator, None)

    def _begin_with(self, before: Mapping[str, Any]) -> None:
        randomness.reinstate(before.get("random", {}))
        if self._pipeline is not None:
            for variable, value in zip(self._pipeline.variables, before.get("variables", ())):
                variable.assign(value)

    def _variables(self) -> list[Any]:
        return [] if self._pipeline is None else [variable.numpy() for variable in self._pipeline.variables]

    def _compare(self, place: Mapping[str, Any], way: str) -> None:
        spec = None if self._pipeline is None else str(self._dataset.element_spec)  # type: ignore[attr-defined]
        sides: list[tuple[str, Any, Any]] = [("kind of batch", place.get("spec"), spec)]
        if way == "iterator" and self._pipeline is not None:
            sides.append(("pipeline", " < ".join(place["layout"]), " < ".join(self._pipeline.layout)))
        lengths = (place.get("batches"), None if self._pipeline is None else self._pipeline.batches)
        if None not in lengths:
            sides.append(("number of batches", *lengths))
        for what, before, now in sides:
            if before != now:
                raise CheckpointMismatchError(
                    f"the checkpoint is at batch {place['drawn']} of other {self._name}: the {what} differs.\n"
                    f"  checkpoint {before}\n  now        {now}\n"
                    'Resume with the dataset it was saved with, or pass input_state="restart" to begin its data anew.'
                )

    def _move(self, place: Mapping[str, Any], state: Sequence[tf.Tensor]) -> None:
        drawn, way = place["drawn"], place["way"]
        self._iterators[-1] = drawn
        if drawn and way == "iterator":
            self._put_down(state[0])
        elif drawn and way == "replay":
            self._replay(drawn, may_end=bool(place.get("is_shared_out_anew")))
        if self._outside is not None and drawn and way == "replay":
            # What the source has drawn from is where it was; what it has not belongs to others.
            self._drawn_from = randomness.changed_since(self._before["random"])
            randomness.reinstate(self.without_its_own(self._outside))
        self._outside = None

    def _put_down(self, state: tf.Tensor) -> None:
        assert self._pipeline is not None
        try:
            self._pipeline.catch_up()
            put_down_iterator(self._current, state)
            if self._fresh is not None:
                # Every iterator that was made for this has drawn seeds; what was alive has set them right. A shuffle
                # that has come to its end is set by the state of an iterator that was made when it ought to be.
                put_down_iterator(*self._fresh)
                self._fresh = None
        except (tf.errors.OpError, NotImplementedError, AttributeError) as error:
            raise CheckpointMismatchError(
                f"the position in the {self._name} does not fit it any more: {obstacle_of(error)}.\n"
                'Resume with the dataset it was saved with, or pass input_state="replay" or "restart".'
            ) from error

    def _replay(self, drawn: int, *, may_end: bool) -> None:
        for done in range(drawn):
            try:
                next(self._current)
            except StopIteration:
                if may_end:
                    return
                raise CheckpointMismatchError(
                    f"the checkpoint is at batch {drawn} of the {self._name}, which has come to its end after "
                    f"{done} batches.\nResume with the data it was saved with, or pass "
                    'input_state="restart" to begin it anew.'
                ) from None
