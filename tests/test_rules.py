"""Rule tables: both sides are checked, all faults are reported, every model is covered."""

import numpy as np
import pytest

from tests.reference_weights import count_known, draw_all
from tljax.errors import InputError
from tljax.models import MODELS, create, registry, tracing
from tljax.weights import rules
from tljax.weights.families import FAMILIES, TIMM_VIT, TORCH_RESNET
from tljax.weights.families.vit import DINOV2, GOOGLE_VIT, HF_DINOV2, HF_VIT
from tljax.weights.rules import Family, Rule, convert, linear, unconvert
from tljax.weights.unwrapping import find_network

VIT = "vit_micro_patch4_32"


def shapes_of(model, size=32):
    abstract = rules.flatten(tracing.abstract_variables(model, size))
    return {path: leaf.shape for path, leaf in abstract.items()}


def sources(family, model, paths):
    return [s for a in rules.assignments(family, model, paths) for s in a.sources]


def toy(*table, **more):
    return Family("toy", accepts=lambda model: True, rules=lambda model: table, **more)


# --- the engine ---------------------------------------------------------------------------------


def test_numbers_are_carried_over_shifted_and_padded():
    family = toy(
        Rule("block{s+1}/unit{b+1:02}/w", "layer{s}_{b}/kernel"), Rule("{s}.{b}.b", "l{s}_{b}/bias")
    )
    found = sources(family, None, ["layer0_0/kernel", "layer2_11/kernel", "l3_4/bias"])
    assert found == ["block1/unit01/w", "block3/unit12/w", "3.4.b"]


def test_one_rule_may_take_several_tensors_and_make_several_parameters():
    both = rules.Transform(
        lambda arrays: [arrays[0] + arrays[1], arrays[1]],
        lambda arrays: [arrays[0] - arrays[1], arrays[1]],
    )
    family = toy(Rule(("x", "y"), ("sum", "second"), both))
    given = {"x": np.float32([1, 2]), "y": np.float32([10, 20])}
    made = convert(family, None, {"sum": (2,), "second": (2,)}, given, "file")
    assert made["sum"].tolist() == [11, 22]
    assert made["second"].tolist() == [10, 20]
    back = unconvert(family, None, made)
    assert {name: array.tolist() for name, array in back.items()} == {"x": [1, 2], "y": [10, 20]}


@pytest.mark.parametrize(
    ("table", "number"),
    [((Rule("a", "x"),), 0), ((Rule("a", "x"), Rule("b{i}", "y{i}"), Rule("c", "y1")), 2)],
)
def test_a_table_with_no_rule_or_two_for_a_parameter_is_wrong(table, number):
    with pytest.raises(ValueError, match=f"{number} rules of toy make 'y1'"):
        rules.assignments(toy(*table), None, ["x", "y1"])


def test_all_faults_come_together_with_names_and_shapes():
    family = toy(
        Rule("{i}.weight", "{i}/kernel", linear),
        Rule("{i}.bias", "{i}/bias"),
        ignored=(r"old\..*",),
    )
    shapes = {
        f"{i}/{leaf}": shape for i in (0, 1) for leaf, shape in (("kernel", (3, 5)), ("bias", (5,)))
    }
    given = {
        "0.weight": np.zeros((3, 5)),  # transposed
        "1.weight": np.zeros((7, 3)),  # of another architecture
        "1.bias": np.zeros(5),
        "2.bias": np.zeros(4),  # extra
        "old.counter": np.zeros(()),  # ignored by name
    }
    with pytest.raises(InputError) as raised:
        convert(family, None, shapes, given, "some.file")
    message = str(raised.value)
    for part in (
        "'some.file' (toy names) does not fit the model in 4 places",
        "0.bias is missing",
        "0.weight has shape (3, 5) instead of (5, 3)",
        "1.weight has shape (7, 3) instead of (5, 3)",
        "2.bias (4,) has no place in the model",
    ):
        assert part in message
    assert "old.counter" not in message
    assert "1.bias" not in message


def test_two_tensors_of_one_name_are_a_fault():
    family = toy(Rule("a", "x"), spellings=((r"^alpha$", "a"),))
    given = {"a": np.zeros(2), "alpha": np.ones(2)}
    with pytest.raises(InputError, match="a is there 2 times"):
        convert(family, None, {"x": (2,)}, given, "file")
    assert convert(family, None, {"x": (2,)}, {"alpha": np.ones(2)}, "file")["x"].tolist() == [1, 1]


def test_the_rules_own_spelling_need_not_be_the_common_one():
    family = toy(Rule("alpha", "x"), spellings=((r"^alpha$", "a"),))
    for name in ("alpha", "a"):
        assert convert(family, None, {"x": (2,)}, {name: np.ones(2)}, "file")["x"].tolist() == [
            1,
            1,
        ]
    assert list(unconvert(family, None, {"x": np.ones(2)})) == ["alpha"]


def test_many_faults_are_counted_and_a_few_spelled_out():
    family = toy(Rule("{i}.weight", "{i}/kernel", linear))
    shapes = {f"{i}/kernel": (3, 5) for i in range(20)}
    with pytest.raises(InputError, match=r"in 20 places.*and 8 more; set model to"):
        convert(family, None, shapes, {}, "file")


# --- the families -------------------------------------------------------------------------------


def parts(name):
    """The properties of a model that its parameter paths depend on, so not its widths."""
    entry = registry.spec(name)
    widths = ("dim", "heads", "patch", "widths")
    own = tuple(sorted((k, v) for k, v in entry.arguments.items() if k not in widths))
    return entry.family, own


ONE_OF_EACH = list({parts(name): name for name in reversed(MODELS)}.values())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_familys_table_covers_every_model_it_accepts(name):
    """One rule makes each parameter, one uses each tensor, and names identify the family."""
    model = create(name, 10)
    paths = list(shapes_of(model, registry.spec(name).preprocessing.image_size))
    accepting = [family for family in FAMILIES if family.accepts(model)]
    assert len(accepting) >= 2, "our names and another family's"
    for family in accepting:
        planned = rules.assignments(family, model, paths)
        made = [target for a in planned for target in a.targets]
        assert sorted(made) == sorted(paths)
        used = [source for a in planned for source in a.sources]
        assert len(set(used)) == len(used)
        known = [count_known(other, model, paths, used) for other in accepting]
        assert accepting[known.index(max(known))] is family


def drawn_tensors(family, **fields):
    """(model, shapes, drawn parameters, tensors under the family's names)."""
    model = create(VIT, 10, **fields)
    drawn = draw_all(model, 32)
    shapes = {path: array.shape for path, array in drawn.items()}
    return model, shapes, drawn, unconvert(family, model, drawn)


@pytest.mark.parametrize(
    ("family", "fields", "renamed", "besides"),
    [
        # The training scripts of DINO and DINOv2 save a wrapped backbone and a projection head.
        (
            TIMM_VIT,
            {},
            lambda name: f"module.backbone.{name}",
            ("module.head.mlp.0.weight", "head.last_layer.weight_v", "dino_head.mlp.0.bias"),
        ),
        (
            TIMM_VIT,
            {},
            lambda name: name,
            ("mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.weight"),
        ),
        (TIMM_VIT, {}, lambda name: name.replace("norm.", "fc_norm."), ("pre_logits.fc.weight",)),
        (TIMM_VIT, {"pooling": "mean"}, lambda name: name.replace("fc_norm.", "norm."), ()),
        (DINOV2, {"layer_scale": 1e-5, "registers": 4}, lambda name: name, ("mask_token",)),
        (
            HF_VIT,
            {},
            lambda name: name if name.startswith("classifier") else f"vit.{name}",
            ("vit.pooler.dense.weight", "vit.embeddings.mask_token", "decoder.mask_token"),
        ),
        (
            HF_DINOV2,
            {"layer_scale": 1e-5},
            lambda name: f"dinov2.{name}",
            ("dinov2.embeddings.mask_token", "classifier.weight", "classifier.bias"),
        ),
        (
            HF_DINOV2,
            {"layer_scale": 1e-5, "registers": 4},
            lambda name: f"dinov2_with_registers.{name}",
            ("dinov2_with_registers.embeddings.mask_token",),
        ),
        (GOOGLE_VIT, {}, lambda name: f"opt/target/{name}", ("opt/target/pre_logits/kernel",)),
        (GOOGLE_VIT, {}, lambda name: f"params/{name}", ("pre_logits/bias",)),
    ],
)
def test_wrapped_names_and_what_is_left_out_on_purpose(family, fields, renamed, besides):
    model, shapes, drawn, tensors = drawn_tensors(family, **fields)
    wrapped = {renamed(name): array for name, array in tensors.items()}
    wrapped |= dict.fromkeys(besides, np.zeros((2, 2)))
    network = find_network([family], model, shapes, wrapped, "file", VIT)
    found = convert(family, model, shapes, network.tensors, "file")
    without = {path for path in drawn if not path.startswith("head/")}
    headless = family is HF_DINOV2 or any("pre_logits" in name for name in besides)
    assert found.keys() == (without if headless else drawn.keys())
    assert all(np.array_equal(found[path], drawn[path]) for path in found)


@pytest.mark.parametrize(
    ("family", "fields"), [(HF_VIT, {}), (HF_DINOV2, {"layer_scale": 1e-5})], ids=["ViT", "Dinov2"]
)
def test_transformers_5_has_new_names_in_memory(family, fields):
    model, shapes, drawn, tensors = drawn_tensors(family, **fields)
    renamed = {}
    for name, array in tensors.items():
        for part in ("query", "key", "value"):
            name = name.replace(f"attention.attention.{part}", f"attention.{part[0]}_proj")
        name = name.replace("attention.output.dense", "attention.o_proj")
        if family is HF_VIT:
            name = name.replace("encoder.layer.", "layers.")
            name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
        renamed[name] = array
    assert not any("attention.attention" in name or "dense" in name for name in renamed)
    found = convert(family, model, shapes, renamed, "file")
    assert all(np.array_equal(found[path], drawn[path]) for path in found)


def test_a_class_token_takes_its_position_in_where_there_are_registers():
    model, shapes, drawn, tensors = drawn_tensors(DINOV2, layer_scale=1e-5, registers=4)
    positions = np.random.default_rng(0).standard_normal((1, 65, 64)).astype(np.float32)
    found = convert(DINOV2, model, shapes, {**tensors, "pos_embed": positions}, "file")
    np.testing.assert_array_equal(
        found["embed/cls_token"], drawn["embed/cls_token"] + positions[:, :1]
    )
    np.testing.assert_array_equal(found["embed/pos_embed"], positions[:, 1:])


def test_a_network_of_other_heads_is_told_apart_where_the_file_can():
    """(d, d) kernels fit any number of heads; shapes in Google's files show the number."""
    *_, tensors = drawn_tensors(GOOGLE_VIT)
    other = create(VIT, 10, heads=2)
    with pytest.raises(InputError, match=r"query/kernel has shape \(64, 4, 16\) instead of"):
        convert(GOOGLE_VIT, other, shapes_of(other), tensors, "file")


def test_a_network_with_another_stage_is_another_architecture():
    deeper, model = (
        create("resnet10_32", 10, stage_sizes=sizes) for sizes in ((1, 1, 1, 2), (1, 1, 1, 1))
    )
    tensors = unconvert(TORCH_RESNET, deeper, draw_all(deeper, 32))
    with pytest.raises(InputError, match=r"layer4\.1\.conv1\.weight .* has no place in the model"):
        convert(TORCH_RESNET, model, shapes_of(model), tensors, "file")
    tensors = unconvert(TORCH_RESNET, model, draw_all(model, 32))
    with pytest.raises(InputError, match=r"layer4\.1\.conv1\.weight is missing"):
        convert(TORCH_RESNET, deeper, shapes_of(deeper), tensors, "file")
