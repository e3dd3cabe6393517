"""The attacks: a file each, its settings on top, its cost and the algorithm below; and one dict of them all.

Images are float32 [B, C, H, W] in [0, 1]; networks take such images and return logits [B, classes].
``attack`` says what an attack is and holds the door through which all are called; ``batch`` has what
several of them do with a batch of images. ``adapters`` are attacks of other libraries and ``foreign`` one of
a user's own; ``guard`` is how such code is run.

To add one: a class of ``attack.Attack`` in a file of its own, and its line in ``ATTACKS``. Without touching
the package: a marked function, see ``harness.extensions``.
"""

from harness.attacks.adapters.art import ArtAttack
from harness.attacks.adapters.foolbox import FoolboxAttack
from harness.attacks.adapters.torchattacks import TorchattacksAttack
from harness.attacks.attack import Attack, norms, perturb
from harness.attacks.autoattack.auto_pgd import ApgdCe, ApgdT
from harness.attacks.autoattack.fast_adaptive_boundary import FabT
from harness.attacks.autoattack.square import Square
from harness.attacks.autoattack.worst_case import AutoAttack
from harness.attacks.carlini_wagner import CwL2
from harness.attacks.decoupled_direction_norm import Ddn
from harness.attacks.deepfool import DeepFool
from harness.attacks.fast_minimum_norm import Fmn
from harness.attacks.foreign import ForeignAttack
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.attacks.saliency_map import Jsma, JsmaPairs

__all__ = ["ATTACKS", "Attack", "norms", "perturb"]

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": Fgsm,
    "deepfool": DeepFool,
    "jsma": Jsma,
    "jsma_pairs": JsmaPairs,
    "cw_l2": CwL2,
    "ddn": Ddn,
    "fmn": Fmn,
    "pgd": Pgd,
    "apgd_ce": ApgdCe,
    "apgd_t": ApgdT,
    "fab_t": FabT,
    "square": Square,
    "autoattack": AutoAttack,
    "foreign": ForeignAttack,
    "foolbox": FoolboxAttack,
    "art": ArtAttack,
    "torchattacks": TorchattacksAttack,
}
