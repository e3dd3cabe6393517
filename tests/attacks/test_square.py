"""Square: the paper's search one query at a time, its squares, its starts, and torchattacks' own."""

import math
from collections.abc import Iterator
from typing import Any

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import SEED, SQUARE, like, margins
from torch import Tensor, nn

from harness import seeds
from harness.attacks import ATTACKS, norms, perturb
from harness.attacks.autoattack.squares import Squares
from harness.attacks.ball import size
from harness.settings import Mistakes, validated

SHARES = ((10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256))
HARD = like(SQUARE, epsilon=(0.1,))


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Iterator[Any]:
    """Trained by one thread, whatever ran before: another number sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield attack_cases.digits()
    torch.set_num_threads(threads)


def _uniform(number: int, draw: int, size: int) -> list[float]:
    return seeds.uniform(SEED, torch.tensor([number]), torch.tensor([draw]), size)[0].tolist()


def _side(query: int, queries: int) -> int:
    """Andriushchenko et al. 2020, section 5: of an image of 8 x 8."""
    share = next((divisor for last, divisor in SHARES if int(query / queries * 10_000) <= last), 512)
    return max(round(math.sqrt(0.8 / share * 64)), 1)


def _searched(network: nn.Module, clean: Tensor, label: Tensor, number: int, settings: Any) -> Tensor:
    """One image [1, 8, 8] of the linf search, as the paper has it: every square is asked."""
    (epsilon,) = settings.epsilon
    if margins(network, clean[None], label[None]) < 0:
        return clean
    signs = torch.tensor([1.0 if word > 0.5 else -1.0 for word in _uniform(number, 0, 8)])
    best = (clean + epsilon * signs).clamp(0, 1)
    smallest = margins(network, best[None], label[None])
    for query in range(settings.queries):
        if smallest < 0:
            break
        side = _side(query, settings.queries)
        down, right, sign = _uniform(number, query + 1, 3)
        top, left = int(down * (9 - side)), int(right * (9 - side))
        trial = best.clone()
        trial[:, top : top + side, left : left + side] += 2 * epsilon * (1 if sign > 0.5 else -1)
        trial = torch.minimum(torch.maximum(trial, clean - epsilon), clean + epsilon).clamp(0, 1)
        now = margins(network, trial[None], label[None])
        if now < smallest:
            best, smallest = trial, now
    return best


@pytest.mark.parametrize("queries", [30, 300])
def test_linf_is_the_search_of_the_paper_query_by_query(queries: int, digits: Any) -> None:
    """Neither what is asked ahead nor what isn't asked again changes anything."""
    network, images, labels, ids = digits[0], *(value[:6] for value in digits[1:])
    settings = like(HARD, queries=queries)
    (ours,) = perturb(network, images, labels, ids, settings, SEED)
    fooled = margins(network, ours, labels) < 0
    assert 0 < fooled.sum() < 6
    for image, label, number, found in zip(images, labels, ids.tolist(), ours, strict=True):
        expected = _searched(network, image, label, number, settings)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def _cases() -> Iterator[Any]:
    for norm, radius in (("linf", 0.1), ("l2", 1.0), ("l1", 3.0)):
        for shape in ((1, 8, 8), (3, 12, 10)):
            yield pytest.param(norm, radius, shape, id=f"{norm}-{shape}")


@pytest.mark.parametrize(("norm", "radius", "shape"), _cases())
@pytest.mark.parametrize("side", [1, 3, 5, 8])
def test_squares_stay_in_the_ball_and_reach_all_places(
    norm: Any, radius: float, shape: tuple[int, ...], side: int
) -> None:
    count, squares, random = 200, Squares(norm, radius), torch.Generator().manual_seed(0)
    clean = torch.rand(1, *shape, generator=random).expand(count, *shape)
    words = torch.rand(count, squares.start_words(clean), generator=random)
    best = squares.start(clean, words)
    words = torch.rand(count, squares.words(clean), generator=random)
    trial = squares.proposal(clean, best, words, side)
    for images in (best, trial):
        assert images.min() >= 0
        assert images.max() <= 1
        assert (size(images - clean, norm) <= radius * (1 + 1e-5) + 1e-6).all()
        assert (size(images - clean, norm) > radius / 2).all()
    if norm == "linf":
        moved = (trial != best).any(1)
        rows, columns = moved.any(2), moved.any(1)
        assert (rows.sum(1) <= side).all()
        assert (columns.sum(1) <= side).all()
        assert rows.any(0).all()
        assert columns.any(0).all()


def test_an_l2_square_takes_from_the_other_what_it_gets() -> None:
    squares, random = Squares("l2", 1.0), torch.Generator().manual_seed(0)
    clean = torch.full((1, 1, 16, 16), 0.5)
    best = squares.start(clean, torch.rand(1, squares.start_words(clean), generator=random))
    # From the lower right corner to the upper left one.
    words = torch.tensor([[0.0, 0.0, 0.999, 0.999, 0.2, 0.9]])
    before, after = best - clean, squares.proposal(clean, best, words, 5) - clean
    assert (after[..., 11:, 11:] == 0).all()
    torch.testing.assert_close(after[..., :5, 5:], before[..., :5, 5:])
    expected = before[..., :5, :5].norm() ** 2 + before[..., 11:, 11:].norm() ** 2
    torch.testing.assert_close(after[..., :5, :5].norm() ** 2, expected)
    assert after.norm().item() == pytest.approx(1)


def test_what_fools_already_is_left_alone(digits: Any) -> None:
    network, images, labels, ids = digits
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 10
    (batch,) = perturb(network, images, wrong, ids, HARD, SEED)
    assert torch.equal(batch[::2], images[::2])
    assert (batch[1::2] != images[1::2]).flatten(1).any(1).all()


def test_no_image_leaves_a_network_that_draws(digits: Any) -> None:
    network, images, labels, ids = digits
    settings = like(HARD, epsilon=(0.3,), queries=50)
    (left,) = perturb(network, images, labels, ids, settings, SEED)
    network.draws = 1
    try:
        (stayed,) = perturb(network, images, labels, ids, settings, SEED)
    finally:
        del network.draws
    before, after = margins(network, left, labels), margins(network, stayed, labels)
    assert (after <= before).all()
    assert (after < before).float().mean() > 0.5


def test_a_restart_is_for_what_the_earlier_ones_left(digits: Any) -> None:
    network, images, labels, ids = digits
    few = like(HARD, queries=10)
    (one,), (five,) = (perturb(network, images, labels, ids, like(few, restarts=n), SEED) for n in (1, 5))
    fooled, now = margins(network, one, labels) < 0, margins(network, five, labels) < 0
    assert torch.equal(one[fooled], five[fooled])
    assert (one[~fooled] != five[~fooled]).flatten(1).any(1).all()
    assert fooled.sum() < now.sum()


@pytest.mark.parametrize(("norm", "ours", "epsilon"), [("Linf", "linf", 0.1), ("L2", "l2", 0.5)])
def test_as_many_survive_as_of_torchattacks(norm: str, ours: str, epsilon: float, digits: Any) -> None:
    """Its squares never reach the last row and column: it is told to draw one place more."""
    reference = pytest.importorskip("torchattacks")
    network, images, labels, ids = digits

    class Everywhere(reference.Square):  # type: ignore[name-defined, misc]
        def random_int(self, low: int = 0, high: int = 1, shape: Any = (1,)) -> Tensor:
            return torch.randint(low, high + 1, tuple(shape))

    with torch.random.fork_rng():
        attack = Everywhere(network, norm=norm, eps=epsilon, n_queries=300, seed=0)
        theirs = attack(images, labels)
    settings = like(SQUARE, ball=ours, epsilon=(epsilon,), queries=300)
    (found,) = perturb(network, images, labels, ids, settings, SEED)
    survivors = [int((margins(network, batch, labels) >= 0).sum()) for batch in (found, theirs)]
    assert 0 < survivors[0] < len(images)
    assert abs(survivors[0] - survivors[1]) <= 2
    np.testing.assert_array_less(norms(images, found)["linf" if ours == "linf" else "l2"], epsilon + 1e-5)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"queries": 0}, "queries: should be greater than or equal to 1, got 0"),
        ({"epsilon": [0.1, 1.5]}, "epsilon: should be at most 1 in linf, as values are in [0, 1], got 1.5"),
        ({"epsilon": []}, "epsilon: "),
        ({"norm": "l0"}, "norm: 'l0' is not possible"),
        ({"p_init": 0}, "p_init: "),
        ({"restarts": 0}, "restarts: "),
    ],
)
def test_what_cannot_be_meant_is_a_mistake(setting: dict[str, Any], expected: str) -> None:
    with pytest.raises(Mistakes) as error:
        validated(ATTACKS["square"], {"method": "square", "epsilon": [0.1], **setting})
    assert expected in str(error.value)
    assert validated(ATTACKS["square"], {"method": "square", "norm": "l2", "epsilon": [1.5]})
