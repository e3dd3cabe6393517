"""What trainings minimise: methods that make a robust network of the base network by training it on.

``defense`` is the contract. To add one: a file like ``trades``, and its line in ``DEFENSES``; a study names
it in ``defenses``, and the tables have rows for it. Without touching the package: a marked function, see
``harness.extensions``.
"""

from harness.defenses.adversarial_images import AdversarialImages
from harness.defenses.controls import NoiseLabels, NoNoise
from harness.defenses.defense import Defense
from harness.defenses.ensemble import Ensemble
from harness.defenses.foreign import ForeignDefense
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.defenses.trades import Trades

# By the word that a study names it with.
DEFENSES: dict[str, type[Defense]] = {
    "imperceptible_bound": ImperceptibleBound,
    "adversarial_images": AdversarialImages,
    "pgd_training": PgdTraining,
    "trades": Trades,
    "ensemble": Ensemble,
    "no_noise": NoNoise,
    "noise_labels": NoiseLabels,
    "foreign": ForeignDefense,
}
