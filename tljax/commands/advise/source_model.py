"""Which network a source is of."""

from tljax.errors import InputError
from tljax.experiment import read_config, source_workdir
from tljax.weights.zoo import entries


def source_model(init_from: str) -> str:
    """The model of a workdir, or of weights that `tljax models` lists.

    Raises:
      InputError: if the source does not tell.
    """
    if (workdir := source_workdir(init_from)) is not None:
        return str(read_config(workdir).model)
    if init_from in entries():
        return entries()[init_from].model
    raise InputError(
        f"'{init_from}' does not say which network its weights are of; name it with --model"
    )
