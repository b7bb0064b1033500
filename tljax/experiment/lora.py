"""What a config says of LoRA, and what the plan makes of it.

The plan alone says what trains: LoRA is a network with more leaves, and a `train` regex.
"""

import ml_collections

from tljax.errors import InputError
from tljax.models import lora
from tljax.models.groups import leaf_paths
from tljax.models.lora import LoRA
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree


def lora_of(config: ml_collections.ConfigDict) -> LoRA | None:
    """The config's low-rank updates, if it wants any.

    Raises:
      InputError: for a value that is wrong, or one that says how to adapt where nothing is adapted.
    """
    if config.lora_rank is not None:
        targets = lora.TARGETS if config.lora_targets is None else config.lora_targets
        return LoRA(config.lora_rank, config.lora_alpha, targets)
    for name in ("lora_alpha", "lora_targets"):
        if config[name] is not None:
            raise InputError(
                f"{name} is {config[name]}, but lora_rank is not set, so that there is no LoRA; set"
                f" lora_rank, or leave {name} out"
            )
    return None


def trained_by(config: ml_collections.ConfigDict) -> str:
    """The plan's `train`: the config's, or, where that is silent and there is LoRA, LoRA's."""
    return lora.TRAINED if config.lora_rank is not None and config.train == ".*" else config.train


def check(config: ml_collections.ConfigDict, plan: TransferPlan, variables: Tree) -> None:
    """Raises InputError if LoRA has no weights to adapt, or a part of it would never move.

    Args:
      config, plan: of the run.
      variables: of its model; may be abstract.
    """
    leaves = [path for path in leaf_paths(variables["params"]) if lora.is_leaf(path)]
    if not leaves:
        return
    if "random" in plan.init[:-1]:
        through = "" if config.init_k is None else f" with init_k={config.init_k}"
        raise InputError(
            f"lora_rank is {config.lora_rank}, but scenario {config.scenario}{through} starts from"
            " random weights, and LoRA adapts trained ones; use fine_tune without init_k, or leave"
            " lora_rank out"
        )
    if config.l2_sp_alpha:
        raise InputError(
            f"l2_sp_alpha is {config.l2_sp_alpha}, but with lora_rank {config.lora_rank} the"
            " pretrained weights stay where it would pull them; set l2_sp_alpha to 0"
        )
    still = [path for path in leaves if not plan.is_trained(path)]
    if still:
        raise InputError(
            f"lora_rank is {config.lora_rank}, but under scenario {config.scenario} and"
            f" train='{plan.train}' {len(still)} of LoRA's {len(leaves)} leaves are frozen, e.g."
            f" {still[0]}; use fine_tune, or lora_targets within the groups that train"
        )
