"""A machine whose memory ends at the third step of a model with dropout 0.5; on PYTHONPATH."""

import importlib.abc
import importlib.util
import sys
from types import ModuleType


class Finder(importlib.abc.MetaPathFinder):
    """Changes the learner when it is first imported, in whichever process that is."""

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != "tintlab.training.learner":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            optimize = module.Learner.optimize

            def starved(self: object, batches: object, step: int, lr: float, stop: bool) -> object:
                if self.config.model.dropout == 0.5 and step == 2:
                    raise MemoryError("simulated")
                return optimize(self, batches, step, lr, stop)

            module.Learner.optimize = starved

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
