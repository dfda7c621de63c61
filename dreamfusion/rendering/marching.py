"""Rays into packed samples: equal steps through the ball, all of them where there is something, else a share.

Samples of all rays lie in one list, in the order of their rays and along each ray, so that the field is asked once and
about nothing that is skipped. A sample stands for the interval [t_starts, t_ends] and is looked at in its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.profiler import record_function

from dreamfusion.rendering.occupancy import SampleShares
from dreamfusion.rendering.rays import intersect_ball


@dataclass(frozen=True)
class PackedSamples:
    """n samples of `n_rays` rays, sorted by ray and then by distance; never empty.

    Attributes:
        ray_indices: the ray of each sample, non-decreasing.
        t_starts, t_ends: where the sample's interval begins and ends along its ray, world units.
        n_rays: number of rays, with those that have no sample.
        counts: how many samples each stands for, itself and those not taken beside it; None: itself alone.
    """

    ray_indices: Int[Tensor, " n"]
    t_starts: Float[Tensor, " n"]
    t_ends: Float[Tensor, " n"]
    n_rays: int
    counts: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return self.ray_indices.shape[0]

    @property
    def t_mids(self) -> Float[Tensor, " n"]:
        return 0.5 * (self.t_starts + self.t_ends)

    @property
    def lengths(self) -> Float[Tensor, " n"]:
        """What each sample's density is multiplied with: its interval, and those not taken beside it."""
        lengths = self.t_ends - self.t_starts
        return lengths if self.counts is None else lengths * self.counts

    def positions(
        self, rays_o: Float[Tensor, "rays 3"], rays_d: Float[Tensor, "rays 3"]
    ) -> Float[Tensor, "n 3"]:
        """The middles of the intervals, world frame."""
        # For short rows on a CPU an embedding takes half the time of index_select, and a quarter of brackets.
        origins, directions = (F.embedding(self.ray_indices, rays) for rays in (rays_o, rays_d))
        return torch.addcmul(origins, self.t_mids[:, None], directions)

    def select(self, keep: Bool[Tensor, " n"]) -> PackedSamples:
        """The samples at which `keep` is true; if there is none, the first one with its length set to 0."""
        return self.take(keep.nonzero()[:, 0])

    def take(self, indices: Int[Tensor, " k"]) -> PackedSamples:
        """The samples at ascending `indices`; if there is none, the first one with its length set to 0."""
        if len(indices) == 0:
            return PackedSamples(self.ray_indices[:1], self.t_starts[:1], self.t_starts[:1], self.n_rays)
        return PackedSamples(
            self.ray_indices.index_select(0, indices),
            self.t_starts.index_select(0, indices),
            self.t_ends.index_select(0, indices),
            self.n_rays,
            None if self.counts is None else self.counts.index_select(0, indices),
        )


@torch.no_grad()
def march(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    radius: float,
    samples_per_ray: int,
    taken: SampleShares | None = None,
    generator: Generator | None = None,
    termination: float = 0.0,
) -> PackedSamples:
    """Walk n rays through the ball of `radius` in steps of 2 radius / samples_per_ray.

    Args:
        rays_o, rays_d: origins and unit directions, world frame.
        radius: of the ball around the origin, world units.
        samples_per_ray: steps along a diameter; shorter chords take fewer.
        taken: which share of the samples is taken where; None: all inside the ball.
        generator: on the CPU; shifts all steps of a ray by one random share of a step, and draws where its choice of
            samples begins. None: no shift, and the same beginning for all rays.
        termination: transmittance below which a ray is ended, judged by half the density that the cells before have at
            least. Half, because the field has moved on since the grid last looked.

    The intervals are clipped to the ball, so where all samples are taken each ray's lengths add up to its chord.
    """
    with record_function(__name__):
        t_near, t_far = intersect_ball(rays_o, rays_d, radius)
        step = 2.0 * radius / samples_per_ray
        first = t_near
        if generator is not None:
            first = t_near - step * torch.rand(len(rays_o), generator=generator).to(t_near)
        begins = torch.full_like(t_near, 0.5)
        if taken is not None and generator is not None:
            begins = torch.rand(len(rays_o), generator=generator).to(t_near)
        touched = (t_near < t_far).nonzero()[:, 0]
        t_near, t_far, first, origins, directions, begins = (
            values.index_select(0, touched) for values in (t_near, t_far, first, rays_o, rays_d, begins)
        )
        slots = samples_per_ray if generator is None else samples_per_ray + 1
        edges = torch.arange(slots + 1, device=rays_o.device, dtype=rays_o.dtype) * step
        t_edges = (first[:, None] + edges).clamp_(max=t_far[:, None])
        if generator is not None:
            t_edges.clamp_(min=t_near[:, None])
        t_starts, t_ends = t_edges[:, :-1], t_edges[:, 1:]
        keep = t_starts < t_ends
        if taken is None:
            return _packed(keep, t_edges, touched, len(rays_o))
        shares, least = taken.along(origins, directions, 0.5 * (t_starts + t_ends))
        # Slots that are not kept lie behind all that are, so they change no choice.
        keep &= _chosen(shares, begins)
        if termination > 0.0 and least is not None:
            taus = least.mul_(t_ends - t_starts).mul_(0.5)
            keep &= taus.cumsum(dim=1).sub_(taus) <= -math.log(termination)
        return _packed(keep, t_edges, touched, len(rays_o), shares)


def _chosen(
    shares: Float[Tensor, "rays slots"], begins: Float[Tensor, " rays"]
) -> Bool[Tensor, "rays slots"]:
    """Systematic sampling along each ray: a slot is chosen where the sum of shares so far passes a whole number.

    Each slot is chosen with the probability of its share, and of any number of slots in a row as many are chosen as
    their shares add up to, rounded up or down.

    Args:
        shares: in [0, 1].
        begins: where each ray's sum begins; uniform in [0, 1) for the probabilities to hold.
    """
    passed = shares.cumsum(dim=1).add_(begins[:, None]).floor_()
    # A device may add up in another order than one by one: a whole share does not depend on it.
    chosen = shares >= 1.0
    chosen[:, 0] |= passed[:, 0] > 0.0
    chosen[:, 1:] |= passed[:, 1:] > passed[:, :-1]
    return chosen


def _packed(
    keep: Bool[Tensor, "rays slots"],
    t_edges: Float[Tensor, "rays slots+1"],
    touched: Int[Tensor, " rays"],
    n_rays: int,
    shares: Float[Tensor, "rays slots"] | None = None,
) -> PackedSamples:
    """The kept slots of the `touched` rays out of `n_rays`; if there is none, one sample of no length."""
    slots = keep.shape[1]
    flat = keep.flatten().nonzero()[:, 0]
    if len(flat) == 0:
        # One sample of no length keeps every consumer free of a special case, and the graph connected.
        zero = t_edges.new_zeros(1)
        return PackedSamples(touched.new_zeros(1), zero, zero, n_rays)
    rows = flat // slots
    edges = flat + rows
    starts, ends = (t_edges.flatten().index_select(0, index) for index in (edges, edges + 1))
    counts = None if shares is None else shares.flatten().index_select(0, flat).reciprocal_()
    return PackedSamples(touched.index_select(0, rows), starts, ends, n_rays, counts)
