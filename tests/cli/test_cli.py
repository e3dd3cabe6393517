"""What a user types and sees: a study from start to tables, and every bad input with its message."""

import io
import re
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import call, refused
from conftest import snapshot

from harness.results.records import SCHEMA_VERSION


@pytest.fixture
def study(tiny, tmp_path):
    """The tiny study as a YAML file; its path, and a function that writes changes into it."""

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**tiny, **changes}))
        return path

    return write


def test_a_study_from_start_to_tables(study, tmp_path):
    results = tmp_path / "results"
    code, output = call("run", study(), "--results", results)
    assert code == 0
    assert "32 cells made, 4 MLflow runs written" in output
    for title in (
        "Table II: sigma",
        "Table III: effectiveness",
        "Black box",
        "Adversarial training",
        "White box",
    ):
        assert title in output
    before = snapshot(results)
    code, output = call("run", study(), "--results", results)
    assert (code, snapshot(results)) == (0, before)
    assert "0 cells made, 0 MLflow runs written" in output

    assert call("verify", "--results", results) == (0, "32 cells whole, 0 files damaged\n")
    code, output = call("tables", "table2", "--format", "csv", "--results", results)
    assert output.startswith("study,dataset,neighbours,k,sigma_min")
    code, output = call(
        "sql", "select count(*) as rows from evaluation", "--format", "csv", "--results", results
    )
    assert output == "rows\n800\n"  # (4 networks x 4 sets + 2 of the white box) x 40 images

    damaged = next((results / "bound").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    code, output = call("verify", "--results", results)
    assert code == 1
    assert str(damaged) in output
    code, output = call("verify", "--repair", "--results", results)
    assert code == 0
    assert "31 cells whole, 1 files damaged and removed" in output
    assert not damaged.exists()
    code, output = call("run", study(), "--results", results)
    assert "1 cells made" in output
    assert snapshot(results) == before
    code, output = call("verify", "--recompute", 2, "--results", results)
    assert code == 0
    assert [line.split(": ")[-1] for line in output.splitlines()[1:]] == ["identical"] * 2


def test_one_step_alone(study, tmp_path):
    code, output = call("bound", study(), "--results", tmp_path / "r")
    assert code == 0
    assert "4 cells made" in output
    assert "starts from what 'base-network' makes" in refused("attack", study(), "--results", tmp_path / "r")


def test_a_cell_that_fails_is_a_hole(study, tmp_path, monkeypatch):
    """The others are made, the exit code and the tables say so, and the same command makes it when it can."""
    from harness.attacks.deepfool import DeepFool

    def raising(*arguments):
        raise RuntimeError("shapes [differ]")

    results = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(DeepFool, "perturb", raising)
        code, output = call("run", study(), "--results", results)
    assert code == 1
    assert "27 cells made" in output
    told = "1 cell failed and 4 wait for them; the same command tries again:\n"
    assert f"{told}  deepfool on test images: RuntimeError: shapes [differ]" in output
    assert re.search(r"DeepFool +2 +- +- +-", output)
    assert "Failed" in output and "4 more wait for them" in output
    code, output = call("tables", "missing", "--format", "csv", "--results", results)
    assert output.splitlines()[1].startswith(
        "tiny,attack,attack,deepfool on test images,RuntimeError: shapes [differ],false,attack/"
    )
    code, output = call("run", study(), "--results", results)
    assert code == 0 and "5 cells made" in output and "Failed" not in output


def test_show_and_studies():
    code, output = call("show", "quick", "--set", "defenses.imperceptible_bound.k=[3]")
    assert code == 0
    assert yaml.safe_load(output)["defenses"]["imperceptible_bound"]["k"] == [3.0]
    code, output = call("studies")
    full = ("cifar10", "mnist", "tinyimagenet")
    expected = sorted(["quick", *(f"{name}{form}" for name in full for form in ("", "-cpu", "-h100"))])
    assert [line.split()[0] for line in output.splitlines()] == expected


def test_help_is_quick_to_import():
    """No heavy package is imported for --help."""
    heavy = ("numpy", "pydantic", "pyarrow", "torch", "ray", "mlflow", "duckdb", "faiss", "rich")
    code = f"import sys; from harness.cli import main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- bad input: each told before any expensive work, nothing lost ------------------------------------------


def test_unknown_keys_and_values_out_of_range_all_at_once(tmp_path):
    changes = ("--set", "bse.epochs=2", "--set", "defenses.imperceptible_bound.k=[0]")
    message = refused("run", "quick", *changes, "--results", tmp_path / "r")
    assert "the study has 2 mistakes" in message
    assert "bse: unknown setting; did you mean 'base'?" in message
    assert "defenses.imperceptible_bound.k.0: should be greater than 0, got 0" in message
    assert not (tmp_path / "r").exists()


def test_an_unknown_data_set(tmp_path):
    message = refused("run", "quick", "--set", "dataset.source=cifar11", "--results", tmp_path / "r")
    assert "dataset.source: 'cifar11' is not possible; did you mean 'cifar10'?" in message


def test_missing_data(tmp_path):
    changes = ("--set", "network.pretrained=false", "--results", tmp_path / "r")
    message = refused("run", "mnist", *changes)
    assert "MNIST/raw/train-images-idx3-ubyte" in message
    assert "--data or HARNESS_DATA" in message


def test_a_truncated_image_file(tmp_path, study):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 30)).save(buffer, "PNG")
    whole = buffer.getvalue()
    for split, encoded in (("train", [whole] * 5 + [whole[:40]]), ("test", [whole] * 2)):
        table = pa.table(
            {
                "image": [{"bytes": one, "path": None} for one in encoded],
                "label": [i % 2 for i in range(len(encoded))],
            }
        )
        pq.write_table(table, folder / f"{split}.parquet")
    message = refused(
        "run",
        study(dataset={"source": "parquet", "folder": "mine"}),
        "--data",
        tmp_path / "data",
        "--results",
        tmp_path / "r",
    )
    assert "train.parquet, row 5: cannot be read; truncated or corrupt?" in message


def test_a_broken_zip(tmp_path, study):
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"PK\x03\x04 and no more")
    message = refused(
        "run", study(dataset={"source": "tinyimagenet"}), "--data", tmp_path, "--results", tmp_path / "r"
    )
    assert "tiny-imagenet-200.zip: cannot be read; truncated or corrupt?" in message


def test_a_zip_that_leaves_its_folder(tmp_path, study):
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("../../evil", "x")
    message = refused(
        "run", study(dataset={"source": "tinyimagenet"}), "--data", tmp_path, "--results", tmp_path / "r"
    )
    assert "refused: member '../../evil' leaves the folder" in message


def test_an_unwritable_results_folder(tmp_path, study):
    (tmp_path / "file").write_text("mine")
    assert "cannot be written" in refused("run", study(), "--results", tmp_path / "file" / "r")
    assert (tmp_path / "file").read_text() == "mine"


def test_fewer_than_two_classes(tmp_path, study):
    assert "dataset.classes: should be greater than or equal to 2, got 1" in refused(
        "run", study(dataset={"source": "digits", "classes": 1}), "--results", tmp_path / "r"
    )


def test_data_of_one_class(tmp_path, study):
    folder = tmp_path / "mine"
    folder.mkdir()
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (8, 8), 9).save(buffer, "PNG")
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"image": [{"bytes": buffer.getvalue(), "path": None}] * 3, "label": [4] * 3}),
            folder / f"{split}.parquet",
        )
    message = refused(
        "run",
        study(dataset={"source": "parquet", "folder": "mine"}),
        "--data",
        tmp_path,
        "--results",
        tmp_path / "r",
    )
    assert "expected two classes or more in train, got 1" in message


def test_results_of_another_version(tmp_path, study):
    results = tmp_path / "r"
    results.mkdir()
    (results / "harness.json").write_text('{"schema_version": 99}')
    for arguments in (("run", study()), ("tables",), ("verify",), ("sql", "from bound")):
        message = refused(*arguments, "--results", results)
        assert f"schema version 99, this harness reads and writes {SCHEMA_VERSION}" in message
    assert [path.name for path in results.iterdir()] == ["harness.json"]


def test_no_results_yet(tmp_path):
    assert "holds no results" in refused("tables", "--results", tmp_path)


def test_a_negative_number_of_workers(tmp_path, study):
    assert "compute.workers: should be greater than or equal to 0, got -1" in refused(
        "run", study(), "--workers", "-1", "--results", tmp_path / "r"
    )


def test_sql_reads_only(tmp_path, study):
    call("bound", study(), "--results", tmp_path / "r")
    for query in (
        "drop view bound",
        "copy bound to '/dev/null'",
        "from read_csv('/etc/passwd')",
        "select nonsense from bound",
    ):
        assert "error:" in refused("sql", query, "--results", tmp_path / "r")


def test_a_price_before_a_study_runs(tmp_path):
    code, output = call("plan", "quick", "--workers", "4", "--tflops", "0.1")
    assert code == 0, output
    for text in (
        "defense",
        "4 workers",
        "assumed 0.1 TFLOP/s a worker",
        "Memory: images",
        "The same on H100",
    ):
        assert text in output
    code, output = call("plan", "quick", "--tflops", "0.1", "--gpu", "none")
    assert code == 0 and "H100" not in output
    assert "expected one of H100 PCIe, " in refused("plan", "quick", "--gpu", "H1000")
    code, output = call("plan", "--images", "200000", "--values", "3072")
    assert code == 0, output
    for text in ("200,000 images of 3,072 values", "not measured", "within"):
        assert text in output


def test_a_benchmark_without_data(tmp_path):
    message = refused("benchmark", "--data", tmp_path, "--results", tmp_path / "r")
    assert "the benchmark needs MNIST/raw or CIFAR-10 in the data folder" in message
