"""Blocks of images: what is measured on them, and from which class an attack starts."""

import numpy as np
import torch
from conftest import images

from harness.attacks.deepfool import DeepFool
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.evaluation.blocks import attack_block, blocks, stack
from harness.networks.build import build
from harness.networks.classifier import predict
from harness.networks.convnet import ConvNet


def test_blocks_cover_everything_once():
    for count, size in ((10, 3), (9, 3), (1, 5), (0, 4)):
        covered = [position for block in blocks(count, size) for position in range(count)[block]]
        assert covered == list(range(count))
        assert all(block.stop - block.start <= size for block in blocks(count, size))


def test_the_protocols_differ_where_the_network_errs():
    """From the prediction or the true label: the same on images classified correctly, not on the others."""
    data = images(0, 40, 3, shape=(1, 8, 8))
    network = build(ConvNet(width=4), data.pixels, 3, 0).eval().requires_grad_(False)
    settings = Fgsm(method="fgsm", epsilon=(0.05,))
    ((rows, made),) = attack_block(network, data, settings, "prediction", 0, 16)
    ((_, labelled),) = attack_block(network, data, settings, "label", 0, 16)
    right = rows["predicted"] == data.labels
    assert 0 < right.sum() < 40
    assert np.array_equal(made[right], labelled[right])
    assert not np.array_equal(made[~right], labelled[~right])


def test_rows_are_measured_on_what_is_returned():
    data = images(1, 10, 3, shape=(1, 8, 8))
    network = build(ConvNet(width=4), data.pixels, 3, 0).eval().requires_grad_(False)
    results = attack_block(network, data, Fgsm(method="fgsm", epsilon=(0.1, 0.2)), "prediction", 0, 16)
    assert len(results) == 2
    for (rows, made), epsilon in zip(results, (0.1, 0.2), strict=True):
        assert made.dtype == np.float32
        change = np.abs(made.astype(np.float64) - data.pixels.astype(np.float32) / np.float32(255)).reshape(
            10, -1
        )
        assert np.allclose(rows["linf"], change.max(1))
        assert rows["linf"].max() <= epsilon + 1e-6
        assert (
            rows["adversarial_predicted"].tolist() == predict(network, made, 10, torch.device("cpu")).tolist()
        )
    together = stack([rows for rows, _ in results])
    assert len(together["image_id"]) == 20


def test_the_batch_size_is_what_the_network_sees_at_once():
    data = images(2, 20, 3, shape=(1, 8, 8))
    network = build(ConvNet(width=4), data.pixels, 3, 0).eval().requires_grad_(False)
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    for settings in (
        Fgsm(method="fgsm", epsilon=(0.1,)),
        DeepFool(method="deepfool"),
        Pgd(method="pgd", epsilon=(0.1,), steps=2),
    ):
        attack_block(network, data, settings, "prediction", 0, 6)
    assert max(seen) == 6
