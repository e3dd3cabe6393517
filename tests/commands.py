"""Commands of the harness, called in this process."""

from click.testing import CliRunner

from harness.cli import main


def call(*arguments):
    """Exit code and all output of `harness ARGUMENTS`."""
    outcome = CliRunner().invoke(
        main, [str(argument) for argument in arguments], env={"HARNESS_DATA": None, "COLUMNS": "200"}
    )
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.output


def refused(*arguments):
    """The message of a command that must fail with exit code 2, on one screen, without a traceback."""
    code, output = call(*arguments)
    assert code == 2, output
    assert "Traceback" not in output
    assert len(output.splitlines()) <= 24
    return " ".join(output.split())
