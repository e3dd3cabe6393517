"""Every number of the views, from cells made by hand: small enough to be counted, or computed with numpy."""

from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pytest

from harness import spec
from harness.cells import Cell
from harness.errors import HarnessError
from harness.plan import Plan, plan, white_box
from harness.report import tables
from harness.store import Store
from harness.views import connect, query

IMAGES = 10
LABELS = np.arange(IMAGES, dtype=np.int32) % 2
EPSILONS = (2 / 255, 0.3)


def study(name: str = "small", **dataset: Any) -> spec.Study:
    return spec.build(
        {
            "name": name,
            "dataset": {"source": "cifar10", **dataset},
            "base": {"epochs": 1},
            "attacks": {"fgsm": {"epsilon": list(EPSILONS)}, "deepfool": {}},
            "defense": {"epochs": 1, "k": [1.0, 2.5], "n": [10, 20]},
            "adversarial_training": {"epochs": 1, "sources": [{"attack": "fgsm", "epsilon": "2/255"}]},
            "white_box": {"epsilon": ["8/255"], "step_divisors": [4, 10]},
        }
    )


def bound_rows(seed: int) -> dict[str, Any]:
    """20 rows: 10 images, both kinds of neighbour; any_class is half as far."""
    distance = np.random.default_rng(seed).uniform(0.05, 0.2, IMAGES)
    return {
        "neighbours": ["other_class"] * IMAGES + ["any_class"] * IMAGES,
        "image_id": np.tile(np.arange(IMAGES), 2),
        "label": np.tile(LABELS, 2),
        "neighbour_id": np.zeros(2 * IMAGES, np.int64),
        "neighbour_label": np.zeros(2 * IMAGES, np.int32),
        "distance": np.concatenate([distance, distance / 2]),
    }


def attack_rows(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    norms = {name: np.zeros(IMAGES) for name in ("l0", "l2", "linf", "attack_s")}
    fooled = rng.integers(0, 2, IMAGES).astype(np.int32)
    return {
        "image_id": np.arange(IMAGES), "label": LABELS, "predicted": LABELS, "adversarial_predicted": LABELS ^ fooled,
        **norms, "mean_l1": rng.uniform(0, 0.06, IMAGES),
    }  # fmt: skip


def evaluation_rows(right: int) -> dict[str, Any]:
    """``right`` of 10 images are classified correctly."""
    return {
        "image_id": np.arange(IMAGES),
        "label": LABELS,
        "prediction": np.where(np.arange(IMAGES) < right, LABELS, 1 - LABELS),
    }


def right(cell: Cell) -> int:
    """A cell's count of correct images, made from what it is."""
    columns = cell.columns
    if columns["training"] == "vib" and columns["attack"] != "pgd":
        return {"none": 8, "fgsm": 4, "deepfool": 5}[columns["attack"]] + int(columns["k"] > 1) * (
            columns["attack"] != "deepfool"
        )
    return {"none": 9, "fgsm": 3, "deepfool": 2, "pgd": 0}[columns["attack"]] + int(
        columns["training"] == "adversarial"
    )


def fill(store: Store, made: spec.Study, keep: Callable[[Cell], bool] = lambda cell: True) -> Plan:
    """All cells of a study that ``keep`` wants, and its record."""
    grid = plan(made, "fingerprint", None)
    cells = [*grid.cells(), *(e.cell for e in white_box(grid, (grid.base, grid.defenses[1])))]
    for position, cell in enumerate(cells):
        if not keep(cell):
            continue
        if cell.table == "bound":
            store.write(cell, bound_rows(position))
        elif cell.table == "attack":
            store.write(cell, attack_rows(position))
        elif cell.table == "evaluation":
            store.write(cell, evaluation_rows(right(cell)))
    store.record_study(made.name, made.model_dump(mode="json"), cells)
    return grid


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """Results of one study with nothing missing but the trainings' own tables; only read."""
    store = Store(tmp_path_factory.mktemp("report") / "results").open()
    fill(store, study())
    return store


@pytest.fixture(scope="module")
def full(whole) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(whole) as connection:
        yield connection


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    return query(connection, sql).to_pylist()


def values(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    (row,) = rows(connection, sql)
    return tuple(row.values())


# --- arithmetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 49.02, 94.33), (0, 10, 0, 27.75), (10, 10, 72.25, 100), (500, 1000, 46.91, 53.09)],
)
def test_wilson(full, hits, n, low, high):
    assert values(full, f"select wilson_low({hits}, {n}), wilson_high({hits}, {n})") == pytest.approx(
        (low, high), abs=0.006
    )


def test_two_proportions(full):
    def differ(hits: int, n: int, paper_hits: int, paper_n: int) -> bool:
        a, b = (
            f"100 * {h} / {m}, wilson_low({h}, {m}), wilson_high({h}, {m})"
            for h, m in ((hits, n), (paper_hits, paper_n))
        )
        return values(full, f"select two_proportions_differ({a}, {b})")[0]

    # Newcombe 1998, table II, 56/70 against 48/80: the difference is 0.0524 to 0.3339; 9/10 against 3/10: 0.1705 to 0.8090.
    assert differ(56, 70, 48, 80) and differ(48, 80, 56, 70) and differ(9, 10, 3, 10)
    assert not differ(10, 10, 9, 10) and not differ(0, 10, 0, 10_000) and differ(0, 100, 1_000, 10_000)


# --- the base views ---------------------------------------------------------------------------------


def test_base_views(full):
    assert values(full, "select count(*), count(distinct cell), min(study), min(dataset) from bound") == (
        40,
        2,
        "small",
        "cifar10",
    )
    assert rows(full, "select distinct split, attack from attack order by all") == [
        {"split": "test", "attack": "deepfool"}, {"split": "test", "attack": "fgsm"}, {"split": "train", "attack": "fgsm"},
    ]  # fmt: skip
    # 6 networks on clean images and 3 attacks, 2 networks at 2 step sizes
    assert rows(full, "select access, count(*) as n from evaluation group by access order by access") == [
        {"access": "black_box", "n": 180}, {"access": "clean", "n": 60}, {"access": "white_box", "n": 40},
    ]  # fmt: skip
    assert values(full, "select study, dataset, title, paper, seed, neighbours, effectiveness_k from studies") == (
        "small", "cifar10", "cifar10", "cifar10", 0, "other_class", 2.0,
    )  # fmt: skip


def test_views_compile_without_a_file(store):
    connection = connect(store)
    for (view,) in connection.execute("select view_name from duckdb_views() where not internal").fetchall():
        assert query(connection, f"from {view}").num_rows == 0
    assert query(connection, "from evaluation").column_names[:3] == ["study", "dataset", "access"]
    fill(store, study(), lambda cell: cell.table == "bound")
    connection = connect(store)
    assert query(connection, "from evaluation").num_rows == 0
    assert query(connection, "from bound").column_names[:3] == ["study", "dataset", "split"]


def test_folders_above_the_root_are_not_columns(tmp_path):
    store = Store(tmp_path / "dataset=foo" / "seed=7" / "it's [1] 100%*").open()
    fill(store, study())
    assert values(connect(store), "select distinct dataset, seed from evaluation") == ("cifar10", 0)


def test_unnamed_files_are_left_out(store):
    fill(store, study())
    (before,) = values(connect(store), "select count(*) from bound")
    store.write(
        Cell("bound", {"dataset": "cifar10", "split": "train"}, {}, {"of": "an older study"}), bound_rows(0)
    )
    assert values(connect(store), "select count(*) from bound") == (before,)


def test_two_studies_share_cells_and_do_not_mix(store):
    fill(store, study("one"))
    other = study("two", title="another", test_limit=10)
    fill(store, other, lambda cell: cell.table == "bound")
    both = connect(store)
    # The same settings but for the test subset: bound(train)'s cell is the same file, counted in each study.
    assert rows(both, "select study, count(*) as n from bound where split = 'train' group by study order by study") == [
        {"study": "one", "n": 20}, {"study": "two", "n": 20},
    ]  # fmt: skip
    assert rows(both, "select study, max(images) as n from black_box group by study order by study") == [
        {"study": "one", "n": 10}, {"study": "two", "n": 0},
    ]  # fmt: skip
    cells = len(plan(other, "", None).cells()) + 4
    assert values(connect(store, "two"), "select count(*), min(study), max(study) from cells") == (
        cells,
        "two",
        "two",
    )
    titles = [table.title for table in tables(both)]
    assert "Table V: black box, another, study two" in titles and len(titles) == 10


def test_unknown_study(whole):
    with pytest.raises(HarnessError, match="did you mean 'small'"):
        connect(whole, "smal")


def test_no_results(tmp_path):
    with pytest.raises(HarnessError, match="holds no results"):
        connect(Store(tmp_path))


def test_damaged_file(store):
    fill(store, study(), lambda cell: cell.table == "bound")
    path = next(store.root.glob("bound/*/split=test/*.parquet"))
    path.write_bytes(b"PAR1")
    with pytest.raises(HarnessError, match="too small|not a|invalid|No magic"):
        tables(connect(store))


# --- bound and attacks ------------------------------------------------------------------------------


def test_table2(full):
    distance = bound_rows(0)["distance"]
    for kind, part in (("other_class", distance[:IMAGES]), ("any_class", distance[IMAGES:])):
        for k in (1.0, 2.0, 2.5, 3.0):
            found = values(
                full,
                f"select sigma_min, sigma_mean, sigma_max from table2 where neighbours = '{kind}' and k = {k}",
            )
            assert found == pytest.approx((part.min() / 2 / k, part.mean() / 2 / k, part.max() / 2 / k))
    assert values(full, "select distinct paper_min, paper_mean, paper_max from table2 where k = 2.5") == (
        0.004,
        0.025,
        0.051,
    )
    assert values(full, "select count(*) from table2") == (8,)


def test_class_distance(full):
    distance = bound_rows(0)["distance"][:IMAGES]
    counts, edges = np.histogram(distance, bins=20, range=(0, distance.max()))
    found = query(full, "from class_distance where neighbours = 'other_class'").to_pydict()
    assert found["images"] == counts.tolist() and sum(found["share"]) == pytest.approx(1)
    assert found["low"] == pytest.approx(edges[:-1]) and found["high"] == pytest.approx(edges[1:])


def test_effectiveness_and_magnitude(full):
    grid = plan(study(), "fingerprint", None)
    seeds = {cell.key: position for position, cell in enumerate(grid.cells())}
    mean_sigma, own_sigma = (
        bound_rows(0)["distance"][:IMAGES].mean() / 4,
        bound_rows(1)["distance"][:IMAGES] / 4,
    )
    found = rows(full, "from table3")
    assert [(row["attack"], row["epsilon"]) for row in found] == [
        ("fgsm", EPSILONS[0]),
        ("fgsm", EPSILONS[1]),
        ("deepfool", None),
    ]
    cells = [cell for attack in grid.attacks if attack.split == "test" for cell in attack.cells]
    for cell, row in zip(cells, found, strict=True):
        made = attack_rows(seeds[cell.key])
        fooled, l1 = made["predicted"] != made["adversarial_predicted"], made["mean_l1"]
        assert (row["images"], row["paper"]) == (IMAGES, "unreadable")
        assert row["fooled"] == pytest.approx(100 * fooled.mean()) and row["mean_l1"] == pytest.approx(
            l1.mean()
        )
        assert row["mean_sigma"] == pytest.approx(mean_sigma)
        assert row["within_mean_sigma"] == pytest.approx(100 * (l1 <= mean_sigma).mean())
        assert row["within_own_sigma"] == pytest.approx(100 * (l1 <= own_sigma).mean())
        assert row["effective_mean"] == pytest.approx(100 * (fooled & (l1 <= mean_sigma)).mean())
        assert row["effective_own"] == pytest.approx(100 * (fooled & (l1 <= own_sigma)).mean())
        bins = rows(
            full,
            f"from magnitude where attack = '{row['attack']}' and same_epsilon(epsilon, {row['epsilon'] or 'null'})",
        )
        assert [each["images"] for each in bins] == np.histogram(l1, bins=20, range=(0, l1.max()))[0].tolist()


def test_effectiveness_without_a_bound_is_null_not_zero(store):
    fill(store, study(), lambda cell: cell.table == "attack")
    row = rows(connect(store), "from effectiveness where attack = 'deepfool'")[0]
    assert row["images"] == IMAGES and row["fooled"] is not None
    assert [
        row[name] for name in ("within_mean_sigma", "within_own_sigma", "effective_mean", "effective_own")
    ] == [None] * 4


# --- accuracies -------------------------------------------------------------------------------------


def test_black_box_beside_the_paper(full):
    row = rows(
        full,
        "from table5 where training = 'vib' and k = 2.5 and n = 20 and attack = 'fgsm' and epsilon < .01",
    )[0]
    assert (row["images"], row["accuracy"], row["paper"]) == (10, 50.0, 82.51)
    assert (row["low"], row["high"]) == pytest.approx((23.66, 76.34), abs=0.01)
    assert row["differs"]  # 5 of 10 against 8251 of 10000
    clean = rows(full, "from table5 where attack = 'none' order by training, k, n")
    assert [each["accuracy"] for each in clean] == [90, 80, 80, 90, 90]
    assert [each["paper"] for each in clean] == [83.91, 87.52, 88.41, 87.27, 88.64]
    assert [each["differs"] for each in clean] == [False] * 5
    # The paper has no FGSM of 0.3 on CIFAR-10; adversarial trainings are in black_box, not in Table V.
    assert values(
        full, "select count(*), count(paper), count(differs) from black_box where epsilon > .2"
    ) == (6, 0, 0)
    assert values(full, "select count(*) from table5") == (20,)
    assert query(full, "from table4").num_rows == query(full, "from table6").num_rows == 0


def test_plan_order(full):
    order = query(full, "select distinct on (k, n) k, n from table5").num_rows
    assert order == 5
    found = query(full, "from table5").to_pylist()
    assert [(row["training"], row["k"], row["n"], row["attack"]) for row in found[:6]] == [
        ("base", None, None, "none"), ("base", None, None, "fgsm"), ("base", None, None, "fgsm"), ("base", None, None, "deepfool"),
        ("vib", 1.0, 10, "none"), ("vib", 1.0, 10, "fgsm"),
    ]  # fmt: skip


def test_jpeg_copies_stand_beside_cifar10(store):
    fill(
        store,
        study(
            "copies",
            source="parquet",
            folder="/data/cifar10-jpeg",
            title="CIFAR-10 (JPEG copies)",
            paper="cifar10",
        ),
    )
    connection = connect(store)
    assert values(connection, "select distinct dataset, paper_dataset from table5") == (
        "cifar10-jpeg",
        "cifar10",
    )
    assert values(connection, "select paper from table5 where training = 'base' and attack = 'deepfool'") == (
        31.67,
    )
    assert [table.title for table in tables(connection, ("table5",))] == [
        "Table V: black box, CIFAR-10 (JPEG copies)"
    ]


def test_table7(full):
    found = rows(full, "from table7")
    assert [(row["training"], row["k"], row["n"]) for row in found[:8:4]] == [
        ("adversarial", None, None),
        ("vib", 2.5, 10),
    ]
    adversarial = {(row["attack"], row["epsilon"]): row for row in found if row["training"] == "adversarial"}
    assert {row["training_attack"] for row in adversarial.values()} == {"fgsm"}
    assert (adversarial["fgsm", EPSILONS[0]]["accuracy"], adversarial["fgsm", EPSILONS[0]]["paper"]) == (
        40,
        82.54,
    )
    assert (adversarial["deepfool", None]["accuracy"], adversarial["deepfool", None]["paper"]) == (30, 83.06)
    best = {(row["attack"], row["epsilon"]): row for row in found if row["training"] == "vib_best"}
    # The largest in each column, the first of the study's order on ties; the paper's row 'Proposed' stands beside it.
    assert {key: (row["accuracy"], row["k"], row["n"], row["paper"]) for key, row in best.items()} == {
        ("none", None): (90, 2.5, 10, None), ("fgsm", EPSILONS[0]): (50, 2.5, 10, 83.53), ("fgsm", EPSILONS[1]): (50, 2.5, 10, None),
        ("deepfool", None): (50, 1.0, 10, 85.94),
    }  # fmt: skip


def test_white_box(full):
    found = rows(full, "from white_box")
    assert [(row["training"], row["k"], row["divisor"]) for row in found] == [
        ("base", None, 4), ("base", None, 10), ("vib", 2.5, 4), ("vib", 2.5, 10),
    ]  # fmt: skip
    assert all(
        row["images"] == 10 and row["paper"] == "unreadable" and row["epsilon"] == 8 / 255 for row in found
    )
    assert (found[0]["accuracy"], found[0]["low"]) == (0, pytest.approx(0, abs=1e-6)) and found[0][
        "high"
    ] == pytest.approx(27.75, abs=0.01)


def test_holes(store):
    fill(
        store, study(), lambda cell: (cell.columns.get("k"), cell.columns.get("attack")) != (1.0, "deepfool")
    )
    connection = connect(store)
    assert rows(
        connection, "select n, images, accuracy, low, differs from table5 where accuracy is null order by n"
    ) == [{"n": n, "images": 0, "accuracy": None, "low": None, "differs": None} for n in (10, 20)]
    # The trainings themselves were never written here.
    assert rows(connection, 'select "table", count(*) as n from missing group by all order by all') == [
        {"table": "evaluation", "n": 2}, {"table": "training", "n": 6},
    ]  # fmt: skip
    (table,) = tables(connection, ("table5",))
    assert [line[3] for line in table.rows].count("-") == 2 and table.note.endswith("2 cells missing (-).")


# --- user SQL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to '{root}/new.csv'", "copy (select 1 as x) to '{file}'", "explain analyze copy (select 1) to '{file}'",
        "attach '{root}/new.db'", "create table t (i int)", "drop view bound", "explain analyze drop view bound", "set threads = 1",
        "from read_text('/etc/passwd')", "from '{root}/harness.json'", "from glob('/*')", "install httpfs", "select 1; select 2", "",
        "export database '{root}/out'", "insert into studies (study) values ('x')", "select nothing", "selec", "begin",
        "with x as (insert into studies (study) values ('x') returning study) from x",
        "from query('copy (select 1) to ''{root}/new.csv''')",
        "from enable_logging(storage = 'file', storage_path = '{root}/log')",
    ],
)  # fmt: skip
def test_refused(full, whole, sql):
    before = {path: path.stat().st_mtime_ns for path in whole.root.rglob("*")}
    file = next(whole.root.rglob("*.parquet"))
    with pytest.raises(HarnessError):
        query(full, sql.format(root=whole.root, file=file))
    assert {path: path.stat().st_mtime_ns for path in whole.root.rglob("*")} == before
    assert values(full, "select count(*) from studies") == (1,)  # and the connection goes on


@pytest.mark.parametrize(
    "sql",
    ["from table5", "describe bound", "summarize table2", "show tables", "with x as (select 1) from x", "-- why\nselect 1;",
     "pivot table5 on attack in ('none', 'deepfool') using first(accuracy) group by k, n"],
)  # fmt: skip
def test_allowed(full, sql):
    assert query(full, sql).num_rows > 0


# --- the paper's numbers ----------------------------------------------------------------------------


def test_paper(full):
    assert values(
        full,
        "select count(*), count(distinct (dataset, training, k, n, attack, epsilon)) from paper_black_box",
    ) == (299, 299)
    assert rows(full, "select dataset, count(*) as n from paper_black_box group by all order by all") == [
        {"dataset": "cifar10", "n": 104}, {"dataset": "mnist", "n": 91}, {"dataset": "tinyimagenet", "n": 104},
    ]  # fmt: skip
    assert values(full, "select count(*) from paper_table2") == (12,) and values(
        full, "select count(*) from paper_table7"
    ) == (24,)
    # The row 'Proposed' of Table VII is the largest of each block of Table V.
    assert values(
        full,
        "select count(*) from paper_table7 p where training = 'vib' and accuracy = (select max(accuracy) from paper_black_box b "
        "where b.dataset = 'cifar10' and b.training = 'vib' and b.attack = p.attack and same_epsilon(b.epsilon, p.epsilon))",
    ) == (4,)
