"""Several LoRA adapters on one frozen base, used one at a time. The reference model is "no adapter"."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from bbdistill.student.lora import compute_in_base_dtype, factors_cast_once
from bbdistill.student.model import Base


class Adapters:
    """Adapters on every linear layer but the output head, in float32; at first they change nothing (B = 0).

    All forwards run inside `with adapters.use(...)`. A graph must be back-propagated before its block ends: switching
    adapters flips `requires_grad` under it, and its gradient would be lost without a word. Hence blocks never nest.
    """

    def __init__(self, base: Base, names: Sequence[str], *, rank: int, alpha: int, seed: int) -> None:
        """The same `seed` gives the same adapters, whatever was drawn before; the global generator stays as it was."""
        self._model = _inject(base, names, rank, alpha, seed)
        self._parameters = {name: _of(self._model, name) for name in names}
        everything = [id(parameter) for name in names for parameter in self._parameters[name]]
        assert len(everything) == len(set(everything)), "adapters share parameters"
        self._in_use = False
        self._freeze()

    @contextmanager
    def use(self, name: str | None, *, train: bool = False) -> Iterator[None]:
        """Runs the base with adapter `name`, or as the reference (None); a graph is recorded only with `train`."""
        assert not self._in_use, f"an adapter is in use already; finish its block before using {name!r}"
        assert name is not None or not train, "the reference has nothing to train"
        self._in_use = True
        try:
            if name is None:
                with self._model.disable_adapter(), torch.no_grad():
                    yield
            else:
                self._model.set_adapter(name)
                for parameter in self._parameters[name]:
                    parameter.requires_grad_(train)
                frozen = nullcontext() if train else factors_cast_once(self._model, name)
                with torch.set_grad_enabled(train), frozen:
                    yield
        finally:
            self._freeze()
            self._in_use = False

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The trainable tensors of one adapter; no tensor is in two lists."""
        return self._parameters[name]

    def config(self, name: str) -> LoraConfig:
        return _config(self._model, name)

    def state(self, name: str) -> dict[str, Tensor]:
        """A copy of one adapter on the CPU, under the names that PEFT gives to an adapter file."""
        state = get_peft_model_state_dict(self._model, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.detach().cpu().clone() for key, tensor in state.items()}

    def load_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """The reverse of `state`."""
        own = self.state(name)
        assert own.keys() == state.keys(), f"{len(own)=} {len(state)=}"
        set_peft_model_state_dict(self._model, dict(state), adapter_name=name)
        self._freeze()

    def copy(self, source: str, to: str, *, share: float = 1.0) -> None:
        """Makes adapter `to` what `source` is now, or takes it so far of the way there."""
        with torch.no_grad():
            for mine, theirs in zip(self._parameters[to], self._parameters[source], strict=True):
                mine.lerp_(theirs, share)

    def _freeze(self) -> None:
        # PEFT makes whatever it activates trainable, so this follows each of its calls.
        for parameters in self._parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(False)


def _inject(base: Base, names: Sequence[str], rank: int, alpha: int, seed: int) -> PeftModel:
    def lora(targets: str | list[str]) -> LoraConfig:
        return LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # PEFT draws on the CPU, whatever the device
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's to mend
        torch.manual_seed(seed)
        model = get_peft_model(base.model, lora("all-linear"), adapter_name=names[0])
        # "all-linear" would now find PEFT's own layers; the first adapter has resolved it to the model's.
        assert isinstance(model, PeftModel), f"{type(model)=}"
        targets = sorted(_config(model, names[0]).target_modules or ())
        for name in names[1:]:
            model.add_adapter(name, lora(targets))
        compute_in_base_dtype(model, names)
    return model.eval()


def _config(model: PeftModel, name: str) -> LoraConfig:
    config = model.peft_config[name]
    assert isinstance(config, LoraConfig), f"{type(config)=}"
    return config


def _of(model: nn.Module, name: str) -> list[nn.Parameter]:
    pattern = re.compile(rf"\.lora_[AB]\.{name}\.weight$")
    found = [parameter for path, parameter in model.named_parameters() if pattern.search(path)]
    assert found, f"no parameters of adapter {name!r}"
    assert all(parameter.dtype == torch.float32 for parameter in found), "adapters must be float32"
    return found
