"""The state of modules in the forward pass, for the recomputation in the backward pass."""

from typing import Any

from torch import nn

from inception_zoo.errors import ZooError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
STATE = ("training", "lean", "_parameters", "_buffers", "_modules", *HOOKS)  # attributes of a module


class Snapshot:
    """The state of `run` and its modules now. Inside the context they have it again; it can be entered any number of times.

    A recomputation then gives the feature maps of the forward pass, even after ``model.eval()`` or outside
    ``torch.func.functional_call``. Its updates of buffers are discarded: the running statistics already include the batch.
    """

    def __init__(self, run: nn.Module) -> None:
        modules = list(run.named_modules())
        self.modules = [vars(module) for _, module in modules]
        self.states = [{key: _copy(own[key]) for key in STATE if key in own} for own in self.modules]
        self.read = [  # by the forward pass; in training mode, it changes buffers
            (f"{place}.{name}", tensor, tensor._version, tensor.requires_grad)
            for (place, _), own in zip(modules, self.modules, strict=True)
            for kind in (("_parameters",) if own["training"] else ("_parameters", "_buffers"))
            for name, tensor in own[kind].items()
            if tensor is not None
        ]

    def __enter__(self) -> None:
        """Restore the state.

        Raises:
            ZooError: A tensor was changed in place.
        """
        for name, tensor, version, _ in self.read:
            if tensor._version != version:
                raise ZooError(
                    f"model.memory=lean or minimal: '{name.lstrip('.')}' was changed between the forward and the backward "
                    "pass, which recomputes feature maps with it; change it after backward()"
                )
        self.present = [{key: own[key] for key in state} for own, state in zip(self.modules, self.states, strict=True)]
        self.learning = [tensor.requires_grad for _, tensor, *_ in self.read]
        for own, state in zip(self.modules, self.states, strict=True):
            own.update(state)
            if state["_buffers"]:
                own["_buffers"] = {name: None if each is None else each.clone() for name, each in state["_buffers"].items()}
        self._set_learning([each for *_, each in self.read])

    def __exit__(self, *_: object) -> None:
        self._set_learning(self.learning)
        for own, state in zip(self.modules, self.present, strict=True):
            own.update(state)

    def _set_learning(self, learning: list[bool]) -> None:
        for (_, tensor, *_), wanted in zip(self.read, learning, strict=True):
            if tensor.requires_grad != wanted:
                tensor.requires_grad_(wanted)


def _copy(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {**value} if value else {}  # most are empty: a third of the time
