"""The training loop, top to bottom. `tljax train` and `tljax.fit` both run this one.

The order is the argument for exact resuming: a step is saved before it is validated, so that a run
that is killed in between validates it again, and ends with the same bits; see `tljax.training.run`.
"""

from tljax.training.run import Run


def train(run: Run) -> None:
    """Trains until the run is over; its checkpoints are then whole on disk.

    Raises:
      InputError: for a loss that is not finite even after a restart, an image that cannot be read,
        or a full disk.
      Preempted, Interrupted: after SIGTERM or Ctrl-C; with a workdir, the run is saved.
    """
    with run.tools.observer, run.saving_when_stopped():
        if run.needs_its_start():
            run.save()
        if run.validates_now() and not run.is_validated():
            run.save()
            run.validate()
        while not run.is_over():
            run.raise_if_stopped()
            with run.restarting_once():
                run.step_once()
                if run.logs_now():
                    run.log()
                if run.saves_now():
                    run.save()
                if run.validates_now():
                    run.validate()
                    if run.is_best_now() or run.is_over():
                        run.save()  # the best weights, and the last, are always on disk
        if run.chooses_on_line():
            run.choose_on_line()
            run.save()
            if run.validates_now():
                run.validate()
        run.finish_saving()
