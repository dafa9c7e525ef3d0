"""See every attention call of some modules, with its real q, k, mask and scale; change nothing but the scale.

Forward hooks say *where* we are; between them ``F.scaled_dot_product_attention`` itself is seen, and so is
``get_attention_scores`` of modules that compute their map by hand. Knows torch modules, and no models.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bindings import bound_names
from .byhand import see_by_hand
from .calls import AttentionCall
from .compiled import compiled_parts, see_compile, write_out, written
from .copies import mark, owner_of_state, states, without_watchers
from .forwards import Forward, here, running
from .interception import (
    Frame,
    Interception,
    OnAttention,
    OnForward,
    OnOutput,
    ReadInputs,
    active,
    computes_again,
    reason_of,
    stood_in_for,
)
from .multihead import other_keys, see_multihead
from .own import own_tokens
from .products import hand_on
from .roles import forget, forget_what_may_change
from .seen import SeenScores, see_functions
from .shared import Shared, Undo, replaced
from .slices import drop, finish, held

__all__ = ["AttentionCall", "Interception", "intercept", "looks_like_attention", "watch_root"]

PROJECTIONS = ("q", "k", "v", "wq", "wk", "wv", "query", "key", "value")
"""Words in names of the parts of an attention layer."""

lock = threading.Lock()
functions, scores, compilers = Shared(), Shared(), Shared()
"""Functions of PyTorch that are seen, modules whose ``get_attention_scores`` is, and what compiles."""


def looks_like_attention(module: nn.Module) -> bool:
    """Whether a module is, by its class and its parts, an attention layer (rather than a block that holds some)."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    classes = [own.__name__.lower() for own in type(module).__mro__]
    classes += [str(getattr(module, "original_name", "")).lower()]  # of TorchScript
    named = any(("atten" in name or "attn" in name) and "processor" not in name for name in classes)
    words = {word for name, _ in module.named_children() for word in re.split(r"[_\d]", name.lower())}
    projections = len(words & set(PROJECTIONS))
    fused = any(is_fused(*child) for child in module.named_children())
    return named and (hasattr(module, "processor") or hasattr(module, "to_q") or fused or projections > 1)


def is_fused(name: str, child: nn.Module) -> bool:
    """Whether a part of an attention layer makes queries, keys and values at once: "qkv", "Wqkv", "c_attn"."""
    words = re.split(r"[_\d]", name.lower())
    is_matrix = getattr(getattr(child, "weight", None), "ndim", 0) == 2
    return "qkv" in words or "wqkv" in words or ("attn" in words and is_matrix)


watchers: "WeakKeyDictionary[nn.Module, list[Interception]]" = WeakKeyDictionary()
"""Who watches a module with a fast path; the last one shows its call to all, once all know that it runs."""

FAST = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
"""Modules that take a fast path, which gives padding other values, unless they are followed."""


@contextmanager
def intercept(
    roots: Mapping[str, nn.Module],
    on_attention: OnAttention,
    *,
    on_forward: OnForward | None = None,
    on_output: OnOutput | None = None,
    read_inputs: ReadInputs | None = None,
    rescales: bool = False,
) -> Iterator[Interception]:
    """Call ``on_attention`` for every attention call made inside ``roots``, while the context lasts.

    Compiled modules in ``roots`` run as they were written meanwhile, for a compiled graph holds no calls that could be
    seen. Where such a module runs inside of somebody's compiled function its attention is named as unseen.

    Args:
        roots: name -> module whose attention is of interest; layers are named by path from there.
        on_attention: gets an AttentionCall; with ``rescales``, what it returns multiplies the scale: a float, or one
            factor per head as a tensor (heads,); None changes nothing.
        on_forward: called as (name, root, inputs) whenever a root's forward begins.
        on_output: called as (name, root, output) whenever a root's forward has ended.
        read_inputs: called as (root, args, kwargs), says what a root's arguments are; without it, ``on_forward`` is not
            called, and nothing is known of what tokens stand for.
        rescales: whether ``on_attention`` may change the scale. Such interceptions come first, so that all others see
            the scale that the model then uses.
    """
    interception = Interception(on_attention, on_forward, on_output, read_inputs, rescales, tuple(roots))
    for root in roots.values() if not active else ():
        forget_what_may_change(root)
    with ExitStack() as stack:
        for name, root in roots.items():
            watch_root(interception, stack, name, root)
        stack.enter_context(activated(interception))
        stack.enter_context(bound_names(roots))
        stack.callback(end_forward, interception, whole=False)
        yield interception


@contextmanager
def activated(interception: Interception) -> Iterator[None]:
    """Have an interception told of what is seen, those that rescale first."""
    with functions.changed(F, see_functions), compilers.changed(torch, partial(see_compile, is_watched)):
        with lock:
            active.append(interception)
            active.sort(key=lambda other: not other.rescales)
        try:
            yield
        finally:
            with lock:
                active.remove(interception)


def is_watched(module: nn.Module) -> bool:
    """Whether anybody watches a module, or a part of it."""
    return any(part in interception.watched for interception in active for part in module.modules())


def see_scores(module: Any) -> Undo:
    """Let a module's ``get_attention_scores`` be seen."""
    return replaced(module, "get_attention_scores", SeenScores(module))


def watch_root(interception: Interception, stack: ExitStack, name: str, root: nn.Module) -> None:
    """Hook the modules of a root that are not hooked yet, until ``stack`` is closed."""
    new = [each for each in root.named_modules(prefix=name) if each[1] not in interception.watched]
    if interception in active:
        forget(root)
    for owner in {owner_of_state(type(module)) for _, module in new}:
        stack.enter_context(states.changed(owner, without_watchers))
    for path, module in new:
        interception.watched.add(module)
        if module in written or compiled_parts(module):
            stack.enter_context(written.changed(module, write_out))
        watch(interception, stack, path.replace("._orig_mod", ""), module, is_root=module is root)


def watch(interception: Interception, stack: ExitStack, path: str, module: nn.Module, is_root: bool) -> None:
    """Hook one module.

    The hooks fall away once the module has run without attending, unless it is an attention layer: so only attention
    layers are hooked from the second forward on.
    """
    is_script = isinstance(module, torch.jit.ScriptModule)
    suspicious = any(looks_like_attention(part) for part in (module.modules() if is_script else (module,)))
    handles: list[Any] = []
    told: dict[int, bool] = {}
    if fast := isinstance(module, FAST):
        watchers.setdefault(module, []).append(interception)
        stack.callback(watchers[module].remove, interception)
    if hasattr(module, "get_attention_scores") and hasattr(module, "heads"):
        stack.enter_context(scores.changed(module, see_scores))

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch.compiler.is_compiling():  # a compiled function calls the module
            if suspicious:
                interception.unseen[path] = "runs inside of a compiled function, in which attention calls can't be seen"
            return
        if is_root and not computes_again():
            interception.blind = None
            try:
                begin_forward(interception, path, module, args, kwargs)
            except Exception as problem:
                interception.blind = reason_of(problem)
        if held.calls:
            drop(module)
        skipped = bool(stood_in_for) and module in stood_in_for
        frame = Frame(path, module, None, (args, kwargs), suspicious, skipped=skipped)
        if is_script:
            frame.why = "is TorchScript, in which attention calls can't be seen"
        interception.local.frames.append(frame)
        try:
            frame.context = context_tokens(module, args, kwargs, told)
            if fast:
                prepare(module, args, kwargs)
        except Exception as problem:
            interception.fail(problem)

    def prepare(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if watchers[module][-1] is not interception or computes_again():
            return
        if isinstance(module, nn.MultiheadAttention):
            see_multihead(module, args, kwargs)
        if (forward := running()) is not None:
            forward.pause()

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        frames = interception.local.frames
        if not frames or frames[-1].module is not module:
            return
        if computes_again():
            drop(module)
            frames.pop()
            return
        if output is not None and held.calls:
            try:
                finish(module)
            except Exception as problem:
                interception.fail(problem)
        if fast and watchers[module][-1] is interception and (forward := running()) is not None:
            forward.go_on()
        try:
            if frames[-1].softmaxes:
                see_by_hand(interception)
        except Exception as problem:
            interception.fail(problem)
        frame = frames.pop()
        if frame.maps and output is not None:
            try:
                hand_on(interception, frame.maps)
            except Exception as problem:
                interception.fail(problem)
        if suspicious and not frame.seen and output is not None:
            if not frame.skipped:
                interception.miss(frame)
        elif not frame.attended and not suspicious and not is_root and not fast:
            for handle in handles:
                handle.remove()
        if is_root:
            try:
                end_forward(interception, whole=output is not None)
                if interception.on_output is not None and output is not None and interception.blind is None:
                    interception.on_output(path, module, output)
            except Exception as problem:
                interception.lose(path, reason_of(problem))
            if interception.blind is not None and output is not None:
                interception.lose(path, interception.blind)

    mark(enter, leave)
    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
    stack.callback(handles[0].remove)
    handles.append(module.register_forward_hook(leave, always_call=True))
    stack.callback(handles[1].remove)


def begin_forward(interception: Interception, path: str, root: nn.Module, args: tuple, kwargs: dict) -> None:
    """A root begins a forward: the first interception to know of it reads its inputs, and follows them."""
    interception.frames.clear()
    if interception.read_inputs is None:
        return
    forward = running()
    begun = forward is None or forward is interception.local.begun
    if forward is None or begun or all(part is not root for part in forward.root.modules()):
        end_forward(interception, whole=False)
        abandon()
        forward = here.forward = Forward(root, interception.read_inputs(root, args, kwargs))
        interception.local.begun = forward
    if interception.on_forward is not None:
        same = forward.root is root
        with torch._C.DisableTorchFunction():
            inputs = forward.inputs if same else interception.read_inputs(root, args, kwargs)
            interception.on_forward(path, root, inputs)


def abandon() -> None:
    """End a forward that seems to run in this thread: an exception ended it unseen."""
    forward, here.forward = running(), None
    if forward is not None:
        forward.end(whole=False)


def end_forward(interception: Interception, whole: bool) -> None:
    """End the forward that this interception began in this thread, if there is one."""
    begun = interception.local.begun
    interception.local.begun = None
    if isinstance(begun, Forward) and running() is begun:
        here.forward = None
        begun.end(whole)
        if (failure := begun.layout.failure) is not None:
            for other in (other for other in active if begun.root in other.watched):
                other.untold.setdefault(type(begun.root).__name__, failure)


def leave_all(interception: Interception) -> None:
    """Forget the modules that seem to run in this thread: an exception may have ended them unseen."""
    interception.frames.clear()
    drop()
    end_forward(interception, whole=False)


def context_tokens(module: nn.Module, args: tuple, kwargs: dict, told: dict[int, bool]) -> int | None:
    """How many tokens a forward was handed to attend to, other than its own once more."""
    if isinstance(module, nn.MultiheadAttention):
        return other_keys(module, args, kwargs, told)
    context = kwargs.get("encoder_hidden_states", kwargs.get("key_value_states"))
    if not isinstance(context, Tensor) or context is own_tokens(args, kwargs) or context.ndim < 2:
        return None
    return int(context.shape[-2])
