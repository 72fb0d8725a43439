"""Uses what was published: rows in, predictions out, on one process. Run as `python -m peftjob_trainer.predict`.

`inputs` reads the rows, `loading` brings base and adapter into memory, `tasks` has a predictor for each kind of task:
`writers` of texts, `classifiers`.
"""

from .inputs import Inputs, read_inputs
from .loading import Loaded, load
from .tasks import PREDICTORS, predict

__all__ = ["PREDICTORS", "Inputs", "Loaded", "load", "predict", "read_inputs"]
