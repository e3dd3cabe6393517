"""What the adapters were tried with: every class of the three libraries, on 16 images, as docs/adapters.md.

    PYTHONPATH=tests python tests/adapters_tried.py          writes the tables anew (about five minutes)

Each class runs with its own arguments, but the long ones cut (``CUT``), for at most ``LIMIT_S`` seconds.
"""

import contextlib
import datetime
import io
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attack_cases
import torch
from torch import Tensor, nn

from harness.attacks import ATTACKS, perturb
from harness.attacks.adapters.adapter import Adapter, Library
from harness.attacks.adapters.arguments import arguments_of
from harness.settings import Mistakes, validated

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
MARK = "<!-- from here on: tests/adapters_tried.py -->\n"
IMAGES, LIMIT_S = 16, 60
DISTRIBUTIONS = {
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "torchattacks": "torchattacks",
}
RADII = {"linf": 0.3, "l2": 2.0, "l1": 10.0}
CUT = {
    "steps": 50,
    "max_iter": 20,
    "max_iterations": 50,
    "n_queries": 200,
    "query_limit": 1000,
    "binary_search_steps": 4,
    "directions": 100,
    "max_eval": 200,
    "max_gradient_eval_steps": 200,
    "nb_random_init": 1,
}
OWN: dict[str, dict[str, Any]] = {
    "BoundaryAttack": {"steps": 1000, "max_iter": 200},
    "PixelAttack": {"th": 5},
    "SquareAttack": {"max_iter": 200},
    "ThresholdAttack": {"es": 1, "th": 50},
    "UniversalPerturbation": {"attacker": "fgsm", "max_iter": 2},
    "ZooAttack": {"max_iter": 100},
}


Setting = tuple[nn.Module, Tensor, Tensor, Tensor]  # a network, images, the classes to leave, ids


class TooLongError(BaseException):
    """Not an Exception, which a library may catch."""


def adapters() -> list[tuple[str, type[Any]]]:
    """The attacks that are adapters, by method."""
    return [(method, attack) for method, attack in ATTACKS.items() if issubclass(attack, Adapter)]


def refused(library: Library) -> dict[str, str]:
    """Class -> why no study can use it."""
    reasons = {name: library.refused(cls) for name, cls in library.classes().items()}
    return {name: reason for name, reason in reasons.items() if reason}


def accepted(library: Library) -> list[str]:
    """The other classes."""
    return [name for name in library.classes() if name not in refused(library)]


def settings_of(attack: type[Any], method: str, name: str) -> Any:
    """Cheap settings of one class; raises Mistakes where it cannot be made."""
    library = attack.library
    cls = library.classes()[name]
    values: dict[str, Any] = {"method": method, "attack": name}
    norm = library.norm(cls, {})
    if norm is None:
        norm = values["norm"] = "l2"
    if library.radius(cls):
        values["epsilon"] = [RADII[norm]]
    known, arguments = arguments_of(cls), {}
    for argument, most in CUT.items():
        if argument in known:
            default = known[argument].default
            arguments[argument] = min(default, most) if isinstance(default, int) else most
    arguments.update({argument: value for argument, value in OWN.get(name, {}).items() if argument in known})
    for step in ("eps_step", "alpha"):
        if step in known and library.radius(cls):
            arguments[step] = RADII[norm] / 4
    return validated(attack, {**values, "arguments": arguments})


def tried(attack: type[Any], method: str, name: str, setting: Setting) -> list[str]:
    """The row of one class."""
    library = attack.library
    cls = library.classes()[name]
    head = [f"`{name}`", library.norm(cls, {}) or "to be told", "yes" if library.radius(cls) else "no"]
    try:
        settings = settings_of(attack, method, name)
    except Mistakes as error:
        return [*head, "", "", f"not tried: {error.below[0][1]}"]
    try:
        return [*head, *measured(settings, setting)]
    except Exception as error:
        grey = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        return [*head, *measured(settings, coloured(setting))[:-1], "three channels only"]
    except Exception:
        return [*head, "", "", f"failed: {grey[:200]}"]


def measured(settings: Any, setting: Setting) -> list[str]:
    """How many images are fooled, in how many seconds, and a note."""
    network, images, labels, ids = setting
    said = io.StringIO()
    began = time.monotonic()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), limited():
            (made,) = perturb(network, images, labels, ids, settings, 0)
    except TooLongError:
        return ["", "", f"not within {LIMIT_S} s"]
    seconds = time.monotonic() - began
    with torch.no_grad():
        fooled = int((network(made).argmax(1) != labels).sum())
    return [str(fooled), f"{seconds:.1f}", "prints" if said.getvalue() else ""]


class Mean(nn.Module):
    """A network of grey images, of the mean of an image's channels."""

    def __init__(self, grey: nn.Module) -> None:
        super().__init__()
        self.grey = grey

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.grey(x.mean(1, keepdim=True))
        return logits


def coloured(setting: Setting) -> Setting:
    """The same images in three channels: some attacks are written for these."""
    network, images, labels, ids = setting
    return Mean(network).eval(), images.expand(-1, 3, -1, -1).contiguous(), labels, ids


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """At most ``LIMIT_S`` seconds."""

    def expire(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text() -> str:
    """The tables of all three."""
    torch.set_num_threads(1)
    network, images, labels, ids = attack_cases.digits()
    setting = (network, images[:IMAGES], labels[:IMAGES], ids[:IMAGES])
    versions = ", ".join(f"{name} {version(name)}" for name in (*DISTRIBUTIONS.values(), "torch"))
    parts = [f"Tried on {datetime.date.today()} with {versions}, one thread of a CPU.\n"]
    for method, attack in adapters():
        rows = []
        for name in accepted(attack.library):
            rows.append(tried(attack, method, name, setting))
            print(method, *rows[-1], flush=True)
        columns = ["class", "norm", "takes epsilon", f"fooled of {IMAGES}", "seconds", "note"]
        reasons = [[f"`{name}`", f"it {reason}"] for name, reason in refused(attack.library).items()]
        parts.append(f"## `method: {method}`\n\n{table(columns, rows)}")
        parts.append(f"Refused:\n\n{table(['class', 'why'], reasons)}")
    return "\n".join(parts)


if __name__ == "__main__":
    words, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(words + mark + "\n" + text())
