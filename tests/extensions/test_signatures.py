"""Settings from signatures: what may be written, what is wrong with a value, what with a signature."""

import pytest
from outside import outside_of

from harness.errors import HarnessError
from harness.extensions import resolve
from harness.settings import Mistakes, validated

HEAD = """
from __future__ import annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from pydantic import Field
from harness import extensions
from harness.settings import GRID, Epsilon
if TYPE_CHECKING:
    from torch import Tensor
"""
ATTACK = "network: Tensor, images: Tensor, labels: Tensor, ids: Tensor, seed: int"


@pytest.fixture
def settings(tmp_path):
    """The model of the settings of a function with these parameters."""
    with outside_of(tmp_path) as there:

        def of(parameters, kind="attack", mark="norm='linf', cost=1"):
            source = f"@extensions.{kind}({mark})\ndef f({parameters}) -> Tensor: ...\n"
            return resolve(f"{there.module(HEAD + source)}:f", kind).settings

        yield of


def mistakes(model, **values):
    with pytest.raises(Mistakes) as caught:
        validated(model, values)
    return caught.value.below


def test_defaults_are_filled_in_and_values_are_strict(settings):
    parameters = "*, steps: Annotated[int, Field(ge=1)] = 10, rate: float = 1, path: Path = 'a/b', on: bool"
    model = settings(
        f"{ATTACK}, {parameters}, rule: Literal['fast', 'slow'] = 'slow', pair: tuple[int, ...]=()"
    )
    complete = validated(model, {"on": True, "pair": [1, 2]})
    stored = complete.model_dump(mode="json")
    assert stored == {"steps": 10, "rate": 1.0, "path": "a/b", "on": True, "rule": "slow", "pair": [1, 2]}
    assert isinstance(stored["rate"], float)
    assert validated(model, stored) == complete
    assert str(complete.path) == "a/b" and complete.pair == (1, 2)
    assert mistakes(model, stepps=3, steps=0, rate="3", rule="slo") == [
        ("steps", "should be greater than or equal to 1, got 0"),
        ("rate", 'should be a valid number, got "3"'),
        ("on", "required, but not given"),
        ("rule", "'slo' is not possible; did you mean 'slow'?"),
        ("stepps", "unknown setting; did you mean 'steps'?"),
    ]
    assert mistakes(model, on=1)[0][1] == "should be a valid boolean, got 1"
    assert "finite" in mistakes(model, on=True, rate=float("nan"))[0][1]


def test_epsilon_of_an_attack(settings):
    model = settings(f"{ATTACK}, *, epsilon: float, steps: int = 1")
    assert validated(model, {"epsilon": "8/255"}).epsilon == 8 / 255
    assert validated(model, {"epsilon": [0.1, "1/255"]}).epsilon == (0.1, 1 / 255)
    assert mistakes(model, epsilon=2) == [("epsilon", "should be less than or equal to 1, got 2")]
    assert mistakes(model, epsilon=[0.1, 0]) == [("epsilon.1", "should be greater than 0, got 0")]
    assert mistakes(model, epsilon=[0.1, 0.1]) == [("epsilon", "should name nothing twice")]
    assert mistakes(model, epsilon=[]) == [("epsilon", "should have at least one value")]
    assert "can be given for epsilon alone" in mistakes(model, epsilon=0.1, steps=[1])[0][1]
    for annotation in ("Annotated[float, Field(le=3)]", "Annotated[float, *GRID, Field(le=3)]"):
        model = settings(f"{ATTACK}, *, epsilon: {annotation} = 2", mark="norm='l2', cost=1")
        assert (validated(model, {}).epsilon, validated(model, {"epsilon": [2.5]}).epsilon) == (2, (2.5,))
        assert mistakes(model, epsilon=4) == [("epsilon", "should be less than or equal to 3, got 4")]


def test_epsilon_and_grids_of_a_defense(settings):
    model = settings("inputs, seed, *, epsilon: float, b: Annotated[float, *GRID] = 6", "defense", "")
    assert model.grid() == ("epsilon", "b")
    several = validated(model, {"epsilon": "8/255", "b": [1, 2]})
    assert [(one.epsilon, one.b) for one in several.expanded()] == [(8 / 255, 1), (8 / 255, 2)]
    single = settings("inputs, seed, *, epsilon: Epsilon", "defense", "")
    assert single.grid() == () and validated(single, {"epsilon": "1/2"}).epsilon == 0.5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "network, images, *, a: int",
            r"\(network, images, labels, ids, seed, \*, settings\), got \(network, imag",
        ),
        ("*, a: int", r"got \(, ...\)"),
        (f"{ATTACK}, a: int", r"got \(network, images, labels, ids, seed, a, ...\)"),
        (f"{ATTACK}, *, a", "setting 'a' needs a type"),
        (f"{ATTACK}, *a: int", r"keyword-only parameters with a type each, got \*a"),
        (f"{ATTACK}, **a: int", r"keyword-only parameters with a type each, got \*\*a"),
        (f"{ATTACK}, *, a: Unknown", "setting 'a' has a type that can't be evaluated: Unknown .NameError"),
        (f"{ATTACK}, *, a: Tensor", "setting 'a' has a type that can't be evaluated: Tensor"),
        (f"{ATTACK}, *, a: slice", "setting 'a' can't be written in a study: its type is slice"),
        (
            f"{ATTACK}, *, a: int = 'x'",
            "setting 'a' has a wrong default: should be a valid integer, got \"x\"",
        ),
        (f"{ATTACK}, *, a: object = print", "setting 'a' has a default that can't be written in a study"),
        (
            f"{ATTACK}, *, a: float = float('inf')",
            "setting 'a' has a wrong default: should be a finite number",
        ),
        (f"{ATTACK}, *, grid: int", "setting 'grid' can't have this name"),
        (f"{ATTACK}, *, _a: int", "setting '_a' can't have this name"),
        (f"{ATTACK}, *, epsilon: int", "setting 'epsilon' of an attack should be a float, got <class 'int'>"),
        (f"{ATTACK}, *, epsilon: float | None = None", "'epsilon' of an attack should be a float, got float"),
        (f"{ATTACK}, *, a: Annotated[float, *GRID]", "setting 'a' can't be a grid"),
    ],
)
def test_wrong_signatures(settings, parameters, message):
    with pytest.raises(HarnessError, match=rf"outside_\d+.f: .*{message}"):
        settings(parameters)


def test_all_that_is_wrong_is_told_at_once(settings):
    with pytest.raises(HarnessError) as caught:
        settings("network, *a, b, c: slice", mark="norm='l3', cost=-1, title=3")
    for part in (
        "norm should be one of linf, l2, l1, l0, got 'l3'",
        "cost should be a number of",
        "title should",
    ):
        assert part in str(caught.value)
    for part in ("got *a", "got (network, ...)", "setting 'b' needs a type", "setting 'c' can't be written"):
        assert part in str(caught.value)


def test_wrong_marks_of_a_defense(settings):
    with pytest.raises(
        HarnessError, match="bound should be True or False, got 'yes'; samples_per_image should"
    ):
        settings("inputs, seed", "defense", "bound='yes', samples_per_image='2'")
