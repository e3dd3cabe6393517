"""The tables' schemas: what readers of the files may rely on."""

import pyarrow as pa

from harness.results.records import SCHEMAS


def test_columns_of_the_path_are_not_in_the_file():
    for table in SCHEMAS.values():
        assert not set(table.partition) & set(table.schema.names)
        assert len(set(table.schema.names)) == len(table.schema.names)


def test_every_column_says_what_it_means():
    for table in SCHEMAS.values():
        for field in table.schema:
            assert field.metadata[b"meaning"]
            assert not pa.types.is_dictionary(field.type)  # files with such columns can't be grouped together


def test_a_network_is_named_by_the_same_columns_everywhere():
    names = {"name", "method", "settings", "k", "n", "training_attack", "training_epsilon", "seed"}
    for table in ("attack", "training", "evaluation"):
        assert names <= {*SCHEMAS[table].schema.names, *SCHEMAS[table].partition}
