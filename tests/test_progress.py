"""The progress bar: where somebody looks on, and nowhere else."""

import io

from rich.console import Console

from ckptkit.export.progress import progress


def shown(**options):
    text = io.StringIO()
    with progress("saving model.keras", 2, Console(file=text, width=100, **options)) as step:
        step("writing")
        step("loading it again")
    return text.getvalue()


def test_a_terminal_shows_what_is_done_and_the_step():
    text = shown(force_terminal=True)
    assert "saving model.keras" in text
    assert "loading it again" in text


def test_a_file_or_a_pipe_shows_nothing():
    assert shown() == ""


def test_it_is_shown_on_standard_error_so_that_output_stays_clean(capsys):
    with progress("saving", 1) as step:
        step("writing")
    assert capsys.readouterr().out == ""
