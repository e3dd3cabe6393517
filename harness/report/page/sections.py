"""What the page shows of a study, in the order in which a reader asks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """``tables`` and ``figures`` by their names in `TABLES` and `FIGURES`; ``words`` say what they answer.

    ``folded``: those of the tables that are long, and open when they are asked for.
    """

    anchor: str
    title: str
    words: str
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    has_heat_map: bool = False
    folded: tuple[str, ...] = ()
    has_gallery: bool = False


SECTIONS = (
    Section(
        "ranking",
        "Ranking",
        "Which network withstands most, and whether the difference is more than chance. A network that fails "
        "a check is grey and has no rank: its numbers can't be believed.",
        tables=("ranking", "pairs"),
        folded=("pairs",),
    ),
    Section(
        "scorecard",
        "The paper's claims",
        "What the paper says, and whether these results say it too; each verdict follows from a rule.",
        tables=("scorecard", "beside_paper"),
        folded=("beside_paper",),
    ),
    Section(
        "radius",
        "Robustness over the radius",
        "How fast accuracy falls with the change that an attacker may make; below it what is certified.",
        tables=("certified_accuracy", "sandwich"),
        figures=("robustness",),
    ),
    Section(
        "attacks",
        "Every attack on every network",
        "Accuracy under attack, in per cent [95 % interval]: the mean over the seeds, the smallest over step "
        "sizes. The stronger the shade, the lower.",
        has_heat_map=True,
    ),
    Section(
        "checks",
        "Checks",
        "Whether the numbers may be believed: each check's verdict on each network, with the images that "
        "show it.",
        tables=("checks", "check_results"),
        folded=("check_results",),
    ),
    Section(
        "controls",
        "Controls and fragility",
        "What a defense brings beyond the best control, and what is left of adversarial images once they are "
        "rounded or blurred by a little noise.",
        tables=("credit", "fragility"),
        folded=("credit",),
    ),
    Section(
        "grid",
        "Black box and the choice of k and n",
        "Networks on images made on the base network (Tables IV to VII). A control stands beside each "
        "defense.",
        tables=("black_box", "table7", "seeds"),
        figures=("grid",),
        folded=("seeds",),
    ),
    Section("white_box", "White box", "Attacks made on each network itself (V-E).", tables=("white_box",)),
    Section(
        "bound",
        "The bound",
        "Sigma over the training images, and the bound put to the test: the share of images at which a "
        "smaller change fools the network. The audit shows what in the data moves sigma: duplicates, and "
        "labels that may be wrong.",
        tables=("table2", "bound_test", "sigma_audit", "suspected_labels"),
        figures=("class_distance",),
        folded=("suspected_labels",),
    ),
    Section(
        "effectiveness",
        "Effectiveness of the attacks",
        "Which attacks stay imperceptible by the paper's definition, and how that depends on where the line "
        "is drawn.",
        tables=("table3",),
        figures=("effectiveness", "magnitude"),
    ),
    Section(
        "gallery",
        "Gallery",
        "What imperceptible looks like: a test image, the same attacked, the change around mid-grey, and the "
        "nearest training image of another class.",
        has_gallery=True,
    ),
    Section(
        "cost",
        "Cost and versions",
        "Where the seconds went, what each defense cost, and what all of it was made with.",
        tables=("cost", "complexity", "versions"),
        folded=("versions",),
    ),
    Section("holes", "What is missing", "Cells that failed, or got a new key.", tables=("failed", "rekeyed")),
)

# What no study can say by itself.
ACROSS = Section(
    "across",
    "Across studies",
    "How the cost of each defense grows with the training images (V-F), from studies of several sizes.",
    figures=("complexity",),
)
