"""What watching may change, as it is now: of modules, of a pipeline, and of the process."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from entropylab.capture import session
from entropylab.capture.forwards import running
from entropylab.pipelines.following import process_wide


def attentions(*models):
    """Modules that have a processor."""
    return [part for model in models for part in model.modules() if getattr(part, "processor", None) is not None]


def state(*modules):
    """Everything that looking might have changed, as it is now."""
    parts = [part for module in modules for part in module.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts]
    own = [sorted({"forward", "get_attention_scores"} & set(vars(part))) for part in parts]
    functions = (F.scaled_dot_product_attention, torch.softmax, F.softmax, flex.flex_attention)
    functions += (torch.matmul, torch.bmm, torch.baddbmm, torch.einsum)
    methods = ("softmax", "matmul", "__matmul__", "bmm", "baddbmm")
    inherited = [(name in vars(Tensor), getattr(Tensor, name)) for name in methods]
    backends = [vars(part.processor).get("_attention_backend") for part in attentions(*modules)]
    return (
        hooks,
        own,
        functions,
        inherited,
        backends,
        process_wide(),
        torch._C._len_torch_function_stack(),
        len(session.observers),
        len(session.places),
        len(session.known),
        running(),
    )


def state_of_pipeline(pipe):
    """Of a Stable Diffusion pipeline: its U-Net, the processors in it, and its scheduler."""
    processors = {name: type(processor) for name, processor in pipe.unet.attn_processors.items()}
    return state(pipe.unet), processors, type(pipe.scheduler), sorted(vars(pipe.scheduler))
