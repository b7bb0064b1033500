r"""BiT-M R50x1 on CIFAR with 1, 5 and all images a class, by BiT-HyperRule.

    tljax sweep --config experiments/bit_hyperrule/config.py --workdir runs/bit_cifar
    tljax train --config experiments/bit_hyperrule/config.py:cifar100 --workdir runs/bit_cifar100

Kolesnikov et al. 2020 ("Big Transfer"), with the settings of their repository's table of expected
results: the rule, but with batches of 128 and a rate of 0.001. The paper's rule:
--config.batch_size=512 --config.lr=0.003

Expected, test accuracy at 1 / 5 / all images a class (median of the authors' runs): cifar10 54.1 /
82.4 / 97.3, cifar100 35.2 / 64.8 / 86.4. Not run here.
"""

from tljax.config import base

TASKS = {
    "cifar10": "tfds:cifar10?train=train[:98%],val=train[98%:]",
    "cifar100": "tfds:cifar100?train=train[:98%],val=train[98%:]",
}
PER_CLASS = (1, 5, None)


def get_config(arg=None):
    config = base()
    config.data = TASKS[arg or "cifar10"]
    config.model = "resnetv2_50x1_bit"
    config.init_from = "BiT-M-R50x1"
    config.scenario = "fine_tune"
    config.backbone_lr_scale = 1.0
    config.hyperrule = "bit"
    config.batch_size = 128
    config.lr = 0.001
    config.eval_every = 10_000  # the last weights count
    config.checkpoint_every = 500
    return config


def sweep(arg=None):
    for task in [arg] if arg else TASKS:
        for per_class in PER_CLASS:
            for seed in range(5):
                yield {"data": TASKS[task], "train_per_class": per_class, "seed": seed}
