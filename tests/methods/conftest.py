"""Every method, ready for its first epoch."""

import pytest
from helpers.acting import TAUGHT, acting
from helpers.contract import BATCH, EPOCHS, FLAGS, TWO, WITHHELD, N
from helpers.tiny import TinyData

from engine.parser import parse
from methods import method_of


@pytest.fixture
def begin(tiny_model, tiny_run, save_teachers):
    """begin(name, modalities, **flags): a method by the command line's defaults, and its run."""

    def begin(name, modalities=TWO, **flags):
        argv = acting(name)
        if name == "unimodal":
            modalities = modalities[:1]
            argv += ["--modality", *modalities]
        if name in TAUGHT:
            argv += ["--teachers", *save_teachers(modalities)]
        args = parse(argv)
        own = dict(batch_size=BATCH, workers=0, epochs=EPOCHS) | FLAGS.get(name, {}) | flags
        assert own.keys() - vars(args).keys() <= {"unimodal_loss", "modulate_during"}
        vars(args).update(own)
        model = tiny_model(modalities, args.fusion)
        method = method_of(name)(args, model)
        run = tiny_run(model.double(), args, modalities, count=N)  # the heads are not double yet
        if method.held_out:
            run.plain, run.held_out = TinyData(modalities, N), TinyData(modalities, WITHHELD, seed=1)
        method.on_fit_start(run)
        return method, run

    return begin
