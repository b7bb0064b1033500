"""The default rule: it fills what is not set by hand, says why, and overrides nothing."""

import json
import logging
from dataclasses import fields, replace

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

import tljax
from tljax import config as config_lib
from tljax import experiment
from tljax.errors import InputError
from tljax.experiment import hyperrules
from tljax.experiment.default_rule import Network, Target, choose

VIT = tljax.create("vit_small_patch14_dinov2", num_classes=3)
RESNET = tljax.create("resnet10_32", num_classes=3)
NETWORKS = {
    "dino": Network(VIT, 22_000_000, "vit_small_patch14_dinov2 FILE"),
    "supervised": Network(VIT, 22_000_000, "vit_small_patch16_224 augreg"),
    "large": Network(VIT, 300_000_000, "vit_large_patch14_dinov2"),
    "resnet": Network(RESNET, 300_000, "resnet10_32 runs/source"),
}
SCENARIOS = ("feature_extraction", "freeze_first", "fine_tune", "from_scratch")
PAGES = (*SCENARIOS, *(f"dinov2_{name}" for name in SCENARIOS))


def target(images=400, *, names=("cat", "dog", "owl"), tasks=1, has_val=False, rarest=40):
    return Target(images, names, tasks, has_val, rarest)


def numbers(scenario, network="dino", of=None, **set_by_hand):
    chosen, _ = choose(scenario, of or target(), NETWORKS[network], set_by_hand)
    return {field: value for field, (value, _) in chosen.items()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("images", [30, 400, 3_000, 20_000, 1_000_000])
def test_every_choice_is_a_field_with_a_reason(scenario, network, images):
    known = config_lib.base()
    chosen, _ = choose(scenario, target(images), NETWORKS[network], {})
    for field, (value, reason) in chosen.items():
        assert field in known
        assert reason
        known[field] = value  # of its type
    options = {field.name for field in fields(tljax.training.TrainingOptions)}
    tljax.training.TrainingOptions(**{f: v for f, (v, _) in chosen.items() if f in options})


@pytest.mark.parametrize("page", PAGES)
def test_what_is_set_by_hand_stays(page, photo_folder):
    """Even where it is set to the value that the field has anyway."""
    free = ["--config.model=resnet10_32", "--config.init_from=None", "--config.image_size=32"]
    by_hand = {"batch_size": 4, "augment": "none", "clip_norm": None, "eval_every": 3}
    words = [f"--config.{name}={value}" for name, value in by_hand.items()]
    config = config_lib.load(page, [*free, f"--config.data=folder:{photo_folder}", *words])
    resolved = experiment.resolve(config)
    assert {name: resolved[name] for name in by_hand} == by_hand
    assert not any(text.split("=")[0] in by_hand for text in resolved.hyperrule_chose)
    assert experiment.resolve(resolved) == resolved, "resolving twice changes nothing"


def test_a_head_is_solved_unless_its_training_is_asked_for():
    assert numbers("feature_extraction")["optimizer"] == "lbfgs"
    assert numbers("feature_extraction")["val_fraction"] == 0.0
    assert "val_fraction" not in numbers("feature_extraction", of=target(has_val=True))
    for asked in ({"lr": 0.1}, {"steps": 9}, {"augment": "crop"}, {"lora_rank": 4}):
        assert numbers("feature_extraction", **asked)["optimizer"] == "adamw"
    assert numbers("feature_extraction", of=target(tasks=2))["optimizer"] == "adamw"
    for no_more in ({"augment": "none"}, {"on_error": "fail"}, {"cache": "memory"}):
        assert numbers("feature_extraction", **no_more)["optimizer"] == "lbfgs"
    for asked in ({"select_by": "macro_f1"}, {"regression_loss": "l1"}):
        assert numbers("feature_extraction", **asked)["optimizer"] == "adamw"
    assert numbers("feature_extraction", select_by="accuracy")["optimizer"] == "lbfgs"
    by_hand = numbers("feature_extraction", optimizer="lbfgs")
    assert by_hand.keys() == {"val_fraction"}, "nothing that a solved head does not use"


def test_updates_of_low_rank_share_one_higher_rate():
    whole, low_rank = numbers("fine_tune"), numbers("fine_tune", lora_rank=8)
    assert low_rank["layer_decay"] == low_rank["backbone_lr_scale"] == 1.0
    assert low_rank["lr"] > whole["lr"]
    assert "lora_rank" not in low_rank


def test_a_class_with_one_image_cannot_be_held_out():
    few = target(30, rarest=1)
    trained = numbers("feature_extraction", of=few)
    assert (trained["optimizer"], trained["steps"], trained["eval_every"]) == ("adamw", 300, 30)
    assert numbers("feature_extraction", of=few, epochs=200)["eval_every"] == 9  # of 94 steps
    assert numbers("feature_extraction", of=few, l2=0.1)["optimizer"] == "lbfgs"
    assert numbers("fine_tune", of=few)["head_init"] == "zero"


def test_a_small_network_is_tried_where_enough_images_can_be_left_out():
    """A rare class does not forbid it, unless no head can be solved for it."""
    for rarest, can_try in ((40, True), (2, True), (2, False), (1, True)):
        of = replace(target(rarest=rarest), can_try=can_try)
        tried = "trial_lr" in numbers("fine_tune", "resnet", of)
        assert tried == (can_try and rarest >= 2), (rarest, can_try)


def test_fine_tuning_starts_from_the_solved_head_and_may_end_at_it():
    for scenario in ("fine_tune", "freeze_first"):
        chosen = numbers(scenario)
        assert chosen["head_init"] == "solved"
        assert chosen["wise_ft"] is True
        assert 0 < chosen["warmup"] < chosen["steps"]


def test_few_images_all_train_and_decide_nothing_by_chance():
    few, more = numbers("fine_tune"), numbers("fine_tune", of=target(5_000))
    assert (few["val_fraction"], few["wise_ft_alpha"]) == (0.0, 0.5)
    assert more["val_fraction"] == 0.1
    assert "wise_ft_alpha" not in more
    for costs_none in ({"train_size": 100}, {"val_fraction": 0.3}):
        chosen = numbers("fine_tune", **costs_none)
        assert not {"val_fraction", "wise_ft_alpha"} & chosen.keys() - costs_none.keys()
    assert "wise_ft_alpha" not in numbers("fine_tune", of=target(has_val=True))


@pytest.mark.parametrize(
    ("names", "augment"), [("0123456789", "crop"), (["ab", "c"], "crop_flip"), ("01", "crop_flip")]
)
def test_digits_and_letters_are_not_mirrored_but_two_codes_are(names, augment):
    assert numbers("fine_tune", of=target(names=tuple(names)))["augment"] == augment


def test_rates_follow_the_family_the_size_and_the_batch():
    base = numbers("fine_tune")
    assert base["optimizer"] == "adamw"
    assert numbers("fine_tune", "supervised")["lr"] < base["lr"]
    assert numbers("fine_tune", "large")["lr"] == pytest.approx(base["lr"] * 2 / 3, rel=1e-2)
    assert numbers("fine_tune", batch_size=128)["lr"] == pytest.approx(2 * base["lr"], rel=1e-2)
    assert numbers("fine_tune", "resnet")["optimizer"] == "sgd"


@pytest.mark.parametrize(
    ("init_from", "like"),
    [
        ("/data/dinov2_small/model.safetensors", "dino"),
        ("hf://facebook/dinov2-small", "dino"),
        ("/home/ismael/w.safetensors", "supervised"),
        ("/home/eclipse-workspace/dinosaurs/w.safetensors", "supervised"),
        ("/openai/checkpoints/pets/w.safetensors", "supervised"),
    ],
)
def test_a_folder_of_the_machine_does_not_say_how_weights_were_pretrained(
    init_from, like, photo_folder
):
    words = ["--config.model=vit_small_patch16_224", f"--config.data=folder:{photo_folder}"]
    config = config_lib.load("fine_tune", [*words, f"--config.init_from={init_from}"])
    chosen = hyperrules.apply(config, tljax.data.load(f"folder:{photo_folder}"))
    assert chosen.lr == pytest.approx(numbers("fine_tune", like)["lr"])


def test_the_depth_to_freeze_is_that_of_a_network_that_is_cut(photo_folder):
    words = ["--config.model=resnet10_32", f"--config.data=folder:{photo_folder}"]
    words += ["--config.init_from=FILE", "--config.last_group=layer1_0"]
    whole = tljax.create("resnet10_32", num_classes=3).groups.names
    groups = whole.index("layer1_0") + 2  # and the head
    config = config_lib.load("freeze_first", words)
    chosen = hyperrules.apply(config, tljax.data.load(f"folder:{photo_folder}"))
    assert chosen.k == round(0.4 * groups)


def test_a_family_that_is_not_known_falls_back_and_says_so():
    class Other(nn.Module):
        groups = VIT.groups

    network = Network(Other(), 22_000_000, "convmixer")
    chosen, warnings = choose("fine_tune", target(), network, {})
    assert chosen["lr"][0] == numbers("fine_tune", "supervised")["lr"]
    assert "does not know networks like convmixer" in warnings[0]


def test_few_images_from_scratch_are_warned_of():
    _, warnings = choose("from_scratch", target(400), NETWORKS["resnet"], {})
    assert "from_scratch on 400 training images" in warnings[0]
    assert not choose("from_scratch", target(10_000), NETWORKS["resnet"], {})[1]


def test_a_run_resumes_with_the_numbers_that_it_began_with(photo_folder, tmp_path, caplog):
    """Images that are added to the folder later would change them."""
    caplog.set_level(logging.WARNING)
    fixed = ["--config.model=resnet10_32", "--config.last_group=layer1_0"]
    argv = [*fixed, f"--config.data=folder:{photo_folder}", "--config.steps=2"]
    config = config_lib.load("from_scratch", argv)
    experiment.run(config, tmp_path / "run", progress=False)
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "result.json").unlink()
    for number in range(600):
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photo_folder / f"cats/new{number}.png")
    experiment.run(config, tmp_path / "run", progress=False)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == before


def test_an_unknown_rule_is_named(photo_folder):
    config = config_lib.load("fine_tune", [f"--config.data=folder:{photo_folder}"])
    config.hyperrule = "defualt"
    with pytest.raises(InputError, match=r"no hyperrule 'defualt' \(did you mean 'default'"):
        experiment.resolve(config)


def test_a_choice_on_the_line_can_be_switched_off():
    chosen, _ = choose("fine_tune", target(100), NETWORKS["dino"], {"wise_ft": False})
    assert "wise_ft_alpha" not in chosen
    assert choose("fine_tune", target(100), NETWORKS["dino"], {})[0]["wise_ft_alpha"][0] == 0.5


def test_other_choices_suit_what_is_set_by_hand():
    assert "layer_decay" not in numbers("fine_tune", lr_spread=100.0)
    assert numbers("fine_tune", stages="gradual_unfreezing")["warmup"] == 0
    assert numbers("feature_extraction", batch_size=512, of=target(60_000))["steps"] == 4_688
    random_groups = numbers("freeze_first", "resnet", init_k=2)
    assert (random_groups["wise_ft"], random_groups["head_init"]) == (False, "zero")
    assert not {"trial_lr", "wise_ft_alpha"} & random_groups.keys()


@pytest.mark.parametrize(
    ("by_hand", "said"),
    [
        ({"optimizer": "sgd"}, "optimizer is sgd, but the default rule's lr"),
        ({"sampling": "balanced"}, "weighs all images alike"),
        ({"optimizer": "sgd", "lr": 0.1}, None),
    ],
)
def test_what_the_rule_cannot_suit_is_said(by_hand, said):
    _, warnings = choose("fine_tune", target(), NETWORKS["dino"], by_hand)
    assert [said in warning for warning in warnings] == ([True] if said else [])
