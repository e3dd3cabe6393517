"""The command line: what a user types and sees. Thin words over the pipeline, the report and the tracking.

The commands are listed here, in the order of work. None imports what it works with before it is called: help
and mistakes of typing are answered at once.
"""

from harness.cli.comparing import compare
from harness.cli.exporting import export, figures
from harness.cli.group import main
from harness.cli.imaging import image
from harness.cli.looking import describe, report, show, sql, studies, tables, ui
from harness.cli.planning import benchmark, plan
from harness.cli.running import STEP_COMMANDS, run, track
from harness.cli.validating import validate
from harness.cli.verifying import rekey, verify

__all__ = ["main"]

for _command in (
    run,
    *STEP_COMMANDS,
    validate,
    plan,
    benchmark,
    tables,
    sql,
    describe,
    report,
    image,
    compare,
    export,
    figures,
    verify,
    rekey,
    track,
    ui,
    show,
    studies,
):
    main.add_command(_command)
