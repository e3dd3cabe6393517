"""Training on images that one attack made, V-D."""

import numpy as np
import pytest
import torch
from conftest import images
from torch.nn import functional as F
from trained import Answering, inputs

from harness.defenses.adversarial_images import AdversarialImages
from harness.networks.objective import Needs, TrainingAttack

FGSM = TrainingAttack(attack="fgsm", epsilon=0.1)


def test_every_image_comes_clean_and_adversarial():
    data = images(0, 40, 3, shape=(1, 6, 6))
    made, logits = torch.rand(40, 1, 6, 6), torch.randn(80, 3)
    objective = AdversarialImages(sources=FGSM).objective(inputs(data, adversarial=made), 0)
    assert objective.samples == 80
    seen = Answering(lambda _: logits)
    losses = objective.loss(seen, torch.arange(80), 1)
    assert torch.equal(seen.images[:40], torch.from_numpy(data.pixels).float() / 255)
    assert torch.equal(seen.images[40:], made)
    labels = torch.from_numpy(np.concatenate([data.labels, data.labels]))
    assert torch.equal(losses, F.cross_entropy(logits, labels, reduction="none"))


def test_what_it_declares():
    grid = AdversarialImages.model_validate_json(
        '{"sources": [{"attack": "fgsm", "epsilon": "8/255"}, {"attack": "deepfool"}]}'
    )
    fgsm, deepfool = grid.expanded()
    assert fgsm.needs() == Needs(images_of=TrainingAttack(attack="fgsm", epsilon=8 / 255))
    assert (fgsm.label(), deepfool.label()) == ("fgsm 8/255", "deepfool")
    assert deepfool.columns() == {"training_attack": "deepfool", "training_epsilon": None}
    assert AdversarialImages(sources=FGSM).draws("any_class") == ("adversarial", "'fgsm'", "0.1")
    assert fgsm.model_dump()["sources"] == {"attack": "fgsm", "epsilon": 8 / 255}
    assert fgsm.samples_per_image == 2
    with pytest.raises(ValueError, match="Field required"):
        AdversarialImages.model_validate({})
