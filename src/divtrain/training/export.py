"""Models for other runtimes: programs of torch.export, and ONNX; each checked before it is written.

What is exported answers as the model does, with free batch size: an ensemble with the log of its
members' mean softmax, or as it aggregates.
"""

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError, first_line
from divtrain.files import make_folder, write_bytes
from divtrain.logits import ask, check_logits
from divtrain.models import Normalized

CLOSE = 1e-5
"""How far an exported model's answers may be from the model's, relative and absolute."""
CHECKED = (1, 2, 7)
"""Batch sizes that are tried."""


def export_model(model: nn.Module, path: str | Path, image: tuple[int, int, int]) -> float:
    """Write a model as a ``.pt2`` (`torch.export.load`) or ``.onnx`` file, of any batch size.

    The file is read again, for ONNX by onnxruntime, and its answers on random images compared with
    the model's before it is put in place.

    Args:
        model: A module from images in [0, 1] to logits; exported in eval mode, and left as it is.
        path: File to write, completely or not at all.
        image: Channels, height and width of an image.

    Returns:
        The largest difference of an answer that was seen.

    Raises:
        DivtrainError: for another ending, a model that does not map such images to logits or that
            torch cannot export, answers that differ by more than 1e-5, or a library that is not
            installed.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise DivtrainError(f"expected a file ending in .pt2 or .onnx, got {path.name!r}")
    serialise, read = WRITERS[path.suffix]
    frozen = _Asked(_copied(model)).cpu().eval().requires_grad_(False)
    frozen.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(size, *image, generator=generator) for size in CHECKED]
    with torch.no_grad():
        expected = [_answer(frozen, batch) for batch in batches]
        content = serialise(_export(frozen, batches[-1]))
    answers = read(content)
    largest = 0.0
    for batch, own in zip(batches, expected, strict=True):
        answer = answers(batch)
        largest = max(largest, (answer - own).abs().max().item())
        if not torch.allclose(answer, own, rtol=CLOSE, atol=CLOSE):
            raise DivtrainError(
                f"what was exported to {path.name} answers otherwise than the model, by up to"
                f" {largest:.2g}, and was not written: does the model draw at random, or look at"
                " its batch?"
            )
    make_folder(path.parent)
    write_bytes(path, content)
    return largest


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images of a model that `divtrain.models` built.

    Raises:
        DivtrainError: for any other model.
    """
    members = model.members if isinstance(model, Ensemble) else [model]
    for member in members:
        if isinstance(member, Normalized):
            size = member.architecture.image_size
            height, width = (size, size) if isinstance(size, int) else size
            return member.architecture.in_channels, height, width
    raise DivtrainError(
        "the model does not say what images it takes: give channels, height and width as `image`,"
        " such as 3 32 32"
    )


class _Asked(nn.Module):
    """A model that leaves its images as they are and returns its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return ask(self.model, x)


def _copied(model: nn.Module) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        raise DivtrainError(
            "expected a module of Python's, got TorchScript, which torch.export does not take:"
            " export the module that was scripted or traced"
        )
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise DivtrainError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}. Are some of its weights"
            " computed from others, by pruning or an old weight_norm? Make them permanent first,"
            " such as with torch.nn.utils.prune.remove"
        ) from error


def _answer(asked: _Asked, images: Tensor) -> Tensor:
    try:
        answer = asked(images)
        check_logits(answer, len(images))
    except DivtrainError:
        raise
    except Exception as error:  # somebody else's code: it may raise anything
        raise DivtrainError(
            f"{type(asked.model).__name__} does not map images of the shape of `image`,"
            f" {tuple(images.shape[1:])}, to logits: {first_line(error)}"
        ) from error
    return answer


def _export(asked: _Asked, images: Tensor) -> ExportedProgram:
    free = ({0: torch.export.Dim("batch", min=1, max=2**20)},)
    try:
        return torch.export.export(asked, (images,), dynamic_shapes=free)
    except Exception as error:  # of many kinds, from the model's code or torch's
        raise DivtrainError(
            f"torch.export cannot take {type(asked.model).__name__} apart: {type(error).__name__}:"
            f" {first_line(error)}; its forward must be made of torch's operations, for any batch"
            " size"
        ) from error


def _to_pt2(program: ExportedProgram) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _from_pt2(content: bytes) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


def _to_onnx(program: ExportedProgram) -> bytes:
    try:
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DivtrainError(
            f"ONNX needs {error.name}, which is not installed: pip install --editable '.[onnx]' in"
            " a clone"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own parts
        made = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
    assert made is not None  # as of every exporter of programs
    return made.model_proto.SerializeToString()


def _from_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


Writer = tuple[Callable[[ExportedProgram], bytes], Callable[[bytes], Callable[[Tensor], Tensor]]]
WRITERS: dict[str, Writer] = {".pt2": (_to_pt2, _from_pt2), ".onnx": (_to_onnx, _from_onnx)}
"""By the ending of the file: how it is written, and how it is read again."""
