"""Which labels go together: ties, frozen labels, and the two constraints that are settled only at the end.

A label is an integer that stands for one index of one axis; removing it removes that index.  Label 0 can never be
removed.  A *joint* array of labels belongs to several axes of one tensor at once, as when a view splits channels
into heads.  Since tensors are rectangular, what is kept of a joint array must in the end vary along one axis only.
Which axis that is often follows from the ties; `Ties.settle` decides only where they leave it open.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels: TypeAlias = npt.NDArray[np.int64]
Heads = Literal["whole", "dimension"]
Grouped = Literal["position", "group"]

FROZEN = 0


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Labels over several axes of one tensor."""

    labels: Labels
    # The axis along which products of activations sum, as the channels of a head; None without one.
    contracted: int | None = None
    # Whether that sum is over one tensor alone, so that only the other axes can be cut.
    reduced: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """Labels over some of a joint array's axes, each removed exactly when all that it spans is."""

    joint: Labels
    # The axes of ``joint`` that ``labels`` has, in order.
    axes: tuple[int, ...]
    labels: Labels
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The outcome: what every label belongs to."""

    # Label -> component; all frozen labels are in the component of label 0.
    of: npt.NDArray[np.intp]
    # Label -> index into ``reasons``; -1 where it is not frozen.
    reason: npt.NDArray[np.intp]
    reasons: tuple[str, ...]


class Ties:
    """Collects constraints between labels as arrays; nothing is decided before `settle`."""

    def __init__(self) -> None:
        self.count = 1
        # Whether constraints count.  Not while values are computed that nothing uses.
        self.listening = True
        self._virtual = 1
        self._left: list[Labels] = []
        self._right: list[Labels] = []
        self._frozen: list[tuple[Labels, str]] = []
        self._joints: dict[tuple[object, ...], Joint] = {}
        self._marginals: list[Marginal] = []

    def end_of_tensors(self) -> None:
        """All labels from here on are virtual: they belong to no parameter or buffer."""
        self._virtual = self.count

    def is_virtual(self, labels: Labels) -> bool:
        return bool(labels.min() >= self._virtual)

    def fresh(self, *shape: int) -> Labels:
        """An array of new labels."""
        size = int(np.prod(shape))
        labels = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        return labels

    def tie(self, left: Labels, right: Labels) -> None:
        """Remove ``left`` and ``right`` together, index by index; shapes broadcast."""
        if left is right or not self.listening:
            return
        both = np.broadcast_arrays(left, right)
        different = both[0] != both[1]
        self._left.append(both[0][different])
        self._right.append(both[1][different])

    def tie_along(self, labels: Labels, axis: int) -> None:
        """Remove what lies along ``axis`` together."""
        self.tie(labels, labels.take([0], axis))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Never remove ``labels``."""
        if self.listening:
            self._frozen.append((labels[labels != FROZEN], reason))

    def joint(self, labels: Labels, contracted: int | None = None, reduced: bool = False) -> None:
        """Keep ``labels`` rectangular."""
        if self.listening:
            key = (labels.shape, labels.tobytes(), contracted, reduced)
            self._joints.setdefault(key, Joint(labels, contracted, reduced))

    def marginal(self, joint: Labels, axes: tuple[int, ...], labels: Labels, reason: str) -> None:
        """Remove each of ``labels`` exactly when all of ``joint`` that it spans is removed."""
        if self.listening:
            self._marginals.append(Marginal(joint, axes, labels, reason))

    def settle(self, heads: Heads, grouped: Grouped) -> Components:
        """Decide along which axis each joint array may be cut; returns the components that follow.

        Every step only adds ties, so that what was decided stays decided and the loop ends.
        """
        pending = list(self._marginals)
        while True:
            of = self._components(self._frozen)
            undecided = [marginal for marginal in pending if not self._settle_marginal(marginal, of)]
            if len(undecided) < len(pending):
                pending = undecided
                continue
            if not self._settle_joints(of, heads, grouped, pending):
                break
        return self._explained(of)

    def _settle_marginal(self, marginal: Marginal, of: npt.NDArray[np.intp]) -> bool:
        varying = set(_varying(of[marginal.joint]))
        if varying and varying <= set(marginal.axes):
            others = [axis for axis in range(marginal.joint.ndim) if axis not in marginal.axes]
            self.tie(_first(marginal.joint, others), marginal.labels)
            return True
        if not varying & set(marginal.axes):
            self.freeze(marginal.labels, marginal.reason)
            return True
        return False

    def _settle_joints(
        self, of: npt.NDArray[np.intp], heads: Heads, grouped: Grouped, pending: Iterable[Marginal]
    ) -> bool:
        """Tie along axes of those joint arrays that are decided first; False when all are decided.

        First come sums of products, which know heads from the dimensions of a head; then arrays that meet labels of
        some of their axes; then the rest.
        """
        open_joints = [(joint, _varying(of[joint.labels])) for joint in self._joints.values()]
        open_joints = [(joint, varying) for joint, varying in open_joints if len(varying) > 1]
        if self._settle_contracted(open_joints, heads) or self._settle_followers(of, pending):
            return True
        for joint, varying in open_joints:
            free = varying[-1] if grouped == "position" else varying[0]
            self._tie_along_all(joint.labels, [axis for axis in varying if axis != free])
        return bool(open_joints)

    def _settle_contracted(self, open_joints: list[tuple[Joint, list[int]]], heads: Heads) -> bool:
        decided = False
        for joint, varying in open_joints:
            axis = joint.contracted
            if axis is None or axis not in varying:
                continue
            whole = joint.reduced or heads == "whole"
            self._tie_along_all(joint.labels, [axis] if whole else [a for a in varying if a != axis])
            decided = True
        return decided

    def _settle_followers(self, of: npt.NDArray[np.intp], pending: Iterable[Marginal]) -> bool:
        decided = False
        for marginal in pending:
            varying = _varying(of[marginal.joint])
            outside = [axis for axis in varying if axis not in marginal.axes]
            if not outside or len(outside) == len(varying):
                continue
            # Frozen labels cannot be followed: then the array is cut along its other axes.
            frozen = bool((of[marginal.labels] == of[FROZEN]).all())
            self._tie_along_all(marginal.joint, [a for a in varying if a in marginal.axes] if frozen else outside)
            decided = True
        return decided

    def _tie_along_all(self, labels: Labels, axes: Iterable[int]) -> None:
        for axis in axes:
            self.tie_along(labels, axis)

    def _components(self, frozen: list[tuple[Labels, str]]) -> npt.NDArray[np.intp]:
        zeros = [np.full(labels.size, FROZEN, dtype=np.int64) for labels, _ in frozen]
        left = np.concatenate([np.empty(0, np.int64), *self._left, *(labels for labels, _ in frozen)])
        right = np.concatenate([np.empty(0, np.int64), *self._right, *zeros])
        edges = coo_array((np.ones(len(left), dtype=np.bool_), (left, right)), shape=(self.count, self.count))
        _, of = connected_components(edges, directed=False)
        return np.asarray(of, dtype=np.intp)

    def _explained(self, of: npt.NDArray[np.intp]) -> Components:
        """Each frozen label with the reason that reached it first."""
        apart = self._components([])
        reason = np.full(self.count, -1, dtype=np.intp)
        for index in reversed(range(len(self._frozen))):
            reason[apart[self._frozen[index][0]]] = index
        by_label = reason[apart]
        by_label[(of == of[FROZEN]) & (by_label < 0)] = len(self._frozen)
        by_label[of != of[FROZEN]] = -1
        return Components(of, by_label, (*(reason for _, reason in self._frozen), "tied to a fixed axis"))


def _varying(components: npt.NDArray[np.intp]) -> list[int]:
    """The axes along which an array is not constant."""
    return [
        axis
        for axis in range(components.ndim)
        if components.shape[axis] > 1 and bool((components != components.take([0], axis)).any())
    ]


def _first(labels: Labels, axes: Iterable[int]) -> Labels:
    """``labels`` at index 0 of ``axes``, which vanish."""
    chosen = tuple(axes)
    return labels[tuple(slice(0, 1) if axis in chosen else slice(None) for axis in range(labels.ndim))].squeeze(chosen)
