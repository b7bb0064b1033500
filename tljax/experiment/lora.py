"""LoRA from a config: the updates it asks for, and what its plan trains.

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
    """The config's low-rank updates; None without LoRA.

    Raises:
      InputError: for an impossible value, or a field of LoRA without lora_rank.
    """
    if config.lora_rank is not None:
        targets = lora.TARGETS if config.lora_targets is None else config.lora_targets
        return LoRA(config.lora_rank, config.lora_alpha, targets)
    for name in ("lora_alpha", "lora_targets"):
        if config[name] is not None:
            raise InputError(
                f"{name} is {config[name]}, but without lora_rank there is no LoRA; set lora_rank,"
                f" or leave {name} out"
            )
    return None


def trained_by(config: ml_collections.ConfigDict) -> str:
    """The plan's `train` regex: LoRA's, if there is LoRA and the config sets none."""
    return lora.TRAINED if config.lora_rank is not None and config.train == ".*" else config.train


def check(config: ml_collections.ConfigDict, plan: TransferPlan, variables: Tree) -> None:
    """Raises InputError if LoRA has no pretrained weights to adapt, or part of it is frozen.

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
    frozen = [path for path in leaves if not plan.is_trained(path)]
    if frozen:
        raise InputError(
            f"lora_rank is {config.lora_rank}, but under scenario {config.scenario} and"
            f" train='{plan.train}' {len(frozen)} of LoRA's {len(leaves)} leaves are frozen, e.g."
            f" {frozen[0]}; use fine_tune, or lora_targets within the groups that train"
        )
