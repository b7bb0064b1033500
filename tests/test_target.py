"""The laws of the plan hold for programs that the TPU compiler makes, without a TPU.

Tests that need libtpu are skipped if it is not installed: pip install -c constraints.txt '.[tpu]'
"""

from importlib.util import find_spec

import jax
import pytest

from tljax import config as config_lib
from tljax import experiment
from tljax.analysis import cost
from tljax.commands.plan import target, tpu_program
from tljax.devices import sharding
from tljax.errors import InputError
from tljax.models import tracing

has_libtpu = find_spec("libtpu") is not None
takes_libtpu = pytest.mark.skipif(not has_libtpu, reason="libtpu, of the extra tpu, is missing")


def page(scenario, mesh="data:-1", **fields):
    config = config_lib.base()
    config.update(
        {"model": "vit_micro_patch4_32", "scenario": scenario, "batch_size": 64, **fields}
    )
    config.update({"mesh": mesh, "dtype": "bfloat16", "augment": "none"})
    return config


@takes_libtpu
@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (page("feature_extraction"), (8, 1)),
        (page("freeze_first", k=3), (8, 1)),
        (page("freeze_first", "data:4,fsdp:2", k=3), (4, 2)),
        (page("fine_tune", "fsdp:8", optimizer="adamw"), (1, 8)),
    ],
    ids=lambda value: f"{value.scenario}, {value.mesh}" if hasattr(value, "mesh") else "",
)
def test_a_tpu_program_obeys_the_laws(config, sizes):
    (report,) = target.compile_reports(config, "v5e:2x4")
    assert report.fits
    assert report.devices == 8

    exp = experiment.build(config)
    variables = tracing.abstract_variables(exp.model, 32)
    given = (exp.model, variables, 32, config.batch_size)
    counts, products = cost.group_flops(*given), cost.group_products(*given)
    trained_groups = exp.plan.trained_groups(variables["params"])
    law = sum(map(sum, cost.law_terms(counts, products, trained_groups)))
    assert report.devices * report.flops <= 1.05 * law

    mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES)
    trained, _ = exp.plan.partition(variables["params"])
    shardings = jax.tree.leaves(sharding.parameter_shardings(mesh, trained))
    leaves = jax.tree.leaves(trained)
    pieces = [list(s.shard_shape(leaf.shape)) for s, leaf in zip(shardings, leaves, strict=True)]
    slots = 2 if config.optimizer == "adamw" else 1
    assert [list(shape) for shape in report.optimizer_state] == sorted(pieces * slots)

    assert "all-reduce" in report.collectives
    assert ("all-gather" in report.collectives) == (sizes[1] > 1)


@pytest.mark.parametrize("begin", [8, 64, 1000])
@pytest.mark.parametrize("most", [0, 8, 64, 1237])
def test_the_largest_batch_is_the_largest_multiple_that_fits(begin, most):
    def compiled(batch_size):
        return tpu_program.Report(batch_size, 8, batch_size <= most)

    found = [compiled(begin), *tpu_program.largest_batch(compiled, compiled(begin), 8)]
    assert all(report.batch_size % 8 == 0 for report in found)
    fitting = [report.batch_size for report in found if report.fits]
    assert max(fitting, default=0) == most // 8 * 8
    assert len(found) <= 16


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_without_the_compiler_it_is_said_how_to_get_it():
    with pytest.raises(InputError, match=r"pip install -c constraints.txt '\.\[tpu\]'"):
        next(target.compile_reports(page("fine_tune"), "v5e:2x4"))


PROGRAM = """HloModule step
%inner (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
}

ENTRY %main (param.0: f32[4,64]) -> f32[] {
  %param.0 = f32[4,64]{1,0:T(8,128)} parameter(0), metadata={op_name="state.trained['kernel']"}
  %param.1 = f32[4,64]{1,0:T(8,128)} parameter(1), metadata={op_name="state.opt_state[0]['kernel']"}
  %param.2 = s32[]{:T(128)} parameter(2), metadata={op_name="state.opt_state.count"}
  %a = (bf16[64]{0:T(256)(2,1)}, f32[2,8]{1,0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}
  %b = bf16[8,64]{1,0} all-gather(%param.0), replica_groups=[1,4]<=[4], dimensions={0}
  %c = (f32[4,64]{1,0}, f32[8,64]{1,0}) all-gather-start(%param.0), replica_groups={{0,1},{2,3}}
  %d = f32[8,64]{1,0} all-gather-done(%c)
  %e = f32[2,64]{1,0} reduce-scatter(%d), replica_groups={{0,1,2,3}}, dimensions={0}
}
"""


def test_collectives_are_read_from_a_compiled_program():
    assert tpu_program.count_collectives(PROGRAM, 4) == {
        "all-reduce": (1, 128 + 64, 128 + 64),  # two chips: 2 s / 2
        "all-gather": (2, 1024 + 2048, 768 + 1024),
        "reduce-scatter": (1, 512, 3 * 512),
    }
    assert tpu_program.find_optimizer_state(PROGRAM) == ((4, 64),)


def test_a_chips_peak_rates_give_the_roofline():
    chip = target.Chip(16, flops=1e12, bandwidth=1e9, interconnect=1e6)
    sent = {"all-reduce": (1, 5_000, 10_000)}
    report = tpu_program.Report(8, 2, True, flops=5e9, bytes_accessed=2e6, collectives=sent)
    assert target.roofline(report, chip) == pytest.approx(
        {"arithmetic": 0.005, "memory": 0.002, "interconnect": 0.01}
    )
