"""What a run says of its network in words: what it is, how it was trained, what its first numbers cover."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

_ON = "training goes on from the base network,"
_METHODS = {
    "base": "the base network, trained on the clean training images",
    "imperceptible_bound": "the paper's defense. Training goes on from the base network: of an image with "
    "noise of the image's own sigma, it is to say what the base network says of the image",
    "adversarial_images": f"{_ON} on clean images and on those that one attack made of them",
    "pgd_training": f"{_ON} on images that PGD makes on the network itself (Madry et al. 2018)",
    "trades": f"{_ON} by TRADES (Zhang et al. 2019)",
    "ensemble": f"{_ON} by ensemble adversarial training (Tramèr et al. 2018)",
    "no_noise": "a control: the defense's training without its noise",
    "noise_labels": "a control: the defense's noise, with labels in place of the base network's outputs",
    "finished": "a finished model, not trained here",
}
_PLAIN = ("k", "n", "training_attack", "training_epsilon", "seed")


def description(study: str, dataset: str, meta: Mapping[str, Any], lines: Iterable[str]) -> str:
    """In Markdown, of the metadata of a training's cell."""
    columns = meta["columns"]
    method = meta["partition"]["method"]
    own = json.loads(columns["settings"])
    words = _METHODS.get(method, f"{_ON} by `{method}`")
    if method == "base" and own.get("epochs") == 0:
        words = "the base network, used as it was given"
    settings = {name: columns[name] for name in _PLAIN if columns[name] is not None}
    settings |= {name: value for name, value in own.items() if name not in settings}
    said = ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in settings.items())
    points = "\n".join(f"- {line}" for line in [*lines, f"**Settings**: {said}."])
    return f"**{columns['name']}** of study `{study}` on {dataset}: {words}.\n\n{points}"


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
