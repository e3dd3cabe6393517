"""What the tests of attacks share: settings of every attack, and two networks with images to attack.

``digits`` is a small trained network, ``linear`` one whose smallest perturbations are known in closed form.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.attacks import ATTACKS
from harness.attacks.adapters.art import ArtAttack
from harness.attacks.adapters.foolbox import FoolboxAttack
from harness.attacks.adapters.torchattacks import TorchattacksAttack
from harness.attacks.autoattack.auto_pgd import ApgdCe, ApgdT
from harness.attacks.autoattack.fast_adaptive_boundary import FabT
from harness.attacks.autoattack.square import Square
from harness.attacks.autoattack.worst_case import AutoAttack
from harness.attacks.carlini_wagner import CwL2
from harness.attacks.decoupled_direction_norm import Ddn
from harness.attacks.deepfool import DeepFool
from harness.attacks.fast_minimum_norm import Fmn
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.attacks.saliency_map import Jsma, JsmaPairs
from harness.networks.classifier import Classifier

SEED = 7
FGSM = Fgsm(method="fgsm", epsilon=(0.05, 0.1, 0.3))
DEEPFOOL = DeepFool(method="deepfool", overshoot=1e-6)
JSMA = Jsma(method="jsma", theta=0.1, gamma=1.0)
PAIRS = JsmaPairs(method="jsma_pairs", gamma=0.4)
CW = CwL2(method="cw_l2", binary_search_steps=3, steps=40)
PGD = Pgd(method="pgd", epsilon=(0.05, 0.3), steps=10, step_divisor=4)
APGD = ApgdCe(method="apgd_ce", epsilon=(0.05, 0.2), steps=15)
APGD_T = ApgdT(method="apgd_t", epsilon=(0.05, 0.2), steps=10, targets=3)
FAB = FabT(method="fab_t", epsilon=(0.05, 0.2), steps=15, targets=3)
DDN = Ddn(method="ddn", steps=40)
FMN = Fmn(method="fmn", steps=40)
SQUARE = Square(method="square", epsilon=(0.05, 0.3), queries=100)
AUTOATTACK = AutoAttack(
    method="autoattack",
    epsilon=(0.05, 0.2),
    ce_steps=4,
    targeted_steps=4,
    targets=2,
    fab_steps=5,
    queries=20,
)
# One of each library that is installed.
ADAPTERS: list[Any] = [
    adapter.model_validate({"epsilon": (0.05, 0.3), **settings})
    for library, adapter, settings in (
        (
            "foolbox",
            FoolboxAttack,
            {"method": "foolbox", "attack": "LinfBasicIterativeAttack", "arguments": {"steps": 10}},
        ),
        ("art", ArtAttack, {"method": "art", "attack": "FastGradientMethod"}),
        ("torchattacks", TorchattacksAttack, {"method": "torchattacks", "attack": "FGSM"}),
    )
    if find_spec(library)
]
NAMED = {"foolbox": "LinfPGD", "art": "FastGradientMethod", "torchattacks": "PGD"}  # one of each library


# Methods whose code comes from outside: tests of their own have some (tests/extensions).
FROM_OUTSIDE = {"foreign"}


def like(settings: Any, **changes: Any) -> Any:
    """The same settings but for some."""
    return settings.model_copy(update=changes)


def shortest(method: str) -> dict[str, Any]:
    """The least that a study can say of a method."""
    radius = {"epsilon": (0.2,)} if "epsilon" in ATTACKS[method].model_fields else {}
    named = {"attack": NAMED[method]} if method in NAMED else {}
    return {"method": method, **named, **radius}


WARM = like(CW, warm_start=True, binary_search_steps=4, steps=15, initial_constant=1.0)
EARLY = like(PGD, engine="early_stop", restarts=3)
CASES: list[Any] = [
    FGSM,
    DEEPFOOL,
    like(DEEPFOOL, rule="authors", overshoot=0.02),
    JSMA,
    like(JSMA, theta=-0.25, gamma=0.5),
    PAIRS,
    CW,
    WARM,
    DDN,
    PGD,
    like(PGD, restarts=3),
    EARLY,
    APGD,
    like(APGD, restarts=2),
    like(APGD, ball="l2", epsilon=(0.8,)),
    like(APGD, ball="l1", epsilon=(3.0,)),
    APGD_T,
    like(APGD_T, ball="l1", epsilon=(3.0,)),
    FAB,
    FabT(method="fab_t", norm="l2", epsilon=(1.0,), steps=15, targets=3, restarts=2),
    FabT(method="fab_t", norm="l1", epsilon=(5.0,), steps=15, targets=3),
    FMN,
    like(FMN, minimized="l1"),
    like(FMN, minimized="linf"),
    SQUARE,
    like(SQUARE, restarts=2),
    like(SQUARE, ball="l2", epsilon=(0.5, 2.0)),
    like(SQUARE, ball="l1", epsilon=(1.0, 8.0)),
    AUTOATTACK,
    *ADAPTERS,
]
CASES += [like(case, gradients="bfloat16") for case in (DEEPFOOL, WARM, DDN, PGD, EARLY, FMN, APGD, APGD_T)]


class InDouble(nn.Module):
    """Sums in float64 with weights of any precision, so that the order of summation shows in no result."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        weights = {**dict(self.body.named_parameters()), **dict(self.body.named_buffers())}
        for name, value in weights.items():
            if value.is_floating_point():
                weights[name] = value.double()
        return functional_call(self.body, weights, x.double()).to(x.dtype)


class Linear(nn.Module):
    """Logits w x + b."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b


def digits() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A small trained network, 24 images that it did not see, its predictions, and the images' ids."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
        )
        optimizer = torch.optim.Adam(body.parameters(), 0.01)
        for _ in range(5):
            for batch in torch.randperm(1500).split(100):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(body(images[batch]), labels[batch]).backward()
                optimizer.step()
    network = Classifier(InDouble(body), (0.0,), (1.0,)).eval()
    network.zero_grad(set_to_none=True)
    images, ids = images[1500:1524], torch.arange(1500, 1524)
    with torch.no_grad():
        return network, images, network(images).argmax(1), ids


def linear() -> tuple[Linear, Tensor, Tensor, Tensor]:
    """Five classes, images far enough from 0 and 1 that nothing is clipped, their predictions and ids."""
    random = torch.Generator().manual_seed(3)
    w = torch.randn(5, 48, generator=random)
    network = Linear(w, -0.5 * w.sum(1)).eval()  # all classes meet at the grey image
    images = 0.2 + 0.6 * torch.rand(16, 3, 4, 4, generator=random)
    with torch.no_grad():
        return network, images, network(images).argmax(1), torch.arange(16)


def margins(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, [B]."""
    with torch.no_grad():
        logits = network(images)
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
