"""With traces of a few steps the windows change between steps, and not within one."""

import pytest
from helpers.contract import BATCH

from engine.train import step
from inforeg.window import PrimeWindow
from methods import METHODS


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.modulates])
def test_all_of_a_step_sees_the_same_windows(begin, tiny_batch, monkeypatch, name):
    method, run = begin(name, window="accumulated", window_every=2, window_smoothing=1, start_epoch=1, threshold=0.3)
    history = {modality: [1.0] for modality in method.model.modalities}  # an epoch, past every warm-up
    method.trace.load_state_dict({"history": history, "periods": {modality: [] for modality in history}})
    run.epoch = 1
    method.on_epoch_start(run)
    admits, asked = PrimeWindow.admits, []

    def watched(window, modality, during):
        asked[-1].add((modality, admits(window, modality, "prime")))
        return admits(window, modality, during)

    monkeypatch.setattr(PrimeWindow, "admits", watched)
    for number in range(12):
        asked.append(set())
        step(run, method, tiny_batch(method.model.modalities, BATCH, seed=number))
    for answers in asked:
        assert len(answers) == len(dict(answers)), answers  # one answer for each modality
    assert {is_open for answers in asked for _, is_open in answers} == {True, False}
