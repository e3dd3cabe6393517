"""A batch that stays full: every image is taken to its own end, whoever is beside it."""

import pytest
import torch
from torch import Tensor

from harness.attacks.batch import State, compacted, looks_every

COUNTS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3, 11, 20])
def test_each_image_ends_by_itself_and_keeps_its_place(size: int, every: int) -> None:
    seen = []

    def step(state: State) -> tuple[State, Tensor]:
        seen.append(len(state["x"]))
        going = state["x"] < state["count"]
        state["x"].add_(going.long())  # a batch is its own to change
        return state, state["x"] >= state["count"]

    start = torch.zeros_like(COUNTS)
    made = compacted({"x": start, "count": COUNTS}, size, step, every=every)
    assert torch.equal(made, COUNTS)
    assert not start.any()
    assert max(seen) == min(size, len(COUNTS))
    if every == 1:
        assert sum(seen) == COUNTS.sum()  # nobody stays who is done


def test_the_result_is_what_is_kept() -> None:
    def step(state: State) -> tuple[State, Tensor]:
        return {"x": state["x"] + 1, "kept": state["x"]}, state["x"] >= 2

    start = torch.zeros(3, 1, 2, 2)
    state = {"x": start, "kept": start}
    made = compacted(state, 2, lambda s: _by_image(step(s)))
    assert torch.equal(made, torch.full_like(start, 2.0))


def _by_image(stepped: tuple[State, Tensor]) -> tuple[State, Tensor]:
    return stepped[0], stepped[1].flatten(1).all(1)


def test_a_look_is_dear_on_a_gpu_alone() -> None:
    assert looks_every(torch.device("cpu")) == 1
    assert looks_every(torch.device("cuda")) > 1
