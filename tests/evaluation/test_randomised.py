"""Networks that draw: what is found is the expected accuracy, whoever computes it and in whatever order."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
import torch
from attack_cases import digits
from torch import Tensor, nn

from harness.attacks.attack import perturb
from harness.attacks.batch import differentiable, logits
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.data.datasets import Dataset, Images
from harness.evaluation import tester
from harness.evaluation.blocks import BATCHES_PER_BLOCK, attack_block, attack_survivors, blocks, stack
from harness.evaluation.randomised import DRAWS, fresh, judged, perturbed
from harness.library.attack import attack
from harness.networks.classifier import Architecture, Classifier, to_tensors
from harness.networks.randomised import Expected, is_randomised
from harness.results.cells import Cell

BATCH = 10
Worker = tuple[tester.Tester, tester.StoredNetwork]
PGD = Pgd(method="pgd", epsilon=(0.1,), steps=10, step_divisor=4, engine="early_stop")


class Noisy(nn.Module):
    def __init__(self, body: nn.Module, sd: float) -> None:
        super().__init__()
        self.body, self.sd = body, sd

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + self.sd * torch.randn_like(x))


@pytest.fixture(scope="module")
def planted() -> Classifier:
    """A small network of digits with noise of .1 in front."""
    trained = digits()[0]
    return Classifier(Noisy(trained.body.body, 0.1), (0.0,), (1.0,)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unseen() -> Images:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = (data.images[1500:1600, None] / 16 * 255).astype(np.uint8)
    return Images(pixels, data.target[1500:1600].astype(np.int64), np.arange(1500, 1600) * 2)


def inputs(data: Images) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(data.pixels).float() / 255, *map(torch.from_numpy, (data.labels, data.ids))


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (logits(network, images, 100).argmax(1) == labels).float().mean().item()


# --- one that draws is told from one that does not --------------------------------------------------


def test_noise_dropout_and_resizing_are_told_from_rounding(planted, unseen):
    x = inputs(unseen)[0][:16]
    plain = planted.body.body
    assert is_randomised(planted, x)
    assert is_randomised(nn.Sequential(nn.Flatten(), Dropped(), nn.Linear(64, 5)), x)
    assert not is_randomised(plain, x)
    assert judged(plain, x) is plain
    assert not is_randomised(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), torch.zeros(16, 1, 8, 8))


class Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.1, training=True)


def test_telling_leaves_the_global_generators_as_they_were(planted, unseen):
    before = torch.get_rng_state()
    asked = judged(planted, inputs(unseen)[0])
    assert isinstance(asked, Expected) and asked.draws == DRAWS
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mean_of_draws_and_its_gradient(planted, unseen):
    """Against draws made one by one: log of the mean probabilities, and the gradient of that."""
    x = inputs(unseen)[0][:4].requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = torch.stack([planted(x).softmax(1) for _ in range(5)]).mean(0)
        torch.manual_seed(1)
        mean = Expected(planted, 5)(x)
    assert torch.allclose(mean.exp(), drawn, atol=1e-6)
    (expected,) = torch.autograd.grad(drawn[:, 3].log().sum(), x)
    (gradient,) = torch.autograd.grad(mean[:, 3].sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-5)


# --- what is found ----------------------------------------------------------------------------------


def test_the_expected_accuracy_is_found_and_not_that_of_lucky_draws(planted, unseen):
    x, labels, ids = inputs(unseen)
    ((rows, made),) = attack_block(judged(planted, x), unseen, PGD, "label", 3, 100)
    found = (rows["adversarial_predicted"] == unseen.labels).mean()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        many = accuracy(Expected(planted, 200), torch.from_numpy(made), labels)
        (left,) = perturb(planted, x, labels, ids, PGD, 3, 100)
        leaving = accuracy(Expected(planted, 200), left, labels)
        never_fooled = lucky(planted, x, labels).mean().item()
    assert abs(found - many) <= 0.04
    assert found - never_fooled > 0.2, "an image that a lucky draw fools is not fooled"
    assert leaving - found > 0.1, "an image that leaves at a lucky draw is attacked less"
    assert (rows["draws"] == DRAWS).all()


def test_a_worst_case_goes_on_where_the_mean_is_right(planted, unseen):
    asked = judged(planted, inputs(unseen)[0])
    fgsm = Fgsm(method="fgsm", epsilon=(0.1,))
    first = attack_survivors(asked, unseen, fgsm, None, 3, 100, tells_fragility=True)
    (rows, made), (last, moved) = first[0], attack_survivors(asked, unseen, PGD, first, 3, 100)[0]
    fooled = rows["adversarial_predicted"] != unseen.labels
    assert np.array_equal(moved[fooled], made[fooled])
    assert (last["adversarial_predicted"] != unseen.labels).sum() > fooled.sum()
    assert (last["draws"] == DRAWS).all()
    assert (rows["rounded_predicted"] == rows["adversarial_predicted"]).mean() > 0.9


def lucky(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """bool [B]: whether no draw on the way of 40 steps fooled the network."""
    never, moved = torch.ones(len(x)), x
    for _ in range(40):
        moved = moved.requires_grad_()
        outputs = network(moved)
        never *= outputs.argmax(1) == labels
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, labels), moved)
        moved = (x + (moved.detach() + 0.01 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    return never


def test_of_several_starts_the_best_is_kept(planted, unseen):
    x, labels, ids = inputs(unseen)
    asked = judged(planted, x)
    several = PGD.model_copy(update={"restarts": 3, "steps": 3})
    once = several.model_copy(update={"restarts": 1})
    (one,), (best,) = (perturbed(asked, x, labels, ids, how, 3, 100) for how in (once, several))
    with fresh(asked, ids):
        found = [accuracy(asked, made, labels) for made in (one, best)]
    assert found[1] <= found[0]
    assert not torch.equal(one, best)


def test_gradients_in_bfloat16_are_of_the_mean_too(planted, unseen):
    x, labels, ids = inputs(unseen)
    asked = judged(planted, x)
    through = differentiable(asked, "bfloat16")
    assert isinstance(through, Expected) and through.network.body is not planted.body
    low = PGD.model_copy(update={"gradients": "bfloat16"})
    made = [perturbed(asked, x, labels, ids, how, 3, 100)[0] for how in (PGD, low)]
    with fresh(asked, ids):
        assert abs(accuracy(asked, made[0], labels) - accuracy(asked, made[1], labels)) <= 0.06


def test_an_epsilon_does_not_depend_on_which_others_are_asked_for(planted, unseen):
    x, labels, ids = inputs(unseen)
    asked = judged(planted, x)
    both = Fgsm(method="fgsm", epsilon=(0.05, 0.1))
    together = perturbed(asked, x, labels, ids, both, 3, 50)
    for epsilon, made in zip(both.epsilon, together, strict=True):
        (alone,) = perturbed(asked, x, labels, ids, both.with_epsilons((epsilon,)), 3, 50)
        assert torch.equal(alone, made)


def test_the_library_says_how_many_draws(planted, unseen):
    x, labels, _ = inputs(unseen)
    made = attack(planted, x[:20], labels[:20], "fgsm", epsilon=0.1)
    assert made.draws == DRAWS
    again = attack(planted, x[:20], labels[:20], "fgsm", epsilon=0.1)
    assert torch.equal(made.images, again.images)
    assert np.array_equal(made.adversarial_predicted, again.adversarial_predicted)
    assert attack(planted.body.body, x[:20], labels[:20], "fgsm", epsilon=0.1).draws is None


# --- workers ----------------------------------------------------------------------------------------


class Convolution(Architecture):
    title = "made here"
    architecture: Literal["made"] = "made"
    sd: float

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        inner = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
        return Noisy(inner, self.sd) if self.sd else inner


class Tensors:
    """A store of one network's weights."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._tensors = tensors

    def tensors(self, cell: Cell) -> Mapping[str, np.ndarray]:
        return self._tensors


def worker_of(unseen: Images, sd: float) -> Worker:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = Convolution(sd=sd)
        weights = to_tensors(Classifier(architecture.body(1, (8, 8), 10), (0.0,), (1.0,)))
    cell = Cell("training", {"dataset": "digits", "method": "base"}, {}, {}, title="base")
    dataset: Any = Dataset(tuple(map(str, range(10))), unseen, unseen)
    return tester.Tester(Tensors(weights), dataset), tester.StoredNetwork(architecture, cell)


def attacked(worker: Worker, block: slice) -> tuple[dict[str, Any], np.ndarray]:
    one, network = worker
    (made,) = one.attack(tester.AttackTask("pgd", network, PGD, "test", block, "label", 3, BATCH))
    return made


def test_blocks_are_equal_whoever_computes_them(unseen):
    todo = blocks(100, BATCHES_PER_BLOCK * BATCH)
    alone = worker_of(unseen, 0.1)
    here = [attacked(alone, block) for block in todo]
    two = worker_of(unseen, 0.1), worker_of(unseen, 0.1)
    shared = {position: attacked(two[position % 2], todo[position]) for position in reversed(range(3))}
    for position, (rows, made) in enumerate(here):
        assert np.array_equal(shared[position][1], made)
        for name in set(rows) - {"attack_s"}:
            assert np.array_equal(shared[position][0][name], rows[name]), name
    assert (stack([rows for rows, _ in here])["draws"] == DRAWS).all()


def test_clean_predictions_are_those_that_attacks_start_from(unseen):
    worker, network = worker_of(unseen, 0.1)
    (clean,) = worker.predict(tester.PredictionTask(network, (None,), ("test",), BATCH))
    todo = blocks(100, BATCHES_PER_BLOCK * BATCH)
    rows = stack([attacked(worker_of(unseen, 0.1), block)[0] for block in todo])
    assert np.array_equal(clean["prediction"], rows["predicted"])
    assert (clean["draws"] == DRAWS).all()


def test_a_deterministic_network_has_no_draws(unseen):
    worker = worker_of(unseen, 0.0)
    (clean,) = worker[0].predict(tester.PredictionTask(worker[1], (None,), ("test",), BATCH))
    assert set(clean) == {"prediction"}
    assert "draws" not in attacked(worker, slice(0, 20))[0]
