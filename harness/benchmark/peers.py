"""What users would pick instead, called the way its documentation says: the other side of every comparison.

Each peer's settings stand here, once. A peer that is not installed is reported as not measured.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- exact l1 nearest neighbours: queries and database float32 [N, d], values 0..255


def faiss_threads(count: int) -> None:
    """How many threads FAISS uses in this process."""
    import faiss

    faiss.omp_set_num_threads(count)


def faiss_l1(queries: np.ndarray, database: np.ndarray, threads: int) -> np.ndarray:
    """IndexFlat with METRIC_L1, as its documentation says. Distances float [N]."""
    import faiss

    faiss_threads(threads)
    index: Any = faiss.IndexFlat(database.shape[1], faiss.METRIC_L1)
    index.add(database)
    distances: np.ndarray = index.search(queries, 1)[0][:, 0]
    return distances


def torch_cdist(queries: np.ndarray, database: np.ndarray, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    return torch.cdist(torch.from_numpy(queries), torch.from_numpy(database), p=1).amin(1).numpy()


def scipy_cityblock(queries: np.ndarray, database: np.ndarray, threads: int) -> np.ndarray:
    from scipy.spatial.distance import cdist

    distances: np.ndarray = cdist(queries, database, "cityblock").min(1)
    return distances


def sklearn_brute(queries: np.ndarray, database: np.ndarray, threads: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="manhattan", n_jobs=threads)
    model.fit(database)
    distances: np.ndarray = model.kneighbors(queries)[0][:, 0]
    return distances


NEAREST: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "FAISS L1": faiss_l1,
    "torch.cdist": torch_cdist,
    "scikit-learn": sklearn_brute,
    "SciPy": scipy_cityblock,
}

# --- attacks: (network with unfrozen weights, images float32 [B, C, H, W] in [0, 1], classes to leave
# int64 [B], classes to reach int64 [B], l-inf radii) -> one batch of images, or one for each radius

PeerAttack = Callable[[nn.Module, Tensor, Tensor, Tensor, tuple[float, ...]], list[Tensor]]


def foolbox_fgsm(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """LinfFastGradientAttack, all radii in one call."""
    return _foolbox("LinfFastGradientAttack", network, x, labels, list(epsilons))


def foolbox_pgd(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """LinfPGD: 40 steps of a tenth of the radius, random start."""
    (epsilon,) = epsilons
    settings = {"abs_stepsize": epsilon / 10, "steps": 40, "random_start": True}
    return _foolbox("LinfPGD", network, x, labels, epsilon, **settings)


def foolbox_deepfool(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """L2DeepFoolAttack: 50 steps, all classes, overshoot 0.02."""
    settings = {"steps": 50, "candidates": network(x[:1]).shape[1], "overshoot": 0.02}
    return _foolbox("L2DeepFoolAttack", network, x, labels, None, **settings)


def foolbox_cw(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """L2CarliniWagnerAttack: 5 x 200 steps of 0.05, first constant 0.1."""
    settings = {"binary_search_steps": 5, "steps": 200, "stepsize": 0.05, "initial_const": 0.1}
    return _foolbox("L2CarliniWagnerAttack", network, x, labels, None, **settings)


def _foolbox(
    attack: str, network: nn.Module, x: Tensor, labels: Tensor, epsilons: Any, **settings: Any
) -> list[Tensor]:
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    run = getattr(foolbox.attacks, attack)(**settings)
    _, clipped, _ = run(model, x, labels, epsilons=epsilons)
    return list(clipped) if isinstance(epsilons, list) else [clipped]


def art_deepfool(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """DeepFool with its defaults: 100 iterations, overshoot 1e-6, all 10 classes, batches of 1."""
    return _art("DeepFool", network, x, None)


def art_cw(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """CarliniL2Method with its defaults: 10 iterations, batches of 1."""
    return _art("CarliniL2Method", network, x, None)


def art_jsma(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """SaliencyMapMethod with its defaults, batches of 1, to given targets."""
    return _art("SaliencyMapMethod", network, x, targets)


def _art(attack: str, network: nn.Module, x: Tensor, targets: Tensor | None) -> list[Tensor]:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    classes = network(x[:1]).shape[1]
    shape = tuple(x.shape[1:])
    # It moves the network to its device, which others share: let that be where the network is.
    kind = "cpu" if x.device.type == "cpu" else "gpu"
    model = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type=kind
    )
    y = None if targets is None else F.one_hot(targets, classes).cpu().numpy()
    made = getattr(evasion, attack)(model, verbose=False).generate(x.cpu().numpy(), y=y)
    return [torch.from_numpy(made).to(x.device)]


# A whole number of pairs on MNIST: torchattacks rounds half a pair up, the paper down.
TORCHATTACKS_GAMMA = 80 / 784


def torchattacks_jsma(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """JSMA (Papernot's pairs): theta 1, gamma 80/784, one image at a time, to given targets."""
    import torchattacks

    attack = torchattacks.JSMA(network, theta=1.0, gamma=TORCHATTACKS_GAMMA)
    attack.set_mode_targeted_by_label(quiet=True)
    return [attack(x, targets).detach()]


def torchattacks_autoattack(
    network: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, epsilons: tuple[float, ...]
) -> list[Tensor]:
    """Its APGD, APGDT, FAB and Square one after the other, 100 steps, all targets, 5,000 queries.

    As its AutoAttack has them, which takes 10 steps where the authors take 100.
    """
    import torchattacks

    (epsilon,) = epsilons
    shared: dict[str, Any] = {"norm": "Linf", "eps": epsilon}
    classes = network(x[:1]).shape[1]
    members = [
        torchattacks.APGD(network, steps=100, loss="ce", **shared),
        torchattacks.APGDT(network, steps=100, n_classes=classes, **shared),
        torchattacks.FAB(network, steps=100, multi_targeted=True, n_classes=classes, **shared),
        torchattacks.Square(network, n_queries=5000, **shared),
    ]
    return [torchattacks.MultiAttack(members)(x, labels).detach()]


def lacking(*packages: str) -> str:
    """'... is not installed', or nothing."""
    missing = [name for name in packages if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


# --- training


def plain_defense(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    sigma: Tensor,
    n: int,
    batch_size: int,
    rate: float,
) -> None:
    """One epoch of the defense as a first version would be written.

    Float images come batch by batch, and the base network is asked in every step. ``images`` float32 [N, C,
    H, W] in [0, 1], ``sigma`` [N]; every image n times, with fresh noise. On a GPU it ends when that is done.
    """
    batches = _loaded if images.device.type == "cpu" else _indexed
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    student.train()
    teacher.eval()
    for x, s in batches(images, sigma, n, batch_size):
        with torch.no_grad():
            expected = teacher(x).log_softmax(1)
        perturbed = x + s.view(-1, 1, 1, 1) * torch.randn_like(x)
        outputs = student(perturbed).log_softmax(1)
        loss = F.kl_div(outputs, expected, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)


_Batches = Iterable[tuple[Tensor, Tensor]]


def _loaded(images: Tensor, sigma: Tensor, n: int, batch_size: int) -> _Batches:
    """By a DataLoader, as tutorials have it."""
    from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

    samples: Any = ConcatDataset([TensorDataset(images, sigma)] * n)
    loader: Any = DataLoader(samples, batch_size=batch_size, shuffle=True)
    return loader


def _indexed(images: Tensor, sigma: Tensor, n: int, batch_size: int) -> _Batches:
    """By one index a batch of images that lie on a GPU: a DataLoader would launch kernels for each image."""
    order = torch.randperm(n * len(images), device=images.device) % len(images)
    for batch in order.split(batch_size):
        yield images[batch], sigma[batch]
