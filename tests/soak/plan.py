"""What befalls one life, drawn from a seed: when it dies, what fails, and what is done to its directory before."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.soak.faults import Fault

ROTS = ("flip", "truncate", "no state file", "move", "copy")
_PAUSE_SECS = 0.3


@dataclass(frozen=True)
class Kill:
    """SIGKILL after so many commits and so many seconds; ``in_a_save`` waits for the next save to begin first."""

    after_commits: int
    secs: float
    in_a_save: bool


@dataclass(frozen=True)
class Plan:
    """One life of the script.

    Attributes:
        async_save, on_save_error, save_freq: What it passes to ckptkit.
        kill: None lets it live until its training or a fault ends it.
        faults: Operations that fail.
        pauses: Seconds for which it is stopped, after its first commit.
        second_writer: Whether another writer tries its luck.
        reader: Whether somebody restores meanwhile.
        full_disk: Whether the disk is filled meanwhile, where it is one that may be filled.
        rot: What is done to the directory before it begins.
        seed: Of whatever else is chosen.
    """

    async_save: bool
    on_save_error: str
    save_freq: int
    kill: Kill | None
    faults: tuple[Fault, ...]
    pauses: tuple[float, ...]
    second_writer: bool
    reader: bool
    full_disk: bool
    rot: str | None
    seed: int

    @classmethod
    def draw(cls, chosen: random.Random) -> Plan:
        """Return the next one."""

        def is_lucky(chance: float) -> bool:
            return chosen.random() < chance

        return cls(
            async_save=is_lucky(0.5),
            on_save_error=chosen.choice(("raise", "warn")),
            save_freq=chosen.randrange(2, 8),
            kill=_kill(chosen) if is_lucky(0.85) else None,
            faults=tuple(Fault.draw(chosen) for _ in range(chosen.randrange(1, 4))) if is_lucky(0.35) else (),
            pauses=tuple(chosen.uniform(0.01, _PAUSE_SECS) for _ in range(chosen.randrange(1, 3)))
            if is_lucky(0.3)
            else (),
            second_writer=is_lucky(0.3),
            reader=is_lucky(0.4),
            full_disk=is_lucky(0.3),
            rot=chosen.choice(ROTS) if is_lucky(0.3) else None,
            seed=chosen.randrange(2**32),
        )


def _kill(chosen: random.Random) -> Kill:
    if chosen.random() < 0.25:
        return Kill(0, chosen.uniform(0.0, 3.0), False)  # anywhere, starting and restoring included
    in_a_save = chosen.random() < 0.7
    return Kill(chosen.randrange(12), chosen.uniform(0.0, 0.012 if in_a_save else 0.1), in_a_save)
