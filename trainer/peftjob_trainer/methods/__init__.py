"""Methods of adaptation, one module each with the same three functions; chosen by `spec.method.type`.

`inject(model, spec, head, seed)` returns the model with new trainable parameters, the same on all ranks;
`trainable(model)` names them; `save(model, folder, base, revision)` writes them in the PEFT layout.
"""

from types import ModuleType

from peftjob_api.spec import MethodSpec

from . import lora

_METHODS: dict[str, ModuleType] = {"LoRA": lora}


def method_of(spec: MethodSpec) -> ModuleType:
    """Return the module of a method."""
    return _METHODS[spec.type]
