"""Which network a source is of."""

from tljax.advice.sources import model_on_disk
from tljax.errors import InputError
from tljax.weights import addresses
from tljax.weights.zoo import entries


def source_fields(init_from: str, model: str | None = None) -> dict[str, str]:
    """The config fields that name the network of a source, and where it ends.

        source_fields("runs/letters")  # {"model": "resnet10_32"}

    Args:
      init_from: a name that `tljax models` lists, a workdir, or a file that tljax wrote.
      model: its network, of any other source.

    Raises:
      InputError: if the source does not tell, and no network is named.
    """
    if init_from in entries():
        return {"model": model or entries()[init_from].model}
    found = None if addresses.is_fetchable(init_from) else model_on_disk(init_from)
    if model is not None and (found is None or found[0] != model):
        return {"model": model}
    if found is None:
        raise InputError(
            f"'{init_from}' does not say which network its weights are of; name it with --model"
        )
    model, last_group = found
    return {"model": model} | ({"last_group": last_group} if last_group else {})
