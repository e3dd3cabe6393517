"""What undoes an attack on its own network, against predictions made by hand."""

import numpy as np
import torch
from conftest import images
from torch import Tensor, nn
from trained import linear

from harness import seeds
from harness.attacks.deepfool import DeepFool
from harness.evaluation.blocks import attack_block
from harness.evaluation.fragility import fragility, noisy, rounded
from harness.networks.classifier import Classifier, predict

CPU = torch.device("cpu")
NAMES = ("rounded_predicted", "noisy_predicted", "bfloat16_predicted")


def test_rows_are_the_classes_of_the_changed_images():
    data = images(3, 40, 3, shape=(1, 8, 8))
    network = linear(data, seed=0, classes=3).eval().requires_grad_(False)
    settings = DeepFool(method="deepfool")
    ((plain, _),) = attack_block(network, data, settings, "prediction", 5, 16)
    ((rows, made),) = attack_block(network, data, settings, "prediction", 5, 16, tells_fragility=True)
    assert not set(NAMES) & set(plain)
    as_file = np.rint(made * np.float32(255)).astype(np.uint8)
    assert rows["rounded_predicted"].tolist() == predict(network, as_file, 40, CPU).tolist()
    drawn = seeds.normal(seeds.derive(5, "fragility"), torch.from_numpy(data.ids), torch.zeros(40).long(), 64)
    shaken = np.clip(made + 0.02 * drawn.numpy().reshape(made.shape), 0, 1)
    assert rows["noisy_predicted"].tolist() == predict(network, shaken, 40, CPU).tolist()
    fooled = rows["adversarial_predicted"] != rows["predicted"]
    undone = [int((rows[name][fooled] == rows["predicted"][fooled]).sum()) for name in NAMES]
    assert fooled.sum() > 30 and min(undone) > 10, "DeepFool's images lie on the boundary"


def test_noise_is_an_image_s_own():
    """Permuted, in parts, and with another seed."""
    x, ids = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) * 7
    whole, order = noisy(x, ids, 1), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noisy(x[order], ids[order], 1), whole[order])
    assert torch.equal(torch.cat([noisy(x[:3], ids[:3], 1), noisy(x[3:], ids[3:], 1)]), whole)
    assert not torch.equal(noisy(x, ids, 2), whole)
    assert whole.min() >= 0 and whole.max() <= 1
    assert 0.015 < (whole - x).std() < 0.025


def test_rounding_takes_the_nearest_of_256_levels():
    x = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).view(4, 1, 1, 1)
    assert (255 * rounded(x)).flatten().tolist() == [0, 0, 1, 255]


def test_without_bfloat16_its_column_is_left_out():
    class Float(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("expected float32")
            return x.flatten(1)[:, :3]

    x, ids = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    body = Float()
    for network in (body, Classifier(body, (0.0,), (1.0,))):
        assert set(fragility(network.eval(), x, ids, 0, 5)) == set(NAMES[:2])
