"""How ckptkit gets into the loop over the batches in ``fit``: in front of each step, and of what it goes over.

    epochs = epoch_iterator(on_train_begin_frame)
    position = InputPosition(dataset_of(epochs))
    InputHooks(epochs, position, ...)           # sees each iterator, each step, and may skip the first ones

Both Kerases have what is asked for here, each in its own way: :mod:`ckptkit.input_hooks2`, :mod:`ckptkit.input_hooks3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptkit.which_keras import IS_LEGACY

if TYPE_CHECKING or not IS_LEGACY:
    from ckptkit.input_hooks3 import InputHooks, dataset_of, facts_of, replay_epochs, sequence_of
else:
    from ckptkit.input_hooks2 import InputHooks, dataset_of, facts_of, replay_epochs, sequence_of

__all__ = ["InputHooks", "dataset_of", "facts_of", "replay_epochs", "sequence_of"]
