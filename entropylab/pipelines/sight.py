"""What is known of the image that a pipeline is sampling: its size, its latent size, its tokens."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.module import register_module_module_registration_hook

from ..capture import Inputs, Observer, intercept, session, watch_root
from ..capture.changes import MARK, changed
from ..capture.regions import part_hooks
from ..capture.session import OnAttention
from ..errors import EntropyLabError
from ..files import interrupted_later
from ..sizes import Size
from .arguments import inputs_of
from .following import follow, see_parts
from .structure import conditioners, default_size, denoisers, vae_factor

FRAMES = ("num_frames", "frames", "video_length")
"""What pipelines call the number of frames of a video."""


class Sight:
    """Follows a pipeline for the size that it samples: `following.follow` tells it what happens."""

    def __init__(self, pipe: Any, beside: bool = False) -> None:
        self.pipe = pipe
        self.beside = conditioners(pipe) if beside else None  # what runs beside a denoiser, if that is watched too
        self.roots = denoisers(pipe) | (self.beside or {})  # name -> module of what is watched, as it is now
        self.stale = False  # whether some module has got other parts since they were last looked through
        self.catch_up: Callable[[], None] | None = None  # follows what has joined the pipeline, while it is observed
        self.asked: dict[str, Any] = {}  # the arguments of the pipeline's call, while it runs
        self.calling: list[tuple[Any, ...]] = []  # of each call that runs (a callback may call), what was known before
        self.size: Size | None = None  # (height, width) that it was asked for [pixels], if it was
        self.frames: int | None = None  # how many frames it was asked for, if it samples videos
        self.factor = vae_factor(pipe)  # pixels per latent pixel along one side, of the denoiser that ran last
        self.factors: dict[nn.Module, float] = {}  # the same by denoiser
        self.latent: Size | None = None  # latent size of the denoiser's input, as far as it is known
        self.latents: int | None = None  # how many tokens the image has, where it comes as tokens and no grid
        self.volume: int | None = None  # how many numbers one image's latents are, where the pipeline has made them
        self.prompt: Tensor | None = None  # what the prompt was encoded as, (samples, tokens, channels), if certain
        self.observer: Observer | None = None  # who looks

    @property
    def looks_away(self) -> bool:
        """Whether what the pipeline does now is of no interest."""
        return False

    def leave(self) -> None:
        """No denoiser runs: Ctrl-C ends modules unseen."""
        if self.observer is not None:
            session.leave(self.observer)

    def on_parts(self) -> None:
        """The pipeline may have other parts than before."""
        self.factor = vae_factor(self.pipe)
        self.factors.clear()
        if self.catch_up is not None:
            self.catch_up()

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called with these arguments, by name: they may name the size."""
        self.leave()
        self.calling.append((self.asked, self.size, self.frames, self.latents, self.volume, self.prompt))
        self.asked, self.latents, self.volume, self.prompt = arguments, None, None, None
        self.frames = frames_in(arguments)
        height, width = (side_of(arguments.get(name)) for name in ("height", "width"))
        usual = default_size(self.pipe) or (None, None)
        self.size = pair_of(height or usual[0], width or usual[1]) if height or width else None

    def on_end(self, failed: bool) -> None:
        """The pipeline's call is over; ``failed`` if by an exception."""
        self.leave()
        before = self.calling.pop() if self.calling else ({}, None, None, None, None, None)
        self.asked, self.size, self.frames, self.latents, self.volume, self.prompt = before

    def on_set(self, arguments: dict[str, Any], _: None) -> None:
        """The pipeline is given an attribute, the last argument."""
        value = list(arguments.values())[-1]
        if isinstance(value, nn.Module) or hasattr(value, "set_timesteps"):
            self.on_parts()

    def on_latents(self, arguments: dict[str, Any], latents: Any) -> None:
        """The pipeline has made its latents: where they are tokens, they tell how many belong to the image.

        It may make them for another size than it was asked for, and says so by name, some in latent pixels.
        """
        if not isinstance(latents, Tensor):
            return
        self.latents = latents.shape[1] if latents.ndim == 3 else None
        self.volume = latents[0].numel()
        self.frames = self.frames or frames_in(arguments)
        size = pair_of(*(side_of(arguments.get(name)) for name in ("height", "width")))
        in_pixels = latents.ndim == 3 or self.factor == 1 or size != tuple(latents.shape[-2:])
        if size is not None and in_pixels and (self.size is not None or latents.ndim == 3):
            self.size = size
        fits = self.latent_of(self.size) in (None, tuple(latents.shape[-2:]), tuple(latents.shape[-3:-1]))
        if latents.ndim > 3 and self.factor > 1 and not fits:  # latents were given, or Kandinsky rounds what is asked
            self.size = round(latents.shape[-2] * self.factor), round(latents.shape[-1] * self.factor)

    def on_encoded(self, arguments: dict[str, Any], found: Any) -> None:
        """The pipeline has encoded a prompt, with these arguments; kept if it is its own and not what to avoid."""
        if self.prompt is None and isinstance(found, Tensor) and is_prompt(self.asked, arguments):
            self.prompt = found

    def on_timesteps(self, arguments: dict[str, Any]) -> None:
        """A scheduler is asked to set its timesteps: sampling begins."""
        self.leave()

    def on_step(self, arguments: dict[str, Any]) -> None:
        """A scheduler makes a step with a ``sample``, by ``model_output``, what the pipeline made of the denoiser's."""
        self.leave()

    def on_failure(self, problem: Exception) -> None:
        """Something went wrong in telling any of this, which must not end the pipeline's own work."""
        if self.observer is not None:
            self.observer.fail(problem)

    def read_inputs(self, root: nn.Module, args: tuple, kwargs: dict) -> Inputs:
        """What a denoiser's forward was handed."""
        if self.stale:
            self.on_parts()
        return inputs_of(root, args, kwargs, self.latents, self.prompt)

    def meet(self, root: nn.Module, inputs: Inputs) -> None:
        """A denoiser begins a forward pass: its input may be a grid, else the size asked for tells what it would be."""
        if self.stale:
            self.on_parts()
        if root not in self.factors:
            self.factors[root] = vae_factor(self.pipe, root)
        self.factor = self.factors[root]
        asked = self.latent_of(self.size or self.usual_size(inputs))
        shape = inputs.image[0].shape if inputs.image else ()
        has_channels_last = asked is not None and asked == tuple(shape[-3:-1])
        self.latent = asked if has_channels_last else inputs.latent_size or asked

    def usual_size(self, inputs: Inputs) -> Size | None:
        """The size that the pipeline samples untold; where none of its calls runs, if the image is as large."""
        usual = default_size(self.pipe)
        latent = self.latent_of(usual)
        if self.calling or latent is None or not inputs.image:
            return usual
        channels = getattr(getattr(getattr(self.pipe, "vae", None), "config", None), "latent_channels", None)
        numbers = sum(part.numel() for part in inputs.image) // inputs.batch
        return usual if channels and numbers == channels * latent[0] * latent[1] else None

    def latent_of(self, size: Size | None) -> Size | None:
        """The latent size of an image of this size [pixels]."""
        if size is None:
            return None
        if self.factor % 1:
            return math.ceil(size[0] / self.factor), math.ceil(size[1] / self.factor)
        return size[0] // self.factor, size[1] // self.factor  # type: ignore[return-value]

    def trained_latent(self, size: Size | None) -> Size | None:
        """The latent size at the training ``size`` [pixels], of as many pictures side by side as there are now.

        DreamLite denoises a picture beside another one, as a grid that is twice as wide as the picture asked for.
        None if the pipeline does not say how large its latents are: it may be without its autoencoder.
        """
        trained, asked = self.latent_of(size), self.latent_of(self.size)
        if trained is None or asked is None or self.latent in (None, asked):
            return trained
        if self.factor == 1:
            return None
        down, across = (now / side for now, side in zip(self.latent, asked, strict=True))
        if min(down, across) != 1 or not max(down, across).is_integer():
            return trained
        return trained[0] * int(down), trained[1] * int(across)

    def size_of_latent(self) -> Size | None:
        """The size of an image of the current latent size [pixels]."""
        if self.latent is None:
            return None
        height, width = self.latent[0] * self.factor, self.latent[1] * self.factor
        return (round(height), round(width)) if self.factor % 1 else (height, width)  # type: ignore[return-value]


def side_of(value: Any) -> int | None:
    """A height or width that a call is given: a whole number, as diffusers takes them, or None."""
    try:
        return None if value is None or isinstance(value, str) else int(value)
    except (OverflowError, TypeError, ValueError):  # a list, or a tensor of several
        return None


def frames_in(arguments: dict[str, Any]) -> int | None:
    """How many frames a pipeline is asked for, if it is."""
    return next((count for name in FRAMES if (count := side_of(arguments.get(name)))), None)


def pair_of(height: int | None, width: int | None) -> Size | None:
    """A size, if both sides are known."""
    return None if height is None or width is None else (height, width)


def is_prompt(asked: dict[str, Any], encoded: dict[str, Any]) -> bool:
    """Whether a pipeline that was ``asked`` this, and encodes that, encodes its prompt and not the negative one."""
    for name in ("prompt", "prompt_embeds"):
        texts = asked.get(name), asked.get(f"negative_{name}"), encoded.get(name)
        given, negative, now = ([text] if isinstance(text, str) else text for text in texts)
        if now is not None:
            if all(text is None or isinstance(text, list) for text in (given, negative, now)):
                return now == given and now != negative
            return now is given and now is not negative
    return False


@contextmanager
def observed(sight: Sight, on_attention: OnAttention, **told: Any) -> Iterator[Observer]:
    """Intercept the attention of a pipeline's denoisers while it is followed, until the context ends.

    A denoiser or scheduler that takes the place of another meanwhile is followed as well, and so is a layer. ``told``
    are further arguments of ``capture.intercept``. Ctrl-C finds all of that begun, or all of it ended.
    """
    with ExitStack() as stack:

        def catch_up() -> None:
            with interrupted_later():
                follow(stack, sight.pipe, sight)
                for name, root in joined(sight).items():
                    sight.roots[name] = root
                    try:
                        see_parts(stack, {name: root})
                    except EntropyLabError as problem:
                        observer.lose(name, str(problem))
                    watch_root(observer, stack, name, root)
                sight.stale = False

        with interrupted_later():
            see_parts(stack, sight.roots)
            follow(stack, sight.pipe, sight)
            observer = stack.enter_context(intercept(sight.roots, on_attention, read_inputs=sight.read_inputs, **told))
            sight.observer, sight.catch_up = observer, catch_up
            stack.callback(setattr, sight, "catch_up", None)
            stack.enter_context(changed(part_hooks, see_registration))
            looking.append(sight)
            stack.callback(looking.remove, sight)
        try:
            yield observer
        finally:
            with interrupted_later():
                stack.close()


looking: list[Sight] = []
"""Who looks now."""


def on_registration(module: nn.Module, name: str, part: nn.Module | None) -> None:
    """A module gets a part: it is seen before it runs next."""
    if not is_dynamo_compiling():
        for sight in tuple(looking):
            sight.stale |= sight.observer is not None and module in sight.observer.watched


setattr(on_registration, MARK, True)


@cache
def number_of_hook() -> int:
    """The number of ours among hooks; always the same, for what others compile holds for it alone."""
    handle = register_module_module_registration_hook(on_registration)
    handle.remove()
    return handle.id


@contextmanager
def see_registration(hooks: dict[int, Any]) -> Iterator[None]:
    """Put our hook among others."""
    hooks[number_of_hook()] = on_registration
    try:
        yield
    finally:
        hooks.pop(number_of_hook(), None)


def joined(sight: Sight) -> dict[str, nn.Module]:
    """What denoises and is not watched yet, as what only wraps what is watched is, or has got other parts since."""
    try:
        now = denoisers(sight.pipe)
        if sight.beside is not None:
            sight.beside = conditioners(sight.pipe)
            now |= sight.beside
    except EntropyLabError:  # nothing denoises, for the moment
        return {}
    found = {}
    for name, root in now.items():
        watched = sight.roots.get(name)
        is_new = watched is None or all(part is not watched for part in root.modules())
        if is_new or sight.stale:
            found[name] = root if is_new or watched is None else watched
    return found
