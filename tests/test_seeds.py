"""Draws: the published generator, addressed by image, with the right distribution."""

import pytest
import torch

from harness import seeds

# Known answers of Random123's philox4x32-10 (kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = seeds.philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_derive_depends_on_every_name_and_its_type():
    found = {
        seeds.derive(0, "a"),
        seeds.derive(1, "a"),
        seeds.derive(0, "a", 1),
        seeds.derive(0, "a", "1"),
        seeds.derive(0, "a1"),
    }
    assert len(found) == 5
    assert all(0 <= seed < 2**63 for seed in found)
    assert seeds.derive(7, "x", 2, 0.5, None) == seeds.derive(7, "x", 2, 0.5, None)


@pytest.mark.parametrize("draws", [seeds.normal, seeds.uniform])
@pytest.mark.parametrize("size", [1, 3, 64, 785])
def test_a_row_depends_on_its_image_and_draw_alone(draws, size):
    ids, draw = torch.tensor([5, 2**40 + 5, 9, 5]), torch.tensor([0, 0, 3, 1])
    together = draws(11, ids, draw, size)
    assert together.shape == (4, size)
    for row in range(4):
        assert torch.equal(together[row], draws(11, ids[row : row + 1], draw[row : row + 1], size)[0])
    assert torch.equal(together.flip(0), draws(11, ids.flip(0), draw.flip(0), size))
    assert len({tuple(row.tolist()) for row in together}) == 4
    assert not torch.equal(together, draws(12, ids, draw, size))


def test_moments():
    ids = torch.arange(400)
    normal = seeds.normal(3, ids, torch.zeros_like(ids), 2500).double()
    # One million draws: standard errors .001, .0014 (variance), .005 (kurtosis); five of them.
    assert abs(normal.mean()) < 0.005
    assert abs(normal.var() - 1) < 0.007
    assert abs((normal**4).mean() - 3) < 0.05
    assert normal.abs().max() > 4.5
    uniform = seeds.uniform(3, ids, torch.zeros_like(ids), 2500).double()
    assert abs(uniform.mean() - 0.5) < 0.0015
    assert abs(uniform.var() - 1 / 12) < 0.0005
    assert 0 < uniform.min() < 1e-5
    assert 1 - 1e-5 < uniform.max() < 1


def test_no_word_gives_0_or_1():
    extremes = seeds._unit(torch.tensor([0, 2**32 - 1]))
    assert extremes[0] > 0
    assert extremes[1] < 1


# --- as one kernel ---


@pytest.fixture
def draws():
    return torch.tensor([5, 2**40 + 5, 9]), torch.tensor([0, 3, 1])


@pytest.fixture(autouse=True)
def _forget():
    yield
    seeds._fused_units.cache_clear()


def test_what_cannot_be_compiled_is_said_and_computed_as_it_is(draws, monkeypatch):
    def no_compiler(*arguments):
        raise RuntimeError("no working C compiler\nlong story")

    monkeypatch.setattr(torch, "compile", lambda function, **options: no_compiler)
    with pytest.warns(UserWarning, match="could not be made one: no working C compiler$"):
        fused = seeds._fused_units(torch.device("cpu"))
    found = fused(seeds._keys_on(11, torch.device("cpu")), *draws, 785)
    expected = [seeds._unit(words) for words in seeds._words(11, *draws, 785)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_keys_may_lie_on_the_device(draws):
    """As what is compiled takes them (that itself: test_gpu)."""
    found = seeds._units(seeds._keys_on(2**63 - 1, torch.device("cpu")), *draws, 785)
    expected = [seeds._unit(words) for words in seeds._words(2**63 - 1, *draws, 785)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_fused_or_not_on_a_cpu(draws):
    assert torch.equal(seeds.normal(11, *draws, 785, fused=True), seeds.normal(11, *draws, 785))
