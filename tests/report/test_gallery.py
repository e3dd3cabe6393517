"""The gallery shows what the results hold: decoded again from the page, pixel by pixel."""

import base64
import io
import re

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import (
    BASE,
    CLEAN,
    GRID,
    IMAGES,
    LABELS,
    SAMPLED,
    WHITE_BOX,
    Study,
    adversarial,
    attack_rows,
    bound_rows,
    clean_images,
    fill,
    neighbour_images,
    right,
)
from PIL import Image
from test_page import Reader, made

from harness.cli import main
from harness.report.database import connect, query
from harness.report.page.gallery import BYTES, CELL_BYTES, galleries
from harness.results.store import Store

STUDY = Study(pictures=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("gallery") / "results").open()
    fill(store, STUDY)
    return store


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> str:
    return made(results, tmp_path_factory.mktemp("out") / "report.html")


def shown(results, most_bytes=BYTES):
    with connect(results) as connection:
        (study,) = query(connection, "from studies").to_pylist()
        return galleries(connection, results, study, most_bytes)


def values(uri: str) -> np.ndarray:
    """uint8 [C, H, W]."""
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


def on_base():
    """Attack -> (position of its rows, images that it fools): all are right when clean."""
    found = {}
    for place, (_, split, attack, _) in enumerate(STUDY.attack_cells()):
        if split == "test":
            found[attack] = place, np.flatnonzero(attack_rows(place)["adversarial_predicted"] != LABELS)
    return found


def least_change():
    """Of the attacks on the base network that fool half, the one whose mean change is smallest. The white
    box's fool whatever is right when clean.
    """
    candidates = {a: (p, f) for a, (p, f) in on_base().items() if len(f) >= IMAGES / 2}
    for place, (network, attack, seed, cell) in enumerate(STUDY.evaluations()):
        if network == BASE and cell.partition["access"] == "white_box":
            candidates[attack] = (place, np.arange(right(BASE, CLEAN, seed)))
    means = {a: attack_rows(p)["mean_l1"][f].mean() for a, (p, f) in candidates.items()}
    attack = min(means, key=means.__getitem__)
    return attack, *candidates[attack]


def test_the_attack_that_changes_least_is_shown_from_the_smallest_change_to_the_largest(results):
    attack, place, fooled = least_change()
    gallery = shown(results).galleries[1]
    assert gallery.title == f"{attack.title} on base"
    sigma = bound_rows(1)["distance"][:IMAGES] / 4
    ratio = attack_rows(place)["mean_l1"] / sigma
    wanted = sorted(set(SAMPLED) & set(fooled.tolist()), key=lambda image: ratio[image])
    assert [specimen.image_id for specimen in gallery.specimens] == wanted
    assert f"It fools {len(wanted)} of the 6 images in the sample of 6 " in gallery.words


def test_the_pictures_are_the_images(results):
    _, place, _ = least_change()
    made_on_base, clean = adversarial(place), clean_images()
    for specimen in shown(results).galleries[1].specimens:
        image = specimen.image_id
        itself, attacked, change, nearest = specimen.pictures
        assert (values(itself.uri) == clean[image]).all()
        assert (values(attacked.uri) == np.rint(made_on_base[image] * 255)).all()
        assert (values(nearest.uri) == neighbour_images()[image]).all()
        factor = float(re.fullmatch(r"change × (\d+)", change.words)[1])
        difference = made_on_base[image].astype(np.float64) - clean[image] / 255
        assert (values(change.uri) == np.rint((0.5 + factor * difference) * 255)).all()
        assert factor == 10, "20 times .04 is beyond half of all greys"
        assert np.abs(difference).max() * factor <= 0.5 < np.abs(difference).max() * 20
        label, other = ("cat", "dog") if LABELS[image] == 0 else ("dog", "cat")
        assert itself.words == f"class {LABELS[image]} ({label})" and other in attacked.words
        assert nearest.alt.startswith(f"training image {50 + image}, class {1 - LABELS[image]} ({other})")


def test_the_first_defended_network_whose_images_are_kept_is_shown(results):
    gallery = shown(results).galleries[2]
    places = [p for p, (n, a, _, _) in enumerate(STUDY.evaluations()) if n == GRID[1] and a in WHITE_BOX]
    means = {place: attack_rows(place)["mean_l1"][: right(GRID[1], CLEAN, 0)].mean() for place in places}
    made_on_it = adversarial(min(means, key=means.__getitem__))
    assert gallery.title == f"PGD 8/255 on {GRID[1].title}"
    assert {each.image_id for each in gallery.specimens} == set(SAMPLED)
    for specimen in gallery.specimens:
        assert (values(specimen.pictures[1].uri) == np.rint(made_on_it[specimen.image_id] * 255)).all()


def test_figure_1_is_the_image_that_stands_for_most(results):
    """By hand: an attack is effective where it fools with a mean l1 of at most the mean sigma."""
    mean_sigma = bound_rows(0)["distance"][:IMAGES].mean() / 4
    outcomes = {}
    for attack, (place, fooled) in on_base().items():
        outcomes[attack] = np.isin(np.arange(IMAGES), fooled) & (attack_rows(place)["mean_l1"] <= mean_sigma)
    agree = sum((one == (one.mean() > 0.5)).astype(int) for one in outcomes.values())
    image = max(SAMPLED, key=lambda each: (agree[each], -each))
    figure = shown(results).galleries[0]
    assert figure.title.startswith("Fig. 1") and {each.image_id for each in figure.specimens} == {image}
    assert f"{agree[image]} of {len(outcomes)} attacks do to it what they do to most" in figure.words
    for specimen, (attack, effective) in zip(figure.specimens, outcomes.items(), strict=True):
        place, fooled = on_base()[attack]
        assert (values(specimen.pictures[1].uri) == np.rint(adversarial(place)[image] * 255)).all()
        judged = "effective" if effective[image] else "not effective"
        assert specimen.caption.startswith(f"by {attack.title}: {judged}")
        assert ("as it does not fool" in specimen.caption) == (image not in fooled)
        assert f"effective on {100 * effective.mean():.0f} %)" in specimen.caption


def test_what_does_not_fit_is_left_out(results):
    whole = shown(results)
    images = [specimen.image_id for specimen in whole.galleries[2].specimens]
    counts = [len(gallery.specimens) for gallery in shown(results, 1).galleries]
    assert counts == [len(STUDY.attacks), 1, 1], "Fig. 1 is whole"
    most = _all_bytes(whole) * 3 // 4
    fewer = shown(results, most)
    chosen = [specimen.image_id for specimen in fewer.galleries[2].specimens]
    assert 1 < len(chosen) < len(images) and [image for image in images if image in chosen] == chosen
    assert _all_bytes(fewer) <= most
    assert {p.image_id for p in fewer.passports} == {s.image_id for g in fewer.galleries for s in g.specimens}


def _all_bytes(content) -> int:
    """Of the pictures, and of the passports about."""
    specimens = [specimen for gallery in content.galleries for specimen in gallery.specimens]
    pictures = sum(len(picture.uri) for specimen in specimens for picture in specimen.pictures)
    return pictures + CELL_BYTES * sum(len(passport.fates) for passport in content.passports)


def test_the_page_is_whole_and_fetches_nothing(page):
    reader = Reader(page)
    assert reader.open == [] and [name for name, count in reader.ids.items() if count > 1] == []
    outer = {address for address in reader.addresses if not address.startswith("#")}
    assert outer and all(address.startswith("data:image/png;base64,") for address in outer)
    inner = {address[1:] for address in reader.addresses - outer}
    assert inner | reader.refers <= reader.ids.keys()
    assert all(re.search(r' alt="[^"]{10,}"', tag) for tag in re.findall(r"<img [^>]*>", page))
    assert len(page.encode()) < 2_000_000


def test_a_passport_says_what_every_network_says(page, results):
    image = shown(results).passports[0].image_id
    (passport,) = re.findall(rf'<div id="small-gallery-image-{image}">.*?</details>', page, re.DOTALL)
    rows = dict(re.findall(r'<th scope="row">([^<]*)</th>(.*?)</tr>', passport))
    assert list(rows) == [network.title for network in STUDY.networks]
    for network in STUDY.networks:
        first = re.search(r"<td[^>]*>([^<]*)</td>", rows[network.title])[1]
        is_right = right(network, CLEAN, 0) > image
        assert first == (str(LABELS[image]) if is_right else f"{1 - LABELS[image]} ✗")


def test_made_again_the_bytes_are_the_same(page, results, tmp_path):
    assert made(results, tmp_path / "again.html") == page


def test_without_the_gallery(results, tmp_path):
    plain = made(results, tmp_path / "plain.html", "--no-gallery")
    assert "<img" not in plain and 'id="small-gallery"' not in plain and len(plain.encode()) < 500_000


def test_results_without_pictures_have_a_page_without_a_gallery(tmp_path):
    store = Store(tmp_path / "r").open()
    fill(store, Study())
    assert shown(store) is None and "<img" not in made(store, tmp_path / "old.html")


def test_a_damaged_image_is_one_line(tmp_path):
    store = Store(tmp_path / "r").open()
    fill(store, STUDY)
    for path in (store.root / "tensors").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    words = ["report", "--results", str(store.root), "--out", str(tmp_path / "x.html")]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 2 and "its digest is not the one recorded" in told.output
    assert "Traceback" not in told.output
