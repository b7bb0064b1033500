"""The zoo's table agrees with the networks."""

import pytest

from tests.measure_zoo import figures, rows


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_the_tables_parameters_and_flops_are_those_of_the_network(model):
    listed = [row for row in rows() if row["model"] == model]
    assert listed
    for row in listed:
        assert row == row | figures(row)
