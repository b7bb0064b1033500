"""The zoo's table agrees with the networks, and is filtered and sorted."""

import csv
import io

import pytest

from tests.measure_zoo import figures, rows
from tests.test_cli import run
from tljax.commands.models import select
from tljax.errors import InputError
from tljax.weights import zoo


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_the_tables_parameters_and_flops_are_those_of_the_network(model):
    listed = [row for row in rows() if row["model"] == model]
    assert listed
    for row in listed:
        assert row == row | figures(row)


def test_a_part_of_a_name_and_a_pattern_find_weights_whatever_the_case():
    names = [name for name in zoo.entries() if name.startswith("convnext_tiny")]
    assert names
    assert [entry.name for entry in zoo.find("ConvNext_Tiny*")] == names
    assert {entry.name for entry in zoo.find("NEXT_tiny")} >= set(names)
    with pytest.raises(InputError, match=r"no pretrained weights have a name like 'next_tiny\*'"):
        zoo.find("next_tiny*")


def test_weights_are_filtered_and_sorted(capsys):
    entries = list(zoo.entries().values())
    small = select(entries, licence="Apache", max_parameters=30, max_gflops=9)
    assert small
    assert all("apache" in entry.licence for entry in small)
    assert max(entry.parameters for entry in small) <= 30e6
    assert max(entry.gflops for entry in small) <= 9
    with pytest.raises(InputError, match="relax --licence"):
        select(entries, max_parameters=0.1)
    code, out, _ = run(capsys, "models", "convnext_tiny", "--sort", "top1", "--csv")
    assert code == 0
    listed = list(csv.DictReader(io.StringIO(out)))
    assert listed[0]["name"] == "convnext_tiny.in12k_ft_in1k_384"
    known = [float(row["top1"]) for row in listed if row["top1"]]
    assert known == sorted(known, reverse=True)
