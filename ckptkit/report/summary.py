"""A report in words: what it comes down to, in one sentence and in a few numbers.

summary(facts)      # "5 of 240 checkpoints that were saved are there. Saves cost 14 s, 0.06 % of the time …"
tiles(facts)        # (("newest", "ckpt-1200", "step 1,200, epoch 3, saved 5 min ago"), …)
"""

from __future__ import annotations

from ckptkit.readable import age_text, count_text, size_text
from ckptkit.report.facts import Facts
from ckptkit.report.saves import Save
from ckptkit.report.wording import date_text, length_text, number_text, share_text

__all__ = ["checkpoint_place", "summary", "tiles"]

_INTERRUPTED = {"killed": "killed", "preempted": "preempted", "failed": "ended by an error"}


def summary(facts: Facts) -> str:
    """Return what the whole comes down to, in a few sentences of plain text."""
    totals = facts.totals
    if not facts.has_history:
        told = [f"{count_text(totals.there, 'checkpoint')} {'is' if totals.there == 1 else 'are'} there"]
    else:
        told = [
            f"{totals.there:,} of {count_text(totals.saves, 'checkpoint')} that {_were(totals.saves)} saved are there"
        ]
    if totals.damaged:
        told[0] += f", and {totals.damaged:,} {'is' if totals.damaged == 1 else 'are'} damaged"
    if totals.lost_secs is not None:
        told.append(f"saves cost {length_text(totals.lost_secs)} of training{_share(facts)}")
    if facts.turns:
        told.append(_interruptions(facts))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in told)


def tiles(facts: Facts) -> tuple[tuple[str, str, str], ...]:
    """Return the numbers that matter most: what each is of, the number, and what stands below it."""
    totals = facts.totals
    newest = next((save for save in facts.saves if save.is_latest), None)
    best = next((save for save in facts.saves if save.is_best), None)
    found = [("checkpoints there", f"{totals.there:,}", _sizes(facts))]
    if newest is not None:
        found.append(("newest", newest.name, checkpoint_place(newest, facts.made_at)))
    if best is not None:
        value = number_text(best.metrics[facts.monitor])
        found.append((f"best {facts.monitor}", value, f"{best.name}, step {best.step:,}"))
    if totals.blocked_secs is not None:
        found.append(("training blocked", length_text(totals.blocked_secs), "in all, while it waited for saves"))
    if totals.lost_secs is not None:
        found.append(("training time lost", length_text(totals.lost_secs), f"in all{_share(facts)}"))
    if facts.turns:
        kinds = ", ".join(f"{count} {_INTERRUPTED[kind]}" for kind, count in totals.interruptions.items())
        number = sum(totals.interruptions.values())
        found.append(("interruptions", f"{number:,}", kinds or f"in {count_text(len(facts.turns), 'turn')}"))
        found.append(("steps trained twice", f"{totals.repeated_steps:,}", "or more" if totals.repeated_steps else ""))
    if totals.skipped or totals.failed:
        found.append(
            (
                "saves not made",
                f"{totals.skipped + totals.failed:,}",
                f"{totals.failed:,} failed, {totals.skipped:,} skipped",
            )
        )
    return tuple(found)


def checkpoint_place(save: Save, now: float) -> str:
    """Return where in the run a checkpoint is, and how old it is."""
    told = [] if save.step is None else [f"step {save.step:,}"]
    if save.epoch is not None:
        told.append(f"epoch {save.epoch:,}")
    if save.at is not None:
        told.append(f"saved {age_text(now - save.at)} ago" if now - save.at >= 1 else f"saved {date_text(save.at)}")
    return ", ".join(told)


def _sizes(facts: Facts) -> str:
    totals = facts.totals
    written = f", {size_text(totals.written_bytes)} written in all" if facts.has_history else ""
    return f"{size_text(totals.there_bytes)} on disk{written}"


def _interruptions(facts: Facts) -> str:
    totals = facts.totals
    number = sum(totals.interruptions.values())
    if not number:
        return f"no turn of {len(facts.turns):,} was interrupted"
    kinds = ", ".join(f"{count:,} {_INTERRUPTED[kind]}" for kind, count in totals.interruptions.items())
    twice = (
        f"; {count_text(totals.repeated_steps, 'step')} or more had to be trained twice"
        if totals.repeated_steps
        else ""
    )
    return f"{number:,} of {count_text(len(facts.turns), 'turn')} {_were(number)} interrupted ({kinds}){twice}"


def _share(facts: Facts) -> str:
    lost = facts.totals.lost_secs
    share = "" if lost is None else share_text(lost, facts.totals.turns_secs)
    return f", {share} of the {length_text(facts.totals.turns_secs)} at work" if share else ""


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
