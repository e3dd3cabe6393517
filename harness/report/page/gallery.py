"""Pictures of attacks: a test image, the same attacked, the change, and its nearest of another class."""

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from harness.data.encoded import decode, png
from harness.data.source import evenly
from harness.report.database import query
from harness.report.passport import Passport, number, passports
from harness.report.recorded import Row
from harness.results.store import Store

SHOWN = 12  # images of an attack, at most
# For all pictures and passports of a page: with the rest of it, at most 500 kB, that is 2 MB.
BYTES = 1_400_000
CELL_BYTES = 30  # of a passport's table as HTML, about
_KEEP = "None made on a defended network are kept: 'white_box: {keep_images: true}' in the study keeps them."


@dataclass(frozen=True)
class Picture:
    """``uri``: the PNG file itself; ``alt`` says what is seen, ``words`` stand below."""

    uri: str
    alt: str
    words: str


@dataclass(frozen=True)
class Specimen:
    """One image attacked: four pictures, and what is to be said of it."""

    image_id: int
    pictures: tuple[Picture, ...]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """What one attack made on one network, or all attacks of one image: then it ``is_whole`` or nothing."""

    title: str
    words: str
    specimens: list[Specimen]
    is_whole: bool = False


@dataclass(frozen=True)
class Galleries:
    """The galleries of a study and the passports of the images in them; ``note``: what is not shown."""

    galleries: list[Gallery]
    passports: list[Passport]
    note: str


def galleries(
    connection: duckdb.DuckDBPyConnection, store: Store, study: Row, most_bytes: int = BYTES
) -> Galleries | None:
    """One image under every attack on the base network (Fig. 1), then what the attacks that change least made
    on the base network and on the first defended one.

    Of a study (its row of `studies`), for its first seed; so many images that they take ``most_bytes`` at
    most. None where the results hold no pictures or no adversarial images. Raises HarnessError for a file
    that is damaged.
    """
    sample: dict[int, dict[str, Row]] = {}
    for row in query(connection, "from pictures").to_pylist():
        sample.setdefault(row["image_id"], {})[row["picture"]] = row
    attacks = _attacks(connection, store, study["seeds"][0])
    known = passports(connection, study, sample, study["seeds"][0]) if sample and attacks else []
    by_image = {passport.image_id: passport for passport in known}
    found = [_of_one_image(connection, store, study, sample, by_image)] if attacks else []
    found += [_gallery(connection, store, study, attack, sample, by_image) for attack in attacks]
    found = [gallery for gallery in found if gallery.specimens]
    if not found:
        return None
    chosen = _fitting(found, lambda shown: _bytes(shown, by_image) <= most_bytes)
    images = sorted({specimen.image_id for gallery in chosen for specimen in gallery.specimens})
    note = "" if any(attack["role"] == "defense" for attack in attacks) else _KEEP
    return Galleries(chosen, [by_image[image] for image in images], note)


def _attacks(connection: duckdb.DuckDBPyConnection, store: Store, seed: int) -> list[Row]:
    """On the base network and the first defended one: of attacks that kept images, which changes least."""
    chosen: dict[str, Row] = {}
    wanted = f"seed = {int(seed)} and role in ('base', 'defense')"
    order = "position, fooled < 50, mean_l1, path"
    for row in query(connection, f"from least_changes where {wanted} order by {order}").to_pylist():
        if row["role"] not in chosen and store.has_tensors(Path(row["path"])):
            chosen[row["role"]] = row
    return [*chosen.values()]


def _of_one_image(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    study: Row,
    sample: dict[int, dict[str, Row]],
    known: dict[int, Passport],
) -> Gallery:
    """Fig. 1: of the sampled images, the one to which the attacks do what they do to most images."""
    wanted = f"seed = {int(study['seeds'][0])} and effective is not null"
    sampled = "image_id in (select image_id from pictures)"
    order = "agrees desc, image_id, position, path"
    text = f"from attacks_on_images where {wanted} and {sampled} order by {order}"
    rows = query(connection, text).to_pylist()
    kept = [row for row in rows if store.has_tensors(Path(row["path"]))]
    if not kept:
        return Gallery("", "", [])
    mine = [row for row in kept if row["image_id"] == kept[0]["image_id"]]
    specimens = []
    for row in mine:
        image = row["image_id"]
        base = {**row, "role": "base"}
        plain = _specimen(row, base, sample[image], _made(store, row["path"])[image], known[image])
        specimens.append(replace(plain, caption=f"{_judged(row)} {plain.caption}"))
    first, sigma = mine[0], number(mine[0]["mean_sigma"], 2)
    words = (
        f"Image {first['image_id']} under each attack on the base network. An attack is effective (III-B) "
        "where it fools with a mean l1 change of at most the mean sigma of the training images, here "
        f"{sigma} (k={study['effectiveness_k']:g}). Of the sampled images this one stands best for all: "
        f"{first['agrees']} of {first['attacks']} attacks do to it what they do to most. In per cent: on how "
        "many of the test images that the network is right on the attack is effective."
    )
    return Gallery("Fig. 1: every attack on one image", words, specimens, is_whole=True)


def _judged(row: Row) -> str:
    """An attack on an image, as the paper judges it."""
    judged = "effective" if row["effective"] else "not effective"
    why = "" if row["fooled"] else ", as it does not fool"
    change, share = number(row["mean_l1"], 2), f"{row['of_images']:.0f} %"
    return f"by {row['attack_title']}: {judged}{why} (mean l1 {change}; effective on {share});"


def _gallery(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    study: Row,
    attack: Row,
    sample: dict[int, dict[str, Row]],
    known: dict[int, Passport],
) -> Gallery:
    """Of the sampled images that the attack fools, by the ratio of their change to sigma."""
    path = attack["path"]
    rows = query(connection, f"from made_images where path = '{path}' order by ratio, image_id").to_pylist()
    attacked = [row for row in rows if row["image_id"] in sample]  # a white box may be of some images alone
    right = [row for row in attacked if row["clean_prediction"] == row["label"]]
    mine = [row for row in right if row["fooled"]]
    made = _made(store, path)
    specimens = [
        _specimen(row, attack, sample[row["image_id"]], made[row["image_id"]], known[row["image_id"]])
        for row in mine
    ]
    kept = "attacks that fool half of the images and" if attack["fooled"] >= 50 else "attacks"
    judged = f"{len(right)} images in the sample of {len(attacked)}"
    sigma = f"the image's own sigma (k={study['effectiveness_k']:g})"
    words = (
        f"Of the {kept} whose images are kept, {attack['attack_title']} changes least. It fools {len(mine)} "
        f"of the {judged} that the network is right on. From the smallest change, measured by {sigma}, to "
        "the largest."
    )
    seed = f" (seed {attack['seed']})" if len(study["seeds"]) > 1 else ""
    return Gallery(f"{attack['attack_title']} on {attack['title']}{seed}", words, specimens)


def _made(store: Store, path: str) -> dict[int, np.ndarray]:
    """Image -> float [C, H, W] in [0, 1], as the attack of the cell at ``path`` made it."""
    images = store.tensors_at(Path(path))["adversarial"]
    return dict(zip(store.rows(path)["image_id"].to_pylist(), images, strict=True))


def _specimen(
    row: Row, attack: Row, pictures: dict[str, Row], adversarial: np.ndarray, known: Passport
) -> Specimen:
    """``adversarial`` float [C, H, W] in [0, 1], as the attack made it."""
    image, nearest = pictures["image"], pictures["other_class"]
    mode = "L" if len(adversarial) == 1 else "RGB"
    (clean,) = decode(iter([(f"picture of image {row['image_id']}", image["png"])]), 1, mode)
    change = adversarial.astype(np.float64) - clean / 255
    factor = _factor(float(np.abs(change).max()))
    itself, neighbour = f"image {row['image_id']}", f"training image {nearest['picture_id']}"
    shown = (
        _picture(image["png"], f"test {itself}, class {image['class']}", f"class {image['class']}"),
        _picture(
            png(_bytes_of(adversarial)),
            f"{itself} changed by {attack['attack_title']}, taken for {row['predicted']}",
            f"taken for {row['predicted']}",
        ),
        _picture(
            png(_bytes_of(0.5 + factor * change)),
            f"the change of {itself}, {factor:g} times, around mid-grey",
            f"change × {factor:g}",
        ),
        _picture(
            nearest["png"],
            f"{neighbour}, class {nearest['class']}: the nearest of another class",
            f"nearest other: {nearest['class']}",
        ),
    )
    norms = f"l0 {row['l0']}, l2 {number(row['l2'], 2)}, linf {number(row['linf'], 2)}"
    caption = f"changed by {number(row['ratio'], 2)} sigma; {norms}.{_others(row, attack, known)}"
    return Specimen(row["image_id"], shown, caption)


def _others(row: Row, attack: Row, known: Passport) -> str:
    """How many other networks withstand the same image: those that were shown it."""
    same = ("attack", "epsilon", "step_size")
    fates = [
        fate["fate"]
        for fate in known.fates
        if fate["access"] == "black_box" and fate["name"] != attack["name"] and attack["role"] == "base"
        and all(fate[name] == row[name] for name in same)
    ]  # fmt: skip
    withstand = fates.count("withstands")
    return f" Withstood by {withstand} of {len(fates)} other networks." if fates else ""


def _factor(largest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... by which a change of this size stays within mid-grey's reach."""
    if largest <= 0:
        return 1.0
    room = max(1.0, 0.5 / largest)
    ten = 10.0 ** math.floor(math.log10(room))
    return max(step * ten for step in (1, 2, 5) if step * ten <= room)


def _bytes_of(image: np.ndarray) -> np.ndarray:
    """[0, 1] as uint8 0..255, rounded; beyond is cut off."""
    values: np.ndarray = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return values


def _picture(content: bytes, alt: str, words: str) -> Picture:
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, words)


# --- how many -------------------------------------------------------------------------------------------


def _fitting(found: Sequence[Gallery], fits: Callable[[list[Gallery]], Any]) -> list[Gallery]:
    """The galleries with as many of their images as fit, one at least, spread evenly over their order."""
    for count in range(SHOWN, 0, -1):
        shown = [_some(gallery, count) for gallery in found]
        if fits(shown):
            break
    return shown


def _some(gallery: Gallery, count: int) -> Gallery:
    if gallery.is_whole:
        return gallery
    chosen = [gallery.specimens[place] for place in evenly(len(gallery.specimens), count)]
    return replace(gallery, specimens=chosen)


def _bytes(shown: Iterable[Gallery], known: dict[int, Passport]) -> int:
    specimens = [specimen for gallery in shown for specimen in gallery.specimens]
    pictures = sum(len(picture.uri) for specimen in specimens for picture in specimen.pictures)
    images = {specimen.image_id for specimen in specimens}
    return pictures + CELL_BYTES * sum(len(known[image].fates) for image in images)
