"""Counts of what a soak has seen, and the table of them."""

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

WIDTH = 100


@dataclass
class Tally:
    """What happened, by kind, and what should not have."""

    counts: dict[str, Counter] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def count(self, what, kind="", times=1):
        """Count something that happened."""
        self.counts.setdefault(what, Counter())[kind] += times

    @property
    def problems(self):
        """Everything that should not have happened."""
        return [*self.losses, *self.unexpected]

    def total(self, what):
        """Return how often something happened, of whatever kind."""
        return sum(self.counts.get(what, Counter()).values())

    def show(self, title, file=None):
        """Print the table."""
        table = Table(title=title)
        table.add_column("what")
        table.add_column("how often", justify="right")
        for what, kinds in self.counts.items():
            table.add_row(what, str(self.total(what)))
            for kind, times in kinds.most_common() if set(kinds) != {""} else ():
                table.add_row(f"  {kind}", f"[dim]{times}[/]")
        table.add_section()
        for what, problems in (("losses", self.losses), ("unexpected", self.unexpected)):
            table.add_row(f"[bold]{what}[/]", f"[{'red' if problems else 'green'}]{len(problems)}[/]")
        Console(width=WIDTH, file=file).print(table)
