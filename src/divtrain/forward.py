"""One forward pass of every member on one batch, shared by everything that a loss needs of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.checks import check_autocast
from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.double_backward import differentiated_twice, uncompiled
from divtrain.ensemble import HasMembers
from divtrain.errors import DivtrainError, unknown_name

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Where:
    """Which images of each batch.

    Attributes:
        part: The name of a part of the batch: ``given``, ``outside``, ``crafted``; None for all
            images.
        share: The fraction of these, from the first on, in (0, 1], rounded up to an image.
    """

    part: str | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Images and labels of one training step, in named parts.

    Attributes:
        x: Images in [0, 1], (batch, channel, height, width); or one set of them for each member,
            (member, batch, channel, height, width).
        y: Labels, (batch,), the same for every member; or soft ones, (batch, class).
        parts: Which images each named part of the batch holds. ``given`` are the training images,
            in any of their views; ``outside`` images of no class, whose labels are drawn at random;
            ``crafted`` examples made from the ensemble, none in a warm-up. By default all images
            are ``given``.
    """

    x: Tensor
    y: Tensor
    parts: Mapping[str, slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", {"given": slice(0, self.x.shape[-4])})

    def __len__(self) -> int:
        """Number of images, per member."""
        return self.x.shape[-4]

    def at(self, where: Where) -> slice:
        """Return the places of these images in the batch.

        Raises:
            DivtrainError: for a part that the batch does not have.
        """
        if where.part is not None and where.part not in self.parts:
            raise unknown_name("part of a batch", where.part, self.parts)
        all_of = slice(0, len(self)) if where.part is None else self.parts[where.part]
        return slice(all_of.start, all_of.start + leading(where.share, all_of.stop - all_of.start))

    def every(self, stride: int, first: int) -> "Batch":
        """Return every `stride`-th image from the `first` on, of each part alike."""
        parts = {
            name: slice(part.start // stride, part.stop // stride)
            for name, part in self.parts.items()
        }
        return Batch(self.x[..., first::stride, :, :, :], self.y[first::stride], parts)

    def of_members(self, which: slice) -> "Batch":
        """Return the batch that some members see, for an ensemble of only those members."""
        return self if self.x.ndim == 4 else replace(self, x=self.x[which])


def leading(share: float, count: int) -> int:
    """Return share * count, rounded up to an image (and not by a rounding error)."""
    return math.ceil(share * count - 1e-9)


@dataclass(frozen=True)
class MemberPass:
    """Logits of every member for one batch, and input gradients once a term asks for them.

    Attributes:
        batch: The images, labels and parts.
        logits: (member, batch, class).
        losses: Per-example cross-entropy J_i of each member, (member, batch).
        recorded: The images at which input gradients can be taken.
        leaves: Those images, a copy for each member, (recorded, channel, height, width).
        numbers: What messages call the members, counted over all that take part.
    """

    batch: Batch
    logits: Float[Tensor, "member batch classes"]
    losses: Float[Tensor, "member batch"]
    recorded: slice
    leaves: Sequence[Tensor]
    numbers: Sequence[int]
    gradients: dict[bool, Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Input gradients of all recorded images, by whether they can be differentiated; cached, so
    that two terms run one backward pass."""

    def input_gradients(
        self, where: Where | None = None, create_graph: bool = False
    ) -> Float[Tensor, "member some feature"]:
        """Return g_i, the gradient of each member's *summed* cross-entropy: exact per example.

        Every member has a copy of the images, so one backward pass of the sum of all losses yields
        every g_i.

        Args:
            where: At which images; all recorded ones if None.
            create_graph: Whether the gradients will be differentiated again.

        Raises:
            DivtrainError: for images that were not recorded, or a member whose logits autograd
                cannot trace back to its images.
        """
        here = self.recorded if where is None else self.batch.at(where)
        first = self.recorded.start
        if here.start < first or here.stop > self.recorded.stop:
            raise DivtrainError(
                f"expected input gradients to be asked for at recorded images, {first} to"
                f" {self.recorded.stop}, got {here.start} to {here.stop}: a term must name in"
                " gradients_at all images where it takes them"
            )
        if first == self.recorded.stop:
            return torch.stack(tuple(self.leaves)).flatten(2)
        cached = self.gradients
        if True not in cached and create_graph not in cached:
            cached[create_graph] = self._differentiate(create_graph)
        g = cached[True] if True in cached else cached[False]
        g = g[:, here.start - first : here.stop - first].flatten(2)
        return g if create_graph else g.detach()

    def _differentiate(self, create_graph: bool) -> Tensor:
        """Return the input gradients of all recorded images, in the images' shape."""
        loss = self.losses[:, self.recorded].sum()
        found: Sequence[Tensor | None] = [None] * len(self.leaves)
        if loss.requires_grad:
            found = torch.autograd.grad(
                loss, self.leaves, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        hidden = [n for n, each in zip(self.numbers, found, strict=True) if each is None]
        if hidden:
            raise DivtrainError(
                f"the answer of member {', '.join(map(str, hidden))} (counted from 0) does not"
                " depend on its images as far as autograd can tell: does it detach them, run under"
                " no_grad, or leave torch? Its input gradient would be missing, not orthogonal"
            )
        return torch.stack([each for each in found if each is not None])


def member_pass(
    ens: HasMembers,
    batch: Batch,
    recorded: slice | None = None,
    create_graph: bool = True,
    numbers: Sequence[int] | None = None,
) -> MemberPass:
    """Run every member once on a batch (not modified; gradients do not flow beyond its images).

    Values of images and labels are not checked.

    Args:
        ens: An `Ensemble`.
        batch: Images and labels.
        recorded: The images that record gradients, adjacent; all if None. The others cost no more
            than in plain training. With batch norm in train mode all record if any does, since
            two groups would be normalised separately.
        create_graph: Whether the input gradients will be differentiated again.
        numbers: What messages call the members; 0, 1, ... if None.

    Raises:
        DivtrainError: for one set of images per member, of another number of members; for images
            that record gradients under float16 autocast.
    """
    x, members = batch.x.detach(), len(ens.members)
    if x.ndim == 5 and len(x) != members:
        raise DivtrainError(
            f"expected one set of images per member, {members}, got {len(x)} (shape"
            f" {tuple(x.shape)})"
        )
    recorded = widened(recorded or slice(0, len(batch)), ens.members, batch)
    first, last = recorded.start, recorded.stop
    own = x[..., first:last, :, :, :]
    leaves = [each.clone() for each in (own if own.ndim == 5 else [own] * members)]
    answers: list[Tensor] = []
    if last > first:
        check_autocast(x.device.type)
        for each in leaves:
            each.requires_grad_()
        with differentiated_twice(ens.members) if create_graph else uncompiled():
            answers.append(ens.member_logits(leaves))
    if last - first < len(batch):
        others = x[..., last:, :, :, :]
        if first:
            others = torch.cat([x[..., :first, :, :, :], others], -4)
        plain = ens.member_logits(others)
        answers = [plain[:, :first], *answers, plain[:, first:]] if first else [*answers, plain]
    logits = torch.cat(answers, dim=1)
    losses = trusted_cross_entropy(logits, batch.y)
    numbers = range(members) if numbers is None else numbers
    return MemberPass(batch, logits, losses, recorded, leaves, numbers)


def widened(recorded: slice, members: nn.ModuleList, batch: Batch) -> slice:
    """Return all images in place of some where members in train mode have batch norm."""
    if recorded.stop > recorded.start and members.training and has_batch_norm(members):
        return slice(0, len(batch))
    return recorded


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a module normalises by statistics of the batch when it is trained."""
    return any(isinstance(module, BATCH_NORMS) for module in model.modules())
